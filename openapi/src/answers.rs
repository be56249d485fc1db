//! What writes answer. Versions are strings: they exceed what a JSON number holds exactly.

use serde::{Deserialize, Serialize};

/// The answer to a PUT.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// The new version, in decimal.
    pub version: String,
}

/// The answer to a DELETE.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// Whether the key was there.
    pub existed: bool,
    /// The deletion's version, in decimal; of an absent key, the version up to which that
    /// is known.
    pub version: String,
}
