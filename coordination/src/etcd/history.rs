//! The identity of the cluster and the newest revision seen: a store that is another one, or an
//! older one, is noticed (COORD-BACK).

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use etcd_client::{
    GetResponse, LeaseGrantResponse, LeaseRevokeResponse, ResponseHeader, TxnResponse,
};

use super::failure::{Failure, Kind};

/// An answer of etcd that carries the identity of its cluster and a revision that is not older
/// than any that was seen before its request was sent.
pub(super) trait Answer: Send {
    fn header(&self) -> Option<&ResponseHeader>;
}

impl Answer for GetResponse {
    fn header(&self) -> Option<&ResponseHeader> {
        self.header()
    }
}

impl Answer for TxnResponse {
    fn header(&self) -> Option<&ResponseHeader> {
        self.header()
    }
}

impl Answer for LeaseGrantResponse {
    fn header(&self) -> Option<&ResponseHeader> {
        self.header()
    }
}

impl Answer for LeaseRevokeResponse {
    fn header(&self) -> Option<&ResponseHeader> {
        self.header()
    }
}

/// An answer with something that was noted before its request was sent.
impl<N: Send, A: Answer> Answer for (N, A) {
    fn header(&self) -> Option<&ResponseHeader> {
        self.1.header()
    }
}

/// What this process has seen of the store.
#[derive(Debug, Default)]
pub(super) struct History {
    /// The id of the cluster; 0 before the first answer.
    cluster: AtomicU64,
    /// The newest revision.
    revision: AtomicI64,
    /// The newest term of a leader.
    term: AtomicU64,
}

impl History {
    /// The newest revision seen; note it before a request is sent.
    pub(super) fn revision(&self) -> i64 {
        self.revision.load(Ordering::SeqCst)
    }

    /// The newest term of a leader that was seen.
    pub(super) fn term(&self) -> u64 {
        self.term.load(Ordering::SeqCst)
    }

    /// Adds a revision that was seen in the store.
    pub(super) fn saw(&self, revision: i64) {
        self.revision.fetch_max(revision, Ordering::SeqCst);
    }

    /// Checks an answer of the member at `address`. Its request was sent when `floor` was the
    /// newest revision.
    pub(super) fn check(
        &self,
        header: Option<&ResponseHeader>,
        floor: i64,
        address: &str,
    ) -> Result<(), Failure> {
        let Some(header) = header else {
            return Ok(());
        };
        self.check_cluster(header.cluster_id(), address)?;
        self.term.fetch_max(header.raft_term(), Ordering::SeqCst);
        self.check_revision(header.revision(), floor, address)
    }

    /// Checks that `cluster` is the cluster of all answers so far.
    pub(super) fn check_cluster(&self, cluster: u64, address: &str) -> Result<(), Failure> {
        let order = Ordering::SeqCst;
        match self.cluster.compare_exchange(0, cluster, order, order) {
            Ok(_) => Ok(()),
            Err(known) if known == cluster => Ok(()),
            Err(known) => Err(other_store(format!(
                "etcd at {address} is of the cluster {cluster:x}, earlier answers were of the \
                 cluster {known:x}; check the endpoints, and restart this process if the cluster \
                 was replaced on purpose"
            ))),
        }
    }

    fn check_revision(&self, revision: i64, floor: i64, address: &str) -> Result<(), Failure> {
        if revision < floor {
            return Err(other_store(format!(
                "etcd at {address} is at revision {revision}, but was at {floor} before: it lost \
                 changes, as after a restore from a backup; run tierkv admin recover if that was \
                 on purpose"
            )));
        }
        self.saw(revision);
        Ok(())
    }
}

fn other_store(words: String) -> Failure {
    tracing::error!(reason = words, "coordination is not the store that it was");
    Failure::new(Kind::OtherStore, words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_cluster_and_an_older_state_are_noticed() {
        let history = History::default();
        history.check_cluster(7, "a").unwrap();
        history.check_cluster(7, "b").unwrap();
        let other = history.check_cluster(8, "b").unwrap_err();
        assert_eq!(other.kind, Kind::OtherStore);

        let floor = history.revision();
        history.check_revision(10, floor, "a").unwrap();
        // Two requests at once may be answered in any order.
        history.check_revision(5, floor, "a").unwrap();
        let floor = history.revision();
        assert_eq!(floor, 10);
        history.check_revision(10, floor, "a").unwrap();
        let older = history.check_revision(9, floor, "a").unwrap_err();
        assert_eq!(older.kind, Kind::OtherStore);
    }
}
