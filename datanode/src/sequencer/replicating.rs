//! The sequencer's part in replication: a master's records for the other members, and a replica's
//! records from its master.

use std::{sync::Arc, time::Duration};

use tierkv_protocol::{
    platform_time::members::MemberTime,
    replication::{Append, Process},
};
use tierkv_storage::StorageError;
use tierkv_types::{Index, NodeId, Position, Record, Version};
use tokio::sync::watch;

use super::Sequencer;

/// The next message to a member.
pub(crate) enum NextAppend {
    /// This one; [`Sequencer::sent`] is done.
    Ready(Append),
    /// This one, with records after its `prev`: the log has them, as they are applied.
    FromLog(Append),
}

impl Sequencer {
    /// Changes when there may be something to send to the other members.
    pub(crate) fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    /// The next message to a member, with at most about so many bytes of records as `room` returns,
    /// and with none if that is 0. It gets the index up to which the member's log is durable.
    pub(crate) fn next_append(
        &self,
        to: &NodeId,
        room: impl FnOnce(Index) -> usize,
    ) -> Option<NextAppend> {
        let mut state = self.lock();
        let (mut append, takes_records) = state.replica.next_append(to)?;
        let room = match takes_records {
            true => room(state.replica.durable_at(to)),
            false => 0,
        };
        if room > 0 {
            let after = append.prev.index;
            let mut bytes = 0;
            let records = state.appended.between(after, Index(u64::MAX));
            let records = records.take_while(|record| {
                let is_taken = bytes < room;
                bytes += tierkv_types::record::encoded_len(record);
                is_taken
            });
            let records: Vec<Arc<Record>> = records.cloned().collect();
            let follows = |first: &Arc<Record>| first.position.index == after.next();
            if !records.first().is_some_and(follows) {
                return Some(NextAppend::FromLog(append));
            }
            append.records = records;
        }
        let up_to = append.records.last().map_or(append.prev, |it| it.position);
        state.replica.sent(to, append.epoch, up_to, append.round);
        Some(NextAppend::Ready(append))
    }

    /// Records that a message was sent that [`NextAppend::FromLog`] began.
    pub(crate) fn sent(&self, to: &NodeId, append: &Append) {
        let up_to = append.records.last().map_or(append.prev, |it| it.position);
        let mut state = self.lock();
        state.replica.sent(to, append.epoch, up_to, append.round);
    }

    /// The records that a member needs next have left the log.
    pub(crate) fn lies_beyond_log(&self, to: &NodeId) {
        self.lock().replica.lies_beyond_log(to);
    }

    /// How often the machine is to be stepped with a tick.
    pub(crate) fn heartbeat_interval(&self) -> Duration {
        self.lock().replica.heartbeat_interval()
    }

    /// This node has taken mastership: platform time goes on from here (CLOCK-STEADY).
    pub(crate) fn took_over(&self) {
        self.time.take_over();
    }

    /// Merges a clock that this node is about to acknowledge (REP-CLOCK).
    pub(crate) fn merge(&self, clock: Version) {
        self.cluster_clock.merge(clock);
    }

    /// Records the clocks of a member, and follows those of the cluster's master (CLOCK-STEADY).
    pub(crate) fn hear(&self, from: &Process, time: &MemberTime) {
        let is_master = self.master().as_ref() == Some(from);
        self.time.hear_member(&from.node, time, is_master);
    }

    /// Appends a master's records to this replica's log.
    ///
    /// # Errors
    /// That of the log, which took none of them. If it passes, as a full disk, the caller tries
    /// again.
    pub(crate) fn append_received(&self, records: &[Arc<Record>]) -> Result<(), StorageError> {
        let Some((first, last)) = records.first().zip(records.last()) else {
            return Ok(());
        };
        // Before they are durable, and so before they are acknowledged.
        self.cluster_clock.merge(last.version);
        self.time.logged(last.version);
        let mut state = self.lock();
        for record in records {
            state.appended.push(Arc::clone(record));
        }
        let queued = self.storage.append(records.to_vec());
        if queued.is_err() {
            let before = first.position.index.0.saturating_sub(1);
            state.appended.truncate(Index(before));
        }
        drop(state);
        queued.map(drop)
    }

    /// Drops the records after `after` from the appended state: the log is cut there.
    pub(crate) fn cut(&self, after: Position) {
        self.lock().appended.truncate(after.index);
    }
}
