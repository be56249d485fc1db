//! `tierkv shell`: scripts on standard input, and an interactive session in a pseudoterminal.

// Test helpers panic as tests do.
#![allow(clippy::unwrap_used)]

use std::{
    io::{BufRead, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tierkv_harness::Proxy;
use tierkv_tests::{binary, ephemeral::Ephemeral, outside};
use tokio::net::TcpListener;

const PATIENCE: Duration = Duration::from_secs(120);

fn shell(address: &str, arguments: &[&str]) -> Child {
    Command::new(binary::tierkv().path)
        .arg("shell")
        .args(arguments)
        .env("TIERKV_ADDRESS", address)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Runs a script to its end.
fn script(address: &str, arguments: &[&str], lines: &[u8]) -> Output {
    let mut running = shell(address, arguments);
    running.stdin.take().unwrap().write_all(lines).unwrap();
    running.wait_with_output().unwrap()
}

fn parts_of(output: &Output) -> (String, String, Option<i32>) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        text(&output.stdout),
        text(&output.stderr),
        output.status.code(),
    )
}

/// A script with every operation, and lines that fail.
fn every_operation(batch: &Path, lines: &Path) -> String {
    format!(
        "# a comment\n\n\
         put 'a key' \"two words\" -o raw --ttl 1h\r\n\
         get 'a key'\n\
         put b 1\n\
         increment b 41\n\
         get absent\n\
         put --if-absent b 2\n\
         nonsense\n\
         put 'open\n\
         put b\n\
         import -\n\
         increment b many\n\
         write {}\n\
         get w -o json\n\
         import {}\n\
         count --consistency latest\n\
         scan -o raw --consistency latest\n\
         export --consistency latest w\n\
         delete w\n\
         watch --limit 0x\n\
         status\n\
         admin memory\n\
         use other\n\
         get b\n\
         get -n default b\n\
         put \u{20ac} yes -n default\n\
         exit\n\
         get 'never reached'\n",
        batch.display(),
        lines.display()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_runs_to_its_end_although_lines_fail() {
    let platform = Ephemeral::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("batch");
    let batch =
        r#"{"operations": [{"put": {"key": "w", "value": "1"}}, {"delete": {"key": "a"}}]}"#;
    std::fs::write(&file, batch).unwrap();
    let lines = folder.path().join("lines");
    std::fs::write(&lines, "{\"key\": \"i\", \"value\": \"in\"}\n").unwrap();
    let output = script(
        &platform.grpc,
        &[],
        every_operation(&file, &lines).as_bytes(),
    );
    let (out, error, status) = parts_of(&output);
    assert_eq!(status, Some(2), "the worst status of all lines: {error}");
    let rows: Vec<&str> = out.lines().collect();
    assert!(rows[0].parse::<u64>().is_ok(), "{out}");
    assert_eq!(rows[1], "two words");
    assert_eq!(rows[3], "42");
    for row in [
        "1 imported, 0 bad lines left out",
        "a key\ttwo words",
        "deleted",
        "42",
        r#"{"key":"w","value":"1"}"#,
    ] {
        assert!(rows.contains(&row), "{row}: {out}");
    }
    assert!(out.contains(r#""value":"1""#), "{out}");
    assert!(out.contains("set: nothing"), "{out}");
    assert!(out.contains("client coordinator"), "{out}");
    for words in [
        "line 7: the key 'absent' is absent",
        "tierkv: line 8: ConditionFailed",
        "line 9: error: unrecognized subcommand 'nonsense'",
        "tierkv: line 10: a quotation mark is not closed",
        "no command in it can: name a file",
        "line 13: error: invalid value 'many'",
    ] {
        assert!(error.contains(words), "{words}: {error}");
    }
    assert_eq!(
        error.matches("' is absent").count(),
        2,
        "the other namespace has no b: {error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exit_status_is_the_worst_of_the_lines() {
    let platform = Ephemeral::start().await.unwrap();
    for (lines, worst) in [
        ("", 0),
        ("put a 1\nhelp\nhelp get\nget a", 0),
        ("get absent\nput a 1\n", 1),
        ("get absent\nget\nput a 1\n", 2),
        ("use 'No Namespace'\n", 2),
    ] {
        let (out, error, status) = parts_of(&script(&platform.grpc, &[], lines.as_bytes()));
        assert_eq!(status, Some(worst), "{lines}: {out} {error}");
    }
    // Options of the shell are the defaults of its lines, and override the environment.
    let other = ["--address", &platform.grpc, "--namespace", "other"];
    let output = script("127.0.0.1:1", &other, b"put mine 1\nget mine -n default\n");
    assert_eq!(parts_of(&output).2, Some(1), "{output:?}");
    let help = script(&platform.grpc, &["--help"], b"");
    assert!(parts_of(&help).0.contains("the worst of them"), "{help:?}");
    let endless = script(&platform.grpc, &[], &vec![b'x'; (8 << 20) + 2]);
    assert!(
        parts_of(&endless).1.contains("a line has over"),
        "{endless:?}"
    );
    assert_eq!(parts_of(&endless).2, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_lines_share_one_connection() {
    let platform = Ephemeral::start().await.unwrap();
    let line = Proxy::start(&platform.grpc).await.unwrap();
    let gets = |count: usize| "get -v a\ncount\n".repeat(count);
    let one = script(
        &line.address,
        &[],
        format!("put a 1\n{}", gets(1)).as_bytes(),
    );
    assert!(one.status.success(), "{one:?}");
    let once = line.connections();
    let many = script(
        &line.address,
        &[],
        format!("put a 1\n{}", gets(50)).as_bytes(),
    );
    assert!(many.status.success(), "{many:?}");
    let often = line.connections();
    assert!(
        (1..=4).contains(&once) && often <= 4,
        "one line needs {once} connections, a hundred {often}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_fail_while_the_platform_is_down_and_succeed_after() {
    let platform = Ephemeral::start().await.unwrap();
    let line = Proxy::start(&platform.grpc).await.unwrap();
    line.set_up(false);
    let mut shell = shell(&line.address, &["--timeout", "1s"]);
    let mut lines = shell.stdin.take().unwrap();
    let mut printed = BufReader::new(shell.stdout.take().unwrap());
    let mut errors = BufReader::new(shell.stderr.take().unwrap());
    let next = |from: &mut dyn BufRead| {
        let mut line = String::new();
        from.read_line(&mut line).unwrap();
        line
    };
    lines.write_all(b"put a 1\n").unwrap();
    let error = next(&mut errors);
    assert!(error.contains("does a platform serve gRPC at"), "{error}");

    line.set_up(true);
    lines.write_all(b"put a 1\nget a\n").unwrap();
    assert!(next(&mut printed).trim().parse::<u64>().is_ok());
    assert_eq!(next(&mut printed), "1\n");

    line.set_up(false);
    lines.write_all(b"get a\n").unwrap();
    let error = next(&mut errors);
    assert!(
        error.contains("Unavailable") || error.contains("Deadline"),
        "{error}"
    );
    lines.write_all(b"get a\n").unwrap();
    let error = next(&mut errors);
    assert!(error.contains("does a platform serve gRPC at"), "{error}");

    line.set_up(true);
    lines.write_all(b"get a\n").unwrap();
    assert_eq!(next(&mut printed), "1\n");
    drop(lines);
    assert_eq!(shell.wait().unwrap().code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_a_script_and_its_running_line() {
    for (signal, status) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        // One each: a shell may connect twice, and a connection of the one before says nothing.
        let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = mute.local_addr().unwrap().to_string();
        let mut shell = shell(&address, &["--timeout", "60s"]);
        let mut lines = shell.stdin.take().unwrap();
        lines.write_all(b"get a\nhelp\n").unwrap();
        // It waits for an answer that never comes.
        let _connection = mute.accept().await.unwrap();
        let pid = Pid::from_raw(i32::try_from(shell.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        let output = shell.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
    }
}

/// History, completion, Ctrl-C and SIGTERM, driven through Python's `pty`.
#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_history_completion_and_interrupts() {
    let platform = Ephemeral::start().await.unwrap();
    let binary = binary::tierkv().path.canonicalize().unwrap();
    let arguments = [binary.to_str().unwrap(), platform.grpc.as_str()];
    let printed = outside::script("shell_terminal.py", &arguments, PATIENCE).await;
    assert!(printed.unwrap().ends_with("done\n"));
}
