//! Watching changes, also across a restart of the application:
//! `cargo run -p tierkv --example watch [ADDRESS]`.

#![allow(clippy::print_stdout)] // An example prints its results.

use std::env;

use tierkv::{Change, Client, Error};

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
    let mut watch = client.watch("news/").await?;
    client.put("news/1", "the first").await?;
    client.put("news/2", "the second").await?;
    client.delete("news/1").await?;

    // An application stores the token together with the results of the events.
    let mut stored = watch.resume_token().clone();
    for _ in 0..2 {
        if let Some(event) = watch.next().await {
            show(&event?);
            stored = watch.resume_token().clone();
        }
    }
    drop(watch);

    // After a restart: the watch continues from the stored token.
    let mut watch = client.watch_from("news/", stored).await?;
    while let Some(event) = watch.next().await {
        let event = event?;
        show(&event);
        if event.change == Change::Removed {
            break;
        }
    }
    Ok(())
}

fn show(event: &tierkv::Event) {
    match &event.change {
        Change::Written { value, .. } => println!("{:?} is {value:?}", event.key),
        Change::Removed => println!("{:?} is gone", event.key),
    }
}
