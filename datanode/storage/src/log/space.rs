//! [`Space`]: the allocated space that accepted records will take, and [`LogRoom`], a caller's view
//! of it (LOG-SPACE).

use tierkv_types::record::MAX_RECORD_BYTES;

use crate::meters::{LOG_QUEUE, LOG_SEGMENT};

/// The place of the next accepted record. It is ahead of the log's thread by what is queued, and
/// follows the rule by which the thread goes to a new segment: a record is never split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Space {
    /// Bytes of records that a whole segment takes.
    segment: u64,
    /// Bytes left in the segment that gets the next record.
    left: u64,
    /// How many segments that one is after the segment that the thread writes to.
    ahead: u64,
    /// Whether the segment after the thread's is allocated.
    has_spare: bool,
}

impl Space {
    /// The space after everything accepted, with `left` bytes in the thread's segment.
    pub(super) const fn new(segment: u64, left: u64) -> Self {
        Self {
            segment,
            left,
            ahead: 0,
            has_spare: false,
        }
    }

    /// Takes the space of one record, whether it is allocated or not.
    pub(super) const fn take(&mut self, bytes: u64) {
        if bytes > self.left {
            self.left = self.segment;
            self.ahead += 1;
        }
        self.left = self.left.saturating_sub(bytes);
    }

    /// Whether everything that was taken is allocated.
    pub(super) const fn is_allocated(&self) -> bool {
        self.ahead == 0 || (self.ahead == 1 && self.has_spare)
    }

    /// Whether there is allocated space for a record of so many bytes.
    pub(super) const fn fits(mut self, bytes: u64) -> bool {
        self.take(bytes);
        self.is_allocated()
    }

    /// The thread began the next segment.
    pub(super) const fn began_segment(&mut self) {
        self.ahead = self.ahead.saturating_sub(1);
        self.has_spare = false;
    }

    /// Records whether the segment after the thread's is allocated.
    pub(super) const fn set_spare(&mut self, has_spare: bool) {
        self.has_spare = has_spare;
    }

    /// Everything accepted that was not written is gone: `left` bytes are left in the thread's
    /// segment.
    pub(super) const fn reset(&mut self, left: u64) {
        (self.left, self.ahead) = (left, 0);
    }
}

/// What the log takes now without a wait. Valid while its holder is the only one who appends.
#[derive(Clone, Copy, Debug)]
pub struct LogRoom {
    /// Bytes that may be queued before writers have to wait.
    queue: u64,
    /// `None`: without bound, because appending returns an error where there is no space.
    space: Option<Space>,
}

impl LogRoom {
    /// Room without bound: appending returns the reason if something can't be taken.
    pub(crate) const UNBOUNDED: Self = Self {
        queue: u64::MAX,
        space: None,
    };

    pub(super) const fn new(queue: u64, space: Space) -> Self {
        Self {
            queue,
            space: Some(space),
        }
    }

    /// Whether the queue is full, so that every writer has to wait.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.queue == 0
    }

    /// Whether the largest record can be taken.
    #[must_use]
    pub fn fits_any(&self) -> bool {
        let largest = |space: &Space| space.segment.min(MAX_RECORD_BYTES as u64);
        self.fits(self.space.as_ref().map_or(0, largest))
    }

    /// Whether a record of so many bytes can be taken.
    #[must_use]
    pub const fn fits(&self, bytes: u64) -> bool {
        !self.is_full() && self.lacks_space(bytes).is_none()
    }

    /// Takes the room of a record; returns `false`, and takes nothing, if there is none.
    #[must_use]
    pub const fn take(&mut self, bytes: u64) -> bool {
        if !self.fits(bytes) {
            return false;
        }
        if let Some(space) = &mut self.space {
            space.take(bytes);
        }
        self.queue = self.queue.saturating_sub(bytes);
        true
    }

    /// The name of the limit that keeps a writer waiting who appends so many bytes.
    pub(crate) const fn reached(&self, bytes: u64) -> Option<&'static str> {
        match self.is_full() {
            true => Some(LOG_QUEUE),
            false => self.lacks_space(bytes),
        }
    }

    const fn lacks_space(&self, bytes: u64) -> Option<&'static str> {
        match &self.space {
            Some(space) if !space.fits(bytes) => Some(LOG_SEGMENT),
            _ => None,
        }
    }
}
