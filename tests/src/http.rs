//! An HTTP/1.1 client that sends requests byte for byte as they are written.
//!
//! Client libraries rewrite paths (`..`, `%2F`, bytes beyond ASCII); this one does not.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// A whole response.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Response {
    /// The first header of this name; `name` is in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        (self.headers.iter())
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body as JSON; `Null` if it is not JSON.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// Sends `bytes` over a new connection, and reads until the server closes it.
///
/// # Errors
/// If the connection fails or the answer is not HTTP.
pub async fn send_raw(address: &str, bytes: &[u8]) -> io::Result<Response> {
    let mut stream = TcpStream::connect(address).await?;
    let sent = stream.write_all(bytes).await;
    received(stream, sent).await
}

/// A request to one server.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    method: &'a str,
    path: &'a str,
    headers: Vec<(&'a str, &'a str)>,
    body: &'a [u8],
}

impl<'a> Request<'a> {
    /// A request for `path`, which is sent unchanged.
    #[must_use]
    pub const fn new(method: &'a str, path: &'a str) -> Self {
        Self {
            method,
            path,
            headers: Vec::new(),
            body: &[],
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &'a str, value: &'a str) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Sets the body.
    #[must_use]
    pub const fn body(mut self, body: &'a [u8]) -> Self {
        self.body = body;
        self
    }

    /// Sends it to `address` over a new connection.
    ///
    /// # Errors
    /// If the connection fails or the answer is not HTTP.
    pub async fn send(self, address: &str) -> io::Result<Response> {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(self.head(address).as_bytes()).await?;
        // A server that refuses a large body may answer and close before it read it all.
        let sent = stream.write_all(self.body).await;
        received(stream, sent).await
    }

    /// Sends the head, which announces the whole body, and only the first `bytes` of the body.
    /// Then closes the sending half of the connection if `and_close`, or else leaves it open.
    ///
    /// # Errors
    /// If the connection fails or the answer is not HTTP.
    pub async fn send_part(
        self,
        address: &str,
        bytes: usize,
        and_close: bool,
    ) -> io::Result<Response> {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(self.head(address).as_bytes()).await?;
        let mut sent = stream.write_all(&self.body[..bytes]).await;
        if and_close && sent.is_ok() {
            sent = stream.shutdown().await;
        }
        received(stream, sent).await
    }

    /// Sends it and returns once the head of the answer was received; the body is a stream.
    ///
    /// # Errors
    /// If the connection fails or the answer is not HTTP.
    pub async fn open(self, address: &str) -> io::Result<Stream> {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(self.head(address).as_bytes()).await?;
        stream.write_all(self.body).await?;
        let mut bytes = Vec::new();
        loop {
            if let Some((status, headers, rest)) = parse_head(&bytes) {
                let pending = rest.to_vec();
                return Ok(Stream {
                    stream,
                    status,
                    headers,
                    pending,
                });
            }
            if stream.read_buf(&mut bytes).await? == 0 {
                return Err(not_http(&bytes));
            }
        }
    }

    fn head(&self, address: &str) -> String {
        let mut head = format!(
            "{} {} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {}\r\n",
            self.method,
            self.path,
            self.body.len()
        );
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        head
    }
}

/// An answer whose body arrives in chunks.
#[derive(Debug)]
pub struct Stream {
    stream: TcpStream,
    /// The status code.
    pub status: u16,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Bytes that were received and not yet returned.
    pending: Vec<u8>,
}

impl Stream {
    /// The next chunk; `None` after the last one.
    ///
    /// # Errors
    /// If none arrives within `patience`, or the connection breaks.
    pub async fn chunk(&mut self, patience: Duration) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some((chunk, length)) = first_chunk(&self.pending) {
                self.pending.drain(..length);
                return Ok((!chunk.is_empty()).then_some(chunk));
            }
            let more = timeout(patience, self.stream.read_buf(&mut self.pending)).await;
            let more = more.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
            if more? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

async fn received(mut stream: TcpStream, sent: io::Result<()>) -> io::Result<Response> {
    let mut answer = Vec::new();
    let received = stream.read_to_end(&mut answer).await;
    match parse(&answer) {
        Some(response) => Ok(response),
        None => sent.and(received).and(Err(not_http(&answer))),
    }
}

fn not_http(answer: &[u8]) -> io::Error {
    io::Error::other(format!("not an HTTP answer: {}", answer.escape_ascii()))
}

/// Status, headers with names in lower case, and the bytes after the head.
type Head<'a> = (u16, Vec<(String, String)>, &'a [u8]);

fn parse_head(answer: &[u8]) -> Option<Head<'_>> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Some((status, headers, &answer[end + 4..]))
}

fn parse(answer: &[u8]) -> Option<Response> {
    let (status, headers, rest) = parse_head(answer)?;
    let chunked = (headers.iter())
        .any(|(name, value)| name == "transfer-encoding" && value.eq_ignore_ascii_case("chunked"));
    let body = if chunked {
        dechunked(rest)?
    } else {
        rest.to_vec()
    };
    Some(Response {
        status,
        headers,
        body,
    })
}

/// The first chunk and its length with its framing; `None` if it is not complete.
fn first_chunk(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let end = bytes.windows(2).position(|two| two == b"\r\n")?;
    let size = std::str::from_utf8(&bytes[..end]).ok()?;
    let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
    let length = end + 2 + size + 2;
    let chunk = bytes.get(end + 2..length)?.get(..size)?;
    Some((chunk.to_vec(), length))
}

fn dechunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let (chunk, length) = first_chunk(rest)?;
        if chunk.is_empty() {
            return Some(body);
        }
        body.extend_from_slice(&chunk);
        rest = &rest[length..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_whole_or_in_chunks() {
        let plain = parse(b"HTTP/1.1 200 OK\r\nETag: \"7\"\r\n\r\nbody").unwrap();
        assert_eq!(plain.status, 200);
        assert_eq!(plain.header("etag"), Some("\"7\""));
        assert_eq!(plain.body, b"body");
        let chunks =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nbod\r\n1\r\ny\r\n0\r\n\r\n";
        assert_eq!(parse(chunks).unwrap().body, b"body");
        assert!(parse(b"220 smtp ready\r\n").is_none());
    }
}
