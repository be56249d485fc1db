//! The client coordinator: the tier that users talk to. It keeps nothing of its own, so
//! any number may run.
//!
//! ```text
//!   gRPC ──► kv, session ─┐            ┌─► cache tier (hits end here)
//!                         ├─► reader ──┤
//!   REST ──► rest ────────┤            └─► below ──► server coordinator
//!                         └─► writer ─────► below
//! ```
//!
//! Reading order: `views` (what masters said lately, and so which hits count),
//! `read_options` (how fresh a read must be), `reader` (the read path), `flights` (equal misses become one), `below` (the way to
//! the server coordinators), `writer`, `scans` and `page_token` (many keys in their order),
//! `watches` and `watch_token`, `operations` (all of it as users know it), then the doors:
//! `kv`, `session`, `admin`, `call_answer` (what goes with each answer of a call) and `grpc`
//! which serves them, `rest`, `timely` (bodies that must arrive in time); `health` (whether this
//! coordinator can answer); [`ClientCoordinator`] puts them together.

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
mod timely;
mod views;
mod watch_token;
mod watches;
mod writer;

pub use coordinator::{ClientCoordinator, Listeners, StartError};
pub use rest::{HostName, NoHostName, NoWebOrigin, WebOrigin};
pub use settings::{ClientCoordinatorSettings, ConnectionLimits, MetricsPage};
