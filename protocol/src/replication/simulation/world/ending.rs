//! What must hold once the faults have stopped.

use super::{Event, Violation, World};
use crate::replication::{
    ClusterState,
    simulation::{
        climate::{Fault, choose},
        node::Node,
    },
};

/// How often a node never comes back, in a thousand, and how often the master's disk takes nothing
/// any more.
const LOST_FOR_GOOD: u32 = 350;
const STUCK: u32 = 250;

impl World {
    /// From now on nothing fails, and every node runs.
    pub(super) fn calm(&mut self) {
        self.is_calm = true;
        self.cuts.clear();
        self.coordination.down_until = 0;
        self.coordination.slow_until = 0;
        self.writes_before_calm = self.history.writes;
        self.lose_one_for_good();
        for node in 0..self.nodes.len() {
            let it = &mut self.nodes[node];
            it.wake(self.now);
            it.slow_disk_until = 0;
            let name = self.nodes[node].name.clone();
            let has = self
                .coordination
                .record
                .as_ref()
                .is_some_and(|it| it.state.has(&name));
            if has {
                self.schedule(1, Event::Start { node });
            }
        }
        self.notify();
    }

    /// In some worlds one node is lost for good, or the master's disk, if the cluster has no other
    /// loss to make good.
    fn lose_one_for_good(&mut self) {
        let Some(state) = self.coordination.record.as_ref().map(|it| it.state.clone()) else {
            return;
        };
        let is_whole = (0..self.nodes.len())
            .all(|node| !self.nodes[node].is_damaged || !state.has(&self.nodes[node].name));
        if state.members.len() < 3 || !is_whole {
            return;
        }
        if let Some(master) = self.master()
            && self.chance(STUCK)
        {
            self.stuck = Some(master);
            return self.count(Fault::StuckDisk);
        }
        if !self.chance(LOST_FOR_GOOD) {
            return;
        }
        let members = state.members.iter();
        let members: Vec<usize> = members.filter_map(|name| self.node_of(name)).collect();
        let node = *choose(&mut self.rng, &members);
        self.crash(node, 0.0, 0);
        self.gone = Some(node);
        self.count(Fault::LostForGood);
    }

    /// Of two members, both have to acknowledge. There may be two by a removal that was ordered before
    /// one was lost.
    fn is_one_of_two_lost(&self, state: &ClusterState) -> bool {
        (self.gone.is_some() || self.stuck.is_some()) && state.members.len() < 3
    }

    /// A node that is lost counts for nothing in the end.
    fn check_unlisted(&self, place: usize, state: &ClusterState) -> Result<(), Violation> {
        let Node { name, disk, .. } = &self.nodes[place];
        match state.lists(name, disk.log.id) {
            true => Err(format!("progress: {name} is lost, and listed: {state:?}")),
            false => Ok(()),
        }
    }

    /// The cluster works again: it took writes, and all members are in sync and equal.
    pub(super) fn end(&mut self) -> Result<(), Violation> {
        let Some(record) = self.coordination.record.clone() else {
            return Err("there is no record".to_owned());
        };
        let state = &record.state;
        if self.is_one_of_two_lost(state) {
            return Ok(());
        }
        let Some(master) = state
            .master
            .as_ref()
            .and_then(|master| self.node_of(master))
        else {
            return Err("progress: the cluster has no master in the end".to_owned());
        };
        if self.history.writes <= self.writes_before_calm {
            return Err(format!(
                "progress: no write was acknowledged after the faults: {state:?}"
            ));
        }
        let acknowledged = self.history.acknowledged_up_to;
        let commit = self.nodes[master].run.as_ref().map(|run| run.commit);
        for member in &state.members {
            let place = self.node_of(member);
            let place = place.ok_or_else(|| format!("{member} does not exist"))?;
            let node = &self.nodes[place];
            if [self.gone, self.stuck].contains(&Some(place)) {
                self.check_unlisted(place, state)?;
                continue;
            }
            let Some(run) = &node.run else {
                return Err(format!("progress: {member} does not run"));
            };
            if !state.lists(member, node.disk.log.id) {
                return Err(format!(
                    "progress: {member} is not in sync in the end: {state:?}"
                ));
            }
            if run.applied < acknowledged || Some(run.commit) != commit {
                return Err(format!(
                    "progress: {member} has applied {} of {acknowledged}, and its commit index is {}, \
                     the master's {commit:?}",
                    run.applied, run.commit
                ));
            }
            for index in run.log.base.index.0 + 1..=run.commit.0 {
                let index = tierkv_types::Index(index);
                if run.log.get(index) != self.history.get(index) {
                    return Err(format!("I3: {member} has another record {index}"));
                }
            }
            let master_run = self.nodes[master].run.as_ref();
            if let Some(master_run) = master_run
                && run.applied == master_run.applied
                && run.content != master_run.content
            {
                return Err(format!("I3: {member} holds something else than the master"));
            }
        }
        Ok(())
    }
}
