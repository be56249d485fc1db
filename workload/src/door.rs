//! The two ways to access a running platform, with the source of each answer.

use std::time::Duration;

use bytes::Bytes;
use tierkv::{
    Client, Code, Consistency, ReadOptions, Source,
    rpc::proto::{
        status::{read_error, write_error},
        v1::{self, DeleteRequest, GetRequest, PutRequest, kv_client::KvClient},
    },
};
use tonic::{Request, transport::Channel};

use crate::target::Failure;

/// The result of a read, and the tier that answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// The value, if the key has one.
    pub value: Option<Bytes>,
    /// The tier that answered.
    pub source: Source,
}

/// The error of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The platform's code.
    pub code: Code,
    /// What happened and what to do.
    pub words: String,
}

impl From<tierkv::Error> for Refused {
    fn from(error: tierkv::Error) -> Self {
        Self {
            code: error.code(),
            words: error.message().to_owned(),
        }
    }
}

/// A way to access the platform; clones share its connections.
#[derive(Clone)]
pub enum Door {
    /// The SDK and its session stream, which batches waiting operations and retries.
    Session(Client),
    /// One gRPC call per operation, without retries.
    Unary(Unary),
}

/// A connection for single calls.
#[derive(Clone, Debug)]
pub struct Unary {
    client: KvClient<Channel>,
    namespace: String,
    timeout: Duration,
}

impl Unary {
    /// A connection to the client coordinator at `address` (`host:port`), opened at the first
    /// call. `timeout` is that of each call.
    ///
    /// # Errors
    /// If the address is invalid.
    pub fn connect(address: &str, namespace: &str, timeout: Duration) -> Result<Self, Failure> {
        let channel = tierkv::rpc::channel(address).map_err(Failure::of)?;
        Ok(Self {
            client: KvClient::new(channel),
            namespace: namespace.to_owned(),
            timeout,
        })
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        request
    }
}

impl Door {
    /// Reads a key.
    ///
    /// # Errors
    /// The error that the platform returns.
    pub async fn get(&mut self, key: Vec<u8>) -> Result<Read, Refused> {
        self.get_with(key, ReadOptions::default()).await
    }

    /// Reads the newest value of a key.
    ///
    /// # Errors
    /// The error that the platform returns.
    pub async fn get_latest(&mut self, key: Vec<u8>) -> Result<Read, Refused> {
        let latest = ReadOptions {
            consistency: Consistency::Latest,
            ..ReadOptions::default()
        };
        self.get_with(key, latest).await
    }

    async fn get_with(&mut self, key: Vec<u8>, options: ReadOptions) -> Result<Read, Refused> {
        match self {
            Self::Session(client) => {
                let found = client.get_with(key, options).await?;
                Ok(Read {
                    value: found.value,
                    source: found.source,
                })
            }
            Self::Unary(unary) => {
                let request = unary.request(GetRequest {
                    namespace: unary.namespace.clone(),
                    key: key.into(),
                    options: match options.consistency {
                        Consistency::Latest => Some(v1::ReadOptions {
                            consistency: v1::Consistency::Latest.into(),
                            ..v1::ReadOptions::default()
                        }),
                        Consistency::Cached | Consistency::Session(_) => None,
                    },
                });
                let answer = unary.client.get(request).await;
                let answer = answer.map_err(|status| {
                    let error = read_error(&status);
                    refused(error.code, &error.message)
                });
                let answer = answer?.into_inner();
                let source = source(answer.source());
                Ok(Read {
                    value: answer.found.then_some(answer.value),
                    source,
                })
            }
        }
    }

    /// Sets a key.
    ///
    /// # Errors
    /// The error that the platform returns.
    pub async fn put(&mut self, key: Vec<u8>, value: Bytes) -> Result<(), Refused> {
        match self {
            Self::Session(client) => Ok(client.put(key, value).await.map(drop)?),
            Self::Unary(unary) => {
                let request = unary.request(PutRequest {
                    namespace: unary.namespace.clone(),
                    key: key.into(),
                    value,
                    ttl_ms: 0,
                    request_id: None,
                });
                let answer = unary.client.put(request).await;
                answer.map(drop).map_err(|status| {
                    let error = write_error(&status);
                    refused(error.code, &error.message)
                })
            }
        }
    }

    /// Removes a key.
    ///
    /// # Errors
    /// The error that the platform returns.
    pub async fn delete(&mut self, key: Vec<u8>) -> Result<(), Refused> {
        match self {
            Self::Session(client) => Ok(client.delete(key).await.map(drop)?),
            Self::Unary(unary) => {
                let request = unary.request(DeleteRequest {
                    namespace: unary.namespace.clone(),
                    key: key.into(),
                    request_id: None,
                });
                let answer = unary.client.delete(request).await;
                answer.map(drop).map_err(|status| {
                    let error = write_error(&status);
                    refused(error.code, &error.message)
                })
            }
        }
    }
}

fn refused(code: Code, words: &str) -> Refused {
    Refused {
        code,
        words: words.to_owned(),
    }
}

const fn source(source: v1::Source) -> Source {
    match source {
        v1::Source::Cache => Source::Cache,
        v1::Source::Replica => Source::Replica,
        v1::Source::Master => Source::Master,
        v1::Source::Unspecified => Source::Unknown,
    }
}
