//! Idempotency keys: clients' names for writes, so that a retry is applied at most once.
//!
//! The header is `Idempotency-Key` of the IETF's draft
//! (draft-ietf-httpapi-idempotency-key-header): any text of visible characters, plain or as
//! The key is any text of visible characters, plain or as a string of structured fields. The tiers
//! below get a hash of namespace and key, cut to the 128 bits of a request id. It is SHA-256,
//! because keys come from clients: two keys with the same hash take 2^64 tries to find, and a key
//! with the hash of another client's key takes 2^128. So nobody can make a key in one namespace
//! that collides with a key in another. A new key collides by chance with one of the 2^23 requests
//! that a master remembers in one of 2^105 cases.

use axum::http::{HeaderMap, HeaderName, StatusCode};
use sha2::{Digest, Sha256};
use tierkv_types::{Code, Error, Namespace};

use super::answer::Failure;

/// A client's name for a write.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The longest key, in characters.
const MAX_IDEMPOTENCY_KEY: usize = 255;
/// A prefix of the hashed text, so that the hash is not one of another purpose.
const PURPOSE: &[u8] = b"tierkv idempotency key 1\0";

/// A key as a client sent it, without quotes and escapes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct IdempotencyKey(Vec<u8>);

impl IdempotencyKey {
    /// The idempotency key of a request; `None` if it has none.
    ///
    /// # Errors
    /// `InvalidArgument` if it is malformed or given twice.
    pub(super) fn of(headers: &HeaderMap) -> Result<Option<Self>, Error> {
        let mut lines = headers.get_all(IDEMPOTENCY_KEY).iter();
        let Some(line) = lines.next() else {
            return Ok(None);
        };
        let key = match lines.next() {
            None => unquoted(line.as_bytes().trim_ascii()),
            Some(_) => None,
        };
        let is_sound = |key: &Vec<u8>| {
            (1..=MAX_IDEMPOTENCY_KEY).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic)
        };
        match key.filter(is_sound) {
            Some(key) => Ok(Some(Self(key))),
            None => Err(Error::invalid(format!(
                "an Idempotency-Key is 1 to {MAX_IDEMPOTENCY_KEY} visible ASCII characters \
                 without spaces, plain or in double quotes, and stands there once; any UUID is \
                 one. Make a new one for each write, and send it again with each retry"
            ))),
        }
    }

    /// The hash that stands for the key below this tier.
    ///
    /// # Errors
    /// `InvalidArgument` if the namespace is invalid.
    pub(super) fn hash(&self, namespace: &str) -> Result<[u8; 16], Error> {
        let namespace = Namespace::new(namespace)?;
        let digest = Sha256::new()
            .chain_update(PURPOSE)
            .chain_update(namespace.as_bytes())
            // No namespace contains a zero byte.
            .chain_update([0])
            .chain_update(&self.0)
            .finalize();
        let mut hash = [0; 16];
        hash.copy_from_slice(&digest[..16]);
        Ok(hash)
    }
}

/// The hash of a request's idempotency key, if it has one.
///
/// # Errors
/// `InvalidArgument` if the key or the namespace is invalid.
pub(super) fn hash_of(headers: &HeaderMap, namespace: &str) -> Result<Option<[u8; 16]>, Error> {
    let key = IdempotencyKey::of(headers)?;
    key.map(|key| key.hash(namespace)).transpose()
}

/// The failure of a write. For a key used with another write, the draft has its own status.
pub(super) fn failure(error: Error) -> Failure {
    match error.code {
        Code::AlreadyExists => Failure::with_status(StatusCode::UNPROCESSABLE_ENTITY, error),
        _ => error.into(),
    }
}

/// The text of a key: plain, or the content of a structured fields' string (RFC 9651, section
/// 3.3.3); `None` if it starts as such a string but is malformed.
fn unquoted(text: &[u8]) -> Option<Vec<u8>> {
    let Some(inside) = text.strip_prefix(b"\"") else {
        return Some(text.to_vec());
    };
    let inside = inside.strip_suffix(b"\"")?;
    let mut plain = Vec::with_capacity(inside.len());
    let mut bytes = inside.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return None,
            b'\\' => plain.push(*bytes.next().filter(|next| matches!(next, b'"' | b'\\'))?),
            other => plain.push(*other),
        }
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn read(lines: &[&[u8]]) -> Result<Option<IdempotencyKey>, Error> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(IDEMPOTENCY_KEY, HeaderValue::from_bytes(line).unwrap());
        }
        IdempotencyKey::of(&headers)
    }

    fn hash(key: &str, namespace: &str) -> [u8; 16] {
        let key = read(&[key.as_bytes()]).unwrap().unwrap();
        key.hash(namespace).unwrap()
    }

    #[test]
    fn a_key_is_any_visible_text_quoted_or_not() {
        assert_eq!(read(&[]), Ok(None));
        let longest = "k".repeat(MAX_IDEMPOTENCY_KEY);
        for (sent, key) in [
            ("1", "1"),
            (
                "8e03978e-40d5-43e8-bc93-6894a57f9324",
                "8e03978e-40d5-43e8-bc93-6894a57f9324",
            ),
            ("\"8e03978e\"", "8e03978e"),
            (" \"8e03978e\" ", "8e03978e"),
            (r#""a\"b\\c""#, r#"a"b\c"#),
            (r#"a"b\c"#, r#"a"b\c"#),
            ("order:7/{retry};x=1,~", "order:7/{retry};x=1,~"),
            (&longest, &longest),
            (&format!("\"{longest}\""), &longest),
        ] {
            let key = IdempotencyKey(key.as_bytes().to_vec());
            assert_eq!(read(&[sent.as_bytes()]), Ok(Some(key)), "{sent}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_what_to_do() {
        let long = "k".repeat(MAX_IDEMPOTENCY_KEY + 1);
        for bad in [
            "", "\"\"", "\"", "\"a", "\"a\"b\"", r#""a\b""#, r#""a\""#, "a b", "\"a b\"", "a\tb",
            "\u{e9}", &long,
        ] {
            let error = read(&[bad.as_bytes()]).unwrap_err();
            assert!(error.message.contains("255 visible"), "{bad}: {error}");
        }
        assert!(read(&[b"a", b"a"]).is_err());
    }

    #[test]
    fn the_hash_is_of_namespace_and_key() {
        // The hash of "tierkv idempotency key 1", a zero byte, "default", a zero byte, "1".
        let expected = [
            0xbd, 0xd6, 0x55, 0x3a, 0x28, 0xef, 0x1f, 0x33, 0x95, 0x03, 0x2e, 0x7e, 0x6e, 0x67,
            0x24, 0x9d,
        ];
        assert_eq!(hash("1", "default"), expected);
        assert_eq!(hash("\"1\"", ""), expected);
        for (key, namespace) in [("2", "default"), ("1", "d"), ("efault1", "d")] {
            assert_ne!(hash(key, namespace), expected, "{namespace} {key}");
        }
        let key = IdempotencyKey(b"1".to_vec());
        assert!(key.hash("No").is_err());
    }

    #[test]
    fn a_key_that_was_used_for_another_write_is_unprocessable() {
        let status = |code| {
            let failure = failure(Error::new(code, "words"));
            axum::response::IntoResponse::into_response(failure).status()
        };
        assert_eq!(
            status(Code::AlreadyExists),
            StatusCode::UNPROCESSABLE_ENTITY
        );
        assert_eq!(status(Code::Conflict), StatusCode::CONFLICT);
    }
}
