//! The Rust client of TierKV.
//!
//! ```no_run
//! # async fn example() -> Result<(), tierkv::Error> {
//! let client = tierkv::Client::builder().address("127.0.0.1:7400").connect().await?;
//! let version = client.put("greeting", "hello").await?;
//! let found = client.get("greeting").await?;
//! assert_eq!(found.value.as_deref(), Some(&b"hello"[..]));
//! assert!(found.version >= version);
//! # Ok(()) }
//! ```
//!
//! A [`Client`] is cheap to clone and meant to be shared by many tasks: their operations
//! travel together, as many in a frame as are waiting, over one session stream.

mod admin;
mod answer;
mod builder;
mod client;
mod error;

pub use answer::{Deleted, Found, Source};
pub use builder::Builder;
pub use client::{Client, Consistency, PutOptions, ReadOptions};
pub use error::Error;
pub use tierkv_rpc as rpc;
pub use tierkv_types::Code;
