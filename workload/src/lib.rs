//! The load generator: key and value shapes, distributions, histograms.
//!
//! Reading order: [`shape`] (what a record looks like, and how a read value is checked),
//! [`distribution`] (which key is next), [`target`] (what is driven), [`mod@drive`] (the tasks
//! that drive it), [`window`] and [`writers`] (a long run, looked at while it goes on), and the
//! two ways into the platform: [`session`] and [`unary`]. For a platform that is somebody's own,
//! [`records`] stand under a prefix of theirs, [`mod@mix`] drives it through a [`door`] until it
//! is stopped, and a [`tally`] has every error by its code.

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
/// The platform's transport settings, for peers that shall be measured with the same.
pub use tierkv::rpc::{channel, serve_builder};
pub use unary::Unary;
pub use window::Window;
pub use writers::Writers;
