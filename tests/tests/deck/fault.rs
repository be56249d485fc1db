//! The faults of the deck.

use std::time::Duration;

use tierkv_harness::Loss;

/// How long a killed process stays away.
pub(crate) const AWAY: Duration = Duration::from_secs(2);
/// How long a paused process is paused: longer than F, after which a master is suspected.
pub(crate) const PAUSE: Duration = Duration::from_secs(5);
/// How long a line is cut.
pub(crate) const CUT: Duration = Duration::from_secs(3);
/// How long lines to etcd are cut: longer than a lease, so that the other side is taken for dead.
pub(crate) const LONG_CUT: Duration = Duration::from_secs(7);
/// How long all of etcd is away.
pub(crate) const OUTAGE: Duration = Duration::from_secs(15);

/// Processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The process of this name.
    One(&'static str),
    /// The primary server coordinator, whichever it is.
    Primary,
    /// Every member of etcd.
    Etcd,
    /// The master of the cluster of three, whichever it is.
    Master,
    /// One of its replicas.
    Replica,
    /// Both of its replicas.
    Replicas,
    /// All three of its nodes.
    Members,
    /// Every process.
    All,
}

/// What is lost on a cut line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Everything, in both directions.
    Both(Loss),
    /// What the second side sends: requests arrive there, and their answers are lost.
    Answers,
}

/// What happens to the disk of a data node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disk {
    /// It is replaced by an empty one.
    Wiped,
    /// It is replaced by a copy from the beginning of the deck.
    OldCopy,
    /// It is replaced by a copy that is a few hundred writes old.
    RecentCopy,
    /// A bit of its log is flipped.
    FlippedLog,
    /// A bit of its store is flipped.
    FlippedStore,
    /// A segment of its log is cut short.
    TruncatedLog,
    /// It is full for a while.
    Full,
}

/// A fault, and how it is healed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// `SIGKILL`, and a start after a while.
    Kill(Side),
    /// `SIGSTOP` for a while.
    Pause(Side),
    /// `SIGKILL` of every process, and a start at once.
    KillAll,
    /// The line between a tier that asks and one that answers is cut for a while.
    Cut(Side, Side, Cut),
    /// A data node's disk.
    Disk(Side, Disk),
    /// The master of the cluster of three hands over to another node.
    HandOver,
    /// A node is removed for good, and one with a new disk is added.
    Replace(Side),
}

impl Fault {
    /// How long reads and writes go on everywhere during this fault; `None`: some wait for its end.
    pub(crate) const fn goes_on_for(self) -> Option<Duration> {
        match self {
            Self::Pause(Side::Etcd) => Some(OUTAGE),
            Self::Cut(_, Side::Etcd, _) => Some(LONG_CUT),
            // The clients of the other client coordinator go on.
            Self::Cut(_, Side::Primary, _) => Some(CUT),
            _ => None,
        }
    }

    /// Whether it needs a network and disks of its own.
    pub(crate) const fn needs_namespaces(self) -> bool {
        matches!(self, Self::Cut(..) | Self::Disk(_, Disk::Full))
    }
}

const CC1: Side = Side::One("cc1");
const SILENT: Cut = Cut::Both(Loss::Silent);
const BLACKHOLE: Cut = Cut::Both(Loss::Blackhole);

pub(crate) const DECK: &[Fault] = &[
    // The cluster of three.
    Fault::Kill(Side::Master),
    Fault::Kill(Side::Replica),
    Fault::Kill(Side::Members),
    Fault::Pause(Side::Master),
    Fault::Pause(Side::Replica),
    Fault::HandOver,
    Fault::Replace(Side::Replica),
    // The others.
    Fault::Kill(SINGLE),
    Fault::Kill(Side::Primary),
    Fault::Kill(Side::One("s3")),
    Fault::Kill(CC1),
    Fault::Kill(Side::One("etcd1")),
    Fault::Pause(SINGLE),
    Fault::Pause(Side::Primary),
    Fault::Pause(Side::One("s2")),
    Fault::Pause(Side::One("cc2")),
    Fault::Pause(Side::One("etcd2")),
    Fault::Pause(Side::Etcd),
    Fault::KillAll,
    // Disks.
    Fault::Disk(Side::Replica, Disk::Wiped),
    Fault::Disk(Side::Master, Disk::Wiped),
    Fault::Disk(Side::Replica, Disk::RecentCopy),
    Fault::Disk(Side::Master, Disk::RecentCopy),
    Fault::Disk(Side::Replica, Disk::OldCopy),
    Fault::Disk(Side::Master, Disk::OldCopy),
    Fault::Disk(Side::Replica, Disk::Full),
    Fault::Disk(Side::Master, Disk::Full),
    // Inside the cluster of three.
    Fault::Cut(Side::Master, Side::Replica, SILENT),
    Fault::Cut(Side::Master, Side::Replica, Cut::Answers),
    Fault::Cut(Side::Replica, Side::Master, Cut::Answers),
    Fault::Cut(Side::Master, Side::Replicas, BLACKHOLE),
    Fault::Cut(Side::Master, Side::Replicas, Cut::Answers),
    Fault::Cut(Side::Replicas, Side::Master, Cut::Answers),
    // Every pair of tiers that talk.
    Fault::Cut(CC1, Side::Primary, SILENT),
    Fault::Cut(CC1, Side::Primary, Cut::Answers),
    Fault::Cut(Side::Primary, Side::Master, SILENT),
    Fault::Cut(Side::Primary, Side::Master, Cut::Answers),
    Fault::Cut(Side::Master, Side::Etcd, BLACKHOLE),
    Fault::Cut(Side::Master, Side::Etcd, Cut::Answers),
    Fault::Cut(Side::Primary, Side::Etcd, SILENT),
    Fault::Cut(Side::Primary, Side::Etcd, Cut::Answers),
    Fault::Cut(CC1, Side::Etcd, BLACKHOLE),
    Fault::Cut(CC1, Side::Etcd, Cut::Answers),
];
/// Faults that are played only if they are named: damage in a part of the log or the store that a
/// start does not read is found later, by the scrub, and is not repaired from a peer yet; so the
/// nodes may differ after the round.
pub(crate) const DAMAGE: &[Fault] = &[
    Fault::Disk(Side::Replica, Disk::FlippedLog),
    Fault::Disk(Side::Replica, Disk::FlippedStore),
    Fault::Disk(Side::Replica, Disk::TruncatedLog),
];
/// The only node of the other cluster.
const SINGLE: Side = Side::One("n4");
