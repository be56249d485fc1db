//! The wire contract: generated code, and the mapping of codes to gRPC statuses.
//!
//! [`v1`] is the contract with users, [`internal`] the one between tiers; the sources are in
//! `proto/`. [`status`] maps [`tierkv_types::Error`] to [`tonic::Status`] and back. [`convert`]
//! checks what arrives over the wire.

pub mod convert;
pub mod status;

/// Generated code, in the nesting of the packages.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
mod generated {
    pub mod tierkv {
        pub mod v1 {
            tonic::include_proto!("tierkv.v1");
        }
        pub mod internal {
            pub mod v1 {
                tonic::include_proto!("tierkv.internal.v1");
            }
        }
    }
}

pub use generated::tierkv::{internal::v1 as internal, v1};

/// The encoded descriptors of both packages, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tierkv.fds"));
