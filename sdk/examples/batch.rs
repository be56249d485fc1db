//! Moving something from one key to another, all or nothing:
//! `cargo run -p tierkv --example batch [ADDRESS]`.

#![allow(clippy::print_stdout)] // An example prints its results.

use std::env;

use tierkv::{Client, Error, Write};

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
    client.put("account/ann", "100").await?;
    client.put("account/bob", "0").await?;

    let transfer = Write::new()
        .if_present("account/ann")
        .if_present("account/bob")
        .increment("account/ann", -30)
        .increment("account/bob", 30);
    let written = client.write(transfer).await?;
    for change in &written.changes {
        println!("the account now holds {:?}", change.number);
    }

    // The first worker gets the job: it is taken from the queue and its worker is stored.
    let queued = client.put("queue/1", "paint the fence").await?;
    for worker in ["tom", "huck"] {
        let take = Write::new()
            .if_version("queue/1", queued)
            .delete("queue/1")
            .put("taken/1", worker)
            .return_previous();
        match client.write(take).await {
            Ok(written) => {
                println!("{worker} took the job {:?}", written.changes[0].previous);
            }
            Err(error) if error.is_condition_failed() => println!("{worker} was too late"),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
