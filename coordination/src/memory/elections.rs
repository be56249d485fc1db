//! The elections and their candidates, in the order in which they lead.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use tierkv_types::Epoch;
use tokio::sync::watch;

use crate::{
    election::{Leader, Standing},
    error::CoordinationError,
    watch::Watched,
};

/// All elections with a candidate or an observer.
#[derive(Default)]
pub(super) struct Elections {
    elections: BTreeMap<String, Election>,
}

#[derive(Default)]
struct Election {
    /// The first leads. Epochs grow along the line.
    line: VecDeque<Candidate>,
    observed: watch::Sender<Arc<Option<Leader>>>,
}

struct Candidate {
    name: String,
    data: Bytes,
    epoch: Epoch,
    standing: watch::Sender<Standing>,
}

impl Elections {
    /// Refuses the name of a live candidate.
    pub(super) fn check_free(
        &self,
        election: &str,
        candidate: &str,
    ) -> Result<(), CoordinationError> {
        let taken = self
            .elections
            .get(election)
            .is_some_and(|election| election.line.iter().any(|other| other.name == candidate));
        if taken {
            return Err(CoordinationError::AlreadyExists(format!(
                "the election {election:?} has a living candidate {candidate:?}; choose another \
                 name, or stop that one"
            )));
        }
        Ok(())
    }

    /// Adds a candidate with a free name at the end of the line. `epoch` must be above all that
    /// were issued before.
    pub(super) fn nominate(
        &mut self,
        election: &str,
        candidate: &str,
        data: Bytes,
        epoch: Epoch,
    ) -> watch::Receiver<Standing> {
        let line = &mut self.elections.entry(election.to_owned()).or_default().line;
        debug_assert!(
            line.back().is_none_or(|last| last.epoch < epoch),
            "epochs only grow"
        );
        let (standing, receiver) = watch::channel(Standing::Waiting);
        line.push_back(Candidate {
            name: candidate.to_owned(),
            data,
            epoch,
            standing,
        });
        self.settle(election);
        receiver
    }

    pub(super) fn observe(&mut self, election: &str) -> Watched<Option<Leader>> {
        self.elections.retain(|_, election| {
            !election.line.is_empty() || election.observed.receiver_count() > 0
        });
        let election = self.elections.entry(election.to_owned()).or_default();
        Watched::new(election.observed.subscribe())
    }

    /// Removes the candidate with this name and epoch, if it still stands.
    pub(super) fn resign(&mut self, election: &str, candidate: &str, epoch: Epoch) {
        self.remove(election, candidate, Some(epoch));
    }

    /// Removes the candidate with this name; returns whether there was one.
    pub(super) fn expire(&mut self, election: &str, candidate: &str) -> bool {
        self.remove(election, candidate, None)
    }

    fn remove(&mut self, name: &str, candidate: &str, epoch: Option<Epoch>) -> bool {
        let Some(election) = self.elections.get_mut(name) else {
            return false;
        };
        let found = election.line.iter().position(|other| {
            other.name == candidate && epoch.is_none_or(|epoch| epoch == other.epoch)
        });
        let Some(removed) = found.and_then(|at| election.line.remove(at)) else {
            return false;
        };
        // COORD-LEASE: the holder is notified before another leads.
        removed.standing.send_replace(Standing::Lost);
        self.settle(name);
        true
    }

    /// The number of elections kept.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.elections.len()
    }

    /// Makes the first in line the leader, and notifies observers.
    fn settle(&mut self, name: &str) {
        let Some(election) = self.elections.get(name) else {
            return;
        };
        let leader = election.line.front().map(|first| {
            let leading = Standing::Leading(first.epoch);
            first.standing.send_if_modified(|standing| {
                let new = *standing != leading;
                *standing = leading;
                new
            });
            Leader {
                candidate: first.name.clone(),
                data: first.data.clone(),
                epoch: first.epoch,
            }
        });
        election.observed.send_if_modified(|observed| {
            let new = **observed != leader;
            if new {
                *observed = Arc::new(leader);
            }
            new
        });
        if election.line.is_empty() && election.observed.receiver_count() == 0 {
            self.elections.remove(name);
        }
    }
}
