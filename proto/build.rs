//! Compiles the contract with protox, so that building needs no `protoc`.

use std::{env, error::Error, fs, path::PathBuf};

use prost_types::FileDescriptorSet;

fn main() -> Result<(), Box<dyn Error>> {
    let files = [
        "tierkv/v1/kv.proto",
        "tierkv/v1/error.proto",
        "tierkv/v1/admin.proto",
        "tierkv/internal/v1/commit_index.proto",
        "tierkv/internal/v1/exchange.proto",
        "tierkv/internal/v1/replication.proto",
        "tierkv/internal/v1/snapshot.proto",
    ];
    println!("cargo:rerun-if-changed=proto");
    let set: FileDescriptorSet = protox::compile(files, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("tierkv.fds"), prost::Message::encode_to_vec(&set))?;
    // Keys and values stay slices of the buffer they arrived in.
    tonic_prost_build::configure()
        .bytes(".")
        .build_transport(false)
        .compile_fds(set)?;
    Ok(())
}
