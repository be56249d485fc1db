//! `ops/packages-to-json.py` on small inputs; `tutorial.rs` runs it on the real index.

// Test helpers panic as tests do.
#![allow(clippy::unwrap_used)]

use std::{
    io::{BufRead, BufReader, Write},
    process::{Command, Output, Stdio},
    thread,
};

use serde_json::{Value, json};
use tierkv_tests::binary::repository;

fn convert(input: &[u8]) -> Output {
    let mut converter = Command::new("python3")
        .arg(repository().join("ops/packages-to-json.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = converter.stdin.take().unwrap();
    let input = input.to_vec();
    // In a thread, because the converter writes while it reads.
    let feeding = thread::spawn(move || stdin.write_all(&input).unwrap());
    let output = converter.wait_with_output().unwrap();
    feeding.join().unwrap();
    output
}

fn lines(output: &Output) -> Vec<Value> {
    let text = std::str::from_utf8(&output.stdout).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn each_record_becomes_a_line_with_its_unchanged_text() {
    let input = "\n\nPackage: a\nDescription: one\n two \"quoted\"\t\n .\n\n\n\npackage:b\nX: €\n";
    let output = convert(input.as_bytes());
    assert!(output.status.success(), "{output:?}");
    let expected = [
        json!({"key": "a", "value": "Package: a\nDescription: one\n two \"quoted\"\t\n .\n"}),
        json!({"key": "b", "value": "package:b\nX: €\n"}),
    ];
    assert_eq!(lines(&output), expected);
}

#[test]
fn a_last_record_without_a_newline_is_kept_unchanged() {
    let output = convert(b"Version: 1\nPackage: a");
    assert_eq!(
        lines(&output),
        [json!({"key": "a", "value": "Version: 1\nPackage: a"})]
    );
    let nothing = convert(b"");
    assert!(nothing.status.success() && nothing.stdout.is_empty());
}

#[test]
fn text_that_is_not_utf8_is_encoded_as_base64() {
    let output = convert(b"Package: a\nX: \xff\n\nPackage: \xfe\n");
    let expected = [
        json!({"key": "a", "value_base64": "UGFja2FnZTogYQpYOiD/Cg=="}),
        json!({"key_base64": "/g==", "value_base64": "UGFja2FnZTog/go="}),
    ];
    assert_eq!(lines(&output), expected);
}

#[test]
fn the_first_record_of_a_name_wins() {
    let output = convert(b"Package: a\nV: 2\n\nPackage: b\n\nPackage: a\nV: 1\n");
    assert!(output.status.success());
    let expected = [
        json!({"key": "a", "value": "Package: a\nV: 2\n"}),
        json!({"key": "b", "value": "Package: b\n"}),
    ];
    assert_eq!(lines(&output), expected);
}

#[test]
fn invalid_records_are_reported_and_left_out() {
    let mut input = b"Package: a\n\nVersion: 1\n\nPackage:\n\nPackage: large\nX: ".to_vec();
    input.extend(std::iter::repeat_n(b'x', 1 << 20));
    input.extend_from_slice(b"\n\nPackage: z\n Package: continued\n");
    let output = convert(&input);
    assert_eq!(output.status.code(), Some(1));
    let keys: Vec<Value> = lines(&output)
        .iter()
        .map(|line| line["key"].clone())
        .collect();
    assert_eq!(keys, ["a", "z"]);
    let words = String::from_utf8(output.stderr).unwrap();
    for line in ["line 3: ", "line 5: ", "line 7: "] {
        assert!(words.contains(line), "{words}");
    }
    assert_eq!(words.lines().count(), 3, "{words}");
}

#[test]
fn the_converter_ends_quietly_when_its_reader_closes() {
    let mut converter = Command::new("python3")
        .arg(repository().join("ops/packages-to-json.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = converter.stdin.take().unwrap();
    let feeding = thread::spawn(move || {
        // More than pipes and buffers hold; writing fails once the converter has ended.
        for number in 0..1_000_000 {
            if write!(stdin, "Package: {number}\n\n").is_err() {
                return;
            }
        }
    });
    let mut first = String::new();
    BufReader::new(converter.stdout.take().unwrap())
        .read_line(&mut first)
        .unwrap();
    let output = converter.wait_with_output().unwrap();
    feeding.join().unwrap();
    assert!(first.contains("Package: 0"), "{first}");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
