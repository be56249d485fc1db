//! No cache: every lookup is a miss that nobody fills.

use tierkv_protocol::cache::{Entry, Mark};
use tierkv_types::ClusterId;

use crate::{
    key::CacheKey,
    tier::{Cache, Fill, Found, Lease, NodeReport, State, Undelivered},
};

/// A cache tier without nodes. Nothing is stored, so all deletes are confirmed at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoCache;

impl Cache for NoCache {
    async fn lookup(&self, _: &ClusterId, keys: &[CacheKey<'_>], results: &mut Vec<Found>) {
        results.clear();
        results.extend(keys.iter().map(|_| Found {
            mark: None,
            state: State::Unreachable,
        }));
    }

    async fn fill(&self, _: CacheKey<'_>, _: Lease, _: Entry) -> Fill {
        Fill::Refused
    }

    async fn release(&self, _: CacheKey<'_>, _: Lease) {}

    async fn delete(&self, _: &[CacheKey<'_>]) -> Result<(), Undelivered> {
        Ok(())
    }

    async fn write_mark(&self, _: &ClusterId, _: Mark) -> Result<(), Undelivered> {
        Ok(())
    }

    async fn read_marks(&self, _: &ClusterId) -> Vec<(String, Option<Mark>)> {
        Vec::new()
    }

    async fn holds_anything(&self) -> bool {
        false
    }

    fn node_of(&self, _: CacheKey<'_>) -> &str {
        "none"
    }

    async fn nodes(&self) -> Vec<NodeReport> {
        Vec::new()
    }
}
