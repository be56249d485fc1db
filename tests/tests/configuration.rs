//! A configuration file: read by a platform, and printed by `config check`.

// Test helpers panic as tests do.
#![allow(clippy::unwrap_used)]

use std::{fs, process::Command, time::Duration};

use serde_json::Value;
use tierkv_harness::{Options, TierKv, poll_until};
use tierkv_tests::{binary, metrics::counter};

const PATIENCE: Duration = Duration::from_secs(60);

/// The exit status, output and errors of `config check`.
fn check(arguments: &[&str], environment: (&str, &str)) -> (Option<i32>, String, String) {
    let output = Command::new(binary::tierkv().path)
        .args(["config", "check"])
        .args(arguments)
        .env(environment.0, environment.1)
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), printed, words)
}

#[tokio::test]
async fn a_configuration_file_is_read_printed_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tierkv.toml");
    fs::write(
        &file,
        "[memory]\npinned_max_bytes = \"40 MiB\"\ncolour = 1\n",
    )
    .unwrap();
    let file = file.to_str().unwrap();
    let options = Options {
        arguments: ["--config", file].map(str::to_owned).into(),
        ..Options::default()
    };
    let mut platform = TierKv::start(options).await.unwrap();
    let limit = f64::from(40 << 20);
    let is_in_force = poll_until(PATIENCE, || async {
        let in_force = counter(platform.rest(), "tierkv_pinned_limit_bytes").await;
        (in_force.ok()? == limit).then_some(())
    });
    is_in_force
        .await
        .expect("the limit of the file is not in force");
    let announced = platform.process().first_line().unwrap();
    let announced: Value = serde_json::from_str(&announced).unwrap();
    assert_eq!(announced["config"], file);
    let log = platform.process().log_tail();
    assert!(log.contains("memory.colour"), "{log}");

    let (code, printed, words) = check(
        &["--output", "json", "--set", "wal.sync=interval"],
        ("TIERKV_CONFIG", file),
    );
    assert_eq!(code, Some(0), "{words}");
    let printed: Value = serde_json::from_str(&printed).unwrap();
    let key = |name: &str| {
        let keys = printed["keys"].as_array().unwrap();
        keys.iter().find(|key| key["key"] == name).unwrap().clone()
    };
    assert_eq!(key("memory.pinned_max_bytes")["value"], 40 << 20);
    assert_eq!(key("memory.pinned_max_bytes")["source"], file);
    assert_eq!(key("wal.sync")["from"], "flag");
    assert_eq!(key("wal.max_bytes")["from"], "default");
    assert_eq!(printed["warnings"].as_array().unwrap().len(), 1);

    let (code, printed, words) = check(&["--config", file], ("TIERKV_WAL_SYNC", "never"));
    assert_eq!(code, Some(2), "{words}");
    assert!(
        printed.contains("memory.pinned_max_bytes = \"40 MiB\""),
        "{printed}"
    );
    assert!(words.contains("memory.colour"), "{words}");
    assert!(
        words.contains("wal.sync (environment TIERKV_WAL_SYNC)"),
        "{words}"
    );
}

#[test]
fn invalid_values_are_shown_first_and_never_as_if_they_were_in_force() {
    let none = ("TIERKV_LOG", "warn");
    let set = ["--set", "wal.sync=never", "--set", "memory.max_bytes=0"];
    let (code, printed, words) = check(&set, none);
    assert_eq!(code, Some(2), "{words}");
    assert!(
        words.starts_with("error: wal.sync (flag): \"never\" is not"),
        "{words}"
    );
    let last = words.trim_end().lines().last().unwrap();
    assert!(
        last.starts_with("2 errors, printed before the list: wal.sync, memory.max_bytes."),
        "{words}"
    );
    assert!(
        printed.contains("\nwal.sync: ERROR (flag): \"never\" is not"),
        "{printed}"
    );
    assert!(
        printed.contains("\nmemory.max_bytes: ERROR (flag): "),
        "{printed}"
    );
    assert!(!printed.contains("\nwal.sync = "), "{printed}");

    let (code, printed, words) = check(&[&set[..], &["-o", "json"]].concat(), none);
    assert_eq!(code, Some(2), "{words}");
    let printed: Value = serde_json::from_str(&printed).unwrap();
    for key in printed["keys"].as_array().unwrap() {
        let is_wrong = ["wal.sync", "memory.max_bytes"].contains(&key["key"].as_str().unwrap());
        assert_eq!(key["value"].is_null(), is_wrong, "{key}");
    }
    let (code, _, words) = check(&["--set", "foo=1"], none);
    assert_eq!(code, Some(2), "{words}");
    assert!(!words.contains("did you mean"), "{words}");
}
