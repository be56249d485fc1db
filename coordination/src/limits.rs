//! The limits of coordination, by name, and the checks against them.

use crate::error::CoordinationError;

/// Longest key of a record, and longest name of a group, a member, an election or a
/// candidate, in bytes. Over it: `InvalidArgument`.
pub const MAX_KEY_BYTES: usize = 512;
/// Largest value of a record, and largest data of a member or a candidate, in bytes.
/// Over it: `InvalidArgument`.
pub const MAX_VALUE_BYTES: usize = 1 << 20;

/// Checks the key of a record, or the name of a group or an election.
pub(crate) fn check_key(key: &str) -> Result<(), CoordinationError> {
    if key.is_empty() {
        return Err(CoordinationError::InvalidArgument(format!(
            "a coordination key is empty; it has 1 to {MAX_KEY_BYTES} bytes"
        )));
    }
    check_prefix(key)
}

/// Checks a prefix of keys: as a key, but it may be empty.
pub(crate) fn check_prefix(prefix: &str) -> Result<(), CoordinationError> {
    if prefix.len() > MAX_KEY_BYTES {
        return Err(CoordinationError::InvalidArgument(format!(
            "a coordination key has {} bytes; shorten it to at most {MAX_KEY_BYTES}",
            prefix.len()
        )));
    }
    if prefix.chars().any(char::is_control) {
        return Err(CoordinationError::InvalidArgument(format!(
            "the coordination key {prefix:?} has a control character; leave it out"
        )));
    }
    Ok(())
}

/// Checks the name of a member or a candidate: as a key, but in one piece, so that a
/// backend may append it to its group's name.
pub(crate) fn check_member(name: &str) -> Result<(), CoordinationError> {
    check_key(name)?;
    if name.contains('/') {
        return Err(CoordinationError::InvalidArgument(format!(
            "the member or candidate name {name:?} has a '/'; only keys, groups and elections may"
        )));
    }
    Ok(())
}

/// Checks the value of a record, or the data of a member or a candidate.
pub(crate) fn check_value(value: &[u8]) -> Result<(), CoordinationError> {
    if value.len() > MAX_VALUE_BYTES {
        return Err(CoordinationError::InvalidArgument(format!(
            "a coordination value has {} bytes; shorten it to at most {MAX_VALUE_BYTES}",
            value.len()
        )));
    }
    Ok(())
}
