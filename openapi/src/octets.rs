//! Keys and values in JSON. They are any bytes, but JSON has only text: UTF-8 is in the field
//! with the plain name, anything else in the one with `_base64`.

use base64::{
    DecodeError, Engine,
    alphabet::{self, Alphabet},
    engine::{
        DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig,
        general_purpose::{STANDARD, URL_SAFE_NO_PAD},
    },
};
use bytes::Bytes;
use tierkv_types::Error;

/// Base64 with or without padding.
const fn lenient(alphabet: &Alphabet) -> GeneralPurpose {
    let config =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(alphabet, config)
}

const STANDARD_LENIENT: GeneralPurpose = lenient(&alphabet::STANDARD);
const URL_SAFE_LENIENT: GeneralPurpose = lenient(&alphabet::URL_SAFE);

/// Reads the field `name` or the one with `_base64`; `None` if both are absent.
///
/// # Errors
/// `InvalidArgument` if both are there, or if the second is not base64.
pub fn optional(
    name: &str,
    text: Option<String>,
    base64: Option<&str>,
) -> Result<Option<Bytes>, Error> {
    match (text, base64) {
        (None, None) => Ok(None),
        (Some(text), None) => Ok(Some(text.into())),
        (None, Some(base64)) => decode(&format!("{name}_base64"), base64).map(Some),
        (Some(_), Some(_)) => Err(Error::invalid(format!(
            "{name} and {name}_base64 exclude each other; give one of them"
        ))),
    }
}

/// Reads the field `name` or the one with `_base64`.
///
/// # Errors
/// `InvalidArgument` if none or both are there, or if the second is not base64.
pub fn required(name: &str, text: Option<String>, base64: Option<&str>) -> Result<Bytes, Error> {
    optional(name, text, base64)?.ok_or_else(|| {
        Error::invalid(format!(
            "{name} is missing; give {name} (text) or {name}_base64 (any bytes)"
        ))
    })
}

/// Decodes base64 in the standard or the URL-safe alphabet (RFC 4648), padded or not.
///
/// # Errors
/// `InvalidArgument`, naming it `name`.
pub fn decode(name: &str, base64: &str) -> Result<Bytes, Error> {
    let engine = match base64.contains(['-', '_']) {
        true => &URL_SAFE_LENIENT,
        false => &STANDARD_LENIENT,
    };
    let decoded = engine.decode(base64);
    decoded
        .map(Into::into)
        .map_err(|error| Error::invalid(format!("{name} is no base64: {}", why(&error, base64))))
}

/// What is wrong with base64, as part of an error message.
fn why(error: &DecodeError, base64: &str) -> String {
    let whole = "give all of it, as `base64 -w0` prints it";
    match error {
        DecodeError::InvalidByte(at, _) => {
            let character = base64.get(*at..).and_then(|rest| rest.chars().next());
            format!(
                "{:?} at place {} is not allowed, only letters, digits, +, /, - and _; {whole}",
                character.unwrap_or('='),
                at + 1
            )
        }
        DecodeError::InvalidLength(length) => {
            format!("{length} characters are one too few or too many; {whole}")
        }
        DecodeError::InvalidLastSymbol { .. } => {
            format!("its last character has surplus bits; {whole}")
        }
        DecodeError::InvalidPadding => {
            format!("it has too few or too many = at its end; {whole}")
        }
    }
}

/// An opaque token in the form for URLs, headers and JSON.
#[must_use]
pub fn token(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Decodes a token that [`token`] printed and a caller sent back.
///
/// # Errors
/// `InvalidArgument`, naming the token `name` and `source`, where the caller got it.
pub fn token_bytes(name: &str, source: &str, text: &str) -> Result<Bytes, Error> {
    decode(name, text).map_err(|_| {
        Error::invalid(format!(
            "{name} is not one that this platform gave: send it unchanged, as it was given in \
             {source}, or leave it out to start again"
        ))
    })
}

/// Bytes for JSON: as text if they are UTF-8, otherwise as base64.
#[must_use]
pub fn split(bytes: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(STANDARD.encode(bytes))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: Option<&str>, base64: Option<&str>) -> Result<Vec<u8>, Error> {
        required("key", text.map(Into::into), base64).map(Into::into)
    }

    #[test]
    fn all_bytes_come_back() {
        for bytes in [&b""[..], b"a", b"\0", "€".as_bytes(), b"\xff\xfe", b"a\x80"] {
            let (text, base64) = split(bytes);
            assert_ne!(text.is_some(), base64.is_some());
            assert_eq!(read(text.as_deref(), base64.as_deref()).unwrap(), bytes);
            assert_eq!(token_bytes("t", "it", &token(bytes)).unwrap(), bytes);
        }
    }

    #[test]
    fn base64_is_taken_in_either_alphabet_padded_or_not() {
        for base64 in ["+/8=", "+/8", "-_8=", "-_8"] {
            assert_eq!(read(None, Some(base64)).unwrap(), b"\xfb\xff", "{base64}");
        }
        for bad in ["+_8=", "a", "a b", "€", "===="] {
            let error = read(None, Some(bad)).unwrap_err();
            assert!(error.message.contains("key_base64"), "{bad}: {error}");
        }
    }

    #[test]
    fn a_foreign_token_is_refused_with_where_to_get_one() {
        let error = token_bytes("page_token", "next_page_token", "%").unwrap_err();
        assert!(error.message.starts_with("page_token is not"), "{error}");
        assert!(error.message.contains("next_page_token"), "{error}");
    }

    #[test]
    fn one_of_two_names_is_given() {
        for (text, base64, word) in [
            (Some("a"), Some("YQ=="), "one of them"),
            (None, None, "missing"),
        ] {
            let error = read(text, base64).unwrap_err();
            assert!(error.message.contains(word), "{error}");
        }
        assert_eq!(optional("key", None, None), Ok(None));
    }
}
