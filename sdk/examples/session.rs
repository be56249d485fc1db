//! Reads that see the session's own writes, from the cache where possible:
//! `cargo run -p tierkv --example session [ADDRESS]`.

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
    client.put("profile/ann", "has no picture").await?;

    // One session for each user of the application; it costs no connection.
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
