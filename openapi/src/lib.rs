//! The JSON models of REST, and the mapping of codes to HTTP status.
//!
//! Reading order: [`octets`] and [`integer`] (values that JSON can't hold directly), [`object`]
//! (strict parsing, with the words of [`json_refusal`]), [`requests`] and [`answers`], [`events`] (of a watch), [`problem`] (the body
//! of every failure, RFC 9457), [`cluster`] (the body of `/v1/cluster` and of `tierkv status
//! --output json`), [`duration`], [`ttl`] and [`timeout`]. For the OpenAPI document only: [`raw`],
//! [`parameters`] and [`refusals`]. The document is `openapi.json` in this folder; the gateway
//! generates it from its routes, and a test there compares the two.

pub mod answers;
pub mod cluster;
pub mod duration;
pub mod events;
pub mod integer;
pub mod json_refusal;
pub mod object;
pub mod octets;
pub mod parameters;
pub mod problem;
pub mod raw;
pub mod refusals;
pub mod requests;
pub mod timeout;
pub mod ttl;

pub use answers::{Deleted, Written};
pub use cluster::ClusterReport;
pub use problem::{Problem, http_status};
