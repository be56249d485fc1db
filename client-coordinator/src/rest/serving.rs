//! Serves the gateway's routes on the door's connections.

use std::{convert::Infallible, pin::pin, sync::Arc};

use axum::{
    Router,
    body::Body,
    http::{Response, header::CONTENT_TYPE},
};
use hyper::{
    Request,
    body::{Body as _, Incoming},
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use metrics::Counter;
use tierkv_rpc::{
    Acceptor, Connection, ConnectionShares, CountedBody, connection_timeouts, stopped,
};
use tokio::{sync::watch, task::JoinSet};

use super::pace::{Over, Pace, Paced, PacedAnswer, PacedBody, Times};
use crate::{settings::ConnectionLimits, timely::BodyTime};

/// The media type of endless answers.
const EVENT_STREAM: &str = "text/event-stream";
/// The door's name in metrics and logs.
pub(crate) const DOOR: &str = "rest";

/// The shared state of the door's connections.
struct Server {
    builder: Builder<TokioExecutor>,
    routes: TowerToHyperService<Router>,
    times: Times,
    body_time: BodyTime,
    late_heads: Counter,
    idle: Counter,
}

impl Server {
    fn new(router: Router, limits: &ConnectionLimits) -> Self {
        // `Pace` has the timeouts of HTTP/1, so the builder needs no timer.
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(limits.ping_interval)
            .keep_alive_timeout(limits.ping_timeout);
        Self {
            builder,
            routes: TowerToHyperService::new(router),
            times: Times {
                head: limits.head_timeout,
                idle: limits.rest_idle_timeout,
            },
            body_time: BodyTime::new(DOOR, limits.body_timeout),
            late_heads: connection_timeouts(DOOR, "limits.head_timeout_ms"),
            idle: connection_timeouts(DOOR, "limits.rest_idle_timeout_ms"),
        }
    }

    /// Answers the requests of one connection until it ends, times out, or `stop` becomes true;
    /// then requests in progress are finished.
    async fn converse(&self, connection: Connection, stop: watch::Receiver<bool>) {
        let pace = Pace::new(self.times);
        let shares = connection.shares().clone();
        let io = TokioIo::new(Paced {
            connection,
            pace: Arc::clone(&pace),
        });
        let service = service_fn(|request: Request<Incoming>| {
            let underway = pace.begin();
            let request = request.map(|body| self.body(body, &pace));
            let answering = self.routes.call(request);
            let shares = shares.clone();
            async move {
                let response = counted(answering.await?, &shares);
                Ok::<_, Infallible>(response.map(|body| PacedAnswer { body, underway }))
            }
        });
        let mut serving = pin!(self.builder.serve_connection(io, service));
        let mut stops = pin!(stopped(stop));
        let mut is_stopping = false;
        loop {
            tokio::select! {
                served = serving.as_mut() => {
                    if let Err(error) = served {
                        tracing::debug!(%error, "a REST connection broke");
                    }
                    return;
                }
                over = pace.over() => return self.count(over),
                () = &mut stops, if !is_stopping => {
                    is_stopping = true;
                    serving.as_mut().graceful_shutdown();
                }
            }
        }
    }

    /// The body of a request, with its timeout. Until it has arrived, the connection is not idle.
    fn body(&self, body: Incoming, pace: &Arc<Pace>) -> Body {
        if body.is_end_stream() {
            return Body::empty();
        }
        Body::new(PacedBody {
            body: Body::new(self.body_time.limit(body)),
            _underway: pace.begin(),
        })
    }

    fn count(&self, over: Over) {
        match over {
            Over::Head => self.late_heads.increment(1),
            Over::Idle => self.idle.increment(1),
        }
    }
}

/// An answer that counts against the connection's share until it is sent.
fn counted(response: Response<Body>, shares: &ConnectionShares) -> Response<CountedBody<Body>> {
    let media_type = response.headers().get(CONTENT_TYPE);
    let is_stream = media_type.is_some_and(|media_type| media_type == EVENT_STREAM);
    response.map(|body| match is_stream {
        true => CountedBody::waiting(body, shares.stream()),
        false => CountedBody::new(body, shares.calls().clone()),
    })
}

/// Serves until `stop` becomes true and all requests in progress have finished.
pub(super) async fn serve(
    router: Router,
    mut acceptor: Acceptor,
    limits: &ConnectionLimits,
    stop: watch::Receiver<bool>,
) {
    let server = Arc::new(Server::new(router, limits));
    // Dropped early, it ends all connections.
    let mut connections = JoinSet::new();
    let mut stops = pin!(stopped(stop.clone()));
    loop {
        tokio::select! {
            biased;
            () = &mut stops => break,
            Some(_) = connections.join_next() => {}
            connection = acceptor.accept() => {
                let (server, stop) = (Arc::clone(&server), stop.clone());
                connections.spawn(async move { server.converse(connection, stop).await });
            }
        }
    }
    drop(acceptor);
    while connections.join_next().await.is_some() {}
}
