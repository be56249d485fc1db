//! The Rust client of TierKV: session stream, batching, errors.
