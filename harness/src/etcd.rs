//! A real etcd.

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
/// Quota of the store. etcd's default of 2 GiB is too small for millions of writes, and a full
/// store refuses writes.
const QUOTA_BYTES: u64 = 8 << 30;
/// Timeout for an orderly stop.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// An etcd cluster on loopback, ready to serve. Dropping it kills the members.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Member>,
    /// The members and their peer addresses, as the value of `--initial-cluster`.
    cluster: String,
}

#[derive(Debug)]
struct Member {
    process: Process,
    client_port: u16,
    peer_port: u16,
}

impl Etcd {
    /// Starts `size` members, at least one, and waits until the cluster answers.
    ///
    /// # Errors
    /// If etcd is missing or does not start.
    pub async fn start(size: usize) -> Result<Self, Error> {
        let mut attempt = 1;
        loop {
            match Self::try_start(size).await {
                Err(error) if error.is_port_race() && attempt < MAX_PORT_ATTEMPTS => attempt += 1,
                result => return result,
            }
        }
    }

    async fn try_start(size: usize) -> Result<Self, Error> {
        let ports = (0..size.max(1))
            .map(|_| Ok((free_port()?, free_port()?)))
            .collect::<Result<Vec<_>, Error>>()?;
        let cluster = ports
            .iter()
            .enumerate()
            .map(|(at, (_, peer))| format!("m{at}=http://127.0.0.1:{peer}"))
            .collect::<Vec<_>>()
            .join(",");
        let mut members = Vec::with_capacity(ports.len());
        for (at, (client_port, peer_port)) in ports.iter().enumerate() {
            members.push(Member {
                process: spawn(
                    at,
                    *client_port,
                    *peer_port,
                    &cluster,
                    &DataFolder::new("etcd")?,
                )?,
                client_port: *client_port,
                peer_port: *peer_port,
            });
        }
        let mut etcd = Self { members, cluster };
        etcd.come_up().await?;
        Ok(etcd)
    }

    /// Stops every member and starts it again with the same data and addresses.
    ///
    /// # Errors
    /// If a member does not stop or does not start again.
    pub async fn restart(&mut self) -> Result<(), Error> {
        for member in &mut self.members {
            member.process.stop(STOP_LIMIT).await?;
        }
        for (at, member) in self.members.iter_mut().enumerate() {
            let folder = member.process.folder().clone();
            member.process = spawn(
                at,
                member.client_port,
                member.peer_port,
                &self.cluster,
                &folder,
            )?;
        }
        self.come_up().await
    }

    async fn come_up(&mut self) -> Result<(), Error> {
        for member in &mut self.members {
            let port = member.client_port;
            member
                .process
                .wait_until("come up", START_LIMIT, |process| {
                    process.check()?;
                    Ok(is_healthy(port).then_some(()))
                })
                .await?;
        }
        Ok(())
    }

    /// The members' client addresses, as `host:port`.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.members
            .iter()
            .map(|member| format!("127.0.0.1:{}", member.client_port))
            .collect()
    }

    /// The members' processes, in the order of [`Etcd::addresses`].
    pub fn processes(&mut self) -> impl Iterator<Item = &mut Process> {
        self.members.iter_mut().map(|member| &mut member.process)
    }

    /// The process ids of all members.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        self.members.iter().map(|m| m.process.pid()).collect()
    }
}

fn spawn(
    at: usize,
    client_port: u16,
    peer_port: u16,
    cluster: &str,
    folder: &DataFolder,
) -> Result<Process, Error> {
    let client = format!("http://127.0.0.1:{client_port}");
    let peer = format!("http://127.0.0.1:{peer_port}");
    let program = Program::of_package(
        "etcd",
        "install the Debian package etcd-server (`make deps` does)",
    );
    let data = folder.data().display().to_string();
    let arguments = [
        ("--name", format!("m{at}")),
        ("--data-dir", data),
        ("--listen-client-urls", client.clone()),
        ("--advertise-client-urls", client),
        ("--listen-peer-urls", peer.clone()),
        ("--initial-advertise-peer-urls", peer),
        ("--initial-cluster", cluster.to_owned()),
        ("--quota-backend-bytes", QUOTA_BYTES.to_string()),
        ("--logger", "zap".to_owned()),
        ("--log-level", "warn".to_owned()),
    ];
    Process::spawn(
        &program,
        arguments
            .into_iter()
            .flat_map(|(flag, value)| [flag.to_owned(), value]),
        folder,
    )
}

/// Whether the member's health check succeeds, which needs a leader.
fn is_healthy(port: u16) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET /health HTTP/1.0\r\nHost: etcd\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.contains("\"health\":\"true\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cluster_starts_and_ends_with_its_guard() {
        let mut etcd = Etcd::start(1).await.unwrap();
        let port = etcd.members[0].client_port;
        assert_eq!(etcd.addresses(), [format!("127.0.0.1:{port}")]);
        assert!(is_healthy(port));
        for process in etcd.processes() {
            process.check().unwrap();
        }
        drop(etcd);
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    }

    #[tokio::test]
    async fn three_members_form_a_healthy_cluster() {
        let etcd = Etcd::start(3).await.unwrap();
        assert_eq!(etcd.pids().len(), 3);
        assert!(
            etcd.members
                .iter()
                .all(|member| is_healthy(member.client_port))
        );
    }
}
