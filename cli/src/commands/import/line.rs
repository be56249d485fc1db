//! One line of an import.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tierkv::rpc::proto::convert;
use tierkv_openapi::{
    object::document,
    octets::{decode, split},
};

/// The key and value of a line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Vec<u8>,
    /// Time to live; `None`: the key never expires.
    pub(crate) ttl: Option<Duration>,
}

/// The line as JSON. An unknown field is refused, because ignoring it could lose a setting.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_ms: Option<u64>,
}

impl Line {
    /// Parses a line.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let fields: Fields = document(bytes).map_err(|why| unusable(&why))?;
        let ttl = convert::ttl(fields.ttl_ms.unwrap_or(0));
        let key = either("key", fields.key, fields.key_base64)?;
        if key.is_empty() {
            return Err("the key is empty".to_owned());
        }
        Ok(Self {
            key,
            value: either("value", fields.value, fields.value_base64)?,
            ttl: ttl.map_err(|error| format!("ttl_ms: {}", error.message))?,
        })
    }

    /// Prints a line with its newline; a time to live is in whole milliseconds.
    pub(crate) fn write(&self) -> serde_json::Result<Vec<u8>> {
        let ((key, key_base64), (value, value_base64)) = (split(&self.key), split(&self.value));
        let millis = |ttl: Duration| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let mut line = serde_json::to_vec(&Fields {
            key,
            key_base64,
            value,
            value_base64,
            ttl_ms: self.ttl.map(millis),
        })?;
        line.push(b'\n');
        Ok(line)
    }
}

/// An example of a line, for error messages.
const FORM: &str = r#"such as {"key": "a", "value": "1"}"#;

fn unusable(why: &str) -> String {
    format!("not a usable record: {why}; a line is {FORM}")
}

/// The value of the one field of the two that is given.
fn either(name: &str, text: Option<String>, base64: Option<String>) -> Result<Vec<u8>, String> {
    match (text, base64) {
        (Some(text), None) => Ok(text.into_bytes()),
        (None, Some(base64)) => match decode(&format!("{name}_base64"), &base64) {
            Ok(bytes) => Ok(bytes.into()),
            Err(error) => Err(error.message.into_owned()),
        },
        (Some(_), Some(_)) => Err(format!("it has both {name} and {name}_base64; give one")),
        (None, None) => Err(format!("it has neither {name} nor {name}_base64")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(Vec<u8>, Vec<u8>), String> {
        Line::parse(text.as_bytes()).map(|line| (line.key, line.value))
    }

    #[test]
    fn text_and_base64_are_read() {
        assert_eq!(
            parse(r#"{"key":"a","value":""}"#),
            Ok((b"a".into(), vec![]))
        );
        assert_eq!(
            parse(r#"{"key_base64":"AP8=","value":"\u00e9"}"#),
            Ok((vec![0, 255], "é".into()))
        );
    }

    #[test]
    fn a_time_to_live_is_in_milliseconds() {
        let ttl = |text: &str| Line::parse(text.as_bytes()).unwrap().ttl;
        assert_eq!(ttl(r#"{"key":"a","value":""}"#), None);
        assert_eq!(ttl(r#"{"key":"a","value":"","ttl_ms":0}"#), None);
        assert_eq!(
            ttl(r#"{"key":"a","value":"","ttl_ms":1500}"#),
            Some(Duration::from_millis(1_500))
        );
    }

    #[test]
    fn what_is_written_reads_the_same() {
        for (key, value, ttl) in [
            (&b"a"[..], &b""[..], None),
            (
                "ü\n\"".as_bytes(),
                b"\0\x01",
                Some(Duration::from_millis(1)),
            ),
            (b"\xff\0", b"\xfe", Some(Duration::from_secs(86_400))),
        ] {
            let line = Line {
                key: key.to_vec(),
                value: value.to_vec(),
                ttl,
            };
            let written = line.write().unwrap();
            assert_eq!(written.iter().filter(|byte| **byte == b'\n').count(), 1);
            assert_eq!(Line::parse(&written), Ok(line));
        }
    }

    #[test]
    fn what_is_no_record_is_refused_in_words() {
        for (line, word) in [
            ("", "cut off"),
            ("{a", "no JSON at column 2"),
            ("null", "it must be a JSON object, not null"),
            ("[]", "record"),
            (r#"{"key":"a"}"#, "neither value"),
            (r#"{"value":"a"}"#, "neither key"),
            (r#"{"key":"","value":"a"}"#, "empty"),
            (r#"{"key":"a","key_base64":"YQ==","value":"a"}"#, "both key"),
            (
                r#"{"key":"a","value_base64":"%"}"#,
                "value_base64 is no base64",
            ),
            (
                r#"{"key":"a","value":"a","ttl":1}"#,
                "there is no field ttl",
            ),
            (
                r#"{"key":"a","value":"a","ttl_ms":-1}"#,
                "ttl_ms must be a whole number from 0",
            ),
            (
                r#"{"key":"a","value":"a","ttl_ms":18446744073709551615}"#,
                "max_ttl",
            ),
        ] {
            let why = parse(line).unwrap_err();
            assert!(why.contains(word), "{line}: {why}");
        }
    }
}
