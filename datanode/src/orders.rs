//! Operators' orders to a cluster's master, on their way to the replication machine and back.
//!
//! ```text
//!  door ──► Service::change_cluster ──► Orders ──queue──► OrderBook (in the driver) ──► machine
//!                   ▲                                          │
//!                   └────────────── oneshot ───────────────────┘ the result, by its number
//! ```
//!
//! An order whose caller has given up is carried out all the same. If the driver ends first, or the
//! caller's deadline passes, its outcome is unknown; giving it again is harmless.

use std::{collections::HashMap, future::pending};

use tierkv_protocol::replication::{Change, ChangeError, Event, HandoverError};
use tierkv_types::{Code, Error, NodeId};
use tokio::sync::{mpsc, oneshot};

/// Most orders that wait for the driver. Over it, further ones are refused.
const MAX_ORDERS: usize = 16;

type Changed = Result<(), ChangeError>;
type HandedOver = Result<NodeId, HandoverError>;

/// An order, and where its result goes.
enum Order {
    Change {
        change: Change,
        answer: oneshot::Sender<Changed>,
    },
    HandOver {
        to: Option<NodeId>,
        leaves: bool,
        answer: oneshot::Sender<HandedOver>,
    },
}

/// Gives orders to the machine. Clones give them to the same one.
#[derive(Clone)]
pub(crate) struct Orders(mpsc::Sender<Order>);

/// The driver's side: orders that came, and those whose result is awaited.
pub(crate) struct OrderBook {
    incoming: mpsc::Receiver<Order>,
    last: u64,
    changes: HashMap<u64, oneshot::Sender<Changed>>,
    handovers: HashMap<u64, oneshot::Sender<HandedOver>>,
}

/// Both sides of a new queue of orders.
pub(crate) fn orders() -> (Orders, OrderBook) {
    let (sender, incoming) = mpsc::channel(MAX_ORDERS);
    let book = OrderBook {
        incoming,
        last: 0,
        changes: HashMap::new(),
        handovers: HashMap::new(),
    };
    (Orders(sender), book)
}

impl Orders {
    /// Orders a change of the cluster's record, and waits for its result.
    ///
    /// # Errors
    /// `ResourceExhausted` if too many orders wait; `OutcomeUnknown` if the node stops meanwhile.
    pub(crate) async fn change(&self, change: Change) -> Result<Changed, Error> {
        let (answer, result) = oneshot::channel();
        self.give(Order::Change { change, answer })?;
        result.await.map_err(|_| stopped())
    }

    /// Orders a handover, and waits for its result.
    ///
    /// # Errors
    /// As for [`Self::change`].
    pub(crate) async fn hand_over(
        &self,
        to: Option<NodeId>,
        leaves: bool,
    ) -> Result<HandedOver, Error> {
        let (answer, result) = oneshot::channel();
        self.give(Order::HandOver { to, leaves, answer })?;
        result.await.map_err(|_| stopped())
    }

    fn give(&self, order: Order) -> Result<(), Error> {
        self.0.try_send(order).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => Error::exhausted(format!(
                "{MAX_ORDERS} orders of operators wait already, the limit max_orders; nothing was \
                 done, try again later"
            )),
            mpsc::error::TrySendError::Closed(_) => {
                Error::new(Code::NotMaster, "the node has stopped; nothing was done")
            }
        })
    }
}

fn stopped() -> Error {
    Error::outcome_unknown(
        "the node stopped before it reported the result; `tierkv status` shows the cluster, and \
         giving the order again is harmless",
    )
}

impl OrderBook {
    /// Waits for the next order. Cancelling the wait loses none.
    pub(crate) async fn next(&mut self) -> Event {
        match self.incoming.recv().await {
            Some(order) => self.enter(order),
            // Nobody is left who could give one.
            None => pending().await,
        }
    }

    fn enter(&mut self, order: Order) -> Event {
        self.last += 1;
        let id = self.last;
        match order {
            Order::Change { change, answer } => {
                self.changes.insert(id, answer);
                Event::Change { id, change }
            }
            Order::HandOver { to, leaves, answer } => {
                self.handovers.insert(id, answer);
                Event::HandOver { id, to, leaves }
            }
        }
    }

    /// Passes on the result of a change.
    pub(crate) fn changed(&mut self, id: u64, result: Changed) {
        if let Some(answer) = self.changes.remove(&id) {
            // The caller may have given up.
            answer.send(result).ok();
        }
    }

    /// Passes on the result of a handover.
    pub(crate) fn handed_over(&mut self, id: u64, result: HandedOver) {
        if let Some(answer) = self.handovers.remove(&id) {
            answer.send(result).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    #[tokio::test]
    async fn each_order_gets_its_own_result() {
        let (orders, mut book) = orders();
        let giving = async {
            tokio::join!(
                orders.change(Change::SetF(500)),
                orders.change(Change::AddNode(node("n4"))),
                orders.hand_over(None, true),
            )
        };
        let driving = async {
            let mut events = Vec::new();
            for _ in 0..3 {
                events.push(book.next().await);
            }
            // Answered in another order than they came.
            for event in events.into_iter().rev() {
                match event {
                    Event::Change {
                        id,
                        change: Change::SetF(500),
                    } => {
                        book.changed(id, Ok(()));
                    }
                    Event::Change { id, .. } => book.changed(id, Err(ChangeError::IsMember)),
                    Event::HandOver {
                        id, leaves: true, ..
                    } => {
                        book.handed_over(id, Ok(node("n2")));
                    }
                    other => panic!("{other:?}"),
                }
            }
            // No such order.
            book.changed(99, Ok(()));
        };
        let (results, ()) = tokio::join!(giving, driving);
        assert_eq!(results.0.unwrap(), Ok(()));
        assert_eq!(results.1.unwrap(), Err(ChangeError::IsMember));
        assert_eq!(results.2.unwrap(), Ok(node("n2")));
    }

    #[tokio::test]
    async fn too_many_are_refused_and_a_driver_that_ends_leaves_the_outcome_unknown() {
        let (orders, mut book) = orders();
        let given: Vec<_> = (0..MAX_ORDERS)
            .map(|_| {
                let orders = orders.clone();
                tokio::spawn(async move { orders.change(Change::SetF(500)).await })
            })
            .collect();
        // All of them wait in the queue once no room is left.
        let full = async {
            while orders.0.capacity() > 0 {
                tokio::task::yield_now().await;
            }
        };
        let limit = std::time::Duration::from_secs(10);
        tokio::time::timeout(limit, full).await.unwrap();
        let refused = orders.change(Change::SetF(500)).await.unwrap_err();
        assert_eq!(refused.code, Code::ResourceExhausted);
        let Event::Change { .. } = book.next().await else {
            panic!("not a change");
        };
        drop(book);
        for order in given {
            let lost = order.await.unwrap().unwrap_err();
            assert_eq!(lost.code, Code::OutcomeUnknown);
        }
        let late = orders.change(Change::SetF(500)).await.unwrap_err();
        assert_eq!(late.code, Code::NotMaster);
    }
}
