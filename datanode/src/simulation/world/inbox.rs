//! Messages from tasks to the world, which reads them after every step.

use std::sync::{Arc, Mutex};

use tierkv_rpc::proto::internal::ReadReply;
use tierkv_types::{Epoch, ItemKey, Round, SlotTable, Version};
use tokio::sync::oneshot;

use crate::proposal::Answer;

/// A master's answer to a vouch question.
#[derive(Clone, Debug)]
pub(super) struct Word {
    pub(super) epoch: Epoch,
    pub(super) round: Round,
    pub(super) clock: Version,
    /// The slots that the master owns.
    pub(super) slots: Arc<SlotTable>,
}

/// A message of a task.
pub(super) enum News {
    /// A write is answered.
    Written(Answer),
    /// A read of the master is answered, or failed.
    Read(u64, Option<ReadReply>),
    /// A reader missed in the cache and asks the master.
    Missed(ItemKey, oneshot::Sender<ReadReply>),
    /// A reader asks the master to vouch.
    Asked(oneshot::Sender<Word>),
    /// A reader answers from the cache.
    Hit(Hit),
}

/// An answer from the cache.
#[derive(Debug)]
pub(super) struct Hit {
    pub(super) key: ItemKey,
    pub(super) version: Version,
    /// The value, if the key has one.
    pub(super) value: Option<bytes::Bytes>,
    /// It must not be older than this millisecond.
    pub(super) as_of_millis: u64,
}

/// The messages, in order.
#[derive(Default)]
pub(super) struct Inbox(Mutex<Vec<News>>);

impl Inbox {
    pub(super) fn push(&self, news: News) {
        self.0.lock().unwrap().push(news);
    }

    pub(super) fn take(&self) -> Vec<News> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}
