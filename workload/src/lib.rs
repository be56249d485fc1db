//! The load generator: key and value shapes, distributions, histograms.
