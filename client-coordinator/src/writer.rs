//! The write path: checks what a user sent and takes it below.

use std::sync::Arc;

use bytes::Bytes;
use rand::RngCore;
use tierkv_rpc::proto::{
    convert,
    internal::{self, WriteReply, reply, request},
    v1,
};
use tierkv_types::{
    Clock, Code, Error, ItemKey, Operation, OperationKind, RequestId, WriteRequest,
};
use tokio::time::Instant;

use crate::{below::Below, views::SharedViews};

/// The write path of one client coordinator.
pub(crate) struct Writer {
    pub(crate) below: Below,
    pub(crate) views: SharedViews,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Writer {
    /// Sets a key, for `ttl_ms` milliseconds or, with 0, for ever; answers the new version.
    ///
    /// # Errors
    /// `InvalidArgument`, or what the tiers below said.
    pub(crate) async fn put(
        &self,
        key: ItemKey,
        value: Bytes,
        ttl_ms: u64,
        request_id: Option<&v1::RequestId>,
        deadline: Instant,
    ) -> Result<u64, Error> {
        convert::check_value(&value)?;
        let kind = OperationKind::Put {
            value,
            ttl: convert::ttl(ttl_ms)?,
        };
        Ok(self.change(key, kind, request_id, deadline).await?.version)
    }

    /// Removes a key.
    ///
    /// # Errors
    /// `InvalidArgument`, or what the tiers below said.
    pub(crate) async fn delete(
        &self,
        key: ItemKey,
        request_id: Option<&v1::RequestId>,
        deadline: Instant,
    ) -> Result<v1::DeleteResponse, Error> {
        let answer = self
            .change(key, OperationKind::Delete, request_id, deadline)
            .await?;
        let existed = answer.results.first().is_some_and(|result| result.existed);
        Ok(v1::DeleteResponse {
            existed,
            version: answer.version,
        })
    }

    async fn change(
        &self,
        key: ItemKey,
        kind: OperationKind,
        request_id: Option<&v1::RequestId>,
        deadline: Instant,
    ) -> Result<WriteReply, Error> {
        let id = match request_id {
            Some(id) => convert::request_id(id)?,
            None => self.new_request_id(),
        };
        let write = WriteRequest {
            id,
            operations: vec![Operation { key, kind }],
        };
        let write = request::Kind::Write(internal::Write::from_request(write));
        match self.below.write(write, deadline).await? {
            reply::Kind::Write(answer) => Ok(answer),
            _ => Err(Error::new(
                Code::OutcomeUnknown,
                "a tier answered another operation than was asked",
            )),
        }
    }

    /// A name for a write whose client gave it none: a retry of it is a new write.
    fn new_request_id(&self) -> RequestId {
        let mut random = [0; 16];
        rand::rng().fill_bytes(&mut random);
        let platform_time = self.views.platform_time(self.clock.boot_time());
        let birth_millis =
            platform_time.map_or_else(|| self.clock.wall_millis(), tierkv_types::Version::millis);
        RequestId {
            birth_millis,
            random,
        }
    }
}
