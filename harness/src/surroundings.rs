//! What a server is started with, beside its program and its arguments.

use std::ffi::OsString;

/// The environment and the wrapper of a server.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Variables that are set beside those of this process.
    pub environment: Vec<(String, String)>,
    /// A command that becomes the server, such as `nsenter`: its words come before the
    /// server's own. It must not start a process beside itself, for the server is known
    /// by its process id.
    pub wrapper: Vec<OsString>,
}

impl Surroundings {
    /// Sets a variable.
    #[must_use]
    // A number is given as it stands.
    #[allow(clippy::needless_pass_by_value)]
    pub fn set(mut self, name: &str, value: impl ToString) -> Self {
        self.environment.push((name.to_owned(), value.to_string()));
        self
    }

    /// Puts words before the server's own, after those that are there.
    #[must_use]
    pub fn wrap(mut self, words: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.wrapper.extend(words.into_iter().map(Into::into));
        self
    }
}
