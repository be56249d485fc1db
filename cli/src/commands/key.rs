//! Keys on the command line: as bytes of an argument, or as base64.

use std::{ffi::OsString, os::unix::ffi::OsStringExt, time::SystemTime};

use clap::Args;
use tierkv::Selection;
use tierkv_openapi::octets::decode;
use tierkv_types::Error;

use crate::time;

/// The form of all keys of a command.
#[derive(Args)]
pub(super) struct KeyForm {
    /// Keys, prefixes and ends of ranges are base64. Otherwise they are the bytes of the
    /// argument, which need not be text but can't contain a zero byte.
    #[arg(long)]
    key_base64: bool,
}

impl KeyForm {
    /// The key in an argument.
    ///
    /// # Errors
    /// `InvalidArgument` if it should be base64 and is not.
    pub(super) fn read(&self, argument: OsString) -> Result<Vec<u8>, Error> {
        match self.key_base64 {
            true => Ok(decode("the key", &argument.to_string_lossy())?.into()),
            false => Ok(argument.into_vec()),
        }
    }

    /// The selection of a prefix; all keys without one.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(super) fn prefix(&self, prefix: Option<OsString>) -> Result<Selection, Error> {
        match prefix {
            Some(prefix) => Ok(Selection::prefix(self.read(prefix)?)),
            None => Ok(Selection::all()),
        }
    }
}

/// When a key expires, in milliseconds since the Unix epoch.
pub(super) fn millis(at: Option<SystemTime>) -> Option<u64> {
    time::millis(at?)
}

/// When a key expires, for a cell of a table.
pub(super) fn expiry(at: Option<SystemTime>) -> String {
    millis(at).map_or_else(|| "never".to_owned(), time::date)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_bytes_or_base64() {
        let odd = OsString::from_vec(vec![0xff, b'a']);
        let bytes = KeyForm { key_base64: false };
        assert_eq!(bytes.read(odd.clone()).unwrap(), [0xff, b'a']);
        let base64 = KeyForm { key_base64: true };
        assert_eq!(base64.read("AP8=".into()).unwrap(), [0, 0xff]);
        assert!(base64.read(odd).is_err());
        assert_eq!(base64.prefix(None).unwrap(), Selection::all());
    }
}
