//! [`Target`]: where a request goes.

use tierkv_types::{ClusterId, Slot};

/// The target of a request.
pub(crate) enum Target {
    Slot(Slot),
    /// Slots that must have one owner.
    Slots(Vec<Slot>),
    Cluster(ClusterId),
}

impl Target {
    pub(crate) fn slots(&self) -> &[Slot] {
        match self {
            Self::Slot(slot) => std::slice::from_ref(slot),
            Self::Slots(slots) => slots,
            Self::Cluster(_) => &[],
        }
    }
}
