//! The gRPC server: its services, and serving them.

use std::task::{Context, Poll};

use tierkv_cache::Cache;
use tierkv_rpc::{
    Acceptor, Connections, Counted,
    proto::{
        FILE_DESCRIPTOR_SET,
        v1::{admin_server::AdminServer, kv_server::KvServer},
    },
    serve_builder,
    session::FRAME_SLACK,
    stopped,
};
use tierkv_types::limits::{MAX_ANSWER_BYTES, MAX_REQUEST_BYTES};
use tokio::{net::TcpListener, sync::watch};
use tonic::{
    body::Body,
    codegen::{
        Service,
        http::{Request, Response},
    },
    service::Routes,
};
use tonic_health::pb::health_server::{Health, HealthServer};

use crate::{admin, kv, settings::ConnectionLimits, timely::BodyTime};

/// The door's name in metrics and logs.
const DOOR: &str = "grpc";

/// Calls whose requests are streams: these have no time limit. The request of any other call is one
/// message.
const STREAMED: [&str; 3] = [
    "/tierkv.v1.Kv/Session",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// The API's services, and those for reflection and health.
///
/// # Errors
/// The API's description can't be served.
pub(crate) fn routes<C: Cache>(
    kv: kv::Door<C>,
    admin: admin::Door<C>,
    health: HealthServer<impl Health>,
) -> Result<Routes, tonic_reflection::server::Error> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let kv = KvServer::new(kv)
        .max_decoding_message_size(MAX_REQUEST_BYTES + FRAME_SLACK)
        .max_encoding_message_size(MAX_ANSWER_BYTES + FRAME_SLACK);
    let mut routes = Routes::builder();
    routes
        .add_service(kv)
        .add_service(AdminServer::new(admin))
        .add_service(health)
        .add_service(reflection().build_v1()?)
        // Python's client, among others, supports only this version.
        .add_service(reflection().build_v1alpha()?);
    Ok(routes.routes())
}

/// Accepts this door's connections.
pub(crate) fn acceptor(
    listener: TcpListener,
    connections: Connections,
    limits: &ConnectionLimits,
) -> Acceptor {
    Acceptor::of_grpc(listener, DOOR, connections, limits.head_timeout)
}

/// Serves until it is stopped and all requests in progress have finished.
pub(crate) async fn serve(
    routes: Routes,
    acceptor: Acceptor,
    limits: ConnectionLimits,
    stop: watch::Receiver<bool>,
) {
    let timely = Timely {
        routes: routes.prepare(),
        body_time: BodyTime::new(DOOR, limits.body_timeout),
    };
    let served = serve_builder()
        .http2_keepalive_interval(Some(limits.ping_interval))
        .http2_keepalive_timeout(Some(limits.ping_timeout))
        .serve_with_incoming_shutdown(Counted(timely), acceptor.connections(), stopped(stop))
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the gRPC listener failed");
    }
}

/// The services, with a timeout for the bodies of single requests.
#[derive(Clone)]
struct Timely {
    routes: Routes,
    body_time: BodyTime,
}

impl Service<Request<Body>> for Timely {
    type Response = Response<Body>;
    type Error = <Routes as Service<Request<Body>>>::Error;
    type Future = <Routes as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::<Request<Body>>::poll_ready(&mut self.routes, context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if STREAMED.contains(&request.uri().path()) {
            return self.routes.call(request);
        }
        let request = request.map(|body| Body::new(self.body_time.limit(body)));
        self.routes.call(request)
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    /// A call missing from the list would be cut off; one listed wrongly would have no timeout.
    #[test]
    fn the_calls_with_streams_of_requests_are_those_of_the_contracts() {
        let mut streamed = Vec::new();
        for set in [
            FILE_DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ] {
            for file in FileDescriptorSet::decode(set).unwrap().file {
                for service in &file.service {
                    let calls = service.method.iter().filter(|call| call.client_streaming());
                    let package = file.package();
                    streamed.extend(
                        calls.map(|call| format!("/{package}.{}/{}", service.name(), call.name())),
                    );
                }
            }
        }
        // The internal services are served elsewhere.
        streamed.retain(|call| !call.starts_with("/tierkv.internal."));
        streamed.sort();
        let mut expected = STREAMED.to_vec();
        expected.sort_unstable();
        assert_eq!(streamed, expected);
    }
}
