//! A counter that counts each visit once, also when the network loses an answer:
//! `cargo run -p tierkv --example counter [ADDRESS]`.

#![allow(clippy::print_stdout)] // An example prints its results.

use std::env;

use tierkv::{Client, Error};

#[tokio::main]
async fn main() -> Result<(), Error> {
    run(&env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:7400".to_owned()))
    .await
}

/// Runs the example at the client coordinator at `address`.
///
/// # Errors
/// The platform's errors.
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

/// Counts one visit. The client retries a lost increment by itself. If the platform is away longer
/// than the timeout, the outcome is unknown: the increment is retried once more under the same id,
/// so that it is not counted twice.
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
