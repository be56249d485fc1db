//! A data node's write path as it ships, under one deterministic scheduler.
//!
//! ```text
//!  world (plain code, no future) ──step, advance──► scheduler ──polls──► the node's tasks
//!    │ faults, crashes                                                    │      │
//!    ▼                                                                    ▼      ▼
//!  coordination · cache · paced store ◄───────────── asked by ───────────────────┘
//!    └──────────────────── what happened ─────────► trace (its hash says what ran)
//! ```
//!
//! Whatever runs is a task of the scheduler, and whatever happens by chance is drawn from
//! the seed, so that one seed is one run: [`Trace::hash`](trace::Trace::hash) is the same.
//!
//! Reading order: [`scheduler`] (who runs next, and when time moves), [`clock`], [`trace`],
//! [`chance`] and [`pace`] (draws, and answers that take their time), then what stands
//! around the node: [`coordination`], [`cache`], [`paced_store`]; then [`world`],
//! which runs it all and checks it, and [`rules_off`].

mod cache;
mod chance;
mod clock;
mod coordination;
mod pace;
mod paced_store;
mod rules_off;
mod scheduler;
mod trace;
mod world;
