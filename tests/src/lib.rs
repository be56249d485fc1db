//! Real-process tests of the whole platform.
