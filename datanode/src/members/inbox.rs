//! [`Inbox`]: the gRPC service that takes other nodes' messages for the driver.

use tierkv_rpc::proto::{
    internal::{DeliverEnd, MemberFrame, member_server},
    status::to_status,
};
use tokio::sync::mpsc;
use tonic::{Response, Status, Streaming};

use super::{Received, wire::decode_frame};
use crate::interface::Current;

/// Most frames that wait for the driver. Over it, senders wait.
const WAITING_FRAMES: usize = 8;

/// What other nodes send to one driver, and where to put it.
pub(crate) fn inbox() -> (mpsc::Sender<Received>, mpsc::Receiver<Received>) {
    mpsc::channel(WAITING_FRAMES)
}

/// The receiving ends of the links.
pub(crate) struct Inbox {
    current: Current,
}

impl Inbox {
    pub(crate) const fn new(current: Current) -> Self {
        Self { current }
    }
}

#[tonic::async_trait]
impl member_server::Member for Inbox {
    async fn deliver(
        &self,
        request: tonic::Request<Streaming<MemberFrame>>,
    ) -> Result<Response<DeliverEnd>, Status> {
        let interface = self.current.now().map_err(|error| to_status(&error))?;
        let mut frames = request.into_inner();
        loop {
            // As long as the driver runs, also when streams of requests have to end: what is in
            // progress is committed by what other nodes acknowledge.
            let frame = tokio::select! {
                biased;
                () = interface.inbox.closed() => break,
                frame = frames.message() => frame?,
            };
            let Some(frame) = frame else { break };
            let received = decode_frame(frame).map_err(|error| to_status(&error))?;
            if interface.inbox.send(received).await.is_err() {
                // The driver has ended, and with it the engine.
                break;
            }
        }
        Ok(Response::new(DeliverEnd {}))
    }
}
