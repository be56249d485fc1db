//! [`Outbox`]: the small messages that wait for a link.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tierkv_protocol::replication::{Acknowledge, Message};
use tokio::sync::Notify;

/// Most messages that wait; over it the oldest is dropped.
const MAX_WAITING: usize = 256;

/// The messages to one node that are not sent yet.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    messages: Mutex<VecDeque<Message>>,
    filled: Notify,
}

impl Outbox {
    /// Adds a message. An acknowledgement replaces the one before it, which it contains.
    pub(super) fn push(&self, message: Message) {
        let mut messages = self.lock();
        let last = messages.back_mut();
        match (last, message) {
            (Some(Message::Acknowledge(last)), Message::Acknowledge(newer))
                if contains(&newer, last) =>
            {
                *last = newer;
            }
            (_, message) => {
                if messages.len() == MAX_WAITING {
                    messages.pop_front();
                }
                messages.push_back(message);
            }
        }
        drop(messages);
        self.filled.notify_one();
    }

    /// Removes and returns all messages.
    pub(super) fn take(&self) -> VecDeque<Message> {
        std::mem::take(&mut *self.lock())
    }

    /// Waits until there is a message that was not there at the last [`Outbox::take`]. One task may
    /// wait.
    pub(super) async fn filled(&self) {
        self.filled.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Message>> {
        // A panic between steps leaves the value valid.
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the newer acknowledgement has everything that the earlier one has.
fn contains(newer: &Acknowledge, earlier: &Acknowledge) -> bool {
    newer.epoch == earlier.epoch
        && newer.log_id == earlier.log_id
        && newer.round >= earlier.round
        && newer.matched >= earlier.matched
        && newer.durable >= earlier.durable
        && earlier.differing.is_none()
}

#[cfg(test)]
mod tests {
    use tierkv_types::{BootTime, Epoch, Index, LogId, Position, Round};

    use super::*;

    fn acknowledge(round: u64, durable: u64) -> Acknowledge {
        Acknowledge {
            epoch: Epoch(1),
            log_id: LogId(7),
            round: Round(round),
            last: Position::default(),
            matched: Index(durable),
            durable: Index(durable),
            probe: BootTime::default(),
            differing: None,
        }
    }

    #[test]
    fn the_newest_acknowledgement_waits() {
        let outbox = Outbox::default();
        for round in 1..5 {
            outbox.push(Message::Acknowledge(acknowledge(round, 3)));
        }
        let differing = Acknowledge {
            differing: Some(Vec::new()),
            ..acknowledge(5, 3)
        };
        outbox.push(Message::Acknowledge(differing.clone()));
        outbox.push(Message::Acknowledge(acknowledge(6, 3)));
        outbox.push(Message::Acknowledge(acknowledge(6, 2)));
        let waiting = [differing, acknowledge(6, 3), acknowledge(6, 2)];
        assert_eq!(outbox.take(), waiting.map(Message::Acknowledge));
        assert!(outbox.take().is_empty());
    }

    #[tokio::test]
    async fn the_oldest_of_too_many_is_dropped() {
        let outbox = Outbox::default();
        for epoch in 0..=MAX_WAITING as u64 {
            outbox.push(Message::Decline(Epoch(epoch)));
        }
        outbox.filled().await;
        let messages = outbox.take();
        assert_eq!(messages.len(), MAX_WAITING);
        assert_eq!(messages[0], Message::Decline(Epoch(1)));
    }
}
