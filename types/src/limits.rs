//! Every limit a request can reach, by name. Over a limit a request waits or is
//! refused with a code; nothing is dropped silently.

use std::time::Duration;

/// Longest key, in bytes. Over it: `InvalidArgument`.
pub const MAX_KEY_BYTES: usize = 1024;
/// Longest namespace, in bytes. Over it: `InvalidArgument`.
pub const MAX_NAMESPACE_BYTES: usize = 63;
/// Largest value, in bytes. Over it: `InvalidArgument`.
pub const MAX_VALUE_BYTES: usize = 1 << 20;
/// Most keys or operations in one request. Over it: `InvalidArgument`.
pub const MAX_OPERATIONS: usize = 1_000;
/// Largest request, in bytes as encoded. Over it: `ResourceExhausted`.
pub const MAX_REQUEST_BYTES: usize = 4 << 20;
/// Largest answer, in bytes as encoded. Over it: `ResourceExhausted`.
pub const MAX_ANSWER_BYTES: usize = 16 << 20;
/// Bytes of answers that wait for clients which have not taken them, at one tier, where the
/// operator sets no bound. Over it streams wait, and connections whose clients take nothing
/// are closed.
pub const DEFAULT_STREAM_BYTES: usize = 256 << 20;
/// Most operations in flight in one session stream. Of one with more than 4 keys, 4 keys count
/// as one. Over it the session waits.
pub const MAX_SESSION_IN_FLIGHT: usize = 256;
/// Most operations in flight from one tier to one peer of the next. Over it callers wait.
pub const MAX_PEER_IN_FLIGHT: usize = 4_096;
/// Most operations that one frame between tiers, or of a session, carries.
pub const MAX_FRAME_OPERATIONS: usize = 512;
/// Bytes of operations, or of a stream's items, after which a frame is closed (it holds at
/// least one). With one of the largest values it stays under 4 MiB, the most that clients of
/// gRPC take by default.
pub const FRAME_BYTES: usize = 1 << 20;
/// Deadline of an operation whose caller names none.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest deadline a caller may name; a longer one is shortened to it.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(60);
/// Most scans and counts that one door has open at once: a client coordinator for its users,
/// a data node for all who ask it. Over it: `ResourceExhausted`.
pub const MAX_OPEN_SCANS: usize = 32;
/// Bound on the staleness of `CACHED` reads where the operator sets none.
pub const DEFAULT_MAX_STALENESS: Duration = Duration::from_secs(5);
/// Longest time to live, a hundred years. Over it: `InvalidArgument`.
pub const MAX_TTL: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);
/// How long a request id is remembered after its birth, in platform time. Older ones are
/// refused, so that what is forgotten can't be applied again: `InvalidArgument`.
pub const REQUEST_MEMORY: Duration = Duration::from_secs(120);
/// How far a request id's birth may be ahead of platform time. Over it: `InvalidArgument`.
pub const MAX_REQUEST_LEAD: Duration = Duration::from_secs(10);
/// Most connections of other tiers at one server coordinator or data node. Over it they are
/// closed at once.
pub const MAX_PEER_CONNECTIONS: usize = 1_024;
/// Most sessions at one client coordinator. Over it: `ResourceExhausted`.
pub const MAX_SESSIONS: usize = 10_000;
/// Most watches at one client coordinator. Over it: `ResourceExhausted`.
pub const MAX_WATCHES: usize = 1_024;
/// Most watches at one data node, of all client coordinators. Over it: `ResourceExhausted`.
pub const MAX_NODE_WATCHES: usize = 2_048;
