//! The host names that the gateway accepts.
//!
//! A malicious page can have its own name resolve to 127.0.0.1 (DNS rebinding). To a browser this
//! server then has the page's origin; only the `Host` of the requests differs. So a gateway that
//! only this machine can reach accepts only names of this machine, and those that an operator
//! lists.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use axum::http::{Version, header::HOST, request::Parts, uri::Authority};
use tierkv_types::{Code, Error};

use super::escaped::shortened;

/// A host name without a port, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostName(String);

/// The text is not a host name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a host is a name or an address without a port, as in kv.example.com")]
pub struct NoHostName;

impl FromStr for HostName {
    type Err = NoHostName;

    fn from_str(text: &str) -> Result<Self, NoHostName> {
        // An IPv6 address may be given without brackets here.
        if let Ok(address) = text.parse::<Ipv6Addr>() {
            return Ok(Self(format!("[{address}]")));
        }
        let authority: Authority = text.parse().map_err(|_| NoHostName)?;
        let is_host_alone = authority.as_str() == authority.host();
        let name = Self::of(&authority);
        match is_host_alone && !name.0.is_empty() && !name.0.contains('*') {
            true => Ok(name),
            false => Err(NoHostName),
        }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl HostName {
    fn of(authority: &Authority) -> Self {
        let host = authority.host();
        Self(host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase())
    }

    /// Whether it always means this machine: browsers resolve `localhost` and names below it
    /// without a server.
    fn is_loopback(&self) -> bool {
        let bare = self.0.trim_start_matches('[').trim_end_matches(']');
        match bare.parse::<IpAddr>() {
            Ok(address) => address.to_canonical().is_loopback(),
            Err(_) => self.0 == "localhost" || self.0.ends_with(".localhost"),
        }
    }
}

/// The accepted host names.
#[derive(Debug)]
pub(super) struct Hosts {
    /// The names that an operator lists.
    allowed: Vec<HostName>,
    /// Whether names other than this machine's are refused.
    are_checked: bool,
}

impl Hosts {
    /// The rule of a gateway, which depends on whether it listens on loopback only. If an operator
    /// lists names, others are always refused.
    pub(super) fn new(allowed: Vec<HostName>, is_on_loopback: bool) -> Self {
        Self {
            are_checked: is_on_loopback || !allowed.is_empty(),
            allowed,
        }
    }

    /// Checks the host that a request is for (RFC 9112, section 3.2); returns the authority as the
    /// client wrote it, if there is one.
    ///
    /// # Errors
    /// `InvalidArgument` if the request has no host, two, or one that is malformed;
    /// `PermissionDenied` if the name is not one of this server's.
    pub(super) fn check(&self, head: &Parts) -> Result<Option<Authority>, Error> {
        let mut lines = head.headers.get_all(HOST).iter();
        let line = lines.next();
        if lines.next().is_some() {
            return Err(Error::invalid(
                "the request has several Host headers; send one",
            ));
        }
        let host = line.map(|line| authority(line.as_bytes())).transpose()?;
        if host.is_none() && head.version == Version::HTTP_11 {
            return Err(Error::invalid(
                "the request has no Host header, which HTTP/1.1 requires",
            ));
        }
        // A request to a proxy has an absolute URI; HTTP/2 has the host there.
        let target = head.uri.authority().cloned();
        for named in target.iter().chain(&host) {
            self.check_name(&HostName::of(named))?;
        }
        Ok(target.or(host))
    }

    fn check_name(&self, name: &HostName) -> Result<(), Error> {
        if !self.are_checked || name.is_loopback() || self.allowed.contains(name) {
            return Ok(());
        }
        Err(Error::new(
            Code::PermissionDenied,
            format!(
                "this server does not answer to the host '{}'; use localhost or 127.0.0.1, or \
                 list the name in rest.allowed_hosts",
                shortened(&name.0)
            ),
        ))
    }
}

/// Whether it is a host, with or without a port, and nothing else.
pub(super) fn is_sound(authority: &Authority) -> bool {
    let host = authority.host();
    let port = authority.as_str().strip_prefix(host);
    let port = port.map(|port| port.strip_prefix(':').unwrap_or(port));
    // A colon without a port is allowed.
    let is_port = |port: &str| port.is_empty() || port.parse::<u16>().is_ok();
    !host.is_empty() && port.is_some_and(is_port)
}

fn authority(line: &[u8]) -> Result<Authority, Error> {
    let authority = Authority::try_from(line).ok().filter(is_sound);
    authority.ok_or_else(|| {
        Error::invalid("the Host header must be a host name, with or without a port")
    })
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, Request};

    use super::*;

    fn head(version: Version, uri: &str, hosts: &[&str]) -> Parts {
        let mut request = Request::builder().version(version).uri(uri);
        for host in hosts {
            request = request.header(HeaderName::from_static("host"), *host);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn code(hosts: &Hosts, head: &Parts) -> Option<Code> {
        hosts.check(head).err().map(|error| error.code)
    }

    fn names(names: &[&str]) -> Vec<HostName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn on_loopback_only_names_of_this_machine_and_listed_ones_pass() {
        let hosts = Hosts::new(names(&["kv.example.com", "fe80::1"]), true);
        let judge = |host| code(&hosts, &head(Version::HTTP_11, "/", &[host]));
        for host in [
            "localhost",
            "LOCALHOST:7480",
            "localhost.",
            "kv.localhost:80",
            "127.0.0.1:7480",
            "127.8.9.10",
            "[::1]:7480",
            "[::ffff:127.0.0.1]",
            "KV.example.com",
            "kv.example.com.:443",
            "[fe80::1]:1",
        ] {
            assert_eq!(judge(host), None, "{host}");
        }
        for host in [
            "evil.example",
            "kv.example.com.evil.example",
            "localhost.evil.example",
            "notlocalhost",
            "127.0.0.1.evil.example",
            "192.168.1.7:7480",
            "0.0.0.0:7480",
            "[::]",
        ] {
            assert_eq!(judge(host), Some(Code::PermissionDenied), "{host}");
        }
    }

    #[test]
    fn off_loopback_all_names_pass_unless_some_are_listed() {
        let head = head(Version::HTTP_11, "/", &["10.0.0.7:7480"]);
        assert_eq!(code(&Hosts::new(Vec::new(), false), &head), None);
        let listed = Hosts::new(names(&["kv.example.com"]), false);
        assert_eq!(code(&listed, &head), Some(Code::PermissionDenied));
        let listed = Hosts::new(names(&["10.0.0.7"]), false);
        assert_eq!(code(&listed, &head), None);
    }

    #[test]
    fn a_request_is_for_one_host() {
        let hosts = Hosts::new(Vec::new(), true);
        let judge = |version, uri: &str, lines: &[&str]| code(&hosts, &head(version, uri, lines));
        let invalid = Some(Code::InvalidArgument);
        assert_eq!(judge(Version::HTTP_11, "/", &[]), invalid);
        assert_eq!(
            judge(Version::HTTP_11, "/", &["localhost", "localhost"]),
            invalid
        );
        assert_eq!(judge(Version::HTTP_10, "/", &[]), None);
        for bad in [
            "",
            "a b",
            "me@localhost",
            "local/host",
            "localhost:http",
            "\u{e9}",
        ] {
            assert_eq!(judge(Version::HTTP_11, "/", &[bad]), invalid, "{bad}");
        }
        let denied = Some(Code::PermissionDenied);
        let (own, other) = ("http://localhost/", "http://evil.example/");
        assert_eq!(judge(Version::HTTP_2, own, &[]), None);
        assert_eq!(judge(Version::HTTP_2, other, &[]), denied);
        assert_eq!(judge(Version::HTTP_11, other, &["localhost"]), denied);
        assert_eq!(judge(Version::HTTP_11, own, &["evil.example"]), denied);
        let authority = hosts.check(&head(Version::HTTP_11, "/", &["localhost:1"]));
        assert_eq!(authority.unwrap().unwrap().as_str(), "localhost:1");
    }

    #[test]
    fn listed_names_are_hosts_without_ports() {
        for bad in [
            "",
            "*",
            "*.example.com",
            "kv:80",
            "http://kv",
            "kv/",
            "a b",
            "me@kv",
            ".",
        ] {
            assert_eq!(bad.parse::<HostName>(), Err(NoHostName), "{bad}");
        }
        assert_eq!(names(&["KV.example.com."])[0].to_string(), "kv.example.com");
        assert_eq!(names(&["::1"]), names(&["[::1]"]));
    }
}
