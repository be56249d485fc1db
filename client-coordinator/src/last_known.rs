//! The client coordinators, for operators: those that are present, and where those were that are
//! not any more.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use tierkv_coordination::{
    Coordination, CoordinationError, Watched,
    directory::{CLIENT_COORDINATORS, Presence},
};
use tierkv_rpc::{Background, Follower};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

/// How long a coordinator that is not present any more is still shown.
const SHOWN_FOR: Duration = Duration::from_secs(600);

/// The presences by name.
type Presences = Arc<BTreeMap<String, Presence>>;

/// The last known presence of each client coordinator. Cheap to clone.
#[derive(Clone)]
pub(crate) struct LastKnown(watch::Receiver<Presences>);

impl LastKnown {
    /// Follows the group in the background.
    pub(crate) async fn follow(
        coordination: &dyn Coordination,
        background: &mut Background,
    ) -> Result<Self, CoordinationError> {
        let (publish, presences) = watch::channel(Presences::default());
        let follower = PresenceFollower {
            members: coordination.observe(CLIENT_COORDINATORS).await?,
            known: BTreeMap::new(),
            publish,
        };
        background.follow(follower).await;
        Ok(Self(presences))
    }

    /// All of them.
    pub(crate) fn all(&self) -> Presences {
        Arc::clone(&self.0.borrow())
    }
}

struct PresenceFollower {
    members: Watched<BTreeMap<String, Bytes>>,
    /// With the time since which each one is not present, if it is not.
    known: BTreeMap<String, (Presence, Option<Instant>)>,
    publish: watch::Sender<Presences>,
}

impl Follower for PresenceFollower {
    type Error = CoordinationError;

    fn name(&self) -> &'static str {
        "client coordinators"
    }

    async fn apply(&mut self) {
        let now = Instant::now();
        let members = self.members.current();
        for (node, (_, gone_since)) in &mut self.known {
            if !members.contains_key(node) {
                gone_since.get_or_insert(now);
            }
        }
        for (node, data) in members.iter() {
            if let Some(presence) = Presence::decode(data) {
                self.known.insert(node.clone(), (presence, None));
            }
        }
        self.known
            .retain(|_, (_, gone)| gone.is_none_or(|since| now < since + SHOWN_FOR));
        let presences = (self.known.iter())
            .map(|(node, (presence, _))| (node.clone(), presence.clone()))
            .collect();
        self.publish.send_replace(Arc::new(presences));
    }

    async fn changed(&mut self) -> Result<(), CoordinationError> {
        let gone = self.known.values().filter_map(|(_, gone)| *gone).min();
        tokio::select! {
            biased;
            changed = self.members.changed() => changed,
            () = async {
                match gone {
                    Some(since) => sleep_until(since + SHOWN_FOR).await,
                    None => std::future::pending().await,
                }
            } => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tierkv_coordination::{GroupMembership, MemoryCoordination};
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_that_is_gone_is_shown_for_a_while_at_its_last_address() {
        let coordination = MemoryCoordination::ephemeral();
        let mut background = Background::new();
        let presence = Presence::of_this_process("10.0.0.1:1".to_owned());
        let data = presence.encode();
        let joined = coordination.join(CLIENT_COORDINATORS, "cc1", data).await;
        let known = LastKnown::follow(&*coordination, &mut background).await;
        let mut known = known.unwrap();
        assert_eq!(known.all()["cc1"], presence);
        joined.unwrap().leave().await.unwrap();
        sleep(SHOWN_FOR / 2).await;
        assert_eq!(known.all()["cc1"], presence);
        let forgotten = known.0.wait_for(|presences| presences.is_empty()).await;
        assert!(forgotten.is_ok());
        background.stop().await;
    }
}
