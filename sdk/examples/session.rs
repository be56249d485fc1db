//! Reads that see one's own writes, from the cache where that is right:
//! `cargo run -p tierkv --example session [ADDRESS]`.

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
    client.put("profile/ann", "has no picture").await?;

    // One for each user of the application; it costs no connection.
    let session = client.session();
    for change in 1..=5 {
        let value = format!("has picture {change}");
        let version = session.put("profile/ann", value.clone()).await?;
        let found = session.get("profile/ann").await?;
        println!("{:?} from {:?}", found.value, found.source);
        assert!(found.version >= version, "a session sees what it wrote");
    }
    Ok(())
}
