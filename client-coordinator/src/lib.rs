//! The client coordinator: the tier that users talk to. It keeps no data of its own, so any number
//! may run.
//!
//! ```text
//!   gRPC ──► kv, session ─┐            ┌─► cache tier (hits end here)
//!                         ├─► reader ──┤
//!   REST ──► rest ────────┤            └─► below ──► server coordinator
//!                         └─► writer ─────► below
//! ```
//!
//! Reading order: `views` (the masters' latest answers, by which cache hits are judged),
//! `read_options` (how fresh a read must be), `reader` (the read path), `flights` (equal misses
//! share one read), `below` (calls to the server coordinators), `silences` (clusters that do not
//! answer), `writer`, `scans` and `page_token`
//! (many keys in order), `watches` and `watch_token`, `operations` (everything users can do). Then
//! the doors: `kv`, `session`, `admin`, `call_answer` (metadata of each answer) and `grpc`, which
//! serves them; `rest`; `timely` (the timeout of request bodies); `health` (whether this
//! coordinator can answer), `last_known` (the client coordinators, for operators). [`ClientCoordinator`] puts them together.

mod admin;
mod answers;
mod below;
mod call_answer;
mod coordinator;
mod flights;
mod grpc;
mod health;
mod inquiry;
mod kv;
mod last_known;
mod meters;
mod operations;
mod page_token;
mod places;
mod read_options;
mod reader;
mod rest;
mod scans;
mod session;
mod settings;
mod silences;
mod timely;
mod views;
mod watch_token;
mod watches;
mod writer;

pub use coordinator::{ClientCoordinator, Listeners, StartError};
pub use rest::{HostName, NoHostName, NoWebOrigin, WebOrigin};
pub use settings::{ClientCoordinatorSettings, ConnectionLimits, CoordinationStore, MetricsPage};
