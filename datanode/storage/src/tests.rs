//! The promises of storage as a whole.
