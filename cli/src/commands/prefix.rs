//! The prefix of a command's keys: an argument, or an option as in `delete`.

use std::ffi::OsString;

use clap::Args;

/// At most one prefix, in either form.
#[derive(Args)]
#[group(multiple = false)]
pub(super) struct PrefixArguments {
    /// Only the keys with this prefix; without it, all keys of the namespace.
    prefix: Option<OsString>,
    /// The same, as an option.
    #[arg(long = "prefix", value_name = "PREFIX")]
    prefix_option: Option<OsString>,
}

impl PrefixArguments {
    /// The prefix, if there is one.
    pub(super) fn given(self) -> Option<OsString> {
        self.prefix.or(self.prefix_option)
    }
}
