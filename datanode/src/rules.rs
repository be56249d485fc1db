//! The rules of the write path that a simulation switches off, one at a time, to show that
//! each is needed.

/// A rule that only code of this crate implements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// A row of the store is valid only while no checkpoint has ended since it was read.
    RowsNotOvertaken,
    /// Only a key that still holds the version that expired is removed.
    ExpiredStillHeld,
    /// Only a master answers a write.
    MasterJudges,
    /// A request that was applied, or will be, is answered and not applied again (I8).
    RequestsRemembered,
    /// A request whose outcome may be forgotten is refused (TXN-IDS).
    BirthsChecked,
    /// Records that the log refused are removed from the appended state.
    RefusedTakenBack,
    /// Writes are judged against the appended state, not the applied one.
    JudgedByAppended,
    /// An answer waits for the commit of the records it depends on (REP-APPLY).
    AnswersWait,
    /// New versions are above all versions seen before (I5).
    VersionsAboveSeen,
    /// A swap without an answer has an unknown outcome (COORD-CAS).
    UnknownIsUnknown,
    /// A promise is durable before it is reported to the machine (REP-PROMISE).
    PromisesKept,
    /// The sequencer forgets a record, and lets its writers wait only for the cache, only after
    /// storage has applied it.
    AppliedFirst,
    /// Writers are answered once their deletes are confirmed, or the wait for that timed out
    /// (CACHE-DELETE).
    DeletesBeforeAnswers,
    /// Deletes are retried until they are confirmed.
    DeletesRepeated,
    /// A delete carries the revision that the key's slot had at the change (CACHE-KEY).
    DeletesAtTheirRevision,
    /// Readers meet a new revision after all changes before it, and before all after it (CACHE-KEY).
    OwnedAtItsPlace,
    /// No mark is written past an unconfirmed delete (CACHE-MARK).
    MarksAfterDeletes,
    /// A new master withholds marks where deletes of an earlier one may be missing
    /// (CACHE-REDELIVER).
    MarksWithheld,
    /// Platform time follows the boot-time clock, not steps of the wall clock (CLOCK-STEADY).
    TimeSteady,
    /// After a restart platform time continues from the stored time (CLOCK-STEADY).
    TimeStored,
    /// After a reboot the wall clock is used only once the kernel reports it synchronised
    /// (CLOCK-STEADY).
    WallSynchronised,
    /// It is used only if it was synchronised when the time was stored, too (CLOCK-STEADY).
    StoredSynchronised,
    /// A founder follows the steps of the wall clock until its first write, and no longer
    /// (CLOCK-STEADY).
    FounderSettles,
    /// A founder begins with the time of the other clusters (CLOCK-STEADY).
    FounderFollows,
    /// A cluster far from the others' time is drawn to it (CLOCK-STEADY).
    ClustersAgree,
    /// It is drawn, and never steps.
    ClustersDrawn,
    /// The median of all clusters counts, not the lowest id.
    MedianCounts,
    /// The times in a question are those of the reading that it echoes, not of its arrival.
    ReadingEchoed,
}

/// The rules in force: all, except in a simulation that switches one off.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rules {
    #[cfg(test)]
    off: Option<Rule>,
    /// Whether other tasks may run at a seam.
    #[cfg(test)]
    has_seams: bool,
}

impl Rules {
    /// All, or all but one, in a simulation.
    #[cfg(test)]
    pub(crate) const fn without(off: Option<Rule>) -> Self {
        Self {
            off,
            has_seams: true,
        }
    }

    /// A place where other threads may run in production. A simulation has one thread and lets
    /// its other tasks run here.
    #[cfg(test)]
    pub(crate) async fn seam(self) {
        if self.has_seams {
            tokio::task::yield_now().await;
        }
    }

    /// Does nothing outside of simulations.
    #[cfg(not(test))]
    #[allow(clippy::unused_self)]
    pub(crate) fn seam(self) -> std::future::Ready<()> {
        std::future::ready(())
    }

    /// Whether a rule is switched off.
    #[cfg(test)]
    pub(crate) fn lack(self, rule: Rule) -> bool {
        self.off == Some(rule)
    }

    /// Whether a rule is switched off; outside of simulations none is.
    #[cfg(not(test))]
    #[allow(clippy::unused_self)]
    pub(crate) const fn lack(self, _rule: Rule) -> bool {
        false
    }
}
