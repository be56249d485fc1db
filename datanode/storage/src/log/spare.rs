//! [`SpareSpace`]: the space of the next segment, allocated before it is needed (LOG-SPACE).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use super::{
    queue::Queue,
    segment::{LogPlace, Reserve, Spare},
};
use crate::{StorageError, blocking::Blocking};

/// Keeps the next segment's space, and a descriptor to open it with.
#[derive(Debug)]
pub(super) struct SpareSpace {
    place: LogPlace,
    spare: Option<Spare>,
    reserve: Reserve,
    /// The thread that allocates the space; it has the reserve meanwhile.
    making: Option<Making>,
    /// Why allocating it failed.
    shortage: Option<StorageError>,
    /// Where it is allocated.
    blocking: Blocking,
    /// Wakes the log's thread.
    queue: Arc<Queue>,
}

/// The thread that allocates a spare.
#[derive(Debug)]
struct Making {
    thread: JoinHandle<Made>,
    /// Set when it has the result; it ends then.
    is_done: Arc<AtomicBool>,
}

/// Wakes the log's thread when the thread that allocates a spare ends.
struct Done {
    is_done: Arc<AtomicBool>,
    queue: Arc<Queue>,
}

impl Drop for Done {
    fn drop(&mut self) {
        self.is_done.store(true, Ordering::Release);
        self.queue.check();
    }
}

/// The result of the thread that allocates a spare.
#[derive(Debug)]
struct Made {
    spare: Result<Spare, StorageError>,
    reserve: Reserve,
}

impl SpareSpace {
    pub(super) fn new(place: LogPlace, blocking: Blocking, queue: Arc<Queue>) -> Self {
        Self {
            reserve: place.open_names().ok(),
            place,
            spare: None,
            making: None,
            shortage: None,
            blocking,
            queue,
        }
    }

    /// Whether the space is allocated.
    pub(super) const fn is_there(&self) -> bool {
        self.spare.is_some()
    }

    /// Why there is no space, or no descriptor for it.
    pub(super) const fn shortage(&self) -> Option<&StorageError> {
        self.shortage.as_ref()
    }

    /// Whether there may be a new result soon: a thread allocates, or an attempt failed.
    pub(super) const fn is_awaited(&self) -> bool {
        self.shortage.is_some() || self.making.is_some()
    }

    /// The next segment's space, allocated now if it was not before.
    ///
    /// # Errors
    /// A shortage, after which it may be retried, or the disk's failure.
    pub(super) fn take(&mut self) -> Result<Spare, StorageError> {
        if let Some(spare) = self.spare.take() {
            return Ok(spare);
        }
        let made = match self.making.take() {
            Some(making) => self.join(making),
            None => self.place.set_aside(&mut self.reserve),
        };
        let spare = made?;
        self.shortage = None;
        Ok(spare)
    }

    /// Allocates the next segment's space once the current one, filled up to `offset`, is half
    /// full, or once records need it. It writes a whole segment, so a separate thread does it, and
    /// a later call collects its result; the thread asks for that call. Returns whether there is a
    /// result.
    ///
    /// # Errors
    /// A failure of the disk. A shortage is no error here.
    pub(super) fn prepare(&mut self, offset: u64, is_wanted: bool) -> Result<bool, StorageError> {
        let is_short = self.shortage.is_some();
        let is_due = offset >= self.place.segment_bytes / 2 || is_wanted || is_short;
        if self.spare.is_some() || !(is_due || self.making.is_some()) {
            return Ok(false);
        }
        let made = match self.making.take() {
            Some(making) if making.is_done.load(Ordering::Acquire) => self.join(making),
            Some(making) => {
                self.making = Some(making);
                return Ok(false);
            }
            // A full disk mostly fails at once, and writers wait for the result.
            None if is_short || self.blocking == Blocking::Here => {
                self.place.set_aside(&mut self.reserve)
            }
            None => match self.make() {
                Ok(making) => {
                    self.making = Some(making);
                    return Ok(false);
                }
                // No thread can be started now: writers wait meanwhile.
                Err(_) => self.place.set_aside(&mut self.reserve),
            },
        };
        match made {
            Ok(spare) => {
                self.spare = Some(spare);
                self.shortage = None;
            }
            Err(error) if error.is_shortage() => self.run_short(error),
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Starts the thread that allocates a spare. If it can't be started, the reserve is closed,
    /// which leaves a descriptor for the spare.
    fn make(&mut self) -> std::io::Result<Making> {
        let (place, mut reserve) = (self.place.clone(), self.reserve.take());
        let is_done = Arc::new(AtomicBool::new(false));
        let done = Done {
            is_done: Arc::clone(&is_done),
            queue: Arc::clone(&self.queue),
        };
        let thread = std::thread::Builder::new()
            .name("tierkv-log-spare".into())
            .spawn(move || {
                // Dropped at the end, also after a panic, which the log's thread then finds.
                let _done = done;
                let spare = place.set_aside(&mut reserve);
                Made { spare, reserve }
            })?;
        Ok(Making { thread, is_done })
    }

    fn join(&mut self, making: Making) -> Result<Spare, StorageError> {
        match making.thread.join() {
            Ok(made) => {
                self.reserve = made.reserve;
                made.spare
            }
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Notes that there is no space, or no descriptor.
    pub(super) fn run_short(&mut self, error: StorageError) {
        if self.shortage.is_none() {
            tracing::warn!(%error, "the log can't grow, writes are refused until it can");
        }
        self.shortage = Some(error);
    }

    /// Closes the reserve, so that another file of the log can be opened.
    pub(super) fn lend_descriptor(&mut self) {
        self.reserve = None;
    }

    /// Opens the reserve again, if it was used up.
    pub(super) fn restore_descriptor(&mut self) {
        if self.reserve.is_none() && self.making.is_none() {
            self.reserve = self.place.open_names().ok();
        }
    }

    /// Waits for the thread that allocates: the directory must stay locked while this process
    /// still creates a file in it.
    pub(super) fn end(&mut self) {
        drop(self.making.take().map(|making| making.thread.join()));
    }
}
