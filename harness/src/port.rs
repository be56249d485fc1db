//! Free loopback ports.

use std::net::{Ipv4Addr, TcpListener};

use crate::error::{Error, io_error};

/// The most starts of a server, each on another port, when its port was taken.
pub(crate) const MAX_PORT_ATTEMPTS: usize = 5;

/// A port of 127.0.0.1 on which nothing listens now.
///
/// Another process may take it before the server does. The servers of this crate then start
/// again on another port.
///
/// # Errors
/// If the system has no free port.
pub fn free_port() -> Result<u16, Error> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(io_error("finding a free port"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_port_can_be_bound() {
        let port = free_port().unwrap();
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    }
}
