//! Simulation of a data node's production write path under one deterministic scheduler.
//!
//! ```text
//!  world (plain code, no future) ──step, advance──► scheduler ──polls──► the node's tasks
//!    │ faults, crashes                                                    │      │
//!    ▼                                                                    ▼      ▼
//!  coordination · cache · paced store ◄───────────── asked by ───────────────────┘
//!    └──────────────────── what happened ─────────► trace (its hash says what ran)
//! ```
//!
//! All code runs as tasks of the scheduler, and every random decision is drawn from the seed. So
//! a seed always gives the same run, with the same [`Trace::hash`](trace::Trace::hash).
//!
//! Reading order: [`scheduler`] (which task runs next, and when time moves), [`clock`],
//! [`trace`], [`chance`] and [`pace`] (random draws, and delays); then the node's surroundings:
//! [`coordination`], [`cache`], [`paced_store`]; then [`world`], which runs and checks
//! everything, and [`rules_off`]. Beside them [`clusters`] has the clocks of several clusters, over
//! days, without their data.

mod cache;
mod chance;
mod clock;
mod clusters;
mod coordination;
mod pace;
mod paced_store;
mod rules_off;
mod scheduler;
mod trace;
mod world;
