//! A fault for tests: claims whose leases are not renewed, as if their process had died.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::snapshot::Range;

/// The keys of the claims that are cut off; none, unless a test does it.
#[derive(Default)]
pub(super) struct CutOff {
    keys: Mutex<BTreeSet<Vec<u8>>>,
}

impl CutOff {
    /// From now on, the lease of this key is neither renewed nor revoked.
    #[cfg(feature = "conformance")]
    pub(super) fn cut(&self, key: &Range) {
        self.keys().insert(key.key().to_vec());
    }

    pub(super) fn is_cut_off(&self, key: &Range) -> bool {
        self.keys().contains(key.key())
    }

    /// A new claim of the key is not cut off.
    pub(super) fn restore(&self, key: &Range) {
        self.keys().remove(key.key());
    }

    fn keys(&self) -> MutexGuard<'_, BTreeSet<Vec<u8>>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
