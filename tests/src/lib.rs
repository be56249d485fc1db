//! Real-process tests of the whole platform, and what they share.
//!
//! The tests are in `tests/`; here is how they reach what they test: [`binary`] (the built
//! `tierkv`), [`ephemeral`] (a platform that keeps nothing), [`http`] (requests byte by
//! byte, so that no client library tidies a path up), [`named`] (writes under names of
//! the test's choice), [`metrics`], [`disk_work`] (what a node does on its disk),
//! [`resident`] (what a process holds in memory and uses of the processors), [`cutter`] (a
//! line that breaks), [`proxy`] (one that is closed and opened), [`switch`] (one whose other
//! end changes),
//! [`outside`] (clients that share no code with the platform), [`imports`] (which files of
//! a crate import each other),
//! [`choices`] (random ones that can be repeated), and what a client was promised:
//! [`ledger`] (of a key that is written again and again) and [`flood`] (of ever new ones);
//! [`watcher`] (a user who hears of every change).

pub mod binary;
pub mod choices;
pub mod cutter;
pub mod disk_work;
pub mod ephemeral;
pub mod flood;
pub mod http;
pub mod imports;
pub mod ledger;
pub mod metrics;
pub mod named;
pub mod outside;
pub mod proxy;
pub mod resident;
pub mod switch;
pub mod watcher;
