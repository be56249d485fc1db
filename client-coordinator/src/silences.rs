//! Operations on clusters that do not answer: their errors, and how many of them may wait.
//!
//! All operations share the connections to the server coordinators, which bound how many are in
//! flight. Those of a silent cluster last until their deadlines, so without a bound of their own
//! they would hold up everybody else's.

use std::{sync::Arc, time::Duration};

use tierkv_types::{Clock, Code, Error, Slot};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::views::{SharedViews, Silence};

/// The limit `max_silent_operations`: reads, and as many writes, that wait for silent clusters.
/// Over it they are refused with `ResourceExhausted`.
const MAX_SILENT_OPERATIONS: usize = 512;

/// Which clusters are silent, and the places of operations that wait for them. Clones share the
/// places.
#[derive(Clone)]
pub(crate) struct Silences {
    views: SharedViews,
    clock: Arc<dyn Clock>,
    /// A cluster is silent once it has not answered for this long.
    bound: Duration,
    places: Arc<Semaphore>,
}

impl Silences {
    pub(crate) fn new(views: SharedViews, clock: Arc<dyn Clock>, bound: Duration) -> Self {
        Self {
            views,
            clock,
            bound,
            places: Arc::new(Semaphore::new(MAX_SILENT_OPERATIONS)),
        }
    }

    /// The silence of the cluster that owns `slot`, if it is silent.
    pub(crate) fn of(&self, slot: Slot) -> Option<Silence> {
        let now = self.clock.boot_time();
        self.views.now().silence(slot, now, self.bound)
    }

    /// A place for an operation on `slot`, until it is dropped; `None` if its cluster is not
    /// silent, and nothing is bounded.
    ///
    /// # Errors
    /// `ResourceExhausted` if all places are taken.
    pub(crate) fn admit(&self, slot: Slot) -> Result<Option<OwnedSemaphorePermit>, Error> {
        let Some(silence) = self.of(slot) else {
            return Ok(None);
        };
        match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => Ok(Some(place)),
            Err(_) => Err(Error::exhausted(format!(
                "{}, and max_silent_operations, {MAX_SILENT_OPERATIONS}, wait for such clusters \
                 already; nothing was done, try again later",
                silence.reason()
            ))),
        }
    }

    /// The error of an operation on `slot` that certainly had no effect, with the silence of its
    /// cluster as the reason.
    pub(crate) fn explain(&self, slot: Slot, error: Error) -> Error {
        if !matches!(error.code, Code::Unavailable | Code::DeadlineExceeded) {
            return error;
        }
        match self.of(slot) {
            Some(silence) => silence.error(),
            None => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tierkv_protocol::placement::{PlacementMap, WeightedCluster};
    use tierkv_types::{ClusterId, SystemClock};

    use super::*;
    use crate::views::Views;

    #[test]
    fn no_more_than_the_bound_wait_for_silent_clusters() {
        let cluster = ClusterId::new("c1").unwrap();
        let map = PlacementMap::initial(vec![WeightedCluster {
            id: cluster,
            weight: 1,
        }]);
        let views = Arc::new(Views::default());
        let silences = Silences::new(Arc::clone(&views), Arc::new(SystemClock), Duration::ZERO);
        let slot = Slot::new(7).unwrap();
        // Before there is a map, nobody is known to be silent.
        assert!(silences.admit(slot).unwrap().is_none());
        views.list(map.unwrap(), &BTreeSet::new(), SystemClock.boot_time());
        let admit = |_| silences.admit(slot).unwrap().unwrap();
        let mut places: Vec<_> = (0..MAX_SILENT_OPERATIONS).map(admit).collect();
        let refused = silences.clone().admit(slot).unwrap_err();
        assert_eq!(refused.code, Code::ResourceExhausted);
        for part in ["c1", "max_silent_operations", "512"] {
            assert!(refused.message.contains(part), "{part}: {refused}");
        }
        places.pop();
        assert!(silences.admit(slot).unwrap().is_some());
    }
}
