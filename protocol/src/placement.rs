//! Placement: which cluster owns which slot.
//!
//! The [`Ring`] says which cluster *should* own a slot; the [`PlacementMap`], one
//! versioned value in coordination, says which *does*, and at which revision each slot
//! last moved.

mod map;
mod ring;

pub use map::{PlacementError, PlacementMap, PlacementRun};
pub use ring::{Ring, VIRTUAL_NODES_PER_WEIGHT, WeightedCluster};
