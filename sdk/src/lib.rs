//! The Rust client of TierKV.
//!
//! ```no_run
//! # async fn example() -> Result<(), tierkv::Error> {
//! use tierkv::{Client, Selection, Write};
//!
//! let client = Client::builder().address("127.0.0.1:7400").connect().await?;
//! let version = client.put("greeting", "hello").await?;
//! let found = client.get("greeting").await?;
//! assert_eq!(found.value.as_deref(), Some(&b"hello"[..]));
//!
//! // A number that counts each time once, whatever the network does.
//! let visits = client.increment("visits", 1).await?.value;
//!
//! // All or nothing, and only if nobody was faster.
//! let write = Write::new()
//!     .if_version("greeting", version)
//!     .put("greeting", "good evening")
//!     .delete("farewell");
//! match client.write(write).await {
//!     Err(error) if error.is_condition_failed() => println!("somebody else greets"),
//!     written => println!("visit {visits}: {:?}", written?.changes),
//! }
//!
//! let mut items = client.scan(Selection::prefix("gre"));
//! while let Some(item) = items.next().await {
//!     println!("{:?}", item?.key);
//! }
//! # Ok(()) }
//! ```
//!
//! A [`Client`] is cheap to clone and meant to be shared by many tasks: their operations
//! travel together, as many in a frame as are waiting, over session streams.
//!
//! # What a failure means
//!
//! Every operation is tried again, at the other coordinators, too, until its time is over
//! ([`Builder::timeout`], [`Client::with_timeout`]), and then [`Error`] says what became of
//! it. A write carries a request id, by which the platform applies it once however often it
//! is sent. If an attempt was lost and no later one succeeded, the outcome is
//! [`Code::OutcomeUnknown`], never a failure: the write may have happened. It can be asked
//! for again under its id ([`Client::with_request_id`]).
//!
//! # How fresh a read is
//!
//! At most the platform's `max_staleness` old, unless [`ReadOptions`] say otherwise; every
//! answer tells its [`Found::age`]. Reads of [`Client::session`] see what that session wrote.
//!
//! # Reading order of the code
//!
//! `client` is whom is asked for how long; `coordinators` chooses the coordinator of each
//! attempt and `attempts` judges what failed ones mean for a write; `keys`, `batch`, `scan`
//! and `watch` are the operations; `own_writes` is what a session remembers and
//! `platform_clock` where request ids are born.

mod admin;
mod answer;
mod attempts;
mod batch;
mod builder;
mod client;
mod coordinators;
mod error;
mod keys;
mod options;
mod own_writes;
mod platform_clock;
mod scan;
mod watch;

pub use answer::{Changed, Deleted, Found, Hop, Incremented, Previous, Source, Written};
pub use batch::Write;
pub use builder::Builder;
pub use client::Client;
pub use error::Error;
pub use options::{Condition, Consistency, DeleteOptions, PutOptions, ReadOptions, TouchOptions};
pub use own_writes::MAX_SESSION_KEYS;
pub use scan::{DEFAULT_PAGE_ITEMS, Item, Page, Scan, ScanOptions, Selection};
pub use tierkv_rpc as rpc;
pub use tierkv_types::{CacheHealth, Code, CoordinatorRole, NodeRole, RequestId};
pub use watch::{Change, Event, Watch};
