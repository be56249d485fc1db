//! What a client was promised about one key, and whether the platform keeps it.
//!
//! A write is *open* from its sending until its outcome is known. After a crash a key may
//! hold what was acknowledged last, or any write that was open then, and nothing else (I1);
//! its version never goes back (I5). Writes of one key are made one after the other.

use bytes::Bytes;

/// Bytes that say which write a value is: a mark, the write's number and the length.
const HEADER_BYTES: usize = 16;
const MARK: u32 = 0x564b_5401;

/// One write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Its number; no two writes of a test share one.
    pub number: u64,
    /// What it does.
    pub kind: Kind,
}

/// What a write does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Sets a value of this many bytes.
    Put(u32),
    /// Removes the key.
    Delete,
}

impl Attempt {
    /// The value it leaves behind: its header, then bytes drawn from its number, so that
    /// no part of it can be taken for a part of another.
    #[must_use]
    pub fn value(&self) -> Option<Bytes> {
        let Kind::Put(length) = self.kind else {
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

/// Which write a value claims to be, in words.
fn claim(value: &[u8]) -> String {
    let part = |from: usize, to: usize| value.get(from..to);
    let claimed = (|| {
        let mark = u32::from_le_bytes(part(0, 4)?.try_into().ok()?);
        let number = u64::from_le_bytes(part(4, 12)?.try_into().ok()?);
        let length = u32::from_le_bytes(part(12, 16)?.try_into().ok()?);
        (mark == MARK).then(|| format!("says it is write {number} of {length} bytes"))
    })();
    let claimed = claimed.unwrap_or_else(|| "says nothing of itself".to_owned());
    format!("a value of {} bytes that {claimed}", value.len())
}

/// The promises about one key.
#[derive(Clone, Debug)]
pub struct Ledger {
    key: String,
    /// The write that the key holds; `None` before the first.
    held: Option<Attempt>,
    /// The greatest version that was told of the key.
    version: u64,
    open: Option<Attempt>,
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
        }
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The greatest version that was told of the key.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// The value that the key holds by all that was acknowledged.
    #[must_use]
    pub fn value(&self) -> Option<Bytes> {
        self.held.and_then(|held| held.value())
    }

    /// A write is about to be sent; the one before it must be settled.
    pub fn begin(&mut self, attempt: Attempt) {
        assert_eq!(self.open, None, "{}: one write at a time", self.key);
        self.open = Some(attempt);
    }

    /// The open write certainly had no effect.
    pub fn refused(&mut self) {
        self.open = None;
    }

    /// The open write was acknowledged; `existed` is what a delete said.
    ///
    /// # Errors
    /// In words, if the acknowledgement breaks a promise.
    pub fn acknowledged(&mut self, version: u64, existed: Option<bool>) -> Result<(), String> {
        let Some(attempt) = self.open.take() else {
            return Err(format!("{}: an answer to no write", self.key));
        };
        let present = self.value().is_some();
        // The delete of an absent key changes nothing and tells up to when that is known.
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
        if let Some(existed) = existed
            && existed != present
        {
            return Err(format!(
                "{}: a delete says existed = {existed}, but the key held {:?}",
                self.key, self.held
            ));
        }
        self.held = Some(attempt);
        self.version = version;
        Ok(())
    }

    /// The key was read while nothing could still be under way: the value (or its absence)
    /// and version must be one that was promised. What it is settles an open write.
    ///
    /// # Errors
    /// In words, if a promise is broken.
    pub fn observe(&mut self, value: Option<&[u8]>, version: u64) -> Result<(), String> {
        let open = self.open.take();
        let is = |attempt: &Attempt| attempt.value().as_deref() == value;
        let as_held = match (&self.held, value) {
            (None, None) => version >= self.version,
            (Some(held), None) => is(held) && version >= self.version,
            (Some(held), Some(_)) => is(held) && version == self.version,
            (None, Some(_)) => false,
        };
        if as_held {
            self.version = version;
            return Ok(());
        }
        match open.filter(is) {
            Some(open) if version > self.version => {
                self.held = Some(open);
                self.version = version;
                Ok(())
            }
            _ => Err(format!(
                "{}: holds {} at version {version}; acknowledged was {:?} at version {}, open \
                 was {open:?} (I1)",
                self.key,
                value.map_or_else(|| "nothing".to_owned(), claim),
                self.held,
                self.version
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(number: u64, length: u32) -> Attempt {
        Attempt {
            number,
            kind: Kind::Put(length),
        }
    }

    fn delete(number: u64) -> Attempt {
        Attempt {
            number,
            kind: Kind::Delete,
        }
    }

    /// A key that holds write 1 at version 10.
    fn written() -> Ledger {
        let mut ledger = Ledger::new("k".to_owned());
        ledger.begin(put(1, 40));
        ledger.acknowledged(10, None).unwrap();
        ledger
    }

    #[test]
    fn values_say_what_they_are_and_differ_everywhere() {
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
        assert!(written().observe(Some(&value), 10).is_ok());
        assert!(written().observe(Some(&value), 9).is_err());
        assert!(written().observe(Some(&value), 11).is_err());
        assert!(written().observe(None, 11).is_err());
        assert!(written().observe(Some(&value[..39]), 10).is_err());
        let mut torn = value.to_vec();
        torn[39] ^= 1;
        assert!(written().observe(Some(&torn), 10).is_err());
    }

    #[test]
    fn an_open_write_may_be_there_at_a_greater_version() {
        let open = |attempt| {
            let mut ledger = written();
            ledger.begin(attempt);
            ledger
        };
        let (old, new) = (put(1, 40).value().unwrap(), put(2, 7).value().unwrap());
        assert!(open(put(2, 7)).observe(Some(&old), 10).is_ok());
        assert!(open(put(2, 7)).observe(Some(&new), 11).is_ok());
        assert!(open(put(2, 7)).observe(Some(&new), 10).is_err());
        assert!(open(put(2, 7)).observe(None, 11).is_err());
        assert!(open(delete(2)).observe(None, 11).is_ok());
        assert!(open(delete(2)).observe(None, 10).is_err());
        let mut refused = open(put(2, 7));
        refused.refused();
        assert!(refused.observe(Some(&new), 11).is_err());
    }

    #[test]
    fn what_was_seen_once_stays() {
        let mut ledger = written();
        ledger.begin(delete(2));
        ledger.observe(None, 12).unwrap();
        let old = put(1, 40).value().unwrap();
        assert!(ledger.clone().observe(Some(&old), 10).is_err());
        assert!(ledger.clone().observe(None, 11).is_err());
        ledger.begin(put(3, 1));
        assert!(ledger.clone().acknowledged(12, None).is_err());
        assert!(ledger.acknowledged(13, None).is_ok());
    }

    #[test]
    fn a_delete_must_know_whether_the_key_was_there() {
        let mut ledger = written();
        ledger.begin(delete(2));
        assert!(ledger.clone().acknowledged(11, Some(false)).is_err());
        ledger.acknowledged(11, Some(true)).unwrap();
        ledger.begin(delete(3));
        assert!(ledger.clone().acknowledged(12, Some(true)).is_err());
        ledger.acknowledged(11, Some(false)).unwrap();
    }
}
