//! Full and closed outputs: the platform keeps running and stops in order, and a command whose
//! write was applied never ends with the exit status of a failed write.

// Test helpers panic as tests do.
#![allow(clippy::unwrap_used)]

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Read},
    net::TcpListener as Reserved,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tierkv::Client;
use tierkv_harness::poll_until;
use tierkv_tests::{binary, ephemeral::Ephemeral};

const PATIENCE: Duration = Duration::from_secs(60);

fn full() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

/// An address on which nothing listens.
fn free() -> String {
    let reserved = Reserved::bind("127.0.0.1:0").unwrap();
    reserved.local_addr().unwrap().to_string()
}

/// A platform that may be unable to print its addresses. Dropping it kills the process.
struct Platform {
    process: Child,
    grpc: String,
    _data: TempDir,
}

impl Platform {
    fn start(stdout: impl Into<Stdio>, stderr: impl Into<Stdio>) -> Self {
        let (data, grpc) = (TempDir::new().unwrap(), free());
        let process = Command::new(binary::tierkv().path)
            .args(["dev", "--grpc-listen", &grpc, "--rest-listen", &free()])
            .arg("--data-dir")
            .arg(data.path())
            .env("TIERKV_LOG", "debug")
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .unwrap();
        Self {
            process,
            grpc,
            _data: data,
        }
    }

    /// Waits until it acknowledges a write.
    async fn serves(&self) {
        let written = poll_until(PATIENCE, || async {
            let client = Client::builder().address(&self.grpc).connect().await;
            client.ok()?.put("k", "v").await.ok()
        });
        written.await.expect("the platform does not serve");
    }

    /// Sends SIGINT (Ctrl-C) and returns the exit status.
    async fn interrupted(&mut self) -> Option<i32> {
        let pid = self.process.id().to_string();
        let sent = Command::new("kill").args(["-INT", &pid]).status();
        assert!(sent.unwrap().success());
        let process = std::cell::RefCell::new(&mut self.process);
        let ended = poll_until(PATIENCE, || async {
            process.borrow_mut().try_wait().unwrap()
        });
        ended.await.expect("the platform still runs").code()
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        // A failure means that it has ended already.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

#[tokio::test]
async fn a_platform_with_full_outputs_runs_and_stops_in_order() {
    let mut platform = Platform::start(full(), full());
    platform.serves().await;
    assert_eq!(platform.interrupted().await, Some(0));
}

/// In `tierkv dev | tee log`, Ctrl-C ends `tee` first.
#[tokio::test]
async fn a_platform_whose_reader_ended_stops_in_order() {
    let mut platform = Platform::start(Stdio::piped(), Stdio::piped());
    let mut stderr = platform.process.stderr.take().unwrap();
    let errors = std::thread::spawn(move || {
        let mut words = String::new();
        stderr.read_to_string(&mut words).unwrap();
        words
    });
    let mut first = String::new();
    let mut reader = BufReader::new(platform.process.stdout.take().unwrap());
    reader.read_line(&mut first).unwrap();
    assert!(first.starts_with("TierKV is running"), "{first}");
    drop(reader);
    platform.serves().await;
    assert_eq!(platform.interrupted().await, Some(0));
    let words = errors.join().unwrap();
    assert!(!words.contains("panicked"), "{words}");
}

#[tokio::test]
async fn a_platform_with_closed_outputs_runs_and_stops_in_order() {
    let mut platform = Platform::start(Stdio::piped(), Stdio::piped());
    drop(platform.process.stdout.take());
    drop(platform.process.stderr.take());
    platform.serves().await;
    assert_eq!(platform.interrupted().await, Some(0));
}

/// Runs a command whose standard output is full.
fn unprinted(address: &str, arguments: &[&str]) -> Output {
    Command::new(binary::tierkv().path)
        .args(arguments)
        .env("TIERKV_ADDRESS", address)
        .stdin(Stdio::null())
        .stdout(full())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_applied_write_whose_answer_can_not_be_printed_ends_with_status_0() {
    let platform = Ephemeral::start().await.unwrap();
    let client = Client::builder().address(&platform.grpc).connect().await;
    let client = client.unwrap();
    let folder = TempDir::new().unwrap();
    let file = |name: &str, words: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, words).unwrap();
        path.display().to_string()
    };
    let batch = file(
        "batch",
        r#"{"operations": [{"put": {"key": "w", "value": "1"}}]}"#,
    );
    let lines = file("lines", r#"{"key": "i", "value": "1"}"#);
    client.put("d", "1").await.unwrap();
    for arguments in [
        &["increment", "n"][..],
        &["increment", "--output", "json", "n"],
        &["put", "p", "1"],
        &["delete", "d"],
        &["write", &batch],
        &["import", &lines],
        &["admin", "memory", "--max-records", "0"],
    ] {
        let output = unprinted(&platform.grpc, arguments);
        let printed = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {printed}");
        assert!(
            printed.contains("it is done, but the answer"),
            "{arguments:?}: {printed}"
        );
    }
    for (key, value) in [
        ("n", Some("2")),
        ("p", Some("1")),
        ("w", Some("1")),
        ("i", Some("1")),
        ("d", None),
    ] {
        let found = client.get(key).await.unwrap().value;
        assert_eq!(found.as_deref(), value.map(str::as_bytes), "{key}");
    }
    // These commands change nothing, so a script may repeat them.
    for arguments in [
        &["get", "n"][..],
        &["scan"],
        &["count"],
        &["export"],
        &["status"],
    ] {
        let output = unprinted(&platform.grpc, arguments);
        let printed = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {printed}");
        assert!(
            printed.contains("No space left"),
            "{arguments:?}: {printed}"
        );
    }
}
