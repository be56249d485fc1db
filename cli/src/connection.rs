//! The connection options of client commands: address, namespace and timeout.

use std::time::Duration;

use clap::{
    Args, Command,
    builder::{NonEmptyStringValueParser, Resettable},
};
use tierkv::{Builder, Client, Code};
use tierkv_types::{key::DEFAULT_NAMESPACE, limits::DEFAULT_TIMEOUT};

use crate::{
    kept::{self, Kept},
    time,
};

/// Where `tierkv dev` listens on the same machine.
const DEFAULT_ADDRESS: &str = "127.0.0.1:7400";

/// The ids of the options of [`Connection`].
pub(crate) const OPTIONS: [&str; 3] = ["address", "namespace", "timeout"];

/// A command whose options of [`Connection`] are not set by the environment.
pub(crate) fn without_environment(command: Command) -> Command {
    command
        .mut_args(
            |argument| match OPTIONS.contains(&argument.get_id().as_str()) {
                true => argument.env(Resettable::Reset),
                false => argument,
            },
        )
        .mut_subcommands(without_environment)
}

/// The options of every client command.
#[derive(Args)]
pub(crate) struct Connection {
    /// gRPC address of a client coordinator; repeat it for several [default: 127.0.0.1:7400].
    #[arg(long, env = "TIERKV_ADDRESS", value_delimiter = ',')]
    address: Vec<String>,
    /// Namespace of the keys [default: default].
    #[arg(long, short, env = "TIERKV_NAMESPACE", value_parser = NonEmptyStringValueParser::new())]
    namespace: Option<String>,
    /// Timeout of each operation, retries included, as in 500ms or 5s [default: 5s].
    #[arg(long, env = "TIERKV_TIMEOUT", value_parser = time::timeout)]
    timeout: Option<Duration>,
}

impl Connection {
    /// The namespace of the keys; in a shell, the default is the shell's.
    pub(crate) fn namespace(&self) -> String {
        let kept = || kept::current().map(|kept| kept.namespace());
        self.named_namespace()
            .map(str::to_owned)
            .or_else(kept)
            .unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned())
    }

    /// The namespace of the keys, if the user names one.
    pub(crate) fn named_namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// The shared state of a shell with these options.
    pub(crate) fn kept(&self) -> Kept {
        Kept::new(self.addresses(), self.timeout(), self.namespace())
    }

    /// A connected client; in a shell, the shared one.
    pub(crate) async fn open(&self) -> Result<Client, String> {
        let addresses = self.addresses();
        let kept = kept::current().filter(|kept| kept.addresses() == addresses);
        if let Some(client) = kept.as_ref().and_then(|kept| kept.client()) {
            let client = client.with_timeout(self.timeout());
            return (client.in_namespace(&self.namespace())).map_err(|error| error.to_string());
        }
        let client = self.connect(&addresses).await?;
        if let Some(kept) = kept {
            kept.keep(client.clone());
        }
        Ok(client)
    }

    async fn connect(&self, addresses: &[String]) -> Result<Client, String> {
        let builder = Client::builder()
            .namespace(self.namespace())
            .timeout(self.timeout());
        let builder = addresses.iter().fold(builder, Builder::address);
        builder.connect().await.map_err(|error| match error.code() {
            Code::Unavailable => format!("{error}; {}", remedy(addresses)),
            _ => error.to_string(),
        })
    }

    /// The addresses to connect to.
    pub(crate) fn addresses(&self) -> Vec<String> {
        if !self.address.is_empty() {
            return self.address.clone();
        }
        kept::current().map_or_else(
            || vec![DEFAULT_ADDRESS.to_owned()],
            |kept| kept.addresses().to_owned(),
        )
    }

    /// The timeout of an operation.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
            .or_else(|| kept::current().map(|kept| kept.timeout()))
            .unwrap_or(DEFAULT_TIMEOUT)
    }
}

/// What to do if no client coordinator answers at these addresses. Only at the default address is it
/// likely that none was started.
fn remedy(addresses: &[String]) -> String {
    let listed = addresses.join(", ");
    match addresses == [DEFAULT_ADDRESS] {
        true => format!(
            "does a platform serve gRPC at {listed}? Start one with `tierkv dev`, or name another \
             with --address (its gRPC address, not the one of REST)"
        ),
        false => format!(
            "does a platform serve gRPC at {listed}? Check --address (the gRPC address, not the one \
             of REST)"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_default_address_is_advised_to_start_a_platform() {
        let advises = |addresses: &[&str]| {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            let remedy = remedy(&addresses);
            assert!(remedy.contains(&addresses.join(", ")), "{remedy}");
            remedy.contains("tierkv dev")
        };
        assert!(advises(&[DEFAULT_ADDRESS]));
        assert!(!advises(&["10.0.0.1:7400"]));
        assert!(!advises(&[DEFAULT_ADDRESS, "127.0.0.1:7401"]));
    }
}
