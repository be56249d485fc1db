//! [`Peers`]: channels to the cluster's other nodes, for calls that must not wait behind records.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use tierkv_protocol::replication::Process;
use tierkv_rpc::AddressedChannel;
use tierkv_types::{Incarnation, NodeId};

/// The newest process of each node, with a channel to it. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peers(Arc<RwLock<HashMap<NodeId, (Incarnation, AddressedChannel)>>>);

impl Peers {
    /// The node's process is reached by this channel.
    pub(super) fn insert(&self, process: Process, channel: AddressedChannel) {
        let mut peers = self.0.write().unwrap_or_else(PoisonError::into_inner);
        peers.insert(process.node, (process.incarnation, channel));
    }

    /// A channel to a process; `None` if it was not seen in coordination, or a later one was.
    pub(crate) fn channel(&self, process: &Process) -> Option<AddressedChannel> {
        let peers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let (incarnation, channel) = peers.get(&process.node)?;
        (*incarnation == process.incarnation).then(|| channel.clone())
    }
}
