//! The promises that the platform made to a client about one key, and a check that it keeps
//! them.
//!
//! A write is *open* from when it is sent until its outcome is known. After a crash a key holds
//! the last acknowledged write or the write that was open, and nothing else (I1). The key's
//! version never goes back (I5). A write that is sent again with the same request id is applied
//! once (I8). A key has at most one write under way.

use bytes::Bytes;

/// A value begins with a header that identifies its write: a mark, the write's number and the
/// length of the value.
const HEADER_BYTES: usize = 16;
const MARK: u32 = 0x564b_5401;

/// The largest allowed difference between the platform's time and the test's.
const CLOCK_SLACK_MS: u64 = 1_000;

/// One write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Its number, unique in a test.
    pub number: u64,
    /// What it does.
    pub kind: Kind,
    /// When it was created, in milliseconds of the test's time.
    pub born_ms: u64,
}

/// What a write does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Sets a value of this many bytes.
    Put(u32),
    /// Sets a value of this many bytes, which expires after this many milliseconds.
    Expiring(u32, u64),
    /// Removes the key.
    Delete,
}

/// The answer to a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The key's version.
    pub version: u64,
    /// For a delete: whether the key existed.
    pub existed: Option<bool>,
}

/// The result of a read.
#[derive(Clone, Copy, Debug)]
pub struct Sight<'a> {
    /// The value; `None` if the key was absent.
    pub value: Option<&'a [u8]>,
    /// The version in the answer.
    pub version: u64,
    /// When the read was sent, in milliseconds of the test's time.
    pub asked_ms: u64,
    /// When it was answered, in milliseconds of the test's time.
    pub answered_ms: u64,
}

impl Attempt {
    /// The value that it writes: the header, then bytes generated from its number, so that no
    /// part of it equals a part of another value.
    #[must_use]
    pub fn value(&self) -> Option<Bytes> {
        let (Kind::Put(length) | Kind::Expiring(length, _)) = self.kind else {
            return None;
        };
        let length = length as usize;
        let mut value = Vec::with_capacity(length + HEADER_BYTES);
        value.extend_from_slice(&MARK.to_le_bytes());
        value.extend_from_slice(&self.number.to_le_bytes());
        value.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
        let mut state = self.number;
        while value.len() < length {
            // splitmix64 (Steele, Lea and Flood, 2014).
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            value.extend_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
        }
        value.truncate(length);
        Some(value.into())
    }
}

/// Describes a value by its header.
fn claim(value: &[u8]) -> String {
    let part = |from: usize, to: usize| value.get(from..to);
    let claimed = (|| {
        let mark = u32::from_le_bytes(part(0, 4)?.try_into().ok()?);
        let number = u64::from_le_bytes(part(4, 12)?.try_into().ok()?);
        let length = u32::from_le_bytes(part(12, 16)?.try_into().ok()?);
        (mark == MARK).then(|| format!("has the header of write {number} of {length} bytes"))
    })();
    let claimed = claimed.unwrap_or_else(|| "has no header".to_owned());
    format!("a value of {} bytes that {claimed}", value.len())
}

/// The write that a key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    by: Attempt,
    /// When it expires, in platform time, computed from the version of the write.
    expires_ms: Option<u64>,
}

impl Held {
    /// A write that was applied at `version`.
    const fn since(by: Attempt, version: u64) -> Self {
        let expires_ms = match by.kind {
            Kind::Expiring(_, ttl_ms) => Some(millis_of(version) + ttl_ms),
            Kind::Put(_) | Kind::Delete => None,
        };
        Self { by, expires_ms }
    }

    /// Whether the key may still exist at `from_ms`.
    fn may_be_there(&self, from_ms: u64) -> bool {
        let lasts = |at| at + CLOCK_SLACK_MS > from_ms;
        self.by.kind != Kind::Delete && self.expires_ms.is_none_or(lasts)
    }

    /// Whether the key may be absent by `by_ms`.
    fn may_be_gone(&self, by_ms: u64) -> bool {
        let over = |at| at <= by_ms + CLOCK_SLACK_MS;
        self.by.kind == Kind::Delete || self.expires_ms.is_some_and(over)
    }
}

/// The time in a version, in milliseconds.
const fn millis_of(version: u64) -> u64 {
    version >> 16
}

/// A write whose answer was lost, once the key was read afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Doubt {
    attempt: Attempt,
    /// The key's version before it.
    before: u64,
    fate: Fate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Applied,
    NotApplied,
    /// The key would be absent either way.
    Unclear,
}

/// The promises about one key.
#[derive(Clone, Debug)]
pub struct Ledger {
    key: String,
    /// `None` before the first write.
    held: Option<Held>,
    /// The greatest version that an answer contained.
    version: u64,
    open: Option<Attempt>,
    doubt: Option<Doubt>,
    /// The last write that was answered.
    last: Option<(Attempt, Answer)>,
}

impl Ledger {
    /// A key that was never written.
    #[must_use]
    pub const fn new(key: String) -> Self {
        Self {
            key,
            held: None,
            version: 0,
            open: None,
            doubt: None,
            last: None,
        }
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The greatest version that an answer contained.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Whether the key holds a value that will expire.
    #[must_use]
    pub fn is_expiring(&self) -> bool {
        self.held.is_some_and(|held| held.expires_ms.is_some())
    }

    /// The last write that was answered, with its answer.
    #[must_use]
    pub const fn last(&self) -> Option<(Attempt, Answer)> {
        self.last
    }

    /// The write whose answer was lost, once the key was read afterwards.
    #[must_use]
    pub fn doubtful(&self) -> Option<Attempt> {
        self.doubt.map(|doubt| doubt.attempt)
    }

    /// Records that a write is about to be sent. No other write may be open.
    pub fn begin(&mut self, attempt: Attempt) {
        assert_eq!(self.open, None, "{}: another write is open", self.key);
        self.doubt = None;
        self.open = Some(attempt);
    }

    /// Records that the open write was refused and had no effect.
    pub fn refused(&mut self) {
        self.open = None;
    }

    /// Records that the open write was acknowledged.
    ///
    /// # Errors
    /// A text, if the acknowledgement breaks a promise.
    pub fn acknowledged(&mut self, answer: Answer) -> Result<(), String> {
        let Some(attempt) = self.open.take() else {
            return Err(format!("{}: an answer, but no write is open", self.key));
        };
        self.settle(attempt, answer)
    }

    fn settle(&mut self, attempt: Attempt, answer: Answer) -> Result<(), String> {
        let Answer { version, existed } = answer;
        // The delete of an absent key changes nothing and may return the same version again.
        let changes = existed != Some(false);
        let grown = if changes {
            version > self.version
        } else {
            version >= self.version
        };
        if !grown {
            return Err(format!(
                "{}: {attempt:?} got version {version} after version {} (I5)",
                self.key, self.version
            ));
        }
        let at_ms = millis_of(version);
        let may_exist = self.held.is_some_and(|held| held.may_be_there(at_ms));
        let may_not = self.held.is_none_or(|held| held.may_be_gone(at_ms));
        if existed.is_some_and(|existed| if existed { !may_exist } else { !may_not }) {
            return Err(format!(
                "{}: a delete got {answer:?}, but the key held {:?}",
                self.key, self.held
            ));
        }
        self.held = Some(Held::since(attempt, version));
        self.version = version;
        self.last = Some((attempt, answer));
        Ok(())
    }

    /// Checks a read that was made while no write could still be under way. The value (or its
    /// absence) and the version must be ones that were promised. The read decides whether an
    /// open write was applied, or leaves that open for [`Ledger::repeated`].
    ///
    /// # Errors
    /// A text, if a promise is broken.
    pub fn observe(&mut self, sight: Sight<'_>) -> Result<(), String> {
        let open = self.open.take();
        let shows = |held: &Held| match sight.value {
            Some(_) => {
                held.by.value().as_deref() == sight.value && held.may_be_there(sight.asked_ms)
            }
            None => held.may_be_gone(sight.answered_ms),
        };
        let as_held = match (&self.held, sight.value) {
            (None, None) => sight.version >= self.version,
            (Some(held), None) => shows(held) && sight.version >= self.version,
            (Some(held), Some(_)) => shows(held) && sight.version == self.version,
            (None, Some(_)) => false,
        };
        let open = open.map(|attempt| {
            // For an absent key, the version does not show when the write was applied.
            let since = match sight.value {
                Some(_) => sight.version,
                None => attempt.born_ms << 16,
            };
            Held::since(attempt, since)
        });
        let as_open = open.filter(|open| shows(open) && sight.version > self.version);
        let before = self.version;
        let fate = match (as_held, as_open) {
            (true, None) => Fate::NotApplied,
            (true, Some(_)) => Fate::Unclear,
            (false, Some(open)) => {
                self.held = Some(open);
                Fate::Applied
            }
            (false, None) => {
                return Err(format!(
                    "{}: holds {} at version {}; acknowledged: {:?} at version {}; open: {open:?} \
                     (I1)",
                    self.key,
                    sight.value.map_or_else(|| "nothing".to_owned(), claim),
                    sight.version,
                    self.held,
                    self.version
                ));
            }
        };
        if sight.value.is_none()
            && let Some(held) = &mut self.held
        {
            // An absent value must not come back.
            held.by.kind = Kind::Delete;
            held.expires_ms = None;
        }
        self.version = sight.version.max(self.version);
        if let Some(open) = open {
            let attempt = open.by;
            self.doubt = Some(Doubt {
                attempt,
                before,
                fate,
            });
        }
        Ok(())
    }

    /// Checks the answer to the doubtful write, which was sent again with the same request id:
    /// it is applied once, now or before, and the version in the answer shows when.
    ///
    /// # Errors
    /// A text, if a promise is broken.
    pub fn repeated(&mut self, answer: Answer) -> Result<(), String> {
        let Some(doubt) = self.doubt.take() else {
            return Err(format!("{}: an answer, but no write is doubtful", self.key));
        };
        let Doubt {
            attempt,
            before,
            fate,
        } = doubt;
        let is_value =
            attempt.kind != Kind::Delete && self.held.is_some_and(|held| held.by == attempt);
        let is_right = match fate {
            Fate::Applied if is_value => answer.version == self.version,
            Fate::Applied => before < answer.version && answer.version <= self.version,
            Fate::NotApplied => answer.version > self.version,
            Fate::Unclear => before < answer.version,
        };
        if !is_right {
            return Err(format!(
                "{}: {doubt:?} was sent again and got {answer:?}, while the key was at version {} \
                 (I8)",
                self.key, self.version
            ));
        }
        if answer.version > self.version {
            return self.settle(attempt, answer);
        }
        self.last = Some((attempt, answer));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn attempt(number: u64, kind: Kind) -> Attempt {
        Attempt {
            number,
            kind,
            born_ms: 0,
        }
    }

    const fn put(number: u64, length: u32) -> Attempt {
        attempt(number, Kind::Put(length))
    }

    const fn delete(number: u64) -> Attempt {
        attempt(number, Kind::Delete)
    }

    const fn answer(version: u64, existed: Option<bool>) -> Answer {
        Answer { version, existed }
    }

    const fn at(ms: u64, value: Option<&[u8]>, version: u64) -> Sight<'_> {
        Sight {
            value,
            version,
            asked_ms: ms,
            answered_ms: ms,
        }
    }

    const fn sight(value: Option<&[u8]>, version: u64) -> Sight<'_> {
        at(0, value, version)
    }

    /// A key that holds write 1 at version 10.
    fn written() -> Ledger {
        let mut ledger = Ledger::new("k".to_owned());
        ledger.begin(put(1, 40));
        ledger.acknowledged(answer(10, None)).unwrap();
        ledger
    }

    #[test]
    fn values_identify_their_write_and_differ_in_every_part() {
        let (one, two) = (put(1, 100).value().unwrap(), put(2, 100).value().unwrap());
        assert_eq!((one.len(), two.len()), (100, 100));
        assert!(claim(&one).contains("write 1 of 100 bytes"));
        assert_ne!(one[HEADER_BYTES..], two[HEADER_BYTES..]);
        assert_eq!(put(3, 0).value().unwrap(), "");
        assert_eq!(delete(3).value(), None);
    }

    #[test]
    fn an_acknowledged_write_must_be_there() {
        let value = put(1, 40).value().unwrap();
        assert!(written().observe(sight(Some(&value), 10)).is_ok());
        assert!(written().observe(sight(Some(&value), 9)).is_err());
        assert!(written().observe(sight(Some(&value), 11)).is_err());
        assert!(written().observe(sight(None, 11)).is_err());
        assert!(written().observe(sight(Some(&value[..39]), 10)).is_err());
        let mut torn = value.to_vec();
        torn[39] ^= 1;
        assert!(written().observe(sight(Some(&torn), 10)).is_err());
    }

    #[test]
    fn an_open_write_may_be_there_at_a_greater_version() {
        let open = |attempt| {
            let mut ledger = written();
            ledger.begin(attempt);
            ledger
        };
        let (old, new) = (put(1, 40).value().unwrap(), put(2, 7).value().unwrap());
        assert!(open(put(2, 7)).observe(sight(Some(&old), 10)).is_ok());
        assert!(open(put(2, 7)).observe(sight(Some(&new), 11)).is_ok());
        assert!(open(put(2, 7)).observe(sight(Some(&new), 10)).is_err());
        assert!(open(put(2, 7)).observe(sight(None, 11)).is_err());
        assert!(open(delete(2)).observe(sight(None, 11)).is_ok());
        assert!(open(delete(2)).observe(sight(None, 10)).is_err());
        let mut refused = open(put(2, 7));
        refused.refused();
        assert!(refused.observe(sight(Some(&new), 11)).is_err());
    }

    #[test]
    fn a_write_that_was_read_once_stays() {
        let mut ledger = written();
        ledger.begin(delete(2));
        ledger.observe(sight(None, 12)).unwrap();
        let old = put(1, 40).value().unwrap();
        assert!(ledger.clone().observe(sight(Some(&old), 10)).is_err());
        assert!(ledger.clone().observe(sight(None, 11)).is_err());
        ledger.begin(put(3, 1));
        assert!(ledger.clone().acknowledged(answer(12, None)).is_err());
        assert!(ledger.acknowledged(answer(13, None)).is_ok());
    }

    #[test]
    fn a_delete_must_report_whether_the_key_existed() {
        let mut ledger = written();
        ledger.begin(delete(2));
        assert!(
            ledger
                .clone()
                .acknowledged(answer(11, Some(false)))
                .is_err()
        );
        ledger.acknowledged(answer(11, Some(true))).unwrap();
        ledger.begin(delete(3));
        assert!(ledger.clone().acknowledged(answer(12, Some(true))).is_err());
        ledger.acknowledged(answer(11, Some(false))).unwrap();
    }

    #[test]
    fn an_expiring_value_is_there_until_its_time_and_never_again() {
        let ttl = CLOCK_SLACK_MS;
        let expiring = attempt(2, Kind::Expiring(7, ttl));
        let value = expiring.value().unwrap();
        let mut ledger = written();
        ledger.begin(expiring);
        ledger.acknowledged(answer(11, None)).unwrap();
        assert!(ledger.is_expiring());
        let late = ttl + 2 * CLOCK_SLACK_MS;
        let there = |ms| ledger.clone().observe(at(ms, Some(&value), 11));
        assert!(there(0).is_ok() && there(ttl).is_ok() && there(late).is_err());
        assert!(ledger.clone().observe(at(late, None, 11)).is_ok());
        ledger.observe(at(late, None, 11)).unwrap();
        assert!(ledger.clone().observe(at(ttl, Some(&value), 11)).is_err());
        ledger.begin(delete(3));
        assert!(ledger.clone().acknowledged(answer(12, Some(true))).is_err());
        assert!(ledger.acknowledged(answer(12, Some(false))).is_ok());
        // A long-lived value must not expire early.
        let mut long = written();
        long.begin(attempt(2, Kind::Expiring(7, 600_000)));
        assert!(long.clone().observe(at(late, None, 12)).is_err());
        long.acknowledged(answer(11, None)).unwrap();
        assert!(long.observe(at(late, None, 12)).is_err());
    }

    #[test]
    fn a_write_that_is_sent_again_is_applied_once() {
        let (old, new) = (put(1, 40).value().unwrap(), put(2, 7).value().unwrap());
        let doubtful = |attempt, value: Option<&[u8]>, version| {
            let mut ledger = written();
            ledger.begin(attempt);
            ledger.observe(sight(value, version)).unwrap();
            assert_eq!(ledger.doubtful(), Some(attempt));
            ledger
        };
        let mut applied = doubtful(put(2, 7), Some(&new), 11);
        assert!(applied.clone().repeated(answer(12, None)).is_err());
        assert!(applied.clone().repeated(answer(10, None)).is_err());
        applied.repeated(answer(11, None)).unwrap();
        assert!(applied.repeated(answer(11, None)).is_err());

        let mut lost = doubtful(put(2, 7), Some(&old), 10);
        assert!(lost.clone().repeated(answer(10, None)).is_err());
        lost.repeated(answer(12, None)).unwrap();
        assert!(lost.clone().observe(sight(Some(&old), 10)).is_err());
        assert!(lost.observe(sight(Some(&new), 12)).is_ok());

        let mut removed = doubtful(delete(2), None, 15);
        assert!(removed.clone().repeated(answer(10, Some(true))).is_err());
        assert!(removed.clone().repeated(answer(16, Some(true))).is_err());
        removed.repeated(answer(12, Some(true))).unwrap();
        assert_eq!(removed.last(), Some((delete(2), answer(12, Some(true)))));
        assert!(removed.observe(sight(None, 15)).is_ok());
    }
}
