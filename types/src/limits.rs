//! Every limit of a request, by name. Over a limit, a request waits or is refused with a code;
//! nothing is dropped silently.

use std::time::Duration;

/// Longest key, in bytes. Over it: `InvalidArgument`.
pub const MAX_KEY_BYTES: usize = 1024;
/// Longest namespace, in bytes. Over it: `InvalidArgument`.
pub const MAX_NAMESPACE_BYTES: usize = 63;
/// Largest value, in bytes. Over it: `InvalidArgument`.
pub const MAX_VALUE_BYTES: usize = 1 << 20;
/// Maximum keys or operations in one request. Over it: `InvalidArgument`.
pub const MAX_OPERATIONS: usize = 1_000;
/// Largest request, in bytes as encoded. Over it: `ResourceExhausted`.
pub const MAX_REQUEST_BYTES: usize = 4 << 20;
/// Largest answer, in bytes as encoded. Over it: `ResourceExhausted`.
pub const MAX_ANSWER_BYTES: usize = 16 << 20;
/// Bytes of answers that wait for their clients, unless the operator sets a limit. From half of it
/// on, streams that hold answers wait, and connections whose clients read nothing or slowly are
/// closed. Between tiers the limit is a multiple.
pub const DEFAULT_STREAM_BYTES: usize = 256 << 20;
/// Maximum operations in flight in one session stream. An operation on more than 4 keys counts once
/// per 4 keys. Over it the session waits.
pub const MAX_SESSION_IN_FLIGHT: usize = 256;
/// Maximum operations in flight from one tier to one peer of the next. Over it callers wait.
pub const MAX_PEER_IN_FLIGHT: usize = 4_096;
/// Maximum operations in one frame between tiers, or of a session.
pub const MAX_FRAME_OPERATIONS: usize = 512;
/// Bytes of operations, or of a stream's items, at which a frame is closed (it holds at least one).
/// With one of the largest values it stays under 4 MiB, the default maximum of gRPC clients.
pub const FRAME_BYTES: usize = 1 << 20;
/// Timeout of an operation whose caller sets none.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest timeout that a caller may set; a longer one is shortened to it.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum open scans and counts at one door: a client coordinator's for users, a data node's for
/// all callers. Over it: `ResourceExhausted`.
pub const MAX_OPEN_SCANS: usize = 32;
/// Staleness bound of `CACHED` reads, unless the operator sets one.
pub const DEFAULT_MAX_STALENESS: Duration = Duration::from_secs(5);
/// Longest time to live, a hundred years. Over it: `InvalidArgument`.
pub const MAX_TTL: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);
/// How long a request id is remembered after its birth, in platform time. Older ids are refused, so
/// that a forgotten request can't be applied again: `InvalidArgument`.
pub const REQUEST_MEMORY: Duration = Duration::from_secs(120);
/// How far a request id's birth may be ahead of platform time. Over it: `InvalidArgument`. The
/// arrival of an attempt with an idempotency key, too. Over it: `Unavailable`.
pub const MAX_REQUEST_LEAD: Duration = Duration::from_secs(10);
/// Maximum connections of other tiers at one server coordinator or data node. Over it they are
/// closed at once.
pub const MAX_PEER_CONNECTIONS: usize = 1_024;
/// Maximum sessions at one client coordinator. Over it: `ResourceExhausted`.
pub const MAX_SESSIONS: usize = 10_000;
/// Maximum watches at one client coordinator. Over it: `ResourceExhausted`.
pub const MAX_WATCHES: usize = 1_024;
/// Maximum watches at one data node, of all client coordinators. Over it: `ResourceExhausted`.
pub const MAX_NODE_WATCHES: usize = 2_048;
