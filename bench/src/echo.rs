//! The bare echo: a tonic server that only answers, with messages as long as those of a `Get`
//! and the platform's transport settings. Its rate is the limit of the transport.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    io::Write,
    net::Ipv4Addr,
    task::{Context, Poll},
};

use bytes::Bytes;
use prost::Message;
use tierkv_workload::{Answer, Failure, Shape, Target, channel, serve_builder};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status,
    body::Body,
    client,
    codegen::{BoxFuture, Service, http},
    server::{self, NamedService, UnaryService},
    transport::Channel,
};
use tonic_prost::ProstCodec;

const PATH: &str = "/bench.Echo/Get";

/// The fields of a `GetRequest` that a plain read sets.
#[derive(Clone, PartialEq, Message)]
struct EchoRequest {
    #[prost(string, tag = "1")]
    namespace: String,
    #[prost(bytes = "bytes", tag = "2")]
    key: Bytes,
}

/// The fields of a `GetResponse` that a cache hit sets.
#[derive(Clone, PartialEq, Message)]
struct EchoResponse {
    #[prost(bool, tag = "1")]
    found: bool,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
    #[prost(fixed64, tag = "3")]
    version: u64,
    #[prost(int32, tag = "4")]
    source: i32,
    #[prost(uint32, tag = "5")]
    age_ms: u32,
}

/// The service.
#[derive(Clone, Debug)]
struct Echo {
    value: Bytes,
}

impl NamedService for Echo {
    const NAME: &'static str = "bench.Echo";
}

impl UnaryService<EchoRequest> for Echo {
    type Response = EchoResponse;
    type Future = Ready<Result<Response<EchoResponse>, Status>>;

    fn call(&mut self, request: Request<EchoRequest>) -> Self::Future {
        ready(Ok(Response::new(EchoResponse {
            found: !request.get_ref().key.is_empty(),
            value: self.value.clone(),
            version: u64::MAX,
            source: 1,
            age_ms: 1,
        })))
    }
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            let mut grpc = server::Grpc::new(ProstCodec::default());
            Ok(grpc.unary(service, request).await)
        })
    }
}

/// Prints a free loopback address and serves on it until the process ends.
pub(crate) async fn serve(shape: Shape) -> Result<(), Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .map_err(Failure::of)?;
    let address = listener.local_addr().map_err(Failure::of)?;
    writeln!(std::io::stdout().lock(), "{address}").map_err(Failure::of)?;
    serve_on(listener, shape).await
}

async fn serve_on(listener: TcpListener, shape: Shape) -> Result<(), Failure> {
    // As in the platform's listeners, so that a frame does not wait for the next.
    let connections = tokio_stream::StreamExt::map(TcpListenerStream::new(listener), |stream| {
        stream.and_then(|stream| stream.set_nodelay(true).map(|()| stream))
    });
    let echo = Echo {
        value: vec![b'x'; shape.value_bytes()].into(),
    };
    serve_builder()
        .add_service(echo)
        .serve_with_incoming(connections)
        .await
        .map_err(Failure::of)
}

/// One connection to an echo server.
#[derive(Clone, Debug)]
pub(crate) struct EchoClient {
    grpc: client::Grpc<Channel>,
    namespace: String,
}

impl EchoClient {
    pub(crate) fn connect(address: &str, namespace: &str) -> Result<Self, Failure> {
        Ok(Self {
            grpc: client::Grpc::new(channel(address).map_err(Failure::of)?),
            namespace: namespace.to_owned(),
        })
    }
}

impl Target for EchoClient {
    async fn get(&mut self, key: &[u8]) -> Result<Answer, Failure> {
        let request = EchoRequest {
            namespace: self.namespace.clone(),
            key: Bytes::copy_from_slice(key),
        };
        self.grpc.ready().await.map_err(Failure::of)?;
        let answer: Response<EchoResponse> = self
            .grpc
            .unary(
                Request::new(request),
                http::uri::PathAndQuery::from_static(PATH),
                ProstCodec::default(),
            )
            .await
            .map_err(Failure::of)?;
        let answer = answer.into_inner();
        Ok(Answer {
            value: answer.found.then_some(answer.value),
            cached: false,
        })
    }

    async fn put(&mut self, _key: &[u8], _value: Bytes) -> Result<(), Failure> {
        Err(Failure("an echo stores nothing".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_echo_answers_with_a_value_of_the_shape() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(serve_on(listener, Shape::Trace));
        let mut client = EchoClient::connect(&address, "bench").unwrap();
        let answer = client.get(Shape::Trace.key(1).as_ref()).await.unwrap();
        assert_eq!(answer.value.unwrap().len(), Shape::Trace.value_bytes());
        assert!(client.put(b"k", Bytes::new()).await.is_err());
    }
}
