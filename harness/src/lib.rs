//! Starts and stops real servers and tiers for tests and benches.
