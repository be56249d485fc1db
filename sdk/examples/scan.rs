//! Listing and counting keys: `cargo run -p tierkv --example scan [ADDRESS]`.

#![allow(clippy::print_stdout)] // An example prints its results.

use std::env;

use tierkv::{Client, Error, ScanOptions, Selection};

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
    for number in 0..25 {
        client.put(format!("fruit/{number:02}"), "ripe").await?;
    }
    let fruit = Selection::prefix("fruit/");
    println!("{} pieces of fruit", client.count(fruit.clone()).await?);

    // All items, as they arrive.
    let mut items = client.scan(fruit.clone());
    while let Some(item) = items.next().await {
        let item = item?;
        println!("{:?} is {:?}", item.key, item.value);
    }

    // Page by page.
    let mut page_token = None;
    loop {
        let options = ScanOptions {
            limit: Some(10),
            page_token,
            ..ScanOptions::default()
        };
        let page = client.scan_page(fruit.clone(), options).await?;
        println!("a page of {}", page.items.len());
        page_token = page.next_page_token;
        if page_token.is_none() {
            return Ok(());
        }
    }
}
