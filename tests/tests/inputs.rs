//! Inputs of commands: invalid variables, addresses and files are refused with a message that
//! says what to do. Data directories are readable by their owner alone.

// Test helpers panic as tests do.
#![allow(clippy::unwrap_used)]

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
};

use tierkv::Client;
use tierkv_harness::{Options, TierKv};
use tierkv_tests::{binary, ephemeral::Ephemeral};

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary::tierkv().path);
    command.args(arguments).stdin(Stdio::null());
    command
}

/// The error message of a command that ends with status 2.
fn refusal(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{message}");
    message
}

#[test]
fn invalid_settings_are_refused_with_a_remedy() {
    let message = refusal(command(&["config", "sample"]).env("TIERKV_LOG", "verbose"));
    assert!(
        message.contains("TIERKV_LOG can't be used: 'verbose'"),
        "{message}"
    );
    let message = refusal(&mut command(&[
        "get",
        "--address",
        "https://127.0.0.1:7400",
        "k",
    ]));
    assert!(
        message.contains("TLS, which is not spoken yet"),
        "{message}"
    );
    let message = refusal(&mut command(&["dev", "--grpc-listen", "example.org:7400"]));
    assert!(message.contains("localhost:7400"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_input_writes_nothing() {
    let platform = Ephemeral::start().await.unwrap();
    let endless = || File::open("/dev/zero").unwrap();
    for (arguments, words) in [
        (
            &["put", "k"][..],
            "is longer than the limit of 1048576 bytes",
        ),
        (
            &["put", "k", "--file", "/dev/zero"],
            "is longer than the limit of 1048576 bytes",
        ),
        (&["write"], "write it in several parts"),
        (&["import", "-"], "not JSON lines"),
    ] {
        let mut command = command(arguments);
        command
            .env("TIERKV_ADDRESS", &platform.grpc)
            .stdin(endless());
        let message = refusal(&mut command);
        assert!(message.contains(words), "{arguments:?}: {message}");
    }
    let client = Client::builder().address(&platform.grpc).connect().await;
    assert_eq!(client.unwrap().get("k").await.unwrap().value, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_takes_lines_up_to_the_limit_and_names_the_command_that_converts_a_file() {
    const LONGEST_LINE: usize = 8 << 20;
    let platform = Ephemeral::start().await.unwrap();
    let folder = tempfile::TempDir::new().unwrap();
    let import = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        let mut import = command(&["import"]);
        import.arg(&path).env("TIERKV_ADDRESS", &platform.grpc);
        import
    };
    let message = refusal(&mut import("lines.gz", b"\x1f\x8b\x08\0\0\0"));
    let remedy = "lines.gz is gzip-compressed; run: gzip -dc FILE | tierkv import -";
    assert!(message.contains(remedy), "{message}");

    // White space after an object changes nothing.
    let mut line = br#"{"key":"k","value":"v"}"#.to_vec();
    line.resize(LONGEST_LINE, b' ');
    let output = import("longest", &line).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    line.extend_from_slice(b" \n");
    let output = import("longer", &line).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(
        message.contains("line 1: it is longer than 8388608 bytes"),
        "{message}"
    );
    let client = Client::builder().address(&platform.grpc).connect().await;
    let found = client.unwrap().get("k").await.unwrap();
    assert_eq!(found.value.as_deref(), Some(&b"v"[..]));
}

#[test]
fn localhost_is_an_address_to_listen_on() {
    let set = [
        "config",
        "check",
        "--output",
        "json",
        "--set",
        "grpc_listen=localhost:7411",
    ];
    let output = command(&set).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("\"127.0.0.1:7411\""), "{text}");
}

#[tokio::test]
async fn a_data_directory_is_readable_by_its_owner_alone() {
    let mut platform = TierKv::start(Options::default()).await.unwrap();
    let data = platform.folder().data().to_owned();
    for folder in ["coordination", "c1", "c1/n1", "c1/n1/log"] {
        let mode = fs::metadata(data.join(folder))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700, "{folder}");
    }
    assert!(platform.stop().await.unwrap().success());
}
