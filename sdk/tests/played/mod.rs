//! A client coordinator scripted by the test: it records requests and answers by the script.

#![allow(dead_code)] // Not every test plays every part.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
};

use futures::{Stream, StreamExt};
use tierkv::{
    Builder, Client, Code,
    rpc::{
        incoming,
        proto::{
            status::{to_status, to_wire},
            v1::{
                BatchGetRequest, BatchGetResponse, CountRequest, CountResponse, DeleteRequest,
                DeleteResponse, GetRequest, GetResponse, Greeting, IncrementRequest,
                IncrementResponse, PutRequest, PutResponse, RequestId, ScanRequest, ScanResponse,
                SessionAnswer, SessionRequest, SessionResponse, TouchRequest, TouchResponse,
                WatchRequest, WatchResponse, WriteRequest, WriteResponse,
                kv_server::{Kv, KvServer},
                session_answer::Answer,
                session_operation::Operation,
            },
        },
        serve_builder,
    },
};
use tierkv_types::Error;
use tokio::{
    net::TcpListener,
    runtime::{self, Runtime},
    sync::mpsc,
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// The platform's time that greets every session; different from this machine's.
pub(crate) const PLATFORM_TIME: u64 = 5_000_000_000_000;

/// What happens to one operation of a session.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Answer(Answer),
    Refuse(Code),
    /// It is refused for the birth of its request id, at this platform time.
    RefuseBirth(u64),
    /// It is accepted and never answered.
    Ignore,
    /// It is accepted, and its stream breaks.
    Break,
}

/// The next step of a stream of answers.
#[derive(Clone, Debug)]
pub(crate) enum Word<T> {
    Send(T),
    Refuse(Code),
    /// A bare status, as a transport produces it.
    Break,
    /// Nothing more is sent, and the stream stays open.
    Hang,
}

type Plays<Call, Act> = Box<dyn Fn(usize, &Call) -> Act + Send + Sync>;

/// What the coordinator does with the n-th request, counted from 0.
pub(crate) struct Plot {
    pub(crate) operation: Plays<Operation, Act>,
    /// The platform's time in the frame of an operation's answer.
    pub(crate) time: Plays<Operation, u64>,
    pub(crate) scan: Plays<ScanRequest, Vec<Word<ScanResponse>>>,
    pub(crate) watch: Plays<WatchRequest, Vec<Word<WatchResponse>>>,
    pub(crate) count: Plays<CountRequest, Result<u64, Code>>,
}

impl Default for Plot {
    fn default() -> Self {
        Self {
            operation: Box::new(|_, operation| panic!("nobody was to ask {operation:?}")),
            time: Box::new(|_, _| PLATFORM_TIME),
            scan: Box::new(|_, scan| panic!("nobody was to ask {scan:?}")),
            watch: Box::new(|_, watch| panic!("nobody was to ask {watch:?}")),
            count: Box::new(|_, count| panic!("nobody was to ask {count:?}")),
        }
    }
}

/// A scripted coordinator. Dropping it closes its connections.
pub(crate) struct Played {
    pub(crate) address: SocketAddr,
    requests: Arc<Requests>,
    runtime: Option<Runtime>,
}

#[derive(Default)]
struct Requests {
    operations: Mutex<Vec<Operation>>,
    scans: Mutex<Vec<ScanRequest>>,
    watches: Mutex<Vec<WatchRequest>>,
    counts: Mutex<Vec<CountRequest>>,
}

fn note<T: Clone>(asked: &Mutex<Vec<T>>, request: &T) -> usize {
    let mut asked = asked.lock().unwrap();
    asked.push(request.clone());
    asked.len() - 1
}

impl Drop for Played {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Played {
    /// A coordinator that does with the n-th operation what `play` returns.
    pub(crate) fn new(play: impl Fn(usize, &Operation) -> Act + Send + Sync + 'static) -> Self {
        Self::with(Plot {
            operation: Box::new(play),
            ..Plot::default()
        })
    }

    pub(crate) fn with(plot: Plot) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let requests = Arc::new(Requests::default());
        let door = Door {
            plot: Arc::new(plot),
            requests: Arc::clone(&requests),
        };
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            let server = serve_builder().add_service(KvServer::new(door));
            server
                .serve_with_incoming(incoming(listener))
                .await
                .unwrap();
        });
        Self {
            address,
            requests,
            runtime: Some(runtime),
        }
    }

    /// The operations of sessions, without the client's first empty batch.
    pub(crate) fn asked(&self) -> Vec<Operation> {
        self.requests.operations.lock().unwrap().clone()
    }

    pub(crate) fn scans(&self) -> Vec<ScanRequest> {
        self.requests.scans.lock().unwrap().clone()
    }

    pub(crate) fn watches(&self) -> Vec<WatchRequest> {
        self.requests.watches.lock().unwrap().clone()
    }

    pub(crate) fn counts(&self) -> Vec<CountRequest> {
        self.requests.counts.lock().unwrap().clone()
    }

    /// A builder for a client of this coordinator.
    pub(crate) fn builder(&self) -> Builder {
        Client::builder().address(self.address.to_string())
    }

    pub(crate) async fn client(&self) -> Client {
        self.builder().connect().await.unwrap()
    }
}

/// The request id of a write.
pub(crate) fn id_of(operation: &Operation) -> RequestId {
    match operation {
        Operation::Put(put) => put.request_id.clone(),
        Operation::Delete(delete) => delete.request_id.clone(),
        Operation::Increment(increment) => increment.request_id.clone(),
        Operation::Touch(touch) => touch.request_id.clone(),
        Operation::Write(write) => write.request_id.clone(),
        Operation::Get(_) | Operation::BatchGet(_) => None,
    }
    .expect("every write has an id")
}

pub(crate) fn put_answer(version: u64) -> Act {
    Act::Answer(Answer::Put(PutResponse { version }))
}

struct Door {
    plot: Arc<Plot>,
    requests: Arc<Requests>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A client connects with an empty batch.
fn is_connecting(operation: &Operation) -> bool {
    matches!(operation, Operation::BatchGet(batch) if batch.keys.is_empty())
}

fn refusal(code: Code) -> Error {
    Error::new(code, "so it was played")
}

fn stream_of<T: Send + 'static>(words: Vec<Word<T>>) -> Response<Answers<T>> {
    let words = futures::stream::iter(words).then(|word| async {
        match word {
            Word::Send(message) => Ok(message),
            Word::Refuse(code) => Err(to_status(&refusal(code))),
            Word::Break => Err(Status::unknown("the connection broke")),
            Word::Hang => std::future::pending().await,
        }
    });
    Response::new(Box::pin(words))
}

#[tonic::async_trait]
impl Kv for Door {
    type SessionStream = Answers<SessionResponse>;
    type ScanStream = Answers<ScanResponse>;
    type WatchStream = Answers<WatchResponse>;

    async fn session(
        &self,
        request: Request<Streaming<SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut inbound = request.into_inner();
        let (answers, outbound) = mpsc::unbounded_channel();
        let greeting = SessionResponse {
            greeting: Some(Greeting {
                platform_time_ms: PLATFORM_TIME,
                ..Greeting::default()
            }),
            answers: Vec::new(),
            platform_time_ms: PLATFORM_TIME,
        };
        answers.send(Ok(greeting)).unwrap();
        let (plot, requests) = (Arc::clone(&self.plot), Arc::clone(&self.requests));
        tokio::spawn(async move {
            while let Ok(Some(frame)) = inbound.message().await {
                for operation in frame.operations {
                    let (id, operation) = (operation.id, operation.operation.unwrap());
                    let (act, time) = match is_connecting(&operation) {
                        true => {
                            let nothing = Answer::BatchGet(BatchGetResponse::default());
                            (Act::Answer(nothing), PLATFORM_TIME)
                        }
                        false => {
                            let number = note(&requests.operations, &operation);
                            let act = (plot.operation)(number, &operation);
                            (act, (plot.time)(number, &operation))
                        }
                    };
                    let answer = match act {
                        Act::Answer(answer) => answer,
                        Act::Refuse(code) => Answer::Error(to_wire(&refusal(code))),
                        Act::RefuseBirth(now) => {
                            let refusal = Error::birth_refused(now, "so it was played");
                            Answer::Error(to_wire(&refusal))
                        }
                        Act::Ignore => continue,
                        Act::Break => {
                            // A caller that is gone needs no answer.
                            drop(answers.send(Err(Status::unknown("the connection broke"))));
                            return;
                        }
                    };
                    let answer = SessionAnswer {
                        id,
                        answer: Some(answer),
                    };
                    drop(answers.send(Ok(SessionResponse {
                        greeting: None,
                        answers: vec![answer],
                        platform_time_ms: time,
                    })));
                }
            }
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(
            outbound,
        ))))
    }

    async fn scan(
        &self,
        request: Request<ScanRequest>,
    ) -> Result<Response<Self::ScanStream>, Status> {
        let request = request.into_inner();
        let number = note(&self.requests.scans, &request);
        Ok(stream_of((self.plot.scan)(number, &request)))
    }

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let request = request.into_inner();
        let number = note(&self.requests.watches, &request);
        Ok(stream_of((self.plot.watch)(number, &request)))
    }

    async fn count(
        &self,
        request: Request<CountRequest>,
    ) -> Result<Response<CountResponse>, Status> {
        let request = request.into_inner();
        let number = note(&self.requests.counts, &request);
        match (self.plot.count)(number, &request) {
            Ok(count) => Ok(Response::new(CountResponse { count })),
            Err(code) => Err(to_status(&refusal(code))),
        }
    }

    async fn get(&self, _: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        Err(Status::unimplemented("sessions only"))
    }

    async fn batch_get(
        &self,
        _: Request<BatchGetRequest>,
    ) -> Result<Response<BatchGetResponse>, Status> {
        Err(Status::unimplemented("sessions only"))
    }

    async fn put(&self, _: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        Err(Status::unimplemented("sessions only"))
    }

    async fn delete(&self, _: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        Err(Status::unimplemented("sessions only"))
    }

    async fn increment(
        &self,
        _: Request<IncrementRequest>,
    ) -> Result<Response<IncrementResponse>, Status> {
        Err(Status::unimplemented("sessions only"))
    }

    async fn touch(&self, _: Request<TouchRequest>) -> Result<Response<TouchResponse>, Status> {
        Err(Status::unimplemented("sessions only"))
    }

    async fn write(&self, _: Request<WriteRequest>) -> Result<Response<WriteResponse>, Status> {
        Err(Status::unimplemented("sessions only"))
    }
}
