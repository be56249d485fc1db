//! The `tierkv` binary of this build.

use std::{
    env,
    path::{Path, PathBuf},
};

use tierkv_harness::{Program, tierkv::BINARY_VARIABLE};

/// The binary that the tests run: the one in `TIERKV_BIN`, or else the one of this build.
#[must_use]
pub fn tierkv() -> Program {
    let beside = || {
        let test = env::current_exe().ok()?;
        // target/debug/deps/test-0123 → target/debug/tierkv
        Some(test.parent()?.parent()?.join("tierkv"))
    };
    Program {
        name: "tierkv",
        path: env::var_os(BINARY_VARIABLE)
            .map(PathBuf::from)
            .or_else(beside)
            .unwrap_or_else(|| PathBuf::from("./tierkv")),
        remedy: "build it first (`cargo build --package tierkv-cli`, or `make test`)",
    }
}

/// The top folder of the repository.
#[must_use]
pub fn repository() -> &'static Path {
    // This crate is a folder of it.
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}
