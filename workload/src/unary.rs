//! The platform without the SDK: one gRPC call per operation, as in any gRPC client.

use bytes::Bytes;
use tierkv::rpc::proto::v1::{GetRequest, PutRequest, Source, kv_client::KvClient};
use tonic::transport::Channel;

use crate::target::{Answer, Failure, Target};

/// One connection to a client coordinator; clones share it.
#[derive(Clone, Debug)]
pub struct Unary {
    client: KvClient<Channel>,
    namespace: String,
}

impl Unary {
    /// A connection to the client coordinator at `address` (`host:port`), opened at the
    /// first call.
    ///
    /// # Errors
    /// If the address is invalid.
    pub fn connect(address: &str, namespace: &str) -> Result<Self, Failure> {
        let channel = tierkv::rpc::channel(address).map_err(Failure::of)?;
        Ok(Self {
            client: KvClient::new(channel),
            namespace: namespace.to_owned(),
        })
    }
}

impl Target for Unary {
    async fn get(&mut self, key: &[u8]) -> Result<Answer, Failure> {
        let request = GetRequest {
            namespace: self.namespace.clone(),
            key: Bytes::copy_from_slice(key),
            options: None,
        };
        let answer = self.client.get(request).await.map_err(Failure::of)?;
        let answer = answer.into_inner();
        let cached = answer.source() == Source::Cache;
        Ok(Answer {
            value: answer.found.then_some(answer.value),
            cached,
        })
    }

    async fn put(&mut self, key: &[u8], value: Bytes) -> Result<(), Failure> {
        let request = PutRequest {
            namespace: self.namespace.clone(),
            key: Bytes::copy_from_slice(key),
            value,
            ttl_ms: 0,
            request_id: None,
        };
        self.client
            .put(request)
            .await
            .map(drop)
            .map_err(Failure::of)
    }
}
