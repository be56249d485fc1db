//! A platform that keeps nothing: `tierkv dev --ephemeral`.

use std::{env, fs, path::Path, time::Duration};

use serde_json::Value;
use tierkv_harness::{DataFolder, Error, Process};

use crate::binary;

/// How long a start may take.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A whole platform in one process on loopback; it ends with this guard, and so does what
/// it kept.
#[derive(Debug)]
pub struct Ephemeral {
    process: Process,
    /// The gRPC address, as `host:port`.
    pub grpc: String,
    /// The REST address, as `host:port`.
    pub rest: String,
    /// Where it keeps what it needs while it runs.
    pub data_dir: String,
}

impl Ephemeral {
    /// Starts a platform and waits until it says where it listens.
    ///
    /// # Errors
    /// If the binary is missing or does not come up.
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

    /// A platform whose REST address is this.
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
        let line =
            process
                .wait_until("say where it listens", START_LIMIT, |process| match process
                    .first_line()
                {
                    Some(line) => Ok(Some(line)),
                    None => process.check().map(|()| None),
                })
                .await?;
        let said: Value = serde_json::from_str(&line).unwrap_or_default();
        let word = |name: &str| said[name].as_str().unwrap_or_default().to_owned();
        Ok(Self {
            process,
            grpc: word("grpc"),
            rest: word("rest"),
            data_dir: word("data_dir"),
        })
    }

    /// The process.
    pub const fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl Drop for Ephemeral {
    fn drop(&mut self) {
        // A killed process can't tidy up behind itself. A failure here means that it is gone
        // already, or that nothing more can be done about it while unwinding.
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
