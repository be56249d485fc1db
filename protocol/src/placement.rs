//! Placement: which cluster owns which slot.
//!
//! The [`Ring`] computes which cluster *should* own a slot. The [`PlacementMap`], a versioned
//! value in coordination, records which *does*, and at which revision each slot last moved.

mod map;
mod ring;

pub use map::{PlacementError, PlacementMap, PlacementRun};
pub use ring::{Ring, VIRTUAL_NODES_PER_WEIGHT, WeightedCluster};
