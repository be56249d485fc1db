//! The coordinator's side of one platform time: it measures every cluster's time, and carries it
//! to the others.
//!
//! All arithmetic is on the coordinator's own boot-time clock. An answer is taken to be from the
//! middle between the question and its arrival, and may be wrong by half of the time between them.

use std::{collections::BTreeMap, time::Duration};

use tierkv_types::{BootTime, ClusterId, Incarnation};

use super::{
    median::median,
    others::{ClusterTime, MAX_CLUSTERS, TimeAnswer, TimeQuestion},
};

/// How long an answer is carried on: as long as several questions in a row may fail.
const CARRIED_FOR: Duration = Duration::from_secs(5);
/// The clocks of two machines differ by less than one part in so many.
const DRIFT_PART: u32 = 1_000;
/// The unit of platform time.
const ROUNDING: Duration = Duration::from_millis(1);

/// The newest answer of every cluster's master.
#[derive(Clone, Debug, Default)]
pub struct Carrier {
    clusters: BTreeMap<ClusterId, Measured>,
}

#[derive(Clone, Copy, Debug)]
struct Measured {
    /// The process that answered: no other one knows its boot-time clock.
    process: Incarnation,
    asked_at: BootTime,
    answered_at: BootTime,
    answer: TimeAnswer,
}

impl Carrier {
    /// Records the answer of a cluster's master, unless a later question was answered.
    pub fn answered(
        &mut self,
        cluster: &ClusterId,
        process: Incarnation,
        asked_at: BootTime,
        answered_at: BootTime,
        answer: TimeAnswer,
    ) {
        let newest = self.clusters.get(cluster);
        if newest.is_none_or(|newest| newest.asked_at <= asked_at) {
            let measured = Measured {
                process,
                asked_at,
                answered_at,
                answer,
            };
            self.clusters.insert(cluster.clone(), measured);
        }
    }

    /// Forgets all clusters but these.
    pub fn retain(&mut self, is_listed: impl Fn(&ClusterId) -> bool) {
        self.clusters.retain(|cluster, _| is_listed(cluster));
    }

    /// The question to a cluster's master at `now`; `None` if this process did not answer lately.
    /// Then it is asked without the times of the others.
    #[must_use]
    pub fn question(
        &self,
        cluster: &ClusterId,
        process: Incarnation,
        now: BootTime,
    ) -> Option<TimeQuestion> {
        let asked = self.clusters.get(cluster)?;
        if asked.process != process || !asked.is_recent(now) {
            return None;
        }
        let others = (self.clusters.iter())
            .filter(|(id, other)| *id != cluster && other.is_recent(now))
            .map(|(id, other)| ClusterTime {
                cluster: id.clone(),
                platform_millis: other.millis_at(asked.middle()),
                error: asked.error().saturating_add(other.error()),
                is_founding: other.answer.is_founding,
            });
        Some(TimeQuestion {
            at: asked.answer.boot_time,
            others: others.take(MAX_CLUSTERS).collect(),
        })
    }

    /// How far each cluster's time is ahead of the platform's, in milliseconds. That is the median
    /// of the clusters that are written to; before the first write, the lowest id's.
    #[must_use]
    pub fn ahead_millis(&self, now: BootTime) -> BTreeMap<ClusterId, i64> {
        let recent = || {
            self.clusters
                .iter()
                .filter(|(_, measured)| measured.is_recent(now))
        };
        let settled = recent().filter(|(_, measured)| !measured.answer.is_founding);
        let median = median(settled.map(|(id, measured)| (id, measured.millis_at(now))));
        let lowest = || {
            let (_, measured) = recent().next()?;
            Some(measured.millis_at(now))
        };
        let Some(platform) = median.or_else(lowest) else {
            return BTreeMap::new();
        };
        recent()
            .map(|(id, measured)| {
                let millis = i128::from(measured.millis_at(now)) - i128::from(platform);
                (id.clone(), i64::try_from(millis).unwrap_or(i64::MAX))
            })
            .collect()
    }
}

impl Measured {
    fn is_recent(&self, now: BootTime) -> bool {
        now.since(self.asked_at) <= CARRIED_FOR
    }

    /// Half of the time between question and answer.
    fn half(&self) -> Duration {
        self.answered_at.since(self.asked_at) / 2
    }

    /// The moment that the answer is taken to be from.
    fn middle(&self) -> BootTime {
        self.asked_at.after(self.half())
    }

    /// How far the time may be off while it is carried.
    fn error(&self) -> Duration {
        self.half() + ROUNDING + CARRIED_FOR / DRIFT_PART
    }

    /// The cluster's platform time at a moment of the coordinator, before or after the answer.
    fn millis_at(&self, moment: BootTime) -> u64 {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (ahead, behind) = (moment.since(self.middle()), self.middle().since(moment));
        (self.answer.platform_millis)
            .saturating_add(millis(ahead))
            .saturating_sub(millis(behind))
    }
}

#[cfg(test)]
mod tests;
