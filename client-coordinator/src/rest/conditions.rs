//! Conditional requests (RFC 9110, section 13).

use axum::http::{
    HeaderMap, HeaderName,
    header::{IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE},
};
use bytes::Bytes;
use tierkv_rpc::proto::v1::{
    Absent, Condition, Present, WriteOperation, WriteRequest, condition::Kind, write_operation,
};
use tierkv_types::{Code, Error};

use super::entity_tag::{EntityTag, Tags, tags};

/// The conditions of a read.
#[derive(Debug)]
pub(super) struct ReadConditions {
    if_match: Option<Tags>,
    if_none_match: Option<Tags>,
}

/// The result of a read's conditions for a key that is present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The conditions hold: answer the value.
    Whole,
    /// The client already has the value: 304.
    NotModified,
    /// `If-Match` does not hold: 412.
    Failed,
}

impl ReadConditions {
    /// Reads the conditions of a GET or HEAD.
    ///
    /// # Errors
    /// `InvalidArgument` if one is malformed.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Error> {
        Ok(Self {
            if_match: tags(headers, &IF_MATCH)?,
            if_none_match: tags(headers, &IF_NONE_MATCH)?,
        })
    }

    /// Evaluates the conditions for a key present in this version, in the order of section 13.2.2.
    pub(super) fn judge(&self, version: u64) -> Verdict {
        let strongly = |tag: &EntityTag| tag.version() == Some(version);
        let failed = match &self.if_match {
            Some(Tags::Listed(tags)) => !tags.iter().any(strongly),
            Some(Tags::Any) | None => false,
        };
        let has = match &self.if_none_match {
            Some(Tags::Any) => true,
            Some(Tags::Listed(tags)) => tags.iter().any(|tag| tag.weakly_matches(version)),
            None => false,
        };
        match (failed, has) {
            (true, _) => Verdict::Failed,
            (false, true) => Verdict::NotModified,
            (false, false) => Verdict::Whole,
        }
    }
}

/// The condition of a PUT; `None` if it has none.
///
/// # Errors
/// `InvalidArgument` if it is malformed or has more conditions than the platform checks at once,
/// `ConditionFailed` if it can't hold for any key.
pub(super) fn of_put(headers: &HeaderMap) -> Result<Option<Kind>, Error> {
    refuse_dates(headers)?;
    match (tags(headers, &IF_MATCH)?, tags(headers, &IF_NONE_MATCH)?) {
        (None, None) => Ok(None),
        (Some(present), None) => must_match(&present).map(Some),
        (None, Some(Tags::Any)) => Ok(Some(Kind::IfAbsent(Absent {}))),
        (None, Some(Tags::Listed(_))) => Err(Error::invalid(
            "a PUT takes only If-None-Match: * (the key must be absent), no versions",
        )),
        (Some(_), Some(_)) => Err(Error::invalid(
            "If-Match and If-None-Match exclude each other on a PUT; give one of them",
        )),
    }
}

/// The condition of a DELETE; `None` if it has none.
///
/// # Errors
/// Those of a PUT.
pub(super) fn of_delete(headers: &HeaderMap) -> Result<Option<Kind>, Error> {
    refuse(
        headers,
        &[IF_NONE_MATCH],
        "a DELETE takes no If-None-Match; leave it out",
    )?;
    of_present(headers)
}

/// The condition of a touch; `None` if it has none.
///
/// # Errors
/// Those of a PUT.
pub(super) fn of_touch(headers: &HeaderMap) -> Result<Option<Kind>, Error> {
    let why = "a touch takes no If-None-Match: an absent key can't be touched";
    refuse(headers, &[IF_NONE_MATCH], why)?;
    of_present(headers)
}

/// The condition of a write that needs the key to be present.
fn of_present(headers: &HeaderMap) -> Result<Option<Kind>, Error> {
    refuse_dates(headers)?;
    let present = tags(headers, &IF_MATCH)?;
    present.as_ref().map(must_match).transpose()
}

/// A write of one key with a condition on the same key.
pub(super) fn on_condition(
    namespace: String,
    key: Bytes,
    condition: Kind,
    operation: write_operation::Kind,
) -> WriteRequest {
    WriteRequest {
        namespace,
        conditions: vec![Condition {
            key,
            kind: Some(condition),
        }],
        operations: vec![WriteOperation {
            kind: Some(operation),
        }],
        request_id: None,
        return_previous: false,
    }
}

/// Refuses conditions where none are allowed, or where the body has them.
///
/// # Errors
/// `InvalidArgument` if there is one.
pub(super) fn none(headers: &HeaderMap, instead: &'static str) -> Result<(), Error> {
    refuse(
        headers,
        &[IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE],
        instead,
    )
}

/// Refuses dates: keys have no modification date. Section 13.1.4 says to ignore the condition, but
/// that would overwrite what the client meant to keep.
fn refuse_dates(headers: &HeaderMap) -> Result<(), Error> {
    refuse(
        headers,
        &[IF_UNMODIFIED_SINCE],
        "keys have no modification date; use If-Match with a version",
    )
}

fn refuse(headers: &HeaderMap, names: &[HeaderName], why: &'static str) -> Result<(), Error> {
    match names.iter().any(|name| headers.contains_key(name)) {
        true => Err(Error::invalid(why)),
        false => Ok(()),
    }
}

/// The condition in `If-Match` of a write. Tags that are not versions never match and are left out.
fn must_match(wanted: &Tags) -> Result<Kind, Error> {
    let Tags::Listed(tags) = wanted else {
        return Ok(Kind::IfPresent(Present {}));
    };
    let versions: Vec<u64> = tags.iter().filter_map(EntityTag::version).collect();
    match versions[..] {
        [version] => Ok(Kind::IfVersion(version)),
        [] => Err(Error::new(
            Code::ConditionFailed,
            "If-Match has no version that a key could have: an ETag is a version in double \
             quotes, and a weak one never matches here",
        )),
        _ => Err(Error::invalid(
            "If-Match has several versions; a write takes one",
        )),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(lines: &[(HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn a_read_is_judged_as_the_standard_says() {
        let judge =
            |lines: &[(HeaderName, &str)]| ReadConditions::of(&headers(lines)).unwrap().judge(7);
        assert_eq!(judge(&[]), Verdict::Whole);
        for (tags, verdict) in [
            ("*", Verdict::NotModified),
            ("\"7\"", Verdict::NotModified),
            ("W/\"7\"", Verdict::NotModified),
            ("\"6\", \"7\"", Verdict::NotModified),
            ("\"6\"", Verdict::Whole),
            ("\"x\"", Verdict::Whole),
        ] {
            assert_eq!(judge(&[(IF_NONE_MATCH, tags)]), verdict, "{tags}");
        }
        for (tags, verdict) in [
            ("*", Verdict::Whole),
            ("\"6\", \"7\"", Verdict::Whole),
            ("\"6\"", Verdict::Failed),
            ("W/\"7\"", Verdict::Failed),
        ] {
            assert_eq!(judge(&[(IF_MATCH, tags)]), verdict, "{tags}");
        }
        let both = [(IF_MATCH, "\"6\""), (IF_NONE_MATCH, "\"7\"")];
        assert_eq!(judge(&both), Verdict::Failed);
    }

    #[test]
    fn a_write_has_one_condition() {
        let put = |lines: &[(HeaderName, &str)]| of_put(&headers(lines));
        assert_eq!(put(&[]), Ok(None));
        for (name, tags, kind) in [
            (IF_NONE_MATCH, "*", Kind::IfAbsent(Absent {})),
            (IF_MATCH, "*", Kind::IfPresent(Present {})),
            (IF_MATCH, "\"7\"", Kind::IfVersion(7)),
            (IF_MATCH, "W/\"6\", \"7\"", Kind::IfVersion(7)),
        ] {
            assert_eq!(put(&[(name, tags)]), Ok(Some(kind)), "{tags}");
        }
        let refused = |lines: &[(HeaderName, &str)]| put(lines).unwrap_err().code;
        for lines in [
            &[(IF_NONE_MATCH, "\"7\"")][..],
            &[(IF_MATCH, "7")],
            &[(IF_MATCH, "\"6\", \"7\"")],
            &[(IF_MATCH, "\"7\""), (IF_NONE_MATCH, "*")],
            &[(IF_UNMODIFIED_SINCE, "Sat, 21 Nov 2026 12:00:00 GMT")],
        ] {
            assert_eq!(refused(lines), Code::InvalidArgument, "{lines:?}");
        }
        for tags in ["W/\"7\"", "\"x\"", "\"0\""] {
            assert_eq!(
                refused(&[(IF_MATCH, tags)]),
                Code::ConditionFailed,
                "{tags}"
            );
        }
    }

    #[test]
    fn deletes_and_touches_take_only_if_match() {
        let delete = |lines: &[(HeaderName, &str)]| of_delete(&headers(lines));
        assert_eq!(delete(&[(IF_MATCH, "\"7\"")]), Ok(Some(Kind::IfVersion(7))));
        assert!(delete(&[(IF_NONE_MATCH, "*")]).is_err());
        let touch = |lines: &[(HeaderName, &str)]| of_touch(&headers(lines));
        assert_eq!(touch(&[(IF_MATCH, "\"7\"")]), Ok(Some(Kind::IfVersion(7))));
        assert!(touch(&[(IF_NONE_MATCH, "*")]).is_err());
        assert_eq!(touch(&[]), Ok(None));
    }
}
