//! The gRPC door, `tierkv.v1.Kv`: unary calls and the session stream.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use tierkv_cache::Cache;
use tierkv_rpc::{
    Answered, StatusStream, answer_frames, deadline, deadline_or, named_timeout,
    proto::v1::{
        BatchGetRequest, BatchGetResponse, CountRequest, CountResponse, DeleteRequest,
        DeleteResponse, GetRequest, GetResponse, IncrementRequest, IncrementResponse, PutRequest,
        PutResponse, ScanRequest, ScanResponse, SessionRequest, TouchRequest, TouchResponse,
        WatchRequest, WatchResponse, WriteRequest, WriteResponse, kv_server,
    },
    stream_share, until_deadline, until_stopped,
};
use tierkv_types::{
    Code, Error,
    limits::{MAX_SESSIONS, MAX_TIMEOUT},
};
use tokio::{sync::watch, time::Instant};
use tonic::{Request, Response, Status, Streaming};

use crate::{
    answers::Answers,
    call_answer,
    operations::Operations,
    places::Places,
    session::{SESSION_PLACES, SESSIONS, Session},
};

/// The implementation of tonic's service trait.
pub(crate) struct Door<C> {
    operations: Arc<Operations<C>>,
    /// The places of open sessions.
    sessions: Places,
    /// Ends the sessions when the coordinator stops.
    stop: watch::Receiver<bool>,
}

impl<C: Cache> Door<C> {
    /// A door to `operations`; its streams end when `stop` becomes true.
    pub(crate) fn new(operations: Arc<Operations<C>>, stop: watch::Receiver<bool>) -> Self {
        Self {
            operations,
            sessions: Places::new(SESSIONS, MAX_SESSIONS),
            stop,
        }
    }

    fn answer<T>(&self, outcome: Result<T, Error>) -> Result<Response<T>, Status> {
        if let Err(error) = &outcome {
            self.operations.meters.failed(error);
        }
        call_answer::answer(outcome, self.operations.platform_time_ms())
    }

    /// Streams answers until there are no more, or the coordinator stops.
    fn stream<T: Send + 'static>(&self, answers: Answers<T>) -> StatusStream<T> {
        let meters = Arc::clone(&self.operations.meters);
        let answers = answers.inspect_err(move |error| meters.failed(error));
        until_stopped(answers, self.stop.clone())
    }
}

fn late() -> Error {
    Error::new(Code::DeadlineExceeded, "the call's timeout has passed")
}

#[tonic::async_trait]
impl<C: Cache> kv_server::Kv for Door<C> {
    type SessionStream = Answered<Session<C>>;
    type ScanStream = StatusStream<ScanResponse>;
    type WatchStream = StatusStream<WatchResponse>;

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let deadline = deadline(&request);
        self.answer(self.operations.get(request.into_inner(), deadline).await)
    }

    async fn batch_get(
        &self,
        request: Request<BatchGetRequest>,
    ) -> Result<Response<BatchGetResponse>, Status> {
        let deadline = deadline(&request);
        self.answer(
            self.operations
                .batch_get(request.into_inner(), deadline)
                .await,
        )
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let deadline = deadline(&request);
        self.answer(
            self.operations
                .put(request.into_inner(), None, deadline)
                .await,
        )
    }

    async fn delete(
        &self,
        request: Request<DeleteRequest>,
    ) -> Result<Response<DeleteResponse>, Status> {
        let deadline = deadline(&request);
        self.answer(
            self.operations
                .delete(request.into_inner(), None, deadline)
                .await,
        )
    }

    async fn session(
        &self,
        request: Request<Streaming<SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let share = stream_share(&request)?;
        let place = match self.sessions.take() {
            Ok(place) => place,
            Err(error) => return self.answer(Err(error)),
        };
        let operations = Arc::clone(&self.operations);
        let session = Arc::new(Session::new(operations, share.clone(), place));
        let greeting = Some(self.operations.greeting());
        let inbound = request.into_inner();
        Ok(Response::new(answer_frames(
            inbound,
            session,
            greeting,
            SESSION_PLACES,
            Some(share),
            self.stop.clone(),
        )))
    }

    async fn increment(
        &self,
        request: Request<IncrementRequest>,
    ) -> Result<Response<IncrementResponse>, Status> {
        let deadline = deadline(&request);
        self.answer(
            self.operations
                .increment(request.into_inner(), None, deadline)
                .await,
        )
    }

    async fn touch(
        &self,
        request: Request<TouchRequest>,
    ) -> Result<Response<TouchResponse>, Status> {
        let deadline = deadline(&request);
        self.answer(
            self.operations
                .touch(request.into_inner(), None, deadline)
                .await,
        )
    }

    async fn write(
        &self,
        request: Request<WriteRequest>,
    ) -> Result<Response<WriteResponse>, Status> {
        let deadline = deadline(&request);
        self.answer(
            self.operations
                .write(request.into_inner(), None, deadline)
                .await,
        )
    }

    async fn scan(
        &self,
        request: Request<ScanRequest>,
    ) -> Result<Response<Self::ScanStream>, Status> {
        // Scanning many keys takes time.
        let deadline = deadline_or(&request, MAX_TIMEOUT);
        let answers = self.operations.scan(request.into_inner(), deadline).await;
        self.answer(answers.map(|answers| self.stream(answers)))
    }

    async fn count(
        &self,
        request: Request<CountRequest>,
    ) -> Result<Response<CountResponse>, Status> {
        // Counting many keys takes time.
        let deadline = deadline_or(&request, MAX_TIMEOUT);
        self.answer(self.operations.count(request.into_inner(), deadline).await)
    }

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        // Without a timeout from the caller, a watch has no deadline.
        let deadline = named_timeout(&request).map(|timeout| Instant::now() + timeout);
        let answers = self.operations.watch(request.into_inner()).await;
        self.answer(answers.map(|answers| {
            self.stream(match deadline {
                Some(deadline) => until_deadline(answers, deadline, late()).boxed(),
                None => answers,
            })
        }))
    }
}
