//! The system under load: any key-value system, through one connection or many.

use std::fmt;

use bytes::Bytes;

/// The result of a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The value, if the key has one.
    pub value: Option<Bytes>,
    /// Whether the answer came from a cache.
    pub cached: bool,
}

/// The error of an operation: the message of the system's client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(pub String);

impl Failure {
    /// A failure with the message of `error`.
    pub fn of(error: impl fmt::Display) -> Self {
        Self(error.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

/// A system under load. Every task of a load has its own clone, so clones must share what a real
/// client would share.
pub trait Target: Clone + Send + 'static {
    /// Reads a key.
    fn get(&mut self, key: &[u8]) -> impl Future<Output = Result<Answer, Failure>> + Send;

    /// Sets a key.
    fn put(&mut self, key: &[u8], value: Bytes)
    -> impl Future<Output = Result<(), Failure>> + Send;
}
