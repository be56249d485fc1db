//! The load generator: key and value shapes, distributions, histograms.
//!
//! Reading order: [`shape`] (what a record looks like, and how a read value is checked),
//! [`distribution`] (which key is next), [`target`] (what is driven), [`mod@drive`] (the tasks
//! that drive it), [`window`] and [`writers`] (a long run, looked at while it goes on), and the
//! two ways into the platform: [`session`] and [`unary`].

pub mod distribution;
pub mod drive;
pub mod session;
pub mod shape;
pub mod target;
pub mod unary;
pub mod window;
pub mod writers;

pub use distribution::{Distribution, Sampler};
pub use drive::{Check, Operations, Outcome, Plan, Prepared, drive, load};
pub use session::Session;
pub use shape::Shape;
pub use target::{Answer, Failure, Target};
/// The platform's transport settings, for peers that shall be measured with the same.
pub use tierkv::rpc::{channel, serve_builder};
pub use unary::Unary;
pub use window::Window;
pub use writers::Writers;
