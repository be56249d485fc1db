//! [`Seen`]: the highest record that a node saw, as it is stored with the promise (COORD-BACK).

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tierkv_types::Epoch;

use super::cluster_state::{ClusterState, StateError};

/// A record with its revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The record's revision; zero in files of releases that did not store it.
    pub revision: u64,
    /// The record.
    pub state: ClusterState,
}

#[derive(Serialize, Deserialize)]
struct Revision {
    #[serde(default)]
    revision: u64,
}

#[derive(Serialize)]
struct Stored<'a> {
    revision: u64,
    #[serde(flatten)]
    state: &'a ClusterState,
}

impl Seen {
    /// Its place in the order of records: epoch, then revision.
    #[must_use]
    pub const fn order(&self) -> (Epoch, u64) {
        (self.state.epoch, self.revision)
    }

    /// The bytes to store: the record's own, with the revision as one field more.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let stored = Stored {
            revision: self.revision,
            state: &self.state,
        };
        // Only maps with non-string keys or failing serializers can fail here.
        serde_json::to_vec(&stored)
            .map(Bytes::from)
            .unwrap_or_default()
    }

    /// Reads stored bytes.
    ///
    /// # Errors
    /// [`StateError`] if they are not readable, newer than this release or unsound.
    pub fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let state = ClusterState::decode(bytes)?;
        let Revision { revision } = serde_json::from_slice(bytes)?;
        Ok(Self { revision, state })
    }
}

#[cfg(test)]
mod tests {
    use tierkv_types::NodeId;

    use super::*;

    #[test]
    fn it_comes_back_and_one_without_a_revision_is_read() {
        let state = ClusterState::unfounded(vec![NodeId::new("n1").unwrap()], 300);
        let seen = Seen { revision: 9, state };
        assert_eq!(Seen::decode(&seen.encode()).unwrap(), seen);
        let earlier = Seen::decode(&seen.state.encode()).unwrap();
        assert_eq!((earlier.revision, &earlier.state), (0, &seen.state));
        assert!(seen.order() > earlier.order());
    }
}
