//! Builds a client from its settings.

use std::time::Duration;

use rand::Rng;
use tierkv_types::{
    Error as Refusal, Namespace,
    limits::{DEFAULT_TIMEOUT, MAX_SESSION_IN_FLIGHT},
};

use crate::{client::Client, error::Error};

/// The default address: a client coordinator on the same machine.
const DEFAULT_ADDRESS: &str = "127.0.0.1:7400";

/// Settings of a [`Client`].
#[derive(Clone, Debug)]
pub struct Builder {
    addresses: Vec<String>,
    namespace: String,
    timeout: Duration,
    max_in_flight: usize,
    is_in_order: bool,
}

impl Client {
    /// Starts making a client.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            namespace: String::new(),
            timeout: DEFAULT_TIMEOUT,
            max_in_flight: MAX_SESSION_IN_FLIGHT,
            is_in_order: false,
        }
    }
}

impl Builder {
    /// Adds the gRPC address (`host:port`) of a client coordinator. With several, the client begins
    /// at a random one, so that many clients spread over all, and moves to the next when one can't
    /// be reached. The default is `127.0.0.1:7400`.
    #[must_use]
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.addresses.push(address.into());
        self
    }

    /// Begins at the first address, and moves on in their order: for a coordinator that is nearer
    /// than the others.
    #[must_use]
    pub const fn in_order(mut self) -> Self {
        self.is_in_order = true;
        self
    }

    /// The namespace of all keys; by default `default`.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// The timeout of an operation, retries included; by default 5 s, at most 60 s.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Makes the client and checks that one of the addresses answers.
    ///
    /// # Errors
    /// `InvalidArgument` for a bad address or namespace; `Unavailable` if none answers in time.
    pub async fn connect(mut self) -> Result<Client, Error> {
        if self.addresses.is_empty() {
            self.addresses.push(DEFAULT_ADDRESS.to_owned());
        }
        if !self.is_in_order {
            let first = rand::rng().random_range(0..self.addresses.len());
            self.addresses.rotate_left(first);
        }
        let namespace = Namespace::new(&self.namespace).map_err(Error::from)?;
        let client = Client::new(
            &self.addresses,
            self.max_in_flight,
            &namespace,
            self.timeout,
        )?;
        client.greet().await.map_err(|error| {
            Refusal::new(
                error.code(),
                format!(
                    "no client coordinator could be reached: {}",
                    error.message()
                ),
            )
        })?;
        Ok(client)
    }
}
