//! A real redis.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use crate::{
    error::Error,
    folder::DataFolder,
    port::{MAX_PORT_ATTEMPTS, free_port},
    process::{Process, Program},
};

/// Timeout for a start.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A redis on loopback, ready to serve. Dropping it kills the process.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    port: u16,
}

impl Redis {
    /// Starts a redis that keeps everything in memory (no snapshots), unless `arguments` change
    /// that, such as `["--appendonly", "yes", "--appendfsync", "always"]`.
    ///
    /// # Errors
    /// If redis is missing or does not start.
    pub async fn start(arguments: &[&str]) -> Result<Self, Error> {
        let mut attempt = 1;
        loop {
            match Self::try_start(arguments).await {
                Err(error) if error.is_port_race() && attempt < MAX_PORT_ATTEMPTS => attempt += 1,
                result => return result,
            }
        }
    }

    async fn try_start(arguments: &[&str]) -> Result<Self, Error> {
        let folder = DataFolder::new("redis")?;
        let port = free_port()?;
        let program = Program::of_package(
            "redis-server",
            "install the Debian package redis-server (`make deps` does)",
        );
        let data = folder.data().display().to_string();
        let port_text = port.to_string();
        let fixed = [
            "--bind",
            "127.0.0.1",
            "--port",
            &port_text,
            "--dir",
            &data,
            "--save",
            "",
        ];
        let mut process = Process::spawn(&program, fixed.iter().chain(arguments), &folder)?;
        process
            .wait_until("come up", START_LIMIT, |process| {
                process.check()?;
                Ok(is_ready(port).then_some(()))
            })
            .await?;
        Ok(Self { process, port })
    }

    /// The address, as `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The process.
    pub const fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }
}

/// Whether the server answers a ping; it does not while it loads its data.
fn is_ready(port: u16) -> bool {
    let ask = || -> std::io::Result<[u8; 7]> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"PING\r\n")?;
        let mut answer = [0; 7];
        stream.read_exact(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| &answer == b"+PONG\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_starts_with_and_without_a_log() {
        let volatile = Redis::start(&[]).await.unwrap();
        let mut durable = Redis::start(&["--appendonly", "yes"]).await.unwrap();
        assert!(is_ready(volatile.port) && is_ready(durable.port));
        assert!(
            durable
                .process()
                .folder()
                .data()
                .read_dir()
                .unwrap()
                .count()
                > 0
        );
        let status = durable
            .process()
            .stop(Duration::from_secs(10))
            .await
            .unwrap();
        assert!(status.success());
        assert!(!is_ready(durable.port));
    }
}
