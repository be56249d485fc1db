//! The rules of the write path that a simulation switches off, one at a time, to show that
//! each is needed.

/// A rule that only this crate's code keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// A row of the store counts only while no checkpoint has ended since it was read.
    RowsNotOvertaken,
    /// Only what still holds the version that expired is expired.
    ExpiredStillHeld,
    /// Every answer to a write is a master's.
    MasterJudges,
    /// A request that was applied, or will be, is answered and not applied again (I8).
    RequestsRemembered,
    /// A request is refused whose outcome may be forgotten (TXN-IDS).
    BirthsChecked,
    /// What the log did not take is taken back.
    RefusedTakenBack,
    /// Writes are judged by everything appended, not by what is applied.
    JudgedByAppended,
    /// An answer waits for the commit of what it was judged by (REP-APPLY).
    AnswersWait,
    /// New versions are above all that was seen before (I5).
    VersionsAboveSeen,
    /// A swap that was not answered may have been made or not (COORD-CAS).
    UnknownIsUnknown,
    /// A promise is durable before the machine hears of it (REP-PROMISE).
    PromisesKept,
    /// The machine hears that records are applied once they are.
    AppliedFirst,
    /// Writers are answered once their deletes are confirmed, or waited for long enough
    /// (CACHE-DELETE).
    DeletesBeforeAnswers,
    /// Deletes that were not confirmed are delivered again until they are.
    DeletesRepeated,
    /// No mark passes a delete that was not confirmed (CACHE-MARK).
    MarksAfterDeletes,
    /// A new master withholds marks where deletes of an earlier one may be missing
    /// (CACHE-REDELIVER).
    MarksWithheld,
    /// Platform time passes as the boot-time clock does, whatever happens to the wall clock
    /// (CLOCK-STEADY).
    TimeSteady,
    /// After a restart platform time goes on from what was stored (CLOCK-STEADY).
    TimeStored,
    /// In another boot the wall clock is believed only once the kernel calls it synchronised
    /// (CLOCK-STEADY).
    WallSynchronised,
    /// A founder follows the steps of the wall clock until its first write, and no longer
    /// (CLOCK-STEADY).
    FounderSettles,
}

/// Which rules are in force: all of them, but in a simulation that switches one off.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rules {
    #[cfg(test)]
    off: Option<Rule>,
    /// Whether others may go on at a seam.
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

    /// A place at which other threads may go on: a simulation has one thread, and lets its
    /// other tasks go on here.
    #[cfg(test)]
    pub(crate) async fn seam(self) {
        if self.has_seams {
            tokio::task::yield_now().await;
        }
    }

    /// A place at which other threads may go on; nothing is done about that here.
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
