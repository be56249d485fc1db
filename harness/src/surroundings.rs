//! The environment variables and the wrapper command of a server.

use std::ffi::OsString;

/// The environment and the wrapper of a server.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Environment variables in addition to those of this process.
    pub environment: Vec<(String, String)>,
    /// A command that becomes the server, such as `nsenter`, as a prefix of the server's command
    /// line. It must exec the server and not start a child, because the harness signals its
    /// process id.
    pub wrapper: Vec<OsString>,
}

impl Surroundings {
    /// Sets a variable.
    #[must_use]
    // So that callers can pass numbers by value.
    #[allow(clippy::needless_pass_by_value)]
    pub fn set(mut self, name: &str, value: impl ToString) -> Self {
        self.environment.push((name.to_owned(), value.to_string()));
        self
    }

    /// Appends words to the wrapper.
    #[must_use]
    pub fn wrap(mut self, words: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.wrapper.extend(words.into_iter().map(Into::into));
        self
    }
}
