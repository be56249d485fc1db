//! The load generator: key and value shapes, distributions, histograms.
//!
//! Reading order: [`shape`] (keys and values of records, and the check of a read value),
//! [`distribution`] (the choice of keys), [`target`] (the system under load), [`mod@drive`] (the
//! tasks that drive it), [`window`] and [`writers`] (a long run, sampled while it runs), and the
//! two clients of the platform: [`session`] and [`unary`].
//!
//! `tierkv bench` measures a platform with data of its own: [`records`] have a key prefix,
//! [`mod@mix`] drives the platform through a [`door`] until it is stopped, and a [`tally`] counts
//! every error by its code.

pub mod distribution;
pub mod door;
pub mod drive;
pub mod mix;
pub mod records;
pub mod session;
pub mod shape;
pub mod tally;
pub mod target;
pub mod unary;
pub mod window;
pub mod writers;

pub use distribution::{Distribution, Sampler};
pub use door::Door;
pub use drive::{Check, Operations, Outcome, Plan, Prepared, drive, load};
pub use mix::Mix;
pub use records::Records;
pub use session::Session;
pub use shape::Shape;
pub use tally::Tally;
pub use target::{Answer, Failure, Target};
/// The platform's transport settings, for peers that are measured with the same settings.
pub use tierkv::rpc::{channel, serve_builder};
pub use unary::Unary;
pub use window::Window;
pub use writers::Writers;
