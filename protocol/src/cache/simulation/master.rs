//! A master's side of the cache protocol: rounds, deletes in flight, marks.

use std::{collections::BTreeMap, sync::Arc};

use tierkv_types::{BootTime, Epoch, Index, SlotTable};

use super::{Rules, node::NodeKey};
use crate::cache::{MarkWriter, REDELIVERY_WINDOW};

/// One process that won an epoch. It does not notice that it was deposed.
pub(super) struct Master {
    pub(super) epoch: Epoch,
    /// The latest round it started.
    pub(super) round: u64,
    pub(super) writer: MarkWriter,
    /// Deletes that the node did not confirm, by index.
    pub(super) unconfirmed: BTreeMap<u64, NodeKey>,
    /// Its log's commit index, as it knows it.
    pub(super) commit: u64,
    /// The slots its cluster owns, as it knows them.
    pub(super) slots: Arc<SlotTable>,
    /// When marks are allowed, if they were withheld at first.
    pub(super) withheld_until: Option<u64>,
}

impl Master {
    /// The master of a new epoch over `log`, whose first `cut` records are gone.
    pub(super) fn new(
        epoch: Epoch,
        round: u64,
        log: &[NodeKey],
        cut: usize,
        slots: Arc<SlotTable>,
        now: u64,
        rules: Rules,
    ) -> Self {
        let window = u64::try_from(REDELIVERY_WINDOW.as_millis()).unwrap();
        let withheld_until = (cut > 0 && rules.withhold).then_some(now + window);
        let writer = match withheld_until {
            Some(until) => MarkWriter::withheld(epoch, boot(until)),
            None => MarkWriter::new(epoch),
        };
        let kept = log.iter().enumerate().skip(cut);
        let unconfirmed = kept.map(|(n, key)| (n as u64 + 1, *key));
        let mut master = Self {
            epoch,
            round,
            writer,
            unconfirmed: BTreeMap::new(),
            commit: log.len() as u64,
            slots,
            withheld_until,
        };
        if rules.redeliver {
            master.unconfirmed = unconfirmed.collect();
        }
        master.tell_delivered(rules);
        master
    }

    pub(super) fn confirmed(&mut self, index: u64, rules: Rules) {
        self.unconfirmed.remove(&index);
        self.tell_delivered(rules);
    }

    pub(super) fn tell_delivered(&mut self, rules: Rules) {
        let delivered = match self.unconfirmed.first_key_value() {
            _ if !rules.mark_after_deletes => u64::MAX,
            Some((first, _)) => (first - 1).min(self.commit),
            None => self.commit,
        };
        self.writer.delivered(Index(delivered));
    }
}

/// Masters run on the world's own time.
pub(super) fn boot(now: u64) -> BootTime {
    BootTime::from_boot(std::time::Duration::from_millis(now))
}
