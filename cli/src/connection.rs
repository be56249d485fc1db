//! Where a client command connects, and in which namespace it works.

use std::time::Duration;

use clap::Args;
use tierkv::{Builder, Client, Code};
use tierkv_openapi::timeout;
use tierkv_types::limits::DEFAULT_TIMEOUT;

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
    /// Namespace of the keys.
    #[arg(long, short, env = "TIERKV_NAMESPACE", default_value = "default")]
    namespace: String,
    /// How long each operation may take, retries included, as in 500ms or 5s [default: 5s].
    #[arg(long, env = "TIERKV_TIMEOUT", value_parser = timeout::parse)]
    timeout: Option<Duration>,
}

impl Connection {
    /// The namespace of the keys.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// A connected client.
    pub(crate) async fn open(&self) -> Result<Client, String> {
        let builder = Client::builder()
            .namespace(&self.namespace)
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
