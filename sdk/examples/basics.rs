//! Setting, reading and removing keys: `cargo run -p tierkv --example basics [ADDRESS]`.

#![allow(clippy::print_stdout)] // An example prints its results.

use std::{env, time::Duration};

use tierkv::{Client, Condition, Consistency, Error, PutOptions, ReadOptions};

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
        .timeout(Duration::from_secs(10))
        .connect()
        .await?;

    let version = client.put("greeting", "hello").await?;
    let found = client.get("greeting").await?;
    println!(
        "{:?} in version {}, from {:?}, at most {:?} old",
        found.value, found.version, found.source, found.age
    );

    // Change the key only if nobody else did.
    let unchanged = PutOptions {
        condition: Some(Condition::Version(version)),
        ..PutOptions::default()
    };
    client
        .put_with("greeting", "good evening", unchanged)
        .await?;
    match client.put_with("greeting", "good night", unchanged).await {
        Err(error) if error.is_condition_failed() => println!("the key has changed already"),
        other => println!("{other:?} should not have happened"),
    }

    // A key that expires.
    let minute = PutOptions {
        ttl: Some(Duration::from_secs(60)),
        ..PutOptions::default()
    };
    client.put_with("offer", "today only", minute).await?;

    // Read the newest value, and show the path of the answer.
    let latest = ReadOptions {
        consistency: Consistency::Latest,
        explain: true,
        ..ReadOptions::default()
    };
    let found = client.get_with("greeting", latest).await?;
    for hop in &found.path {
        println!("{} {} answered after {:?}", hop.tier, hop.node, hop.took);
    }

    for (key, found) in ["greeting", "offer", "nothing"]
        .iter()
        .zip(client.batch_get(&["greeting", "offer", "nothing"]).await?)
    {
        println!("{key}: {:?}, expires {:?}", found.value, found.expires_at);
    }
    let deleted = client.delete("greeting").await?;
    println!("deleted, existed: {}", deleted.existed);
    Ok(())
}
