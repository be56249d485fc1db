//! What happened, and whether it may happen.

use std::{collections::BTreeMap, sync::Arc};

use tierkv_types::{Epoch, Index, Record, Version};

use super::disk::{KEYS, change_of};
use crate::replication::Process;

/// A violation of an invariant.
pub(super) type Violation = String;

/// The true history of the cluster.
#[derive(Debug, Default)]
pub(super) struct History {
    /// The committed records, from the first on.
    committed: Vec<Arc<Record>>,
    /// Each written number's version, once it is committed.
    versions: BTreeMap<i64, Version>,
    /// The process that was master of each epoch.
    masters: BTreeMap<Epoch, Process>,
    /// For each key, the versions acknowledged, with the time of each; rising.
    acknowledged: [Vec<(u64, Version)>; KEYS],
    /// For each key, the highest version that a linearizable read returned.
    seen: [Version; KEYS],
    /// The highest acknowledged record.
    pub(super) acknowledged_up_to: Index,
    /// The highest record that the master of each epoch acknowledged.
    acknowledged_in: BTreeMap<Epoch, Index>,
    pub(super) writes: u64,
}

impl History {
    /// A process is master of an epoch (I2).
    pub(super) fn master(&mut self, epoch: Epoch, process: &Process) -> Result<(), Violation> {
        let known = self.masters.entry(epoch).or_insert_with(|| process.clone());
        match known == process {
            true => Ok(()),
            false => Err(format!(
                "I2: {known} and {process} are masters of epoch {epoch}"
            )),
        }
    }

    pub(super) fn masters(&self) -> u64 {
        self.masters.len() as u64
    }

    pub(super) fn last(&self) -> Index {
        Index(self.committed.len() as u64)
    }

    pub(super) fn get(&self, index: Index) -> Option<&Arc<Record>> {
        self.committed
            .get(usize::try_from(index.0.checked_sub(1)?).ok()?)
    }

    /// A node regards a record as committed (I3, I5, I8).
    pub(super) fn commit(&mut self, record: &Arc<Record>) -> Result<(), Violation> {
        let index = record.position.index;
        if let Some(known) = self.get(index) {
            return match known == record {
                true => Ok(()),
                false => Err(format!(
                    "I3: record {} with version {} and record {} with version {} are both committed",
                    known.position, known.version, record.position, record.version
                )),
            };
        }
        if index != self.last().next() {
            return Err(format!(
                "I3: record {} is committed after {}",
                record.position,
                self.last()
            ));
        }
        if let Some(last) = self.committed.last()
            && record.version <= last.version
        {
            return Err(format!(
                "I5: record {} has an older version",
                record.position
            ));
        }
        if let Some((_, number)) = change_of(record)
            && self.versions.insert(number, record.version).is_some()
        {
            return Err(format!("I8: request {number} is applied twice"));
        }
        self.committed.push(Arc::clone(record));
        Ok(())
    }

    /// What a linearizable read that begins now must see at least.
    pub(super) fn floor(&self, key: usize) -> Version {
        let acknowledged = self.acknowledged[key].last().map(|(_, version)| *version);
        self.seen[key].max(acknowledged.unwrap_or_default())
    }

    /// The master of the epoch acknowledges a write.
    pub(super) fn acknowledge(
        &mut self,
        epoch: Epoch,
        now: u64,
        key: usize,
        number: i64,
        version: Version,
        floor: Version,
    ) -> Result<(), Violation> {
        if self.versions.get(&number) != Some(&version) {
            return Err(format!(
                "I1: write {number} is acknowledged and not committed"
            ));
        }
        if version <= floor {
            return Err(format!(
                "I5: write {number} has a version below an earlier one"
            ));
        }
        let place = self
            .committed
            .partition_point(|record| record.version < version);
        let index = Index(place as u64 + 1);
        self.acknowledged_up_to = self.acknowledged_up_to.max(index);
        let highest = self.acknowledged_in.entry(epoch).or_default();
        *highest = (*highest).max(index);
        let known = self.acknowledged[key].last().map(|(_, version)| *version);
        if known.is_none_or(|known| known < version) {
            self.acknowledged[key].push((now, version));
        }
        self.writes += 1;
        Ok(())
    }

    /// The last record that a master of an epoch before this one acknowledged. The epoch of the
    /// record itself may be lower: a later master commits and acknowledges what an earlier one left.
    pub(super) fn acknowledged_before(&self, epoch: Epoch) -> Index {
        let before = self.acknowledged_in.range(..epoch);
        before.map(|(_, index)| *index).max().unwrap_or_default()
    }

    fn check_value(&self, key: usize, value: (Version, i64)) -> Result<(), Violation> {
        let is_real = value == (Version::ZERO, 0) || self.versions.get(&value.1) == Some(&value.0);
        match is_real {
            true => Ok(()),
            false => Err(format!(
                "key {key}: {value:?} was served and is not committed"
            )),
        }
    }

    /// A linearizable read returns.
    pub(super) fn latest(
        &mut self,
        key: usize,
        value: (Version, i64),
        floor: Version,
    ) -> Result<(), Violation> {
        self.check_value(key, value)?;
        if value.0 < floor {
            return Err(format!(
                "I6: a LATEST read of key {key} returned {} although {floor} was there before it",
                value.0
            ));
        }
        self.seen[key] = self.seen[key].max(value.0);
        Ok(())
    }

    /// A bounded read returns a value of this age.
    pub(super) fn cached(
        &self,
        now: u64,
        key: usize,
        value: (Version, i64),
        age: u64,
    ) -> Result<(), Violation> {
        self.check_value(key, value)?;
        let as_of = now.saturating_sub(age);
        let acknowledged = &self.acknowledged[key];
        let before = acknowledged.partition_point(|(at, _)| *at < as_of);
        let needed = before.checked_sub(1).map(|place| acknowledged[place].1);
        if needed.is_some_and(|needed| value.0 < needed) {
            return Err(format!(
                "I6: a read of key {key} returned {} with an age of {age} ms, but {needed:?} was \
                 acknowledged before that",
                value.0
            ));
        }
        Ok(())
    }
}
