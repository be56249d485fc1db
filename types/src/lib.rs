//! The vocabulary of the platform: newtypes that can't hold an invalid value.
//!
//! Every other crate may import this one; it imports none of them, and its only I/O is to read a
//! clock. Reading order: [`key`], [`range`], [`slot`], [`slot_table`] and [`owned_slots`] (what is
//! addressed and who owns it), [`version`] (when it changed), [`replication`] (nodes, epochs and
//! positions), [`epoch_table`] (where each epoch begins in a log), [`request`] (what a client asks for), [`record`] (how a change is logged), [`code`]
//! (errors), [`topology`] (the role of a process in its tier), [`limits`].

pub mod clock;
pub mod code;
pub mod epoch_table;
pub mod key;
pub mod limits;
pub mod moving_average;
pub mod owned_slots;
pub mod process_name;
pub mod range;
pub mod record;
pub mod replication;
pub mod request;
pub mod slot;
pub mod slot_table;
pub mod topology;
pub mod version;

pub use clock::{Boot, BootTime, Clock, SystemClock, TimeReading};
pub use code::{Code, Error};
pub use epoch_table::{EpochOutOfOrder, EpochTable};
pub use key::{ItemKey, Namespace};
pub use moving_average::moving_average;
pub use owned_slots::{NotOwnedSlots, OwnedSlots};
pub use process_name::ProcessName;
pub use range::ItemRange;
pub use record::{Change, ChangeKind, Payload, Record, RequestId, Write};
pub use replication::{
    ClusterId, Epoch, Incarnation, Index, LogId, NodeId, PlatformId, Position, Round,
};
pub use request::{Condition, ConditionKind, Operation, OperationKind, RequestName, WriteRequest};
pub use slot::{SLOT_COUNT, Slot};
pub use slot_table::{SlotRun, SlotTable, SlotTableError};
pub use topology::{CacheHealth, CoordinationHealth, CoordinatorRole, NodeRole};
pub use version::{HybridClock, Version};
