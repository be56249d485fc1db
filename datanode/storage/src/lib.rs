//! Commit log, memory tier, SQL store, checkpoint and recovery of a data node.
