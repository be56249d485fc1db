//! Free loopback ports.

use std::net::{Ipv4Addr, TcpListener};

use crate::error::{Error, io_error};

/// How often a server is started anew on another port when one was taken meanwhile.
pub(crate) const MAX_PORT_ATTEMPTS: usize = 5;

/// A port of 127.0.0.1 that nothing listens on now.
///
/// Another process may take it before the server does: the servers of this crate are then
/// started again on another one.
///
/// # Errors
/// If the system gives no port.
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
