//! A storage for simulations: the caller drives log and checkpoints, step by step, on one
//! thread.

use std::{future::Future, pin::Pin};

use crate::{
    checkpoint::Checkpointer,
    log::{LogWriter, Turn},
};

/// The steps that threads and tasks make in a running storage.
pub struct Steps {
    writer: LogWriter,
    checkpoints: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Steps {
    pub(crate) fn new(writer: LogWriter, checkpointer: Checkpointer) -> Self {
        Self {
            writer,
            checkpoints: Some(Box::pin(checkpointer.run())),
        }
    }

    /// Makes one step of the log: writes, syncs and publishes queued records, or does other
    /// pending work of it. Returns whether there was anything to do.
    pub fn write_log(&mut self) -> bool {
        self.writer.step() != Turn::Idle
    }

    /// Lets the log be full, or lets it have space again.
    pub fn run_short(&self, is_short: bool) {
        self.writer.run_short(is_short);
    }

    /// The task that takes the checkpoints; `None` after the first call.
    pub fn take_checkpoints(&mut self) -> Option<Pin<Box<dyn Future<Output = ()> + Send>>> {
        self.checkpoints.take()
    }
}
