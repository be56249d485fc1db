//! The commands beside `dev`, one file each.

pub(crate) mod admin;
pub(crate) mod config;
pub(crate) mod delete;
pub(crate) mod get;
pub(crate) mod import;
pub(crate) mod put;
pub(crate) mod status;

use std::{ffi::OsString, os::unix::ffi::OsStringExt};

/// The bytes of an argument: keys and values need not be UTF-8.
fn bytes(argument: OsString) -> Vec<u8> {
    argument.into_vec()
}
