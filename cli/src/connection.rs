//! Where a client command connects, and in which namespace it works.

use std::time::Duration;

use clap::{Args, builder::NonEmptyStringValueParser};
use tierkv::{Builder, Client, Code};
use tierkv_openapi::timeout;
use tierkv_types::{key::DEFAULT_NAMESPACE, limits::DEFAULT_TIMEOUT};

/// The options of every client command.
#[derive(Args)]
pub(crate) struct Connection {
    /// gRPC address of a client coordinator; repeat it for several.
    #[arg(
        long,
        env = "TIERKV_ADDRESS",
        value_delimiter = ',',
        default_value = "127.0.0.1:7400"
    )]
    address: Vec<String>,
    /// Namespace of the keys [default: default].
    #[arg(long, short, env = "TIERKV_NAMESPACE", value_parser = NonEmptyStringValueParser::new())]
    namespace: Option<String>,
    /// How long each operation may take, retries included, as in 500ms or 5s [default: 5s].
    #[arg(long, env = "TIERKV_TIMEOUT", value_parser = timeout::parse)]
    timeout: Option<Duration>,
}

impl Connection {
    /// The namespace of the keys.
    pub(crate) fn namespace(&self) -> &str {
        self.named_namespace().unwrap_or(DEFAULT_NAMESPACE)
    }

    /// The namespace of the keys, if the user names one.
    pub(crate) fn named_namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// A connected client.
    pub(crate) async fn open(&self) -> Result<Client, String> {
        let builder = Client::builder()
            .namespace(self.namespace())
            .timeout(self.timeout.unwrap_or(DEFAULT_TIMEOUT));
        let builder = self.address.iter().fold(builder, Builder::address);
        builder.connect().await.map_err(|error| match error.code() {
            Code::Unavailable => format!(
                "{error}; does a platform serve gRPC at {}? `tierkv dev` starts one, --address \
                 names another (its gRPC address, not the one for REST)",
                self.address.join(", ")
            ),
            _ => error.to_string(),
        })
    }
}
