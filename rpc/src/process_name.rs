//! The full name of the addressee of a call between tiers, and the check that the call reached it.
//!
//! Addresses outlive processes: a route may lead to an address that another platform, another node
//! or another start of the same node has taken since. So every call between tiers carries the full
//! name of its addressee, and any other process refuses it with `WrongNode` (COORD-PRESENCE).

use std::{
    future::{Ready, ready},
    task::{Context, Poll},
};

use futures::future::Either;
use tierkv_proto::status::to_status;
use tierkv_types::{Code, Error, ProcessName};
use tonic::{
    body::Body,
    codegen::{
        Service,
        http::{HeaderValue, Request, Response},
    },
    transport::Channel,
};

/// The header with the addressee's name.
const ADDRESSEE: &str = "tierkv-addressee";

fn header(name: &ProcessName) -> HeaderValue {
    // All its characters may stand in a header; an empty one is refused by every process.
    HeaderValue::try_from(name.to_string()).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// A channel whose calls carry the name of their addressee, if it has one. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AddressedChannel {
    channel: Channel,
    addressee: Option<HeaderValue>,
}

impl AddressedChannel {
    /// Over `channel`, to the process of this name.
    #[must_use]
    pub fn new(channel: Channel, addressee: &ProcessName) -> Self {
        Self {
            channel,
            addressee: Some(header(addressee)),
        }
    }
}

impl From<Channel> for AddressedChannel {
    /// To whatever process answers: users name none.
    fn from(channel: Channel) -> Self {
        Self {
            channel,
            addressee: None,
        }
    }
}

impl Service<Request<Body>> for AddressedChannel {
    type Response = <Channel as Service<Request<Body>>>::Response;
    type Error = <Channel as Service<Request<Body>>>::Error;
    type Future = <Channel as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.channel.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Some(addressee) = &self.addressee {
            request.headers_mut().insert(ADDRESSEE, addressee.clone());
        }
        self.channel.call(request)
    }
}

/// A service that refuses calls meant for another process.
#[derive(Clone, Debug)]
pub struct Addressed<S> {
    service: S,
    own: HeaderValue,
}

impl<S> Addressed<S> {
    /// The service of the process of this name.
    #[must_use]
    pub fn new(service: S, own: &ProcessName) -> Self {
        Self {
            service,
            own: header(own),
        }
    }
}

impl<S> Service<Request<Body>> for Addressed<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let addressee = request.headers().get(ADDRESSEE);
        if addressee == Some(&self.own) {
            return Either::Left(self.service.call(request));
        }
        let refusal = to_status(&refusal(addressee, &self.own));
        Either::Right(ready(Ok(refusal.into_http())))
    }
}

fn refusal(addressee: Option<&HeaderValue>, own: &HeaderValue) -> Error {
    let text = |name: &HeaderValue| String::from_utf8_lossy(name.as_bytes()).into_owned();
    match addressee {
        None => Error::invalid(format!(
            "a call between tiers names its addressee in the header {ADDRESSEE}; users call a \
             client coordinator"
        )),
        Some(addressee) => Error::new(
            Code::WrongNode,
            format!(
                "the call is meant for process {}, and this is {}",
                text(addressee),
                text(own)
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tierkv_proto::status::detail;
    use tierkv_types::{ClusterId, Incarnation, NodeId, PlatformId};
    use tonic::{Status, codegen::http};

    use super::*;

    fn name(platform: u128, cluster: Option<&str>, node: &str, incarnation: u64) -> ProcessName {
        ProcessName {
            platform: PlatformId(platform),
            cluster: cluster.map(|id| ClusterId::new(id).unwrap()),
            node: NodeId::new(node).unwrap(),
            incarnation: Incarnation(incarnation),
        }
    }

    /// Answers every call.
    #[derive(Clone)]
    struct Yes;

    impl Service<Request<Body>> for Yes {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = Ready<Result<Response<Body>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            ready(Ok(Response::new(Body::empty())))
        }
    }

    /// The code with which `own` refuses a call for `addressee`.
    async fn refused(own: &ProcessName, addressee: Option<&ProcessName>) -> Option<Code> {
        let mut request = http::Request::new(Body::empty());
        if let Some(addressee) = addressee {
            request.headers_mut().insert(ADDRESSEE, header(addressee));
        }
        let response = Addressed::new(Yes, own).call(request).await.unwrap();
        let status = Status::from_header_map(response.headers());
        status.map(|status| detail(&status).unwrap().code)
    }

    #[tokio::test]
    async fn only_the_process_that_is_meant_answers() {
        let own = name(1, Some("c1"), "n1", 7);
        assert_eq!(
            own.to_string(),
            "00000000000000000000000000000001/c1/n1/0000000000000007"
        );
        assert_eq!(refused(&own, Some(&own.clone())).await, None);
        let others = [
            name(2, Some("c1"), "n1", 7),
            name(1, Some("c2"), "n1", 7),
            name(1, None, "n1", 7),
            name(1, Some("c1"), "n2", 7),
            name(1, Some("c1"), "n1", 8),
        ];
        for other in others {
            let code = refused(&own, Some(&other)).await;
            assert_eq!(code, Some(Code::WrongNode), "{other}");
        }
        assert_eq!(refused(&own, None).await, Some(Code::InvalidArgument));
    }
}
