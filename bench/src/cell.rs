//! The cells: what is measured, against whom, and what is wanted.

use std::{fmt, str::FromStr};

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    /// Unary reads that hit the in-process cache, against a bare echo.
    HitUnary,
    /// The same, against etcd.
    HitUnaryEtcd,
    /// Reads through the SDK's session, against redis.
    HitSession,
    /// Durable writes, against etcd.
    PutOne,
}

impl Cell {
    pub(crate) const ALL: [Self; 4] = [
        Self::HitUnary,
        Self::HitUnaryEtcd,
        Self::HitSession,
        Self::PutOne,
    ];

    /// The cell's name on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::HitUnary => "hit-unary",
            Self::HitUnaryEtcd => "hit-unary-etcd",
            Self::HitSession => "hit-session",
            Self::PutOne => "put-one",
        }
    }

    /// What the platform does.
    pub(crate) const fn work(self) -> &'static str {
        match self {
            Self::HitUnary | Self::HitUnaryEtcd => {
                "unary Get, in-process cache hit, 64 tasks, 8 connections"
            }
            Self::HitSession => "SDK get, in-process cache hit, 64 tasks, one session",
            Self::PutOne => "durable SDK put, one node, 64 tasks, one session",
        }
    }

    /// What it is compared with.
    pub(crate) const fn peer(self) -> &'static str {
        match self {
            Self::HitUnary => "bare tonic unary echo of the same sizes",
            Self::HitUnaryEtcd => "etcd serializable range",
            Self::HitSession => "redis GET, one multiplexed connection",
            Self::PutOne => "etcd put, one member",
        }
    }

    /// The least ratio wanted.
    pub(crate) const fn target(self) -> f64 {
        match self {
            Self::HitUnary => 0.90,
            Self::HitUnaryEtcd | Self::PutOne => 3.0,
            Self::HitSession => 2.0,
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
    fn names_are_read_back() {
        for cell in Cell::ALL {
            assert_eq!(cell.name().parse(), Ok(cell));
        }
        assert!("hit".parse::<Cell>().unwrap_err().contains("hit-unary, "));
    }
}
