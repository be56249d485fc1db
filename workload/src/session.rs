//! The platform through the SDK's session stream, which batches waiting operations, as
//! applications use it.

use bytes::Bytes;
use tierkv::{Client, Consistency, ReadOptions, Source};

use crate::target::{Answer, Failure, Target};

/// The SDK's client under load; all clones share its one session.
#[derive(Clone)]
pub struct Session {
    client: Client,
}

impl Session {
    /// A session with the client coordinator at `address` (`host:port`).
    ///
    /// # Errors
    /// If it cannot be opened.
    pub async fn connect(address: &str, namespace: &str) -> Result<Self, Failure> {
        let client = Client::builder()
            .address(address)
            .namespace(namespace)
            .connect()
            .await
            .map_err(Failure::of)?;
        Ok(Self { client })
    }

    /// Reads many keys in one batch; the answers are in the order of the keys.
    ///
    /// # Errors
    /// The error of the SDK.
    pub async fn batch_get(&self, keys: &[impl AsRef<[u8]>]) -> Result<Vec<Answer>, Failure> {
        self.batch_get_with(keys, ReadOptions::default()).await
    }

    /// Reads the latest values of many keys in one batch, bypassing the cache tier.
    ///
    /// # Errors
    /// The error of the SDK.
    pub async fn batch_get_latest(
        &self,
        keys: &[impl AsRef<[u8]>],
    ) -> Result<Vec<Answer>, Failure> {
        let options = ReadOptions {
            consistency: Consistency::Latest,
            ..ReadOptions::default()
        };
        self.batch_get_with(keys, options).await
    }

    async fn batch_get_with(
        &self,
        keys: &[impl AsRef<[u8]>],
        options: ReadOptions,
    ) -> Result<Vec<Answer>, Failure> {
        let found = self.client.batch_get_with(keys, options).await;
        Ok(found
            .map_err(Failure::of)?
            .into_iter()
            .map(|found| Answer {
                value: found.value,
                cached: found.source == Source::Cache,
            })
            .collect())
    }
}

impl Target for Session {
    async fn get(&mut self, key: &[u8]) -> Result<Answer, Failure> {
        let found = self.client.get(key).await.map_err(Failure::of)?;
        Ok(Answer {
            value: found.value,
            cached: found.source == Source::Cache,
        })
    }

    async fn put(&mut self, key: &[u8], value: Bytes) -> Result<(), Failure> {
        self.client
            .put(key, value)
            .await
            .map(drop)
            .map_err(Failure::of)
    }
}
