//! The server coordinator: elected primary, routing, placement.
