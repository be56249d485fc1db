//! A platform that keeps nothing: `tierkv dev --ephemeral`.

use std::{env, fs, path::Path, time::Duration};

use serde_json::Value;
use tierkv_harness::{DataFolder, Error, Process};

use crate::binary;

/// Timeout for a start.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A whole platform in one process on loopback. Dropping it kills the process and removes its
/// data.
#[derive(Debug)]
pub struct Ephemeral {
    process: Process,
    /// The gRPC address, as `host:port`.
    pub grpc: String,
    /// The REST address, as `host:port`.
    pub rest: String,
    /// Its temporary data directory.
    pub data_dir: String,
}

impl Ephemeral {
    /// Starts a platform and waits until it prints its addresses.
    ///
    /// # Errors
    /// If the binary is missing or does not start.
    pub async fn start() -> Result<Self, Error> {
        Self::start_with(&[]).await
    }

    /// The same, with more arguments of `tierkv dev`.
    ///
    /// # Errors
    /// As of [`start`](Self::start).
    pub async fn start_with(more_arguments: &[&str]) -> Result<Self, Error> {
        Self::launch("127.0.0.1:0", more_arguments).await
    }

    /// Starts a platform with this REST address.
    ///
    /// # Errors
    /// As of [`start`](Self::start).
    pub async fn start_on(rest_listen: &str) -> Result<Self, Error> {
        Self::launch(rest_listen, &[]).await
    }

    async fn launch(rest_listen: &str, more_arguments: &[&str]) -> Result<Self, Error> {
        let fixed = [
            "dev",
            "--ephemeral",
            "--output",
            "json",
            "--grpc-listen",
            "127.0.0.1:0",
            "--rest-listen",
            rest_listen,
        ];
        let arguments = fixed.iter().chain(more_arguments).copied();
        let folder = DataFolder::new("ephemeral")?;
        let mut process = Process::spawn(&binary::tierkv(), arguments, &folder)?;
        let line = process
            .wait_until(
                "print its addresses",
                START_LIMIT,
                |process| match process.first_line() {
                    Some(line) => Ok(Some(line)),
                    None => process.check().map(|()| None),
                },
            )
            .await?;
        let printed: Value = serde_json::from_str(&line).unwrap_or_default();
        let field = |name: &str| printed[name].as_str().unwrap_or_default().to_owned();
        Ok(Self {
            process,
            grpc: field("grpc"),
            rest: field("rest"),
            data_dir: field("data_dir"),
        })
    }

    /// The process.
    pub const fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl Drop for Ephemeral {
    fn drop(&mut self) {
        // A killed process can't remove its data itself. A failure here means that it ended
        // already, or that nothing more can be done while unwinding.
        let _ = self.process.kill9();
        let folder = Path::new(&self.data_dir);
        if folder
            .parent()
            .is_some_and(|parent| parent == env::temp_dir())
        {
            let _ = fs::remove_dir_all(folder);
        }
    }
}
