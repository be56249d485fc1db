//! What a master has heard of the other clusters' times.
//!
//! A data node has no connection to another cluster. Coordinators ask all masters for their times
//! several times a second, and each question carries the times of the others. A question echoes
//! a reading of the asked master's *own* boot-time clock, from its last answer, and gives the other
//! times as of that reading. So a question that was late, or doubled, means what it meant when it
//! was sent, its age is measured on one clock, and no clocks of two machines are compared.

use std::{collections::BTreeMap, time::Duration};

use tierkv_types::{BootTime, ClusterId};

use super::{median::median, offset_of};

/// A time counts for so long after the reading that it refers to. In that time two clusters that
/// are drawn towards each other come 0.2 s closer.
pub const HEARD_FOR: Duration = Duration::from_secs(10);
/// A time with a larger possible error does not count: a question or an answer was on its way for
/// too long. It is far less than the distance at which clusters are drawn.
pub const MAX_ERROR: Duration = Duration::from_secs(1);
/// Most clusters in a question, and most that a master remembers: one for each slot.
pub const MAX_CLUSTERS: usize = 4_096;

/// A coordinator's question for a master's time, with the times of the other clusters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeQuestion {
    /// The reading of the asked master's boot-time clock in its last answer to this coordinator.
    pub at: BootTime,
    /// The times of the other clusters at that moment.
    pub others: Vec<ClusterTime>,
}

/// The time of another cluster, as a coordinator measured it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterTime {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its platform time, in milliseconds.
    pub platform_millis: u64,
    /// How far off that may be.
    pub error: Duration,
    /// Whether it was not written to yet, so that its time may still step.
    pub is_founding: bool,
}

/// A master's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeAnswer {
    /// Its boot-time clock, to be echoed in the next question to it.
    pub boot_time: BootTime,
    /// Its platform time at that moment, in milliseconds.
    pub platform_millis: u64,
    /// Whether its cluster was not written to yet.
    pub is_founding: bool,
}

/// The newest known time of each other cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherClusters {
    own: ClusterId,
    known: BTreeMap<ClusterId, Heard>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Heard {
    /// Its time minus the boot-time clock of this machine, in microseconds.
    offset: i64,
    /// When it had that time, by this machine's clock.
    at: BootTime,
    is_founding: bool,
}

impl OtherClusters {
    /// Nothing is known to a master of `own` yet.
    pub(super) const fn of(own: ClusterId) -> Self {
        Self {
            own,
            known: BTreeMap::new(),
        }
    }

    /// Takes over the times of a question that arrived at `now`, unless it is too old, or a newer
    /// one was heard of, or it is too inexact.
    pub(super) fn hear(&mut self, now: BootTime, question: &TimeQuestion) {
        let at = question.at;
        self.known.retain(|_, heard| heard.is_recent(now));
        if at > now || now.since(at) > HEARD_FOR {
            return;
        }
        for other in &question.others {
            let newest = self.known.get(&other.cluster).map(|heard| heard.at);
            let is_full = newest.is_none() && self.known.len() >= MAX_CLUSTERS;
            let is_older = newest.is_some_and(|newest| newest > at);
            if other.cluster == self.own || other.error > MAX_ERROR || is_older || is_full {
                continue;
            }
            let heard = Heard {
                offset: offset_of(at, other.platform_millis),
                at,
                is_founding: other.is_founding,
            };
            self.known.insert(other.cluster.clone(), heard);
        }
    }

    fn recent(&self, now: BootTime) -> impl Iterator<Item = (&ClusterId, &Heard)> {
        self.known
            .iter()
            .filter(move |(_, heard)| heard.is_recent(now))
    }

    /// The offsets of the clusters that count: those that were heard of recently and are written
    /// to. The time of the others may still step.
    fn settled(&self, now: BootTime) -> impl Iterator<Item = (&ClusterId, i64)> {
        self.recent(now)
            .filter(|(_, heard)| !heard.is_founding)
            .map(|(cluster, heard)| (cluster, heard.offset))
    }

    /// The offset of the platform's time for a cluster that has `own_offset` and is written to;
    /// `None` if no other cluster counts.
    pub(super) fn median_offset(&self, now: BootTime, own_offset: i64) -> Option<i64> {
        self.settled(now).next()?;
        median(self.settled(now).chain([(&self.own, own_offset)]))
    }

    /// The offset that a cluster begins with: that of the platform's time. If no cluster is written
    /// to yet, the lowest id's; `None` if that is this cluster, which then follows its wall clock.
    pub(super) fn founders_offset(&self, now: BootTime) -> Option<i64> {
        if let Some(platform) = median(self.settled(now)) {
            return Some(platform);
        }
        let (lowest, heard) = self.recent(now).next()?;
        (*lowest < self.own).then_some(heard.offset)
    }
}

impl Heard {
    fn is_recent(&self, now: BootTime) -> bool {
        now.since(self.at) <= HEARD_FOR
    }
}

#[cfg(test)]
mod tests;
