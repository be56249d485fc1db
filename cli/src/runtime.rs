//! The threads on which a command runs.

use std::{future::Future, num::NonZeroUsize, thread::available_parallelism};

use tokio::runtime::Builder;

use crate::outcome::Outcome;

/// Runs a command to its end on so many worker threads; `None`: as many as the machine has cores.
///
/// Work that blocks, the log and the store have threads of their own.
pub(crate) fn run(
    workers: Option<NonZeroUsize>,
    command: impl Future<Output = Outcome>,
) -> Outcome {
    let workers = workers.unwrap_or_else(cores);
    let runtime = Builder::new_multi_thread()
        .worker_threads(workers.get())
        .enable_all()
        .build()?;
    runtime.block_on(command)
}

/// The workers of a process with one role, which shares the machine with other roles and with the
/// threads of its own log and store. Idle workers cost: each message wakes one of them.
pub(crate) fn half_of_the_cores() -> NonZeroUsize {
    NonZeroUsize::new(cores().get() / 2).unwrap_or(NonZeroUsize::MIN)
}

fn cores() -> NonZeroUsize {
    available_parallelism().unwrap_or(NonZeroUsize::MIN)
}
