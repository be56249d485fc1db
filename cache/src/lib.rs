//! The cache tier trait with its backends and its conformance suite.
