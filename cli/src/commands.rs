//! The commands beside `dev`, one file each, and the options that several of them have:
//! [`key`], [`condition`] and [`freshness`].

pub(crate) mod admin;
mod condition;
pub(crate) mod config;
pub(crate) mod count;
pub(crate) mod delete;
pub(crate) mod export;
mod freshness;
pub(crate) mod get;
pub(crate) mod import;
pub(crate) mod increment;
mod key;
pub(crate) mod put;
pub(crate) mod scan;
pub(crate) mod status;
pub(crate) mod touch;
pub(crate) mod watch;
pub(crate) mod write;
