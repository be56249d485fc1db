//! Entity tags in conditional requests (RFC 9110, sections 8.8.3 and 13.1). A key's entity
//! tag is its version in quotes.

use axum::http::{HeaderMap, HeaderName};
use tierkv_types::Error;

/// The value of `If-Match` or `If-None-Match`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Tags {
    /// `*`: any version.
    Any,
    /// At least one tag.
    Listed(Vec<EntityTag>),
}

/// One entity tag.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct EntityTag {
    weak: bool,
    /// The text between the quotes.
    opaque: Vec<u8>,
}

impl EntityTag {
    /// The version that this tag stands for; `None` if no key could have it, and for a weak tag,
    /// because versions distinguish values byte by byte.
    pub(super) fn version(&self) -> Option<u64> {
        match self.weak {
            true => None,
            false => self.opaque_version(),
        }
    }

    /// Whether it matches this version by weak comparison, which `If-None-Match` uses.
    pub(super) fn weakly_matches(&self, version: u64) -> bool {
        self.opaque_version() == Some(version)
    }

    fn opaque_version(&self) -> Option<u64> {
        let text = std::str::from_utf8(&self.opaque).ok()?;
        let version: u64 = text.parse().ok()?;
        // Tags are compared character by character, and no key has version 0.
        (version != 0 && version.to_string() == text).then_some(version)
    }
}

/// Reads a header of entity tags; `None` if it is absent.
///
/// # Errors
/// `InvalidArgument` if it is neither `*` nor a list of entity tags.
pub(super) fn tags(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Tags>, Error> {
    // Several lines of one header are one list.
    let lines: Vec<&[u8]> = (headers.get_all(name).iter())
        .map(|line| line.as_bytes())
        .collect();
    if lines.is_empty() {
        return Ok(None);
    }
    let text = lines.join(&b","[..]);
    if text.trim_ascii() == b"*" {
        return Ok(Some(Tags::Any));
    }
    listed(&text).map(Tags::Listed).map(Some).ok_or_else(|| {
        Error::invalid(format!(
            "{name} is neither * nor a list of versions in double quotes, as in the \
             header ETag: \"123\""
        ))
    })
}

/// The tags of a list, at least one; `None` if it is not a list of tags.
fn listed(text: &[u8]) -> Option<Vec<EntityTag>> {
    let mut tags = Vec::new();
    let mut rest = text.trim_ascii_start();
    while !rest.is_empty() {
        // Lists may have empty elements (RFC 9110, section 5.6.1.2).
        if let Some(behind) = rest.strip_prefix(b",") {
            rest = behind.trim_ascii_start();
            continue;
        }
        let weak = rest.starts_with(b"W/");
        let quoted = rest[if weak { 2 } else { 0 }..].strip_prefix(b"\"")?;
        let end = quoted.iter().position(|byte| *byte == b'"')?;
        let (opaque, behind) = (&quoted[..end], quoted[end + 1..].trim_ascii_start());
        let is_opaque = |byte: &u8| *byte == 0x21 || (0x23..=0x7e).contains(byte) || *byte >= 0x80;
        if !opaque.iter().all(is_opaque) || !(behind.is_empty() || behind.starts_with(b",")) {
            return None;
        }
        tags.push(EntityTag {
            weak,
            opaque: opaque.to_vec(),
        });
        rest = behind;
    }
    (!tags.is_empty()).then_some(tags)
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderValue, header::IF_MATCH};

    use super::*;

    fn read(lines: &[&str]) -> Result<Option<Tags>, Error> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(IF_MATCH, HeaderValue::from_str(line).unwrap());
        }
        tags(&headers, &IF_MATCH)
    }

    fn versions(lines: &[&str]) -> Vec<Option<u64>> {
        match read(lines) {
            Ok(Some(Tags::Listed(tags))) => tags.iter().map(EntityTag::version).collect(),
            other => panic!("no list: {other:?}"),
        }
    }

    #[test]
    fn versions_stand_in_quotes() {
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[" * "]), Ok(Some(Tags::Any)));
        assert_eq!(versions(&["\"7\""]), [Some(7)]);
        let largest = format!("\"{}\"", u64::MAX);
        assert_eq!(versions(&[&largest]), [Some(u64::MAX)]);
        assert_eq!(
            versions(&["\"1\" ,, \"2\"", "\"3\","]),
            [Some(1), Some(2), Some(3)]
        );
    }

    #[test]
    fn impossible_versions_are_none() {
        for odd in [
            "W/\"7\"",
            "\"\"",
            "\"x,y\"",
            "\"07\"",
            "\"+7\"",
            "\"0\"",
            "\"18446744073709551616\"",
        ] {
            assert_eq!(versions(&[odd]), [None], "{odd}");
        }
        let Ok(Some(Tags::Listed(weak))) = read(&["W/\"7\""]) else {
            panic!("a weak tag is a tag");
        };
        assert!(weak[0].weakly_matches(7) && !weak[0].weakly_matches(8));
    }

    #[test]
    fn anything_but_a_list_of_tags_is_refused() {
        for bad in [
            "",
            ",",
            "7",
            "\"7",
            "7\"",
            "'7'",
            "w/\"7\"",
            "W/7",
            "\"1\" \"2\"",
            "\"1\"; x",
            "*, \"1\"",
            "\"1\", *",
            "**",
            "\"a b\"",
        ] {
            assert!(read(&[bad]).is_err(), "{bad}");
        }
        assert!(read(&["*", "*"]).is_err());
    }
}
