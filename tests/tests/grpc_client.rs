//! A client of Python's `grpcio`, which shares no code with the platform, does every
//! operation: once by the contract's files alone, once by what the server tells of itself.

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
    let said = outside::script("grpc_client.py", &arguments, PATIENCE).await;
    assert!(said.unwrap().ends_with("done\n"));
}

#[tokio::test]
async fn reflection_is_all_that_a_client_needs() {
    let platform = Ephemeral::start().await.unwrap();
    let arguments = ["reflection", platform.grpc.as_str()];
    let said = outside::script("grpc_client.py", &arguments, PATIENCE).await;
    assert!(said.unwrap().ends_with("done\n"));
}
