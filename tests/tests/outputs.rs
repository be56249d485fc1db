//! Outputs that are full or closed: a platform runs on and stops in order, and a command
//! whose write is done never ends as one whose write is not.

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

/// An address that nobody listens on.
fn free() -> String {
    let reserved = Reserved::bind("127.0.0.1:0").unwrap();
    reserved.local_addr().unwrap().to_string()
}

/// A platform that can't say where it listens. It is killed with this guard.
struct Mute {
    process: Child,
    grpc: String,
    _data: TempDir,
}

impl Mute {
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

    /// Waits until it takes a write.
    async fn serves(&self) {
        let written = poll_until(PATIENCE, || async {
            let client = Client::builder().address(&self.grpc).connect().await;
            client.ok()?.put("k", "v").await.ok()
        });
        written.await.expect("it does not serve");
    }

    /// Ctrl-C, and what it ends with.
    async fn interrupted(&mut self) -> Option<i32> {
        let pid = self.process.id().to_string();
        let sent = Command::new("kill").args(["-INT", &pid]).status();
        assert!(sent.unwrap().success());
        let process = std::cell::RefCell::new(&mut self.process);
        let ended = poll_until(PATIENCE, || async {
            process.borrow_mut().try_wait().unwrap()
        });
        ended.await.expect("it goes on").code()
    }
}

impl Drop for Mute {
    fn drop(&mut self) {
        // It has ended, mostly.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

#[tokio::test]
async fn a_platform_with_full_outputs_runs_and_stops_in_order() {
    let mut platform = Mute::start(full(), full());
    platform.serves().await;
    assert_eq!(platform.interrupted().await, Some(0));
}

/// As under `tierkv dev | tee log`, where Ctrl-C ends `tee` first.
#[tokio::test]
async fn a_platform_whose_reader_ended_stops_in_order() {
    let mut platform = Mute::start(Stdio::piped(), Stdio::piped());
    let mut stderr = platform.process.stderr.take().unwrap();
    let heard = std::thread::spawn(move || {
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
    let words = heard.join().unwrap();
    assert!(!words.contains("panicked"), "{words}");
}

#[tokio::test]
async fn a_platform_that_nobody_hears_runs_and_stops_in_order() {
    let mut platform = Mute::start(Stdio::piped(), Stdio::piped());
    drop(platform.process.stdout.take());
    drop(platform.process.stderr.take());
    platform.serves().await;
    assert_eq!(platform.interrupted().await, Some(0));
}

/// Runs a command that can't print its answer.
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
async fn what_is_done_is_done_though_the_answer_can_not_be_printed() {
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
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {said}");
        assert!(
            said.contains("it is done, but the answer"),
            "{arguments:?}: {said}"
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
    // Nothing was done here, so a script may ask again.
    for arguments in [
        &["get", "n"][..],
        &["scan"],
        &["count"],
        &["export"],
        &["status"],
    ] {
        let output = unprinted(&platform.grpc, arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains("No space left"), "{arguments:?}: {said}");
    }
}
