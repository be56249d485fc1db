//! The true value of each key at each time. Times are milliseconds of the world.

use tierkv_types::Version;

use crate::cache::Entry;

/// One committed change of a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub(super) at: u64,
    pub(super) version: Version,
    /// `None`: deleted. Else when the value expires, if it does.
    pub(super) value: Option<Expiry>,
}

/// When a value expires, in the world's time.
pub(super) type Expiry = Option<u64>;

/// The state of a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Present {
    pub(super) version: Version,
    pub(super) expires: Expiry,
}

/// One key's changes, in order; it was absent before the first.
#[derive(Default)]
pub(super) struct History(Vec<Change>);

impl History {
    pub(super) fn push(&mut self, change: Change) {
        self.0.push(change);
    }

    pub(super) fn last(&self) -> Option<&Change> {
        self.0.last()
    }

    /// The key's state at `time`.
    pub(super) fn at(&self, time: u64) -> Option<Present> {
        let before = self.0.partition_point(|change| change.at <= time);
        let change = self.0[..before].last()?;
        let expires = change.value?;
        expires.is_none_or(|end| time < end).then_some(Present {
            version: change.version,
            expires,
        })
    }

    /// Whether `entry` was the key's state at some instant of `from..=to`.
    ///
    /// An instant has a millisecond here, so an end counts as within: two events of one
    /// millisecond may have happened in either order.
    pub(super) fn was_current(&self, entry: &Entry, from: u64, to: u64) -> bool {
        match entry {
            Entry::Value(value) => self.0.iter().enumerate().any(|(n, change)| {
                let Some(expires) = change.value else {
                    return false;
                };
                let end = self.end(n).min(expires.unwrap_or(u64::MAX));
                change.version == value.version && change.at <= to && end >= from
            }),
            Entry::Absent(_) => {
                let before_all = self.0.first().is_none_or(|first| first.at >= from);
                before_all
                    || self.0.iter().enumerate().any(|(n, change)| {
                        let start = match change.value {
                            None => change.at,
                            Some(Some(expires)) => expires.max(change.at),
                            Some(None) => return false,
                        };
                        start <= to && self.end(n) >= from.max(start)
                    })
            }
        }
    }

    /// When the change of number `n` was overwritten.
    fn end(&self, n: usize) -> u64 {
        self.0.get(n + 1).map_or(u64::MAX, |next| next.at)
    }

    /// When `version` was committed.
    pub(super) fn committed_at(&self, version: Version) -> Option<u64> {
        let change = self.0.iter().rfind(|change| change.version == version)?;
        Some(change.at)
    }
}
