//! A counter that counts each time once, whatever the network does:
//! `cargo run -p tierkv --example counter [ADDRESS]`.

#![allow(clippy::print_stdout)] // It shows what happens.

use std::env;

use tierkv::{Client, Error};

#[tokio::main]
async fn main() -> Result<(), Error> {
    run(&env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:7400".to_owned()))
    .await
}

/// Talks to the client coordinator at `address`.
///
/// # Errors
/// What the platform says.
pub async fn run(address: &str) -> Result<(), Error> {
    let client = Client::builder()
        .address(address)
        .namespace("examples")
        .connect()
        .await?;
    client.delete("visits").await?;
    for _ in 0..10 {
        println!("visit {}", count_one(&client).await?);
    }
    Ok(())
}

/// Counts one visit. The client sends a lost increment again by itself; if the platform was
/// away for longer than that takes, whether it was counted is unknown, and is asked for once
/// more under the same id, so that it is not counted twice.
async fn count_one(client: &Client) -> Result<i64, Error> {
    let counted = match client.increment("visits", 1).await {
        Err(error) => match error.request_id() {
            Some(id) => client.with_request_id(id).increment("visits", 1).await?,
            None => return Err(error),
        },
        Ok(counted) => counted,
    };
    Ok(counted.value)
}
