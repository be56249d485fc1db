//! [`Inbox`]: the gRPC service that takes other nodes' messages for the driver.

use tierkv_rpc::{
    proto::{
        internal::{DeliverEnd, MemberFrame, member_server},
        status::to_status,
    },
    stopped,
};
use tokio::sync::{mpsc, watch};
use tonic::{Response, Status, Streaming};

use super::{Received, wire::decode_frame};

/// Most frames that wait for the driver. Over it, senders wait.
const WAITING_FRAMES: usize = 8;

/// The receiving ends of the links.
pub(crate) struct Inbox {
    driver: mpsc::Sender<Received>,
    /// Ends the streams when the node stops.
    stop: watch::Receiver<bool>,
}

/// The service, and what arrives through it.
pub(crate) fn inbox(stop: watch::Receiver<bool>) -> (Inbox, mpsc::Receiver<Received>) {
    let (driver, received) = mpsc::channel(WAITING_FRAMES);
    (Inbox { driver, stop }, received)
}

#[tonic::async_trait]
impl member_server::Member for Inbox {
    async fn deliver(
        &self,
        request: tonic::Request<Streaming<MemberFrame>>,
    ) -> Result<Response<DeliverEnd>, Status> {
        let mut frames = request.into_inner();
        loop {
            let frame = tokio::select! {
                biased;
                () = stopped(self.stop.clone()) => break,
                frame = frames.message() => frame?,
            };
            let Some(frame) = frame else { break };
            let received = decode_frame(frame).map_err(|error| to_status(&error))?;
            if self.driver.send(received).await.is_err() {
                // The driver has ended, and with it the node.
                break;
            }
        }
        Ok(Response::new(DeliverEnd {}))
    }
}
