//! Options of reads and writes.

use std::time::Duration;

use tierkv_rpc::proto::{convert, v1};
use tierkv_types::Error as Refusal;

use crate::error::Error;

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// At most the platform's `max_staleness` old.
    #[default]
    Cached,
    /// As `Cached`, and at least as new as this version of the key, such as that of an own write.
    Session(u64),
    /// The newest value.
    Latest,
}

/// Options of a read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// How fresh the answer must be.
    pub consistency: Consistency,
    /// The read's own staleness bound, instead of the platform's.
    pub max_staleness: Option<Duration>,
    /// Whether to return the path that the read took ([`Found::path`](crate::Found::path)).
    pub explain: bool,
}

impl ReadOptions {
    /// The options in wire form; the defaults are sent as no message.
    pub(crate) fn to_wire(self) -> Option<v1::ReadOptions> {
        if self == Self::default() {
            return None;
        }
        let (consistency, min_version) = match self.consistency {
            Consistency::Cached => (v1::Consistency::Cached, 0),
            Consistency::Session(version) => (v1::Consistency::Session, version),
            Consistency::Latest => (v1::Consistency::Latest, 0),
        };
        let max_staleness_ms = self
            .max_staleness
            .map(|bound| u32::try_from(bound.as_millis()).unwrap_or(u32::MAX));
        Some(v1::ReadOptions {
            consistency: consistency.into(),
            min_version,
            max_staleness_ms,
            explain: self.explain,
        })
    }
}

/// What must hold of a key for a write to happen. Otherwise the write fails with
/// [`Code::ConditionFailed`](crate::Code::ConditionFailed) and changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// The key is absent.
    Absent,
    /// The key is present.
    Present,
    /// The key is present with this version.
    Version(u64),
}

impl Condition {
    pub(crate) fn to_wire(self) -> v1::condition::Kind {
        match self {
            Self::Absent => v1::condition::Kind::IfAbsent(v1::Absent {}),
            Self::Present => v1::condition::Kind::IfPresent(v1::Present {}),
            Self::Version(version) => v1::condition::Kind::IfVersion(version),
        }
    }
}

/// Options of a put.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PutOptions {
    /// How long the key lives, from when the platform accepts the write; `None`: until it is
    /// removed. Rounded up to whole milliseconds.
    pub ttl: Option<Duration>,
    /// The condition for the write.
    pub condition: Option<Condition>,
}

/// Options of a touch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TouchOptions {
    /// How long the key lives, from when the platform accepts the write; `None`: until it is
    /// removed. Rounded up to whole milliseconds.
    pub ttl: Option<Duration>,
    /// The condition for the write.
    pub condition: Option<Condition>,
}

/// Options of a delete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// The condition for the write.
    pub condition: Option<Condition>,
}

/// A time to live in whole milliseconds; 0 means forever.
pub(crate) fn ttl_ms(ttl: Option<Duration>) -> Result<u64, Error> {
    let Some(ttl) = ttl else {
        return Ok(0);
    };
    if ttl.is_zero() {
        let words = "ttl: must be more than 0; leave it out for a key that does not expire";
        return Err(Refusal::invalid(words).into());
    }
    let millis = u64::try_from(ttl.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    convert::ttl(millis)?;
    Ok(millis)
}

#[cfg(test)]
mod tests {
    use tierkv_types::{Code, limits::MAX_TTL};

    use super::*;

    #[test]
    fn no_time_to_live_becomes_for_ever() {
        let millis = |ttl| ttl_ms(ttl).map_err(|error| error.code());
        assert_eq!(millis(None), Ok(0));
        assert_eq!(millis(Some(Duration::from_nanos(1))), Ok(1));
        assert_eq!(millis(Some(Duration::from_micros(1_500))), Ok(2));
        assert_eq!(millis(Some(Duration::from_secs(60))), Ok(60_000));
        assert_eq!(millis(Some(Duration::ZERO)), Err(Code::InvalidArgument));
        assert_eq!(millis(Some(MAX_TTL * 2)), Err(Code::InvalidArgument));
        assert_eq!(millis(Some(Duration::MAX)), Err(Code::InvalidArgument));
    }

    #[test]
    fn every_option_is_sent() {
        assert_eq!(ReadOptions::default().to_wire(), None);
        let explained = ReadOptions {
            explain: true,
            ..ReadOptions::default()
        };
        assert!(explained.to_wire().is_some_and(|wire| wire.explain));
        let bounded = ReadOptions {
            max_staleness: Some(Duration::MAX),
            ..ReadOptions::default()
        };
        let bound = bounded.to_wire().and_then(|wire| wire.max_staleness_ms);
        assert_eq!(bound, Some(u32::MAX));
    }
}
