//! Names that clients give to their writes, so that a retry is applied at most once.
//!
//! The header is `Idempotency-Key`, a UUID of version 7 (RFC 9562, section 5.7): its first 48
//! bits are the milliseconds of its birth, which masters compare with the platform's time;
//! all its 128 bits tell it from others.

use axum::http::{HeaderMap, HeaderName};
use tierkv_rpc::proto::v1::RequestId;
use tierkv_types::Error;

/// A client's name for a write.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Where hyphens stand in a UUID as text.
const HYPHENS: [usize; 4] = [8, 13, 18, 23];
/// How long a UUID is as text.
const TEXT_LENGTH: usize = 36;

/// The request id that a request names; `None` if it names none.
///
/// # Errors
/// `InvalidArgument` if it is no UUID of version 7.
pub(super) fn request_id(headers: &HeaderMap) -> Result<Option<RequestId>, Error> {
    let mut lines = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(line) = lines.next() else {
        return Ok(None);
    };
    let uuid = match lines.next() {
        None => version_seven(unquoted(line.as_bytes())),
        Some(_) => None,
    };
    let uuid = uuid.ok_or_else(|| {
        Error::invalid(
            "an Idempotency-Key is one UUID of version 7 (RFC 9562): 48 bits of the platform's \
             time in milliseconds, as the header tierkv-time-ms of every answer tells it, then \
             random bits around version and variant, as in \
             019d3c5e-8000-7abc-8def-0123456789ab; make one a write, and send it again with \
             each retry",
        )
    })?;
    let birth_ms = (uuid[..6].iter()).fold(0, |time, byte| time << 8 | u64::from(*byte));
    Ok(Some(RequestId {
        random: uuid.to_vec().into(),
        birth_ms,
    }))
}

/// Without the quotes that make it a string of structured fields (RFC 9651).
fn unquoted(text: &[u8]) -> &[u8] {
    let text = text.trim_ascii();
    (text.strip_prefix(b"\""))
        .and_then(|text| text.strip_suffix(b"\""))
        .unwrap_or(text)
}

/// The bytes of a UUID, if it is one of version 7.
fn version_seven(text: &[u8]) -> Option<[u8; 16]> {
    if text.len() != TEXT_LENGTH || HYPHENS.iter().any(|at| text[*at] != b'-') {
        return None;
    }
    let digits = (text.iter().enumerate()).filter(|(at, _)| !HYPHENS.contains(at));
    let mut number: u128 = 0;
    for (_, digit) in digits {
        number = number << 4 | u128::from(char::from(*digit).to_digit(16)?);
    }
    let uuid = number.to_be_bytes();
    (uuid[6] >> 4 == 7 && uuid[8] >> 6 == 0b10).then_some(uuid)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn read(lines: &[&str]) -> Result<Option<RequestId>, Error> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(IDEMPOTENCY_KEY, HeaderValue::from_str(line).unwrap());
        }
        request_id(&headers)
    }

    #[test]
    fn a_uuid_of_version_seven_has_its_birth_in_it() {
        // The example of RFC 9562, appendix A.6.
        let example = "017F22E2-79B0-7CC3-98C4-DC0C0C07398F";
        let id = read(&[example]).unwrap().unwrap();
        assert_eq!(id.birth_ms, 1_645_557_742_000);
        assert_eq!(id.random.len(), 16);
        assert_eq!((id.random[0], id.random[15]), (0x01, 0x8f));
        for same in [example.to_ascii_lowercase(), format!(" \"{example}\" ")] {
            assert_eq!(read(&[&same]), Ok(Some(id.clone())), "{same}");
        }
        assert_eq!(read(&[]), Ok(None));
    }

    #[test]
    fn anything_else_is_refused_and_says_how() {
        let example = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f";
        for bad in [
            "",
            "1",
            "\"\"",
            // Version 4, and another variant.
            "017f22e2-79b0-4cc3-98c4-dc0c0c07398f",
            "017f22e2-79b0-7cc3-c8c4-dc0c0c07398f",
            "017f22e279b07cc398c4dc0c0c07398f",
            "017f22e2-79b0-7cc3-98c4-dc0c0c07398",
            "017f22e2-79b0-7cc3-98c4-dc0c0c07398g",
            "017f22e2-79b0-7cc3-98c4-dc0c0c07398f0",
            "+17f22e2-79b0-7cc3-98c4-dc0c0c07398f",
            "\"017f22e2-79b0-7cc3-98c4-dc0c0c07398f",
        ] {
            let error = read(&[bad]).unwrap_err();
            assert!(error.message.contains("tierkv-time-ms"), "{bad}: {error}");
        }
        assert!(read(&[example, example]).is_err());
    }
}
