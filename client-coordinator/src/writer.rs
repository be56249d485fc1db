//! The write path: checks what a user sent and takes it below.

use std::sync::Arc;

use rand::RngCore;
use tierkv_rpc::proto::{
    convert,
    internal::{self, WriteReply, reply, request},
    v1,
};
use tierkv_types::{Clock, Error, ItemKey, Operation, OperationKind, RequestId, WriteRequest};
use tokio::time::{Duration, Instant, sleep};

use crate::{below::Below, views::SharedViews};

/// How often it is looked whether the platform's time is known.
const TIME_PAUSE: Duration = Duration::from_millis(10);

/// The write path of one client coordinator.
pub(crate) struct Writer {
    pub(crate) below: Below,
    pub(crate) views: SharedViews,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Writer {
    /// Changes one key; answers the new version and what was done.
    ///
    /// # Errors
    /// `InvalidArgument`, or what the tiers below said.
    pub(crate) async fn change(
        &self,
        key: ItemKey,
        kind: OperationKind,
        request_id: Option<&v1::RequestId>,
        deadline: Instant,
    ) -> Result<(u64, v1::WriteResult), Error> {
        let write = WriteRequest {
            id: self.request_id(request_id, deadline).await?,
            conditions: Vec::new(),
            operations: vec![Operation { key, kind }],
            return_previous: false,
        };
        let mut answer = self.write(write, deadline).await?;
        let result = answer.results.pop().ok_or_else(mismatch)?;
        Ok((answer.version, result))
    }

    /// Changes many keys of one cluster, all or none.
    ///
    /// # Errors
    /// What the tiers below said.
    pub(crate) async fn write(
        &self,
        write: WriteRequest,
        deadline: Instant,
    ) -> Result<WriteReply, Error> {
        let operations = write.operations.len();
        let write = request::Kind::Write(internal::Write::from_request(write));
        match self.below.write(write, deadline).await? {
            reply::Kind::Write(answer) if answer.results.len() == operations => Ok(answer),
            _ => Err(mismatch()),
        }
    }

    /// The client's name for a write. One whose client gave it none gets a new one, as soon
    /// as the platform's time is known: a retry of it is a new write.
    ///
    /// # Errors
    /// `InvalidArgument`, or `Unavailable` if no master was heard until `deadline`.
    pub(crate) async fn request_id(
        &self,
        given: Option<&v1::RequestId>,
        deadline: Instant,
    ) -> Result<RequestId, Error> {
        if let Some(given) = given {
            return convert::request_id(given);
        }
        let mut random = [0; 16];
        rand::rng().fill_bytes(&mut random);
        loop {
            if let Some(now) = self.views.platform_time(self.clock.boot_time()) {
                return Ok(RequestId {
                    birth_millis: now.millis(),
                    random,
                });
            }
            // A coordinator that has just started.
            if Instant::now() + TIME_PAUSE >= deadline {
                return Err(Error::unavailable(
                    "no master was heard yet; nothing was done, try again",
                ));
            }
            sleep(TIME_PAUSE).await;
        }
    }
}

/// What became of a write is not known if another operation is answered.
fn mismatch() -> Error {
    Error::outcome_unknown("a tier answered another operation than was asked")
}
