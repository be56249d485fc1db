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
//! // An increment counts once, also when the network loses its answer.
//! let visits = client.increment("visits", 1).await?.value;
//!
//! // All or nothing, and only if the key is unchanged.
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
//! A [`Client`] is cheap to clone and meant to be shared by many tasks. Their operations travel
//! together over session streams: each frame carries all operations that are waiting.
//!
//! # What a failure means
//!
//! Every operation is retried, at all coordinators, until its timeout ([`Builder::timeout`],
//! [`Client::with_timeout`]). Then [`Error`] reports its outcome. A write carries a request id, so
//! the platform applies it once however often it is sent. If an attempt was lost and no later one
//! succeeded, the outcome is [`Code::OutcomeUnknown`], not a failure: the write may have happened.
//! It can be retried under its id ([`Client::with_request_id`]).
//!
//! # How fresh a read is
//!
//! At most the platform's `max_staleness` old, unless [`ReadOptions`] ask for something else; every
//! answer has its [`Found::age`]. Reads of [`Client::session`] see what that session wrote.
//!
//! # Reading order of the code
//!
//! `client` sends operations, with timeouts and retries. `coordinators` chooses the coordinator of
//! each attempt, and `attempts` decides what failed attempts mean for a write. `keys`, `batch`,
//! `scan` and `watch` are the operations. `own_writes` keeps a session's writes. `platform_clock`
//! keeps the time in which request ids are born.

mod admin;
mod answer;
mod attempts;
mod batch;
mod builder;
mod client;
mod coordinators;
mod error;
mod in_flight;
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
