//! Inputs of commands: invalid variables, addresses and files are refused with a message that
//! says what to do. Data directories are readable by their owner alone.

// Test helpers panic as tests do.
#![allow(clippy::unwrap_used)]

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
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

/// Wrong usage, and a part of its message.
const WRONG_USAGE: &[(&[&str], &str)] = &[
    (
        &["put", "k", "--verbose"],
        "unexpected argument '--verbose'",
    ),
    (
        &["touch", "k", "--if-absent"],
        "unexpected argument '--if-absent'",
    ),
    (
        &["delete", "k", "--if-absent"],
        "unexpected argument '--if-absent'",
    ),
    (&["delete"], "--prefix <PREFIX>"),
    (&["delete", "k", "--prefix", "k"], "cannot be used with"),
    (&["set", "k", "v"], "'put'"),
    (&["start"], "'dev'"),
    (&["batch"], "'write'"),
    (&["-n", "other", "get", "k"], "'-n' goes after the command"),
    (
        &["put", "k", "v", "--ttl", "0s"],
        "'--ttl <TTL>': the time to live '0s' is over at once: write 1ms to 36500d (100 years, the \
         limit max_ttl), or leave it out",
    ),
    (
        &["put", "k", "v", "--ttl", "999999d"],
        "is too long: write 1ms to 36500d",
    ),
    (
        &["get", "k", "--timeout", "5"],
        "'--timeout <TIMEOUT>': the timeout '5' has no unit",
    ),
    (
        &[
            "get",
            "k",
            "--consistency",
            "latest",
            "--max-staleness-ms",
            "5",
        ],
        "--consistency latest takes no --max-staleness-ms: leave it out",
    ),
    (
        &["admin", "memory", "--policy", "LRU"],
        "'--policy <POLICY>': there is no eviction policy",
    ),
    (
        &["dev", "--cache-mib", "abc"],
        "must be a whole number from 1 to",
    ),
    (
        &["dev", "--ephemeral", "--data-dir", "x"],
        "cannot be used with",
    ),
    (
        &[
            "dev",
            "--ephemeral",
            "--grpc-listen",
            "127.0.0.1:7",
            "--rest-listen",
            "127.0.0.1:7",
        ],
        "gRPC and REST can't share 127.0.0.1:7: set --grpc-listen or --rest-listen",
    ),
    (
        &["dev", "--config", "/nowhere.toml"],
        "/nowhere.toml: the file does not exist; `tierkv config sample >/nowhere.toml` writes one",
    ),
];

#[test]
fn wrong_usage_is_refused_with_what_is_right() {
    for (arguments, words) in WRONG_USAGE {
        let mut command = command(arguments);
        let message = refusal(command.env("TIERKV_ADDRESS", "127.0.0.1:1"));
        assert!(message.contains(words), "{arguments:?}: {message}");
        // The environment sets it, so it is not part of the usage.
        assert!(!message.contains("--address"), "{arguments:?}: {message}");
        assert!(
            !message.contains("InvalidArgument"),
            "{arguments:?}: {message}"
        );
    }
}

#[test]
fn an_address_in_use_and_a_file_for_a_folder_are_named_with_their_options() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (option, door) in [("--grpc-listen", "gRPC"), ("--rest-listen", "REST")] {
        let free = match option {
            "--grpc-listen" => "--rest-listen",
            _ => "--grpc-listen",
        };
        let arguments = ["dev", "--ephemeral", option, &address, free, "127.0.0.1:0"];
        let message = refusal(&mut command(&arguments));
        let begin = format!("tierkv: {address} can't be listened on ({door}): ");
        assert!(message.starts_with(&begin), "{message}");
        assert!(
            message.contains(&format!("set {option} to another")),
            "{message}"
        );
    }
    let role = ["datanode", "--node", "n1", "--cluster", "c1"];
    let nowhere = ["--coordination-url", "etcd://127.0.0.1:7/none"];
    let listen = ["--metrics-listen", &address];
    let message = refusal(&mut command(&[&role[..], &nowhere, &listen].concat()));
    let remedy = "(metrics and health): ";
    assert!(message.contains(remedy), "{message}");
    assert!(message.contains("set --metrics-listen to"), "{message}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let file = file.to_str().unwrap();
    let listen = [
        "--grpc-listen",
        "127.0.0.1:0",
        "--rest-listen",
        "127.0.0.1:0",
    ];
    for arguments in [
        &[&["dev", "--data-dir", file], &listen[..]].concat()[..],
        &["admin", "recover", "--data-dir", file],
    ] {
        let message = refusal(&mut command(arguments));
        assert!(message.contains("is a file, not a folder"), "{message}");
    }
    assert_eq!(fs::read(file).unwrap(), b"");
}

#[test]
fn a_warning_and_the_banner_have_the_address_that_is_served() {
    let mut dev = command(&["dev", "--ephemeral"])
        .args(["--grpc-listen", "127.0.0.1:0", "--rest-listen", "0.0.0.0:0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let printed = BufReader::new(dev.stdout.take().unwrap());
    let mut lines = printed.lines().map(Result::unwrap);
    let is_rest = |line: &String| line.starts_with("  REST   ");
    let rest = lines.find(is_rest).unwrap_or_default();
    let pid = Pid::from_raw(i32::try_from(dev.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    let rest_of_output = lines.count();
    let warnings = String::from_utf8(dev.wait_with_output().unwrap().stderr).unwrap();
    assert!(rest_of_output > 5, "the banner is cut: {warnings}");
    let (url, remark) = rest.split_once(" (").unwrap();
    assert_eq!(remark, "listening on all addresses)");
    let (_, port) = url.rsplit_once(':').unwrap();
    assert!(url.ends_with(&format!("http://127.0.0.1:{port}")), "{rest}");
    let warning = format!("WARNING: REST is served on 0.0.0.0:{port}, which");
    assert_eq!(warnings.matches("WARNING").count(), 1, "{warnings}");
    assert!(warnings.contains(&warning), "{warnings}");
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
