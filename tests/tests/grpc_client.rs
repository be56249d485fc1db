//! A client with Python's `grpcio`, which shares no code with the platform, calls every
//! operation: once with the `.proto` files alone, once with the server's reflection alone.

// Test helpers panic as tests do.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use tierkv_tests::{binary::repository, ephemeral::Ephemeral, outside};

const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test]
async fn the_files_of_the_contract_are_all_that_a_client_needs() {
    let platform = Ephemeral::start().await.unwrap();
    let files = repository().join("proto/proto");
    let arguments = ["proto", platform.grpc.as_str(), files.to_str().unwrap()];
    let printed = outside::script("grpc_client.py", &arguments, PATIENCE).await;
    assert!(printed.unwrap().ends_with("done\n"));
}

#[tokio::test]
async fn reflection_is_all_that_a_client_needs() {
    let platform = Ephemeral::start().await.unwrap();
    let arguments = ["reflection", platform.grpc.as_str()];
    let printed = outside::script("grpc_client.py", &arguments, PATIENCE).await;
    assert!(printed.unwrap().ends_with("done\n"));
}
