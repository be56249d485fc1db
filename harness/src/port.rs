//! Free loopback ports.

use std::{
    fs,
    hash::{BuildHasher, Hasher, RandomState},
    io::ErrorKind,
    net::{Ipv4Addr, TcpListener},
};

use crate::error::{Error, io_error};

/// The most starts of a server, each on another port, when its port was taken.
pub(crate) const MAX_PORT_ATTEMPTS: usize = 5;

/// The first port that is tried: above the standard ports of the servers here.
const FIRST_PORT: u16 = 12_000;
/// Ports of connections that go out, where the system does not name its own.
const USUAL_OUTGOING: u16 = 32_768;
/// Ports that are tried before the search fails.
const MAX_TRIES: usize = 1_000;

/// A port of 127.0.0.1 on which nothing listens now.
///
/// The system gives it to no connection that goes out, so that a server finds it free again after
/// a restart. Another process may still take it before the server does. The servers of this crate
/// then start again on another port.
///
/// # Errors
/// If no free port was found.
pub fn free_port() -> Result<u16, Error> {
    let ports = FIRST_PORT..outgoing_begin().max(FIRST_PORT + 1);
    let mut last = None;
    for _ in 0..MAX_TRIES {
        // Each hasher begins with random keys.
        let [high, low, ..] = RandomState::new().build_hasher().finish().to_be_bytes();
        let port = ports.start + u16::from_be_bytes([high, low]) % (ports.end - ports.start);
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => return Ok(port),
            Err(error) => last = Some(error),
        }
    }
    let error = last.unwrap_or_else(|| ErrorKind::AddrNotAvailable.into());
    Err(io_error("finding a free port")(error))
}

/// The first port that the system gives to connections that go out.
fn outgoing_begin() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let begin = range
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok());
    begin.unwrap_or(USUAL_OUTGOING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_port_can_be_bound() {
        let port = free_port().unwrap();
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        assert!((FIRST_PORT..outgoing_begin()).contains(&port), "{port}");
    }
}
