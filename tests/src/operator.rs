//! An operator's command line, against a platform of many processes.

use std::process::Output;

use serde_json::Value;
use tierkv_harness::LocalCluster;

use crate::{binary, many_processes::coordination_url};

/// The result of a command.
#[derive(Debug)]
pub struct Ended {
    /// Its exit status.
    pub code: Option<i32>,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Ended {
    /// Its output as JSON.
    ///
    /// # Errors
    /// The whole result, if it failed or printed none.
    pub fn json(&self) -> Result<Value, String> {
        match (self.code, serde_json::from_str(&self.out)) {
            (Some(0), Ok(value)) => Ok(value),
            _ => Err(format!("{self:?}")),
        }
    }

    /// Checks that it failed with this exit status, and words in its standard error.
    ///
    /// # Errors
    /// The whole result, if it did not.
    pub fn is_refused(&self, code: i32, words: &str) -> Result<(), String> {
        match self.code == Some(code) && self.err.contains(words) {
            true => Ok(()),
            false => Err(format!("expected status {code} and {words:?}: {self:?}")),
        }
    }
}

/// Runs `tierkv admin` with these words; the first client coordinator is its address.
///
/// # Errors
/// If it can't be run.
pub async fn admin(platform: &LocalCluster, words: &[&str]) -> Result<Ended, String> {
    let address = platform.member("cc1").map_err(|error| error.to_string())?;
    let command = tokio::process::Command::new(binary::tierkv().path)
        .arg("admin")
        .args(words)
        .env("TIERKV_ADDRESS", &address.addresses["grpc"])
        .output();
    let Output {
        status,
        stdout,
        stderr,
    } = command.await.map_err(|error| error.to_string())?;
    Ok(Ended {
        code: status.code(),
        out: String::from_utf8_lossy(&stdout).into_owned(),
        err: String::from_utf8_lossy(&stderr).into_owned(),
    })
}

/// As [`admin`], with the option of the platform's coordination store.
///
/// # Errors
/// The same.
pub async fn admin_of_store(platform: &LocalCluster, words: &[&str]) -> Result<Ended, String> {
    let url = coordination_url(platform).ok_or("the platform has no coordination url")?;
    let words = [words, &["--coordination-url", &url]].concat();
    admin(platform, &words).await
}
