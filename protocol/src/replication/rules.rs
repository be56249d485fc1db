//! The rules of the machine that the simulation switches off, one at a time, to show that each
//! is needed.

/// A rule that the machine keeps, or a part of one.
#[cfg_attr(not(test), allow(dead_code))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// REP-RECORD: only a member that is listed in sync takes mastership.
    ListedStand,
    /// REP-START: a starting process is not master.
    StartsUnmastered,
    /// REP-START: acknowledgements count for the process that sent them.
    AcknowledgementsOfProcess,
    /// REP-PROMISE: who proposed or accepted an epoch acknowledges no lower one.
    PromiseKept,
    /// REP-UNION: every set that a swap may have installed counts.
    Union,
    /// REP-MIN: nothing commits with fewer logs than `min_in_sync`, and no change leaves fewer.
    Min,
    /// REP-LOGID: a log is listed by its id, not by its node alone.
    LogIdCounts,
    /// REP-LOGID: nobody stands before its log is compared with what its node noted.
    NoteCompared,
    /// REP-SHED: a silent replica is removed by swap before it is passed over.
    ShedBySwap,
    /// REP-FAILOVER: the silent replica is removed at all.
    Shed,
    /// REP-FAILOVER: a silent master is succeeded.
    Failover,
    /// REP-STUCK: a master whose log takes nothing gives mastership up.
    StuckGivesUp,
    /// REP-HANDOVER: the record names the successor's process.
    HandoverNamesProcess,
    /// REP-NOOP: nothing is vouched before the opening record is committed.
    NoopFirst,
    /// REP-JOIN: records are appended only after the one before them.
    PrevChecked,
    /// REP-JOIN: a differing tail is cut.
    TailCut,
    /// REP-JOIN: only who holds everything committed is admitted.
    JoinCaughtUp,
    /// REP-APPLY: a replica applies only what it has in common with the master.
    AppliesMatched,
    /// REP-ROUND: a round is vouched by all in sync.
    RoundByAll,
    /// REP-ROUND: a read of the record vouches only for rounds sent before it.
    ReadAfterRound,
    /// REP-AGE: an age runs from the sending of the probe.
    AgeFromProbe,
    /// REP-AGE: the probe counts once the round's commit index is applied.
    AgeWhenApplied,
    /// REP-AGE: a round echoes the probes that had arrived when it was sent.
    EchoOfRound,
    /// REP-CONFIRM: a `LATEST` read waits for a round that was sent after it arrived.
    ReadsConfirmed,
}

/// The rules in force: all, except in a simulation that switches one off.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rules {
    #[cfg(test)]
    off: Option<Rule>,
}

impl Rules {
    /// All but one.
    #[cfg(test)]
    pub(crate) const fn without(off: Option<Rule>) -> Self {
        Self { off }
    }

    /// Whether a rule is switched off.
    #[cfg(test)]
    pub(crate) fn lack(self, rule: Rule) -> bool {
        self.off == Some(rule)
    }

    /// Whether a rule is switched off; outside of the simulation none is.
    #[cfg(not(test))]
    #[allow(clippy::unused_self)]
    pub(crate) const fn lack(self, _rule: Rule) -> bool {
        false
    }
}
