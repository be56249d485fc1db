//! The addresses that a platform listens on: their errors, warnings and form for people.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tierkv_client_coordinator::{Listeners, StartError};
use tierkv_rpc::ListenError;

use crate::output::note;

/// Binds the addresses, and warns of those that other machines may reach.
///
/// # Errors
/// Why one can't be listened on, and which option sets it.
pub(crate) async fn bind(grpc: SocketAddr, rest: SocketAddr) -> Result<Listeners, String> {
    if grpc == rest && grpc.port() != 0 {
        return Err(format!(
            "gRPC and REST can't share {grpc}: set --grpc-listen or --rest-listen to another port"
        ));
    }
    let listeners = Listeners::bind(grpc, rest)
        .await
        .map_err(|error| refusal(&error))?;
    for (door, address) in [
        ("gRPC", listeners.grpc_address()),
        ("REST", listeners.rest_address()),
    ] {
        if !address.ip().is_loopback() {
            note(format_args!(
                "WARNING: {door} is served on {address}, which other machines may reach. There is \
                 no authentication: anyone who can connect can read and change all data"
            ));
        }
    }
    Ok(listeners)
}

fn refusal(error: &StartError) -> String {
    let StartError::Listen { door, error } = error else {
        return error.to_string();
    };
    refused(error, door, &format!("--{}-listen", door.to_lowercase()))
}

/// Why the address of `what` can't be listened on, and what to do with the `option` that sets it.
pub(crate) fn refused(error: &ListenError, what: &str, option: &str) -> String {
    let remedy = match error.error.kind() {
        ErrorKind::AddrInUse => format!(
            "stop the process that uses the port, or set {option} to another one, as in \
             {option} 127.0.0.1:0 for a free port"
        ),
        ErrorKind::PermissionDenied => {
            format!("choose a port above 1023 with {option}: lower ones need special rights")
        }
        ErrorKind::AddrNotAvailable => {
            format!("set {option} to an address of this machine, as in {option} 127.0.0.1:0")
        }
        _ => format!("set {option} to another address"),
    };
    let (address, error) = (error.address, &error.error);
    format!("{address} can't be listened on ({what}): {error}; {remedy}")
}

/// An address that clients on this machine can use: loopback for a server that listens on all
/// addresses.
pub(crate) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// What people should know besides the reachable address.
pub(crate) fn remark(address: SocketAddr) -> &'static str {
    match address.ip().is_unspecified() {
        true => " (listening on all addresses)",
        false => "",
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn an_error_names_the_server_the_option_and_a_remedy() {
        for (door, kind, words) in [
            ("gRPC", ErrorKind::AddrInUse, "(gRPC)"),
            ("REST", ErrorKind::AddrInUse, "--rest-listen 127.0.0.1:0"),
            (
                "gRPC",
                ErrorKind::PermissionDenied,
                "above 1023 with --grpc-listen",
            ),
            (
                "REST",
                ErrorKind::AddrNotAvailable,
                "an address of this machine",
            ),
            ("REST", ErrorKind::Other, "set --rest-listen to another"),
        ] {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 80));
            let error = io::Error::from(kind);
            let error = ListenError { address, error };
            let refusal = refusal(&StartError::Listen { door, error });
            assert!(refusal.starts_with("127.0.0.1:80 can't"), "{refusal}");
            assert!(refusal.contains(words), "{refusal}");
        }
    }
}
