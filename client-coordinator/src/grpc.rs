//! The gRPC server: its services, and serving them.

use tierkv_cache::Cache;
use tierkv_rpc::{
    incoming,
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
use tonic::service::Routes;
use tonic_health::pb::health_server::{Health, HealthServer};

use crate::{admin, kv};

/// The services of this tier, and those by which a client finds out what is served.
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
        // Python's client, among others, knows no newer one.
        .add_service(reflection().build_v1alpha()?);
    Ok(routes.routes())
}

/// Serves until it is stopped and what is under way has finished.
pub(crate) async fn serve(routes: Routes, listener: TcpListener, stop: watch::Receiver<bool>) {
    let served = serve_builder()
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming(listener), stopped(stop))
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the gRPC listener failed");
    }
}
