//! The location of the coordination store, as operators write it.

use std::{fmt, str::FromStr};

use crate::error::CoordinationError;

/// The port of an etcd endpoint that has none.
pub const DEFAULT_ETCD_PORT: u16 = 2379;
/// Most endpoints of one location. Over it: `InvalidArgument`.
pub const MAX_ENDPOINTS: usize = 32;
/// Longest name of a platform in a location, in bytes. Over it: `InvalidArgument`.
pub const MAX_PREFIX_BYTES: usize = 64;

const FORMS: &str = "write memory: (one process), etcd://HOST:PORT,HOST:PORT/NAME, or \
                     etcds://HOST:PORT,HOST:PORT/NAME (TLS)";

/// Where the platform's metadata is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// `memory:`: in this process.
    Memory,
    /// `etcd://…` or `etcds://…`: in an etcd cluster.
    Etcd(EtcdLocation),
}

/// The endpoints of an etcd cluster, and the name of a platform in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdLocation {
    endpoints: Vec<String>,
    is_tls: bool,
    prefix: String,
}

impl EtcdLocation {
    /// The endpoints, as `host:port`, in the order in which they are tried. At least one.
    #[must_use]
    pub fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// Whether the connections use TLS.
    #[must_use]
    pub const fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// The name of the platform, which begins all its keys. It has no `/`, so that no platform's
    /// keys are among another's.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }
}

impl FromStr for Location {
    type Err = CoordinationError;

    /// Parses a location.
    ///
    /// # Errors
    /// `InvalidArgument` with what is wrong and what to write instead. Its message never contains
    /// a password.
    fn from_str(text: &str) -> Result<Self, CoordinationError> {
        if text == "memory:" || text == "memory" {
            return Ok(Self::Memory);
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(invalid(&format!("it has no scheme; {FORMS}")));
        };
        match scheme {
            "etcd" => etcd(rest, false).map(Self::Etcd),
            "etcds" => etcd(rest, true).map(Self::Etcd),
            "mysql" | "mariadb" | "postgres" | "postgresql" => Err(invalid(&format!(
                "coordination in a SQL database ({scheme}://) is not supported by this release; \
                 {FORMS}"
            ))),
            _ => Err(invalid(&format!(
                "the scheme {scheme:?} is not supported; {FORMS}"
            ))),
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory:"),
            Self::Etcd(etcd) => etcd.fmt(f),
        }
    }
}

impl fmt::Display for EtcdLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "etcds" } else { "etcd" };
        let endpoints = self.endpoints.join(",");
        write!(f, "{scheme}://{endpoints}/{}", self.prefix)
    }
}

/// Parses what follows `etcd://`.
fn etcd(rest: &str, is_tls: bool) -> Result<EtcdLocation, CoordinationError> {
    if rest.contains('@') {
        // Not repeated in the message: it may contain a password.
        return Err(invalid(
            "it contains a user or a password; configure these apart, because a location is logged",
        ));
    }
    let (authority, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    check_prefix(prefix)?;
    let endpoints = authority
        .split(',')
        .map(endpoint)
        .collect::<Result<Vec<_>, _>>()?;
    if endpoints.len() > MAX_ENDPOINTS {
        return Err(invalid(&format!(
            "it has {} endpoints; name at most {MAX_ENDPOINTS}",
            endpoints.len()
        )));
    }
    for (at, endpoint) in endpoints.iter().enumerate() {
        if endpoints[..at].contains(endpoint) {
            return Err(invalid(&format!(
                "the endpoint {endpoint} is named twice; name it once"
            )));
        }
    }
    Ok(EtcdLocation {
        endpoints,
        is_tls,
        prefix: prefix.to_owned(),
    })
}

fn check_prefix(prefix: &str) -> Result<(), CoordinationError> {
    if prefix.is_empty() {
        return Err(invalid(
            "the name of the platform is missing; end the location with /NAME, another name for \
             each platform of the etcd cluster",
        ));
    }
    if prefix.len() > MAX_PREFIX_BYTES {
        return Err(invalid(&format!(
            "the name of the platform has {} bytes; shorten it to at most {MAX_PREFIX_BYTES}",
            prefix.len()
        )));
    }
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !prefix.chars().all(is_allowed) {
        return Err(invalid(&format!(
            "the name of the platform {prefix:?} has other characters than letters, digits, '-', \
             '_' and '.'; leave them out"
        )));
    }
    Ok(())
}

/// Parses `host`, `host:port`, `[v6]` or `[v6]:port`.
fn endpoint(text: &str) -> Result<String, CoordinationError> {
    let wrong = |why: &str| {
        invalid(&format!(
            "the endpoint {text:?} {why}; write HOST:PORT, an IPv6 address as [ADDRESS]:PORT"
        ))
    };
    let (host, port) = if text.starts_with('[') {
        let end = text.find(']').ok_or_else(|| wrong("lacks a ']'"))?;
        let (host, rest) = text.split_at(end + 1);
        if host[1..end].parse::<std::net::Ipv6Addr>().is_err() {
            return Err(wrong("is no IPv6 address"));
        }
        match (rest, rest.strip_prefix(':')) {
            ("", _) => (host, None),
            (_, Some(port)) => (host, Some(port)),
            _ => return Err(wrong("has text after the ']'")),
        }
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if host.is_empty() || (!host.starts_with('[') && !host.chars().all(is_allowed)) {
        return Err(wrong("has no valid host"));
    }
    match port.map(str::parse::<u16>) {
        None => Ok(format!("{host}:{DEFAULT_ETCD_PORT}")),
        Some(Ok(port)) if port > 0 => Ok(format!("{host}:{port}")),
        Some(_) => Err(wrong("has no port from 1 to 65535")),
    }
}

fn invalid(why: &str) -> CoordinationError {
    CoordinationError::InvalidArgument(format!("the location of coordination is not usable: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        match text.parse::<Location>() {
            Err(CoordinationError::InvalidArgument(why)) => why,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn locations_are_parsed_and_printed() {
        for (text, printed) in [
            ("memory:", "memory:"),
            ("memory", "memory:"),
            ("etcd://a/shop", "etcd://a:2379/shop"),
            (
                "etcd://a:1,b-2.example:65535/shop_1.eu",
                "etcd://a:1,b-2.example:65535/shop_1.eu",
            ),
            (
                "etcds://[::1],[fe80::1]:5/p",
                "etcds://[::1]:2379,[fe80::1]:5/p",
            ),
        ] {
            let location: Location = text.parse().unwrap();
            assert_eq!(location.to_string(), printed);
            assert_eq!(printed.parse(), Ok(location));
        }
        let Ok(Location::Etcd(etcd)) = "etcds://a,b:3/x".parse() else {
            panic!("not an etcd");
        };
        assert_eq!(etcd.endpoints(), ["a:2379", "b:3"]);
        assert!(etcd.is_tls());
        assert_eq!(etcd.prefix(), "x");
    }

    #[test]
    fn what_is_not_usable_is_refused_with_what_to_do() {
        let long = format!("etcd://a/{}", "n".repeat(MAX_PREFIX_BYTES + 1));
        let many: Vec<String> = (0..=MAX_ENDPOINTS).map(|at| format!("h{at}")).collect();
        let many = format!("etcd://{}/n", many.join(","));
        for (text, part) in [
            ("", "has no scheme"),
            ("etcd:a", "has no scheme"),
            ("mysql://a/b", "not supported by this release"),
            ("postgres://a/b", "not supported by this release"),
            ("http://a/b", "the scheme \"http\" is not supported"),
            ("etcd://a", "end the location with /NAME"),
            ("etcd://a/", "end the location with /NAME"),
            ("etcd://a/b/c", "leave them out"),
            (long.as_str(), "shorten it to at most 64"),
            ("etcd:///b", "no valid host"),
            ("etcd://a,/b", "no valid host"),
            ("etcd://a b/c", "no valid host"),
            ("etcd://a:0/b", "no port from 1 to 65535"),
            ("etcd://a:x/b", "no port from 1 to 65535"),
            ("etcd://a:65536/b", "no port from 1 to 65535"),
            ("etcd://::1/b", "no valid host"),
            ("etcd://[::1/b", "lacks a ']'"),
            ("etcd://[a]/b", "is no IPv6 address"),
            ("etcd://[::1]5/b", "has text after the ']'"),
            ("etcd://a,a:2379/b", "is named twice"),
            (many.as_str(), "name at most 32"),
        ] {
            let why = refusal(text);
            assert!(why.contains(part), "{text}: {why}");
        }
    }

    #[test]
    fn a_password_is_never_repeated() {
        for text in [
            "etcd://root:secret@a/b",
            "mysql://root:secret@a/b",
            "root:secret@a/b",
        ] {
            let why = refusal(text);
            assert!(!why.contains("secret"), "{why}");
        }
    }
}
