//! The write path: checks users' writes and sends them below.

use std::sync::Arc;

use rand::RngCore;
use tierkv_rpc::proto::{
    convert,
    internal::{self, WriteReply, reply, request, write::RequestBirth},
    v1,
};
use tierkv_types::{
    Clock, Error, ItemKey, Operation, OperationKind, RequestId, RequestName, Slot, WriteRequest,
};
use tokio::time::{Duration, Instant, sleep};

use crate::{below::Below, silences::Silences, views::SharedViews};

/// How often it is checked whether the platform's time is available.
const TIME_PAUSE: Duration = Duration::from_millis(10);
/// Maximum number of ids tried for a write that has none from its client.
const MAX_NAMES: u32 = 4;

/// The client's name for a write, by which it can be sent again.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Naming<'a> {
    /// None: a retry is a new write.
    None,
    /// An id made by the client.
    Id(&'a v1::RequestId),
    /// The hash of an idempotency key.
    Key([u8; 16]),
}

impl<'a> Naming<'a> {
    /// The name of a write: an idempotency key from the door, or an id in the message.
    pub(crate) fn of(key: Option<[u8; 16]>, id: Option<&'a v1::RequestId>) -> Self {
        match (key, id) {
            (Some(key), _) => Self::Key(key),
            (None, Some(id)) => Self::Id(id),
            (None, None) => Self::None,
        }
    }
}

/// The write path of one client coordinator.
pub(crate) struct Writer {
    pub(crate) below: Below,
    pub(crate) views: SharedViews,
    pub(crate) silences: Silences,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Writer {
    /// Changes one key; returns the new version and the result of the change.
    ///
    /// # Errors
    /// `InvalidArgument`, or the errors of the tiers below.
    pub(crate) async fn change(
        &self,
        key: ItemKey,
        kind: OperationKind,
        naming: Naming<'_>,
        deadline: Instant,
    ) -> Result<(u64, v1::WriteResult), Error> {
        let write = WriteRequest {
            name: self.name(naming, Some(key.slot()), deadline).await?,
            conditions: Vec::new(),
            operations: vec![Operation { key, kind }],
            return_previous: false,
        };
        let mut answer = self.write(write, naming, deadline).await?;
        let result = answer.results.pop().ok_or_else(mismatch)?;
        Ok((answer.version, result))
    }

    /// Changes many keys of one cluster, all or none. A write without a client's name is retried
    /// under a new id if it was refused for its birth. This happens when the master's time went
    /// back over a restart, before this coordinator received the new time, or when the clusters'
    /// times are apart and the key's has not answered this coordinator yet.
    ///
    /// # Errors
    /// The errors of the tiers below.
    pub(crate) async fn write(
        &self,
        write: WriteRequest,
        naming: Naming<'_>,
        deadline: Instant,
    ) -> Result<WriteReply, Error> {
        let operations = write.operations.len();
        let slot = (write.operations.first()).map(|operation| operation.key.slot());
        let _place = slot.map(|slot| self.silences.admit(slot)).transpose()?;
        let mut write = request::Kind::Write(internal::Write::from_request(write));
        let mut names = 1;
        loop {
            let error = match self.below.write(&write, deadline).await {
                Ok(reply::Kind::Write(answer)) if answer.results.len() == operations => {
                    return Ok(answer);
                }
                Ok(_) => return Err(mismatch()),
                Err(error) => error,
            };
            match (error.birth_refused_at, naming, &mut write) {
                (Some(now), Naming::None, request::Kind::Write(write)) => {
                    if names == MAX_NAMES {
                        return Err(Error::unavailable(
                            "the masters' clocks do not agree yet; nothing \
                             was done, try again",
                        ));
                    }
                    write.request_birth = Some(RequestBirth::RequestBirthMs(now.get()));
                    write.request_random = random().to_vec().into();
                }
                _ => {
                    return Err(match slot {
                        Some(slot) => self.silences.explain(slot, error),
                        None => error,
                    });
                }
            }
            names += 1;
        }
    }

    /// The request id of a write of `slot` for the tiers below. A write without a name gets a new
    /// id.
    ///
    /// # Errors
    /// `InvalidArgument`, or `Unavailable` if no master answered until `deadline`.
    pub(crate) async fn name(
        &self,
        naming: Naming<'_>,
        slot: Option<Slot>,
        deadline: Instant,
    ) -> Result<RequestName, Error> {
        match naming {
            Naming::Id(id) => convert::request_id(id).map(RequestName::Id),
            Naming::Key(random) => Ok(RequestName::Key {
                random,
                received_millis: self.time_of(slot, deadline).await?,
            }),
            Naming::None => Ok(RequestName::Id(RequestId {
                birth_millis: self.time_of(slot, deadline).await?,
                random: random(),
            })),
        }
    }

    /// The time of the cluster that owns `slot`, in milliseconds; waits until it is available.
    ///
    /// # Errors
    /// `Unavailable` if no master answered until `deadline`.
    async fn time_of(&self, slot: Option<Slot>, deadline: Instant) -> Result<u64, Error> {
        loop {
            let now = self.clock.boot_time();
            let time = match slot {
                Some(slot) => self.views.time_of(slot, now),
                None => self.views.platform_time(now),
            };
            if let Some(time) = time {
                return Ok(time.millis());
            }
            // This coordinator has just started.
            if Instant::now() + TIME_PAUSE >= deadline {
                return Err(Error::unavailable(
                    "no master has answered yet; nothing was done, try again",
                ));
            }
            sleep(TIME_PAUSE).await;
        }
    }
}

/// The random part of a new request id.
fn random() -> [u8; 16] {
    let mut random = [0; 16];
    rand::rng().fill_bytes(&mut random);
    random
}

/// With the answer of another operation, the outcome of the write is unknown.
fn mismatch() -> Error {
    Error::outcome_unknown("a tier's answer belongs to another operation than the request")
}
