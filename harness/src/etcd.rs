//! A real etcd.

use std::{fs, path::PathBuf, time::Duration};

use crate::{
    error::{Error, io_error},
    folder::DataFolder,
    health,
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

/// How a cluster is started.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Further arguments of every member.
    pub arguments: Vec<String>,
    /// Certificates, if clients use TLS.
    pub tls: Option<Tls>,
}

/// The PEM files of members whose clients use TLS. The servers' user must be able to read them.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The certificate of all members.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authority of clients' certificates; clients without one are then refused.
    pub client_ca: Option<PathBuf>,
}

/// An etcd cluster on loopback, ready to serve. Dropping it kills the members.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Member>,
    /// The members and their peer addresses, as the value of `--initial-cluster`.
    cluster: String,
    setup: Setup,
}

#[derive(Debug)]
struct Member {
    process: Process,
    ports: Ports,
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    client: u16,
    peer: u16,
    /// Answers health checks without TLS. Used only if clients use TLS.
    health: u16,
}

impl Etcd {
    /// Starts `size` members, at least one, and waits until the cluster answers.
    ///
    /// # Errors
    /// If etcd is missing or does not start.
    pub async fn start(size: usize) -> Result<Self, Error> {
        Self::start_as(size, &Setup::default()).await
    }

    /// As [`Etcd::start`], with `setup`.
    ///
    /// # Errors
    /// If etcd is missing or does not start.
    pub async fn start_as(size: usize, setup: &Setup) -> Result<Self, Error> {
        let mut attempt = 1;
        loop {
            match Self::try_start(size, setup).await {
                Err(error) if error.is_port_race() && attempt < MAX_PORT_ATTEMPTS => attempt += 1,
                result => return result,
            }
        }
    }

    async fn try_start(size: usize, setup: &Setup) -> Result<Self, Error> {
        let ports = (0..size.max(1))
            .map(|_| {
                Ok(Ports {
                    client: free_port()?,
                    peer: free_port()?,
                    health: free_port()?,
                })
            })
            .collect::<Result<Vec<_>, Error>>()?;
        let cluster = ports
            .iter()
            .enumerate()
            .map(|(at, ports)| format!("m{at}=http://127.0.0.1:{}", ports.peer))
            .collect::<Vec<_>>()
            .join(",");
        let mut members = Vec::with_capacity(ports.len());
        for (at, ports) in ports.into_iter().enumerate() {
            let folder = DataFolder::new("etcd")?;
            let process = spawn(at, ports, &cluster, setup, &folder)?;
            members.push(Member { process, ports });
        }
        let mut etcd = Self {
            members,
            cluster,
            setup: setup.clone(),
        };
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
        for at in 0..self.members.len() {
            self.start_again(at)?;
        }
        self.come_up().await
    }

    /// Kills every member (`SIGKILL`).
    ///
    /// # Errors
    /// If the system refuses.
    pub fn kill9(&mut self) -> Result<(), Error> {
        self.processes().try_for_each(Process::kill9)
    }

    /// Starts the ended member `at` again, with its data and addresses; does not wait for it.
    ///
    /// # Errors
    /// If the system refuses.
    ///
    /// # Panics
    /// If there is no such member.
    pub fn start_again(&mut self, at: usize) -> Result<(), Error> {
        let member = &mut self.members[at];
        let folder = member.process.folder().clone();
        member.process = spawn(at, member.ports, &self.cluster, &self.setup, &folder)?;
        Ok(())
    }

    /// Removes the data of the ended member `at`, as if its disk was replaced.
    ///
    /// # Errors
    /// If the system refuses.
    ///
    /// # Panics
    /// If there is no such member.
    pub fn wipe(&self, at: usize) -> Result<(), Error> {
        let data = self.members[at].process.folder().data().join("member");
        fs::remove_dir_all(data).map_err(io_error("wiping a member of etcd"))
    }

    /// Waits until every member answers.
    ///
    /// # Errors
    /// If one does not.
    pub async fn come_up(&mut self) -> Result<(), Error> {
        for at in 0..self.members.len() {
            self.member_up(at).await?;
        }
        Ok(())
    }

    /// Waits until the member `at` answers, which needs a majority.
    ///
    /// # Errors
    /// If it does not.
    ///
    /// # Panics
    /// If there is no such member.
    pub async fn member_up(&mut self, at: usize) -> Result<(), Error> {
        let is_tls = self.setup.tls.is_some();
        let Member { process, ports } = &mut self.members[at];
        let port = if is_tls { ports.health } else { ports.client };
        process
            .wait_until("come up", START_LIMIT, |process| {
                process.check()?;
                Ok(is_healthy(port).then_some(()))
            })
            .await
    }

    /// The members' client addresses, as `host:port`.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.members
            .iter()
            .map(|member| format!("127.0.0.1:{}", member.ports.client))
            .collect()
    }

    /// The process of the member `at`.
    ///
    /// # Panics
    /// If there is no such member.
    pub fn process(&mut self, at: usize) -> &mut Process {
        &mut self.members[at].process
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
    ports: Ports,
    cluster: &str,
    setup: &Setup,
    folder: &DataFolder,
) -> Result<Process, Error> {
    let scheme = if setup.tls.is_some() { "https" } else { "http" };
    let client = format!("{scheme}://127.0.0.1:{}", ports.client);
    let peer = format!("http://127.0.0.1:{}", ports.peer);
    let program = Program::of_package(
        "etcd",
        "install the Debian package etcd-server (`make deps` does)",
    );
    let data = folder.data().display().to_string();
    let mut arguments = vec![
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
    if let Some(tls) = &setup.tls {
        let health = format!("http://127.0.0.1:{}", ports.health);
        arguments.extend([
            ("--listen-metrics-urls", health),
            ("--cert-file", tls.certificate.display().to_string()),
            ("--key-file", tls.key.display().to_string()),
        ]);
        if let Some(ca) = &tls.client_ca {
            arguments.extend([
                ("--client-cert-auth", "true".to_owned()),
                ("--trusted-ca-file", ca.display().to_string()),
            ]);
        }
    }
    // `--flag=value`, because a switch takes no separate value.
    let words = arguments
        .into_iter()
        .map(|(flag, value)| format!("{flag}={value}"))
        .chain(setup.arguments.iter().cloned());
    Process::spawn(&program, words, folder)
}

/// Whether the member's health check succeeds, which needs a leader.
fn is_healthy(port: u16) -> bool {
    let page = health::page(&format!("127.0.0.1:{port}"), "/health");
    page.is_some_and(|page| page.contains("\"health\":\"true\""))
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn a_cluster_starts_and_ends_with_its_guard() {
        let mut etcd = Etcd::start(1).await.unwrap();
        let port = etcd.members[0].ports.client;
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
                .all(|member| is_healthy(member.ports.client))
        );
    }
}
