//! Whether a process is ready, by its health page.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::plan::Process;

/// Timeout of one look.
const LIMIT: Duration = Duration::from_secs(2);
/// Most bytes of an answer that are read.
const MAX_ANSWER: u64 = 4 << 10;

/// Whether the process answers that it is ready.
pub(super) async fn is_ready(process: &Process) -> bool {
    let page = (process.addresses.iter()).find_map(|(door, address)| match *door {
        "client" => Some((address, "/health")),
        "metrics" | "rest" => Some((address, "/health/ready")),
        _ => None,
    });
    let Some((address, path)) = page else {
        return true;
    };
    let looked = timeout(LIMIT, get(address, path)).await;
    let is_etcd = process.role == "etcd";
    matches!(looked, Ok(Ok(answer)) if is_success(&answer)
        && (!is_etcd || answer.contains("\"health\":\"true\"")))
}

fn is_success(answer: &str) -> bool {
    let mut words = answer.split_ascii_whitespace();
    words
        .next()
        .is_some_and(|version| version.starts_with("HTTP/1"))
        && words.next() == Some("200")
}

async fn get(address: &str, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_200_is_success() {
        assert!(is_success("HTTP/1.1 200 OK\r\n\r\nready"));
        assert!(is_success("HTTP/1.0 200 OK\r\n\r\n"));
        for other in ["HTTP/1.1 503 200", "", "200 OK", "HTTP/1.1"] {
            assert!(!is_success(other), "{other}");
        }
    }
}
