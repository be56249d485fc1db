//! The links to the cluster's other nodes.
//!
//! ```text
//!   driver ──Send──► outbox ─┐                                       ┌─► inbox ──► driver
//!                            ├─► link ═══ Member.Deliver, one way ═══┤
//!   sequencer ──records──────┘            (another node's)           └─ …
//! ```
//!
//! Each node sends to each other one on a stream of its own, so a link is one-way. Small messages
//! wait in an [`outbox`], which drops the oldest: none relies on an earlier one. A master's records
//! don't wait anywhere: the [`link`] takes them from the sequencer, or from the log, when it can
//! send them. What arrives goes through the [`inbox`] to the driver.

mod inbox;
mod link;
mod outbox;
mod peers;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use tierkv_coordination::directory::Presence;
use tierkv_protocol::{
    platform_time::members::MemberTime,
    replication::{Message, Process},
};
use tierkv_rpc::{AddressedChannel, ProcessName, channel};
use tierkv_storage::Storage;
use tierkv_types::NodeId;
use tokio::task::AbortHandle;

pub(crate) use self::inbox::{Inbox, inbox};
pub(crate) use self::link::MAX_MEMBER_FRAME_BYTES;
pub(crate) use self::peers::Peers;
use self::{link::Link, outbox::Outbox};
use crate::{platform_clock::PlatformClock, sequencer::Sequencer};

/// What arrived from another node in one frame.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) from: Process,
    /// Its clocks when it sent the frame.
    pub(crate) time: MemberTime,
    pub(crate) messages: Vec<Message>,
}

/// The links to the other nodes of the cluster. They end when this is dropped.
pub(crate) struct Members {
    own: ProcessName,
    sequencer: Arc<Sequencer>,
    storage: Arc<Storage>,
    time: Arc<PlatformClock>,
    links: BTreeMap<NodeId, Linked>,
    peers: Peers,
}

/// The link to one node's process.
struct Linked {
    presence: Presence,
    outbox: Arc<Outbox>,
    task: AbortHandle,
}

impl Drop for Linked {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Members {
    /// No links yet. `own`: this process; `peers` gets channels to the others.
    pub(crate) const fn new(
        own: ProcessName,
        sequencer: Arc<Sequencer>,
        storage: Arc<Storage>,
        time: Arc<PlatformClock>,
        peers: Peers,
    ) -> Self {
        Self {
            own,
            sequencer,
            storage,
            time,
            links: BTreeMap::new(),
            peers,
        }
    }

    /// Follows the presences of all data nodes. Returns the present nodes of this cluster. The link
    /// to a node whose presence lapsed stays: only the record decides (COORD-PRESENCE). Must be
    /// called within a tokio runtime.
    pub(crate) fn follow(&mut self, presences: &BTreeMap<String, Bytes>) -> BTreeSet<NodeId> {
        let mut present = BTreeSet::new();
        for (node, data) in presences {
            let Some(presence) = Presence::decode(data) else {
                continue;
            };
            let Ok(node) = NodeId::new(node) else {
                continue;
            };
            if presence.cluster != self.own.cluster {
                continue;
            }
            if node != self.own.node {
                self.link(&node, presence);
            }
            present.insert(node);
        }
        present
    }

    /// Links to the process of this presence, unless that is done.
    fn link(&mut self, node: &NodeId, presence: Presence) {
        let linked = self.links.get(node);
        if linked.is_some_and(|linked| linked.presence == presence) {
            return;
        }
        let name = presence.process_name(self.own.platform, node.clone());
        match channel(&presence.address) {
            Ok(channel) => {
                let process = Process {
                    node: node.clone(),
                    incarnation: name.incarnation,
                };
                self.peers
                    .insert(process, AddressedChannel::new(channel, &name));
            }
            Err(error) => tracing::error!(%node, %error, "a data node can't be reached"),
        }
        let outbox = Arc::new(Outbox::default());
        let link = Link::new(
            (self.own.clone(), name),
            &presence.address,
            Arc::clone(&outbox),
            Arc::clone(&self.sequencer),
            Arc::clone(&self.storage),
            Arc::clone(&self.time),
        );
        match link {
            Ok(link) => {
                let task = tokio::spawn(link.run()).abort_handle();
                let linked = Linked {
                    presence,
                    outbox,
                    task,
                };
                self.links.insert(node.clone(), linked);
            }
            Err(error) => tracing::error!(%node, %error, "a data node can't be reached"),
        }
    }

    /// Sends a message to a node; it may be lost.
    pub(crate) fn send(&self, to: &NodeId, message: Message) {
        if let Some(linked) = self.links.get(to) {
            linked.outbox.push(message);
        }
    }
}
