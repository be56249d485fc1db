//! Limits the open connections of all doors of a process.
//!
//! ```text
//!   Acceptor (gRPC) ──┐
//!                     ├─► Connections: one bound ─► Place, held by each connection
//!   Acceptor (REST) ──┘
//! ```
//!
//! The doors for users share one limit, so that some of the process's file descriptors remain for
//! files. The doors between tiers have their own limits: users must not keep the tiers from
//! reaching each other.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use metrics::{Counter, Gauge, counter, gauge};

use crate::stream_bytes::{ConnectionShares, StreamBytes};

/// One door never takes the last sixteenth of a shared limit, so that a flood on one door leaves
/// the others reachable: above all `/metrics` for operators.
const SHARE_LEFT: usize = 16;

/// A limit on connections, shared by several doors. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Connections {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: &'static str,
    limit: usize,
    door_limit: usize,
    open: AtomicUsize,
    stream_bytes: StreamBytes,
    /// The gauge of a door's connections.
    gauge: &'static str,
}

impl Connections {
    /// Up to `limit` connections of users at all doors that share this, and up to `stream_bytes` of
    /// answers waiting for them.
    #[must_use]
    pub fn of_users(limit: usize, stream_bytes: usize) -> Self {
        metrics::describe_gauge!("tierkv_connections", "Open connections of users, by door.");
        metrics::describe_gauge!(
            "tierkv_connections_limit",
            "The bound of tierkv_connections, all doors together; what is over it is closed at \
             once. One door takes at most 15/16 of it."
        );
        gauge!("tierkv_connections_limit").set(approximate(limit));
        Self::new(Shared {
            name: "limits.connections",
            limit,
            door_limit: limit - (limit / SHARE_LEFT).max(1).min(limit / 2),
            open: AtomicUsize::new(0),
            stream_bytes: StreamBytes::of_users("client-coordinator", stream_bytes),
            gauge: "tierkv_connections",
        })
    }

    /// Up to `limit` connections of other tiers at the door of `tier`, and up to a multiple of
    /// `stream_bytes`, the limit of the users' doors, of answers waiting for them.
    #[must_use]
    pub fn of_peers(tier: &'static str, limit: usize, stream_bytes: usize) -> Self {
        metrics::describe_gauge!(
            "tierkv_peer_connections",
            "Open connections between tiers, by the door they came in by."
        );
        metrics::describe_gauge!(
            "tierkv_peer_connections_limit",
            "The bound of tierkv_peer_connections at each door; what is over it is closed at \
             once."
        );
        gauge!("tierkv_peer_connections_limit").set(approximate(limit));
        Self::new(Shared {
            name: "max_peer_connections",
            limit,
            door_limit: limit,
            open: AtomicUsize::new(0),
            stream_bytes: StreamBytes::of_peers(tier, stream_bytes),
            gauge: "tierkv_peer_connections",
        })
    }

    fn new(shared: Shared) -> Self {
        Self {
            shared: Arc::new(shared),
        }
    }

    /// The limit.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.shared.limit
    }

    /// The name of the limit.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.shared.name
    }

    /// A place for one more connection of `door`; `None` at the limit.
    pub(crate) fn enter(&self, door: &Arc<DoorMeters>) -> Option<Place> {
        let place = Place {
            connections: Arc::clone(&self.shared),
            door: Arc::clone(door),
        };
        let all = self.shared.open.fetch_add(1, Ordering::Relaxed);
        let here = door.open.fetch_add(1, Ordering::Relaxed);
        door.gauge.increment(1.0);
        // An unused place is returned when it is dropped.
        (all < self.shared.limit && here < self.shared.door_limit).then_some(place)
    }
}

/// The place of one open connection.
#[derive(Debug)]
pub(crate) struct Place {
    connections: Arc<Shared>,
    door: Arc<DoorMeters>,
}

impl Place {
    /// A new share of the limit on bytes that wait for clients.
    pub(crate) fn shares(&self) -> ConnectionShares {
        ConnectionShares::new(&self.connections.stream_bytes)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.open.fetch_sub(1, Ordering::Relaxed);
        self.door.open.fetch_sub(1, Ordering::Relaxed);
        self.door.gauge.decrement(1.0);
    }
}

/// The meters of one door.
pub(crate) struct DoorMeters {
    pub(crate) name: &'static str,
    open: AtomicUsize,
    gauge: Gauge,
    /// Connections closed because of the limit.
    pub(crate) turned_away: Counter,
    /// Failed attempts to accept a connection.
    pub(crate) failures: Counter,
    /// Connections that did not send a preface in time.
    pub(crate) silent: Counter,
}

impl std::fmt::Debug for DoorMeters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DoorMeters")
            .field("name", &self.name)
            .field("open", &self.open)
            .finish_non_exhaustive()
    }
}

/// The counter of a door's connections closed by a timeout; `limit` names the timeout.
pub fn connection_timeouts(door: &'static str, limit: &'static str) -> Counter {
    metrics::describe_counter!(
        "tierkv_connection_timeouts_total",
        "Connections and bodies that were given up, by door and by the time that was over."
    );
    counter!("tierkv_connection_timeouts_total", "door" => door, "limit" => limit)
}

impl DoorMeters {
    pub(crate) fn new(name: &'static str, connections: &Connections) -> Self {
        metrics::describe_counter!(
            "tierkv_connections_refused_total",
            "Connections that were closed at once because the bound was reached, by door."
        );
        metrics::describe_counter!(
            "tierkv_accept_failures_total",
            "Attempts to take a connection that failed for lack of descriptors or memory, by \
             door."
        );
        let gauge = gauge!(connections.shared.gauge, "door" => name);
        gauge.set(0.0);
        Self {
            name,
            open: AtomicUsize::new(0),
            gauge,
            turned_away: counter!("tierkv_connections_refused_total", "door" => name),
            failures: counter!("tierkv_accept_failures_total", "door" => name),
            silent: connection_timeouts(name, "limits.head_timeout_ms"),
        }
    }
}

#[allow(clippy::cast_precision_loss)] // They are far below 2^53.
fn approximate(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(connections: &Connections, name: &'static str) -> Arc<DoorMeters> {
        Arc::new(DoorMeters::new(name, connections))
    }

    #[test]
    fn doors_share_a_bound_and_none_takes_all_of_it() {
        let connections = Connections::of_users(32, 1 << 20);
        let (one, other) = (door(&connections, "one"), door(&connections, "other"));
        let mut places = Vec::new();
        while let Some(place) = connections.enter(&one) {
            places.push(place);
        }
        assert_eq!(places.len(), 30);
        let here: Vec<Place> = (0..2).filter_map(|_| connections.enter(&other)).collect();
        assert_eq!(here.len(), 2);
        assert!(connections.enter(&other).is_none());
        // A returned place is free for the other door, too.
        places.pop();
        let more = connections.enter(&other).unwrap();
        assert!(connections.enter(&one).is_none());
        drop((places, here, more));
        assert_eq!(connections.shared.open.load(Ordering::Relaxed), 0);
        assert!(connections.enter(&one).is_some());
    }

    #[test]
    fn a_door_between_tiers_may_have_all_of_its_own() {
        let connections = Connections::of_peers("test", 3, 1 << 20);
        let door = door(&connections, "peers");
        let places: Vec<Option<Place>> = (0..4).map(|_| connections.enter(&door)).collect();
        let taken = places.iter().filter(|place| place.is_some()).count();
        assert_eq!(taken, 3);
        assert!(places[3].is_none());
    }

    #[test]
    fn the_least_bound_leaves_each_door_a_place() {
        let connections = Connections::of_users(2, 1 << 20);
        let (one, other) = (door(&connections, "one"), door(&connections, "other"));
        let first = connections.enter(&one);
        assert!(first.is_some() && connections.enter(&one).is_none());
        assert!(connections.enter(&other).is_some());
    }
}
