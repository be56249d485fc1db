//! REST models and the mapping between error codes and HTTP status.
