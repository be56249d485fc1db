//! A storage whose log and checkpoints its caller drives, for simulations: one thread, and
//! every step when the caller says so.

use std::{future::Future, pin::Pin};

use crate::{
    checkpoint::Checkpointer,
    log::{LogWriter, Turn},
};

/// What threads and tasks do in a running storage.
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

    /// Writes what is queued for the log, syncs and publishes it, or does what else the log
    /// has to do; answers whether there was anything.
    pub fn write_log(&mut self) -> bool {
        self.writer.step() != Turn::Idle
    }

    /// The task that makes the checkpoints, once.
    pub fn take_checkpoints(&mut self) -> Option<Pin<Box<dyn Future<Output = ()> + Send>>> {
        self.checkpoints.take()
    }
}
