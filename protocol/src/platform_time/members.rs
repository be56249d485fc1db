//! The clocks of the other members of the cluster.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use tierkv_types::{BootTime, NodeId};

use super::{boot_micros, offset_of};

/// Clocks that were last heard of longer ago than this don't count.
const HEARD_FOR: Duration = Duration::from_secs(5);
/// Of so many heartbeats of the master the fastest one shows its time: a late message shows less.
const HEARTBEATS: usize = 16;

/// The clocks of a member when it sent a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberTime {
    /// Its platform time, in microseconds.
    pub platform_micros: i64,
    /// Its wall clock, in milliseconds.
    pub wall_millis: u64,
    /// Whether its time may still step.
    pub is_founding: bool,
}

/// The clocks of one member, as offsets to this machine's boot-time clock, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Heard {
    at: BootTime,
    platform: i64,
    wall: i64,
    is_founding: bool,
}

/// What was heard of the other members' clocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OtherMembers {
    heard: BTreeMap<NodeId, Heard>,
    /// The offsets that the master's last heartbeats showed.
    master: VecDeque<i64>,
    /// The node that sent them.
    follows: Option<NodeId>,
}

impl OtherMembers {
    /// Records the clocks of a member whose message arrived at `boot_time`.
    pub(super) fn hear(&mut self, boot_time: BootTime, node: &NodeId, time: &MemberTime) {
        let heard = Heard {
            at: boot_time,
            platform: time.platform_micros.saturating_sub(boot_micros(boot_time)),
            wall: offset_of(boot_time, time.wall_millis),
            is_founding: time.is_founding,
        };
        self.heard.insert(node.clone(), heard);
    }

    /// The offset to take from the master, whose last message was just heard.
    pub(super) fn follow(&mut self, master: &NodeId) -> Option<i64> {
        let heard = self.heard.get(master)?;
        if self.follows.as_ref() != Some(master) || heard.is_founding {
            self.master.clear();
            self.follows = Some(master.clone());
        }
        if self.master.len() == HEARTBEATS {
            self.master.pop_front();
        }
        self.master.push_back(heard.platform);
        self.master.iter().max().copied()
    }

    /// Whether a master's time was taken.
    pub(super) const fn has_followed(&self) -> bool {
        self.follows.is_some()
    }

    /// The median of this node's wall clock, `own`, and those of other nodes that were heard of
    /// lately, as offsets; of an even number the lower one in the middle.
    pub(super) fn median_wall(&self, now: BootTime, own: i64, nodes: &[NodeId]) -> i64 {
        let heard = nodes.iter().filter_map(|node| self.heard.get(node));
        let lately = heard.filter(|heard| is_lately(heard, now));
        median(lately.map(|heard| heard.wall), own)
    }

    /// The median of this node's platform time, `own`, and those of all others that were heard of
    /// lately, as offsets; of an even number the lower one in the middle.
    pub(super) fn median_platform(&self, now: BootTime, own: i64) -> i64 {
        let lately = self.heard.values().filter(|heard| is_lately(heard, now));
        let settled = lately.filter(|heard| !heard.is_founding);
        median(settled.map(|heard| heard.platform), own)
    }
}

fn is_lately(heard: &Heard, now: BootTime) -> bool {
    now.since(heard.at) <= HEARD_FOR
}

fn median(others: impl Iterator<Item = i64>, own: i64) -> i64 {
    let mut all: Vec<i64> = others.chain([own]).collect();
    all.sort_unstable();
    all[(all.len() - 1) / 2]
}
