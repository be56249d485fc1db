//! The options that the roles share; each sets a key of the configuration.

use clap::{Args, ValueEnum};

use crate::configuration::{self, Configuration, ConfigurationArguments};

/// Options of every role.
#[derive(Args)]
pub(crate) struct RoleArguments {
    #[command(flatten)]
    pub(crate) metadata: MetadataArguments,
    #[arg(long, value_name = "NAME", help = configuration::help("node"))]
    node: Option<String>,
    #[arg(long, value_name = "HOST:PORT", help = configuration::help("advertise"))]
    advertise: Option<String>,
    /// How to print the addresses.
    #[arg(long, short, value_enum, default_value = "text")]
    output: Announcement,
}

/// Options of the commands that use coordination.
#[derive(Args)]
pub(crate) struct MetadataArguments {
    #[command(flatten)]
    configuration: ConfigurationArguments,
    #[arg(long, value_name = "URL", help = configuration::help("coordination.url"))]
    coordination_url: Option<String>,
    #[arg(long, value_name = "USER", help = configuration::help("coordination.user"))]
    coordination_user: Option<String>,
    #[arg(long, value_name = "FILE", help = configuration::help("coordination.password_file"))]
    coordination_password_file: Option<String>,
    #[arg(long, value_name = "FILE", help = configuration::help("coordination.ca_file"))]
    coordination_ca_file: Option<String>,
    #[arg(long, value_name = "FILE", help = configuration::help("coordination.cert_file"))]
    coordination_cert_file: Option<String>,
    #[arg(long, value_name = "FILE", help = configuration::help("coordination.key_file"))]
    coordination_key_file: Option<String>,
}

/// Options of the roles that listen for other tiers.
#[derive(Args)]
pub(crate) struct ServerArguments {
    #[command(flatten)]
    pub(crate) role: RoleArguments,
    #[arg(long, value_name = "IP:PORT", help = configuration::help("listen"))]
    listen: Option<String>,
    #[arg(long, value_name = "IP:PORT", help = configuration::help("metrics_listen"))]
    metrics_listen: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Announcement {
    /// For people.
    Text,
    /// One line of JSON.
    Json,
}

/// A key, and its value if its option is given.
pub(crate) type Flag = (&'static str, Option<String>);

impl MetadataArguments {
    /// Loads the configuration; `more` are further options.
    ///
    /// # Errors
    /// All problems in one message.
    pub(crate) fn load(&self, more: Vec<Flag>) -> Result<Configuration, String> {
        let mut flags = vec![
            ("coordination.url", self.coordination_url.clone()),
            ("coordination.user", self.coordination_user.clone()),
            (
                "coordination.password_file",
                self.coordination_password_file.clone(),
            ),
            ("coordination.ca_file", self.coordination_ca_file.clone()),
            (
                "coordination.cert_file",
                self.coordination_cert_file.clone(),
            ),
            ("coordination.key_file", self.coordination_key_file.clone()),
        ];
        flags.extend(more);
        let given: Vec<(&'static str, String)> = (flags.into_iter())
            .filter_map(|(key, value)| Some((key, value?)))
            .collect();
        self.configuration.load(&given).accept()
    }
}

impl RoleArguments {
    /// As [`MetadataArguments::load`].
    ///
    /// # Errors
    /// All problems in one message.
    pub(crate) fn load(&self, more: &[Flag]) -> Result<Configuration, String> {
        let mut flags = vec![
            ("node", self.node.clone()),
            ("advertise", self.advertise.clone()),
        ];
        flags.extend_from_slice(more);
        self.metadata.load(flags)
    }

    /// Whether the addresses are printed as JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.output == Announcement::Json
    }
}

impl ServerArguments {
    /// As [`MetadataArguments::load`].
    ///
    /// # Errors
    /// All problems in one message.
    pub(crate) fn load(&self, more: &[Flag]) -> Result<Configuration, String> {
        let mut flags = vec![
            ("listen", self.listen.clone()),
            ("metrics_listen", self.metrics_listen.clone()),
        ];
        flags.extend_from_slice(more);
        self.role.load(&flags)
    }
}
