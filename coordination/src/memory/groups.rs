//! The groups and their members.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use tokio::sync::watch;

use crate::{error::CoordinationError, watch::Watched};

/// All groups with a member or an observer.
#[derive(Default)]
pub(super) struct Groups {
    groups: BTreeMap<String, Group>,
    /// The number of the last join: distinguishes a member from a later one of the same name.
    last_session: u64,
}

#[derive(Default)]
struct Group {
    members: BTreeMap<String, Member>,
    observed: watch::Sender<Arc<BTreeMap<String, Bytes>>>,
}

struct Member {
    session: u64,
    data: Bytes,
    lost: watch::Sender<bool>,
}

impl Groups {
    pub(super) fn join(
        &mut self,
        group: &str,
        member: &str,
        data: Bytes,
    ) -> Result<(u64, watch::Receiver<bool>), CoordinationError> {
        let members = &mut self.groups.entry(group.to_owned()).or_default().members;
        if members.contains_key(member) {
            return Err(CoordinationError::AlreadyExists(format!(
                "the group {group:?} has a living member {member:?}; choose another name, or stop \
                 that one"
            )));
        }
        self.last_session += 1;
        let (lost, receiver) = watch::channel(false);
        members.insert(
            member.to_owned(),
            Member {
                session: self.last_session,
                data,
                lost,
            },
        );
        self.publish(group);
        Ok((self.last_session, receiver))
    }

    pub(super) fn list(&self, group: &str) -> BTreeMap<String, Bytes> {
        self.groups.get(group).map(Group::list).unwrap_or_default()
    }

    pub(super) fn observe(&mut self, group: &str) -> Watched<BTreeMap<String, Bytes>> {
        self.groups
            .retain(|_, group| !group.members.is_empty() || group.observed.receiver_count() > 0);
        let group = self.groups.entry(group.to_owned()).or_default();
        Watched::new(group.observed.subscribe())
    }

    /// Removes the member of this join, if it is still there.
    pub(super) fn leave(&mut self, group: &str, member: &str, session: u64) {
        self.remove(group, member, Some(session));
    }

    /// Removes the member with this name; returns whether there was one.
    pub(super) fn expire(&mut self, group: &str, member: &str) -> bool {
        self.remove(group, member, None)
    }

    fn remove(&mut self, group: &str, member: &str, session: Option<u64>) -> bool {
        let Some(members) = self.groups.get_mut(group).map(|group| &mut group.members) else {
            return false;
        };
        let Some(found) = members
            .get(member)
            .filter(|found| session.is_none_or(|session| session == found.session))
        else {
            return false;
        };
        // COORD-LEASE: the holder is notified before the name is free.
        found.lost.send_replace(true);
        members.remove(member);
        self.publish(group);
        true
    }

    /// The number of groups kept.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.groups.len()
    }

    fn publish(&mut self, name: &str) {
        if let Some(group) = self.groups.get(name) {
            group.observed.send_replace(Arc::new(group.list()));
            if group.members.is_empty() && group.observed.receiver_count() == 0 {
                self.groups.remove(name);
            }
        }
    }
}

impl Group {
    fn list(&self) -> BTreeMap<String, Bytes> {
        self.members
            .iter()
            .map(|(name, member)| (name.clone(), member.data.clone()))
            .collect()
    }
}
