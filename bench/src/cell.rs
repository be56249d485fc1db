//! The cells: what is measured, the peer, and the goal.

use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};

use crate::outage::{failover, handover};

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    /// Unary reads that hit the in-process cache, compared with a bare echo.
    HitUnary,
    /// Unary reads that hit the data node's memory, each role in a process of its own, compared with
    /// the same echo.
    HitUnaryProcesses,
    /// Unary reads that hit the in-process cache, compared with etcd.
    HitUnaryEtcd,
    /// Reads through the SDK's session, compared with redis.
    HitSession,
    /// Durable writes, compared with etcd.
    PutOne,
    /// The same, each role in a process of its own.
    PutOneProcesses,
    /// Durable writes on three replicas in sync, compared with etcd of three members.
    PutThree,
    /// How long no write is acknowledged after the death of a master, without a peer.
    Failover,
    /// How long no write is acknowledged while a master hands over, without a peer.
    Handover,
    /// Resident memory of a record, compared with redis.
    Memory,
    /// Durable writes for ten minutes, without a peer.
    SteadyWrites,
}

/// The goal of a cell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    /// A ratio of rates; more is better.
    AtLeast(f64),
    /// A ratio of costs; less is better.
    AtMost(f64),
    /// Nothing grows without bound, and nothing fails.
    Bounded,
    /// The longest pause, in milliseconds; no read fails, and what else the details name.
    Pause(f64),
    /// None: the cell is measured for comparison with another one.
    None,
}

impl Goal {
    /// Whether this ratio meets the goal; `None` if there is no goal. No ratio meets a goal without
    /// a ratio.
    pub(crate) fn is_met_by(self, ratio: f64) -> Option<bool> {
        match self {
            Self::AtLeast(least) => Some(ratio >= least),
            Self::AtMost(most) => Some(ratio <= most),
            Self::Bounded | Self::Pause(_) => Some(false),
            Self::None => None,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(ratio) => write!(f, ">= {ratio:.2}"),
            Self::AtMost(ratio) => write!(f, "<= {ratio:.2}"),
            Self::Bounded => f.write_str("bounded"),
            Self::Pause(millis) => write!(f, "<= {millis:.0} ms"),
            Self::None => f.write_str("-"),
        }
    }
}

impl Serialize for Goal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Cell {
    pub(crate) const ALL: [Self; 11] = [
        Self::HitUnary,
        Self::HitUnaryProcesses,
        Self::HitUnaryEtcd,
        Self::HitSession,
        Self::PutOne,
        Self::PutOneProcesses,
        Self::PutThree,
        Self::Failover,
        Self::Handover,
        Self::Memory,
        Self::SteadyWrites,
    ];

    /// Whether it takes so long that it is measured only when named, or with `--full`.
    pub(crate) const fn is_long(self) -> bool {
        matches!(self, Self::SteadyWrites)
    }

    /// The cell's name on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::HitUnary => "hit-unary",
            Self::HitUnaryProcesses => "hit-unary-processes",
            Self::HitUnaryEtcd => "hit-unary-etcd",
            Self::HitSession => "hit-session",
            Self::PutOne => "put-one",
            Self::PutOneProcesses => "put-one-processes",
            Self::PutThree => "put-three",
            Self::Failover => "failover",
            Self::Handover => "handover",
            Self::Memory => "memory",
            Self::SteadyWrites => "steady-writes",
        }
    }

    /// The work of the platform.
    pub(crate) const fn work(self) -> &'static str {
        match self {
            Self::HitUnary | Self::HitUnaryEtcd => {
                "unary Get, in-process cache hit, 64 tasks, 8 connections"
            }
            Self::HitUnaryProcesses => {
                "unary Get, 3 processes, no cache tier: a hit of the data node's memory, 64 tasks, \
                 8 connections"
            }
            Self::HitSession => "SDK get, in-process cache hit, 64 tasks, one session",
            Self::PutOne => "durable SDK put, one node, 64 tasks, one session",
            Self::PutOneProcesses => {
                "durable SDK put, 3 processes, one node, 64 tasks, one session"
            }
            Self::PutThree => {
                "durable SDK put, 5 processes, three data nodes in sync, 64 tasks, one session"
            }
            Self::Failover => "kill -9 of the master of three, under 64 writers and 64 readers",
            Self::Handover => "handover by the master of three, under 64 writers and 64 readers",
            Self::Memory => "resident bytes a record, all in the memory tier",
            Self::SteadyWrites => "durable SDK put, one node, 64 tasks, for minutes",
        }
    }

    /// The peer.
    pub(crate) const fn peer(self) -> &'static str {
        match self {
            Self::HitUnary | Self::HitUnaryProcesses => "bare tonic unary echo of the same sizes",
            Self::HitUnaryEtcd => "etcd serializable range",
            Self::HitSession => "redis GET, one multiplexed connection",
            Self::PutOne | Self::PutOneProcesses => "etcd put, one member",
            Self::PutThree => "etcd put, three members, by the leader",
            Self::Failover | Self::Handover => "no peer",
            Self::Memory => "redis without persistence",
            Self::SteadyWrites => "its own median",
        }
    }

    /// The goal.
    pub(crate) const fn goal(self) -> Goal {
        match self {
            Self::HitUnary => Goal::AtLeast(0.90),
            Self::HitUnaryEtcd | Self::PutOne | Self::PutThree => Goal::AtLeast(3.0),
            Self::HitSession => Goal::AtLeast(2.0),
            Self::Memory => Goal::AtMost(1.2),
            Self::Failover => Goal::Pause(failover::LONGEST_MS),
            Self::Handover => Goal::Pause(handover::LONGEST_MS),
            Self::SteadyWrites => Goal::Bounded,
            Self::HitUnaryProcesses | Self::PutOneProcesses => Goal::None,
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Cell {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|cell| cell.name() == name)
            .ok_or_else(|| {
                let known = Self::ALL.map(Self::name).join(", ");
                format!("there is no cell '{name}'; there are: {known}")
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_parsed_back() {
        for cell in Cell::ALL {
            assert_eq!(cell.name().parse(), Ok(cell));
        }
        assert!("hit".parse::<Cell>().unwrap_err().contains("hit-unary, "));
    }

    #[test]
    fn goals_have_a_direction() {
        let met = |goal: Goal, ratio| goal.is_met_by(ratio).unwrap();
        assert!(met(Goal::AtLeast(0.9), 0.9) && !met(Goal::AtLeast(0.9), 0.89));
        assert!(met(Goal::AtMost(1.2), 1.2) && !met(Goal::AtMost(1.2), 1.21));
        assert!(!met(Goal::AtMost(1.2), f64::NAN));
        assert_eq!(Goal::None.is_met_by(1.0), None);
        assert_eq!(Cell::Memory.goal().to_string(), "<= 1.20");
        assert_eq!(Cell::Failover.goal().to_string(), "<= 1600 ms");
        assert!(!met(Cell::Handover.goal(), 0.0));
    }
}
