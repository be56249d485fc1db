//! What a node may do as a master, and its proofs of that for reads (REP-CONFIRM).

use std::sync::atomic::Ordering;

use tierkv_protocol::replication::{Mastership, Refusal};
use tierkv_types::{Epoch, Error, Index, Round, Version};

use super::{Sequencer, State, not_master};

/// What a node may do as a master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Standing {
    /// Nothing: it is none, or may not act yet, or not any more.
    None,
    /// Its log alone is in sync, so it may answer at once.
    Alone,
    /// It must prove to others that it is the master still.
    Among,
}

/// The newest proof of mastership.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Vouched {
    /// The term; zero if this node may not act as master.
    epoch: Epoch,
    round: Round,
    /// The highest clock that all in sync acknowledged.
    clock: Version,
}

impl Sequencer {
    /// Publishes to readers, under the lock, whether this node may act as master.
    pub(super) fn publish(&self, state: &State) {
        self.publish_behind(state);
        let term = state.replica.confirm().ok();
        let standing = match term {
            None => Standing::None,
            Some(term) if term.is_alone() => Standing::Alone,
            Some(_) => Standing::Among,
        };
        self.standing.store(standing as u8, Ordering::Release);
        let vouched = term.map_or_else(Vouched::default, |term| Vouched {
            epoch: term.epoch(),
            round: term.vouched(),
            clock: term.acknowledged_clock(),
        });
        self.vouched.send_if_modified(|published| {
            let is_new = *published != vouched;
            *published = vouched;
            is_new
        });
        let since = state.replica.fresh_since(self.time.boot_time());
        let clock = state.replica.acknowledged_clock();
        self.freshness.publish(since, clock);
    }

    /// Whether this node may act as master, as of the last event. Takes no lock.
    pub(crate) fn is_acting(&self) -> bool {
        self.standing.load(Ordering::Acquire) != Standing::None as u8
    }

    /// The clock by which a read that arrives now judges expiry, if this node may answer it at once:
    /// it is a master alone in sync (REP-CONFIRM). `None`: it must prove its mastership first
    /// ([`Sequencer::confirm_read`]). Takes no lock.
    ///
    /// # Errors
    /// `NotMaster` if this node may not act as master.
    pub(crate) fn confirm_at_once(&self) -> Result<Option<Version>, Error> {
        match self.standing.load(Ordering::Acquire) {
            it if it == Standing::Alone as u8 => Ok(Some(self.now())),
            it if it == Standing::Among as u8 => Ok(None),
            _ => Err(not_master(Refusal::NotMaster)),
        }
    }

    /// Waits for a proof from after the call that this node is the master (REP-CONFIRM), one for all
    /// that wait. Returns the clock by which the read judges expiry: all in sync acknowledged it.
    ///
    /// # Errors
    /// `NotMaster` if this node may not act as master, or ceases to.
    pub(crate) async fn confirm_read(&self) -> Result<Version, Error> {
        if let Some(clock) = self.confirm_at_once()? {
            return Ok(clock);
        }
        let mut vouched = self.vouched.subscribe();
        let (epoch, round, commit) = {
            let mut state = self.lock();
            let moment = self.machine_moment(&state);
            let round = state.replica.begin_read(moment).map_err(not_master)?;
            let Some(round) = round else {
                return Ok(self.now());
            };
            let epoch = state.replica.mastership().map(Mastership::epoch);
            (epoch.unwrap_or_default(), round, state.replica.commit())
        };
        self.news.send_replace(());
        let proven = vouched.wait_for(|it| it.epoch != epoch || it.round >= round);
        // The sender lives as long as this sequencer.
        let proof = match proven.await {
            Ok(it) if it.epoch == epoch => *it,
            _ => return Err(not_master(Refusal::NotMaster)),
        };
        // A replica may have applied, and shown, what this master has committed and not applied.
        self.until_applied(commit).await;
        Ok(self.acknowledged(proof))
    }

    /// The clock that a master dates by without a proof: no key is expired by it that a later master
    /// would show again.
    ///
    /// # Errors
    /// `NotMaster` if this node may not act as master.
    pub(crate) fn acknowledged_now(&self) -> Result<Version, Error> {
        Ok(match self.confirm_at_once()? {
            Some(clock) => clock,
            None => self.acknowledged(*self.vouched.borrow()),
        })
    }

    /// The highest clock that all in sync have: of a round, or of an applied record. A term's first
    /// record is above all clocks that earlier terms judged by.
    fn acknowledged(&self, vouched: Vouched) -> Version {
        vouched.clock.max(self.storage.applied().1)
    }

    /// Waits until everything up to an index is applied. An index of this log that is committed
    /// will be.
    pub(crate) async fn until_applied(&self, index: Index) {
        let mut applied = self.applied.subscribe();
        // At the start, storage has applied what the store has. The sender lives as long as this
        // sequencer.
        drop(
            applied
                .wait_for(|_| self.storage.applied().0 >= index)
                .await,
        );
    }

    /// Applies `read` to the mastership; `NotMaster` if this node may not act as master now.
    pub(crate) fn confirm<T>(&self, read: impl FnOnce(&Mastership) -> T) -> Result<T, Error> {
        let state = self.lock();
        // Readers must see the same result from now on.
        self.publish(&state);
        state.replica.confirm().map(read).map_err(not_master)
    }
}
