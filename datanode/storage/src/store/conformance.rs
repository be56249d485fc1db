//! What every store must do, as a suite that each backend's tests run.
