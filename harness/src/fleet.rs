//! A platform of many processes, each on a host of its own: the same processes as `tierkv cluster`
//! starts, but their lines can be cut. Without a network, all are on loopback. The data of its nodes
//! is in [`data`].

pub mod data;

use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use crate::{
    error::{Error, io_error},
    folder::DataFolder,
    founding, health,
    network::{Loss, Network},
    poll::poll_until,
    port::free_port,
    process::{Process, Program},
    surroundings::Surroundings,
    tierkv::program,
};

const ETCD_MEMBERS: u16 = 3;
const SERVER_COORDINATORS: u16 = 3;
const CLIENT_COORDINATORS: u16 = 2;
/// Timeout for the start of a process.
const START_LIMIT: Duration = Duration::from_secs(120);
/// Timeout for an orderly end of a process.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// Timeout for a command.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// A kind of process.
struct Kind {
    role: &'static str,
    /// Its addresses: name, and port on a host of its own.
    doors: &'static [(&'static str, u16)],
    /// The door and the page that answers whether it is ready, with a part of the answer.
    health: (&'static str, &'static str, &'static str),
}

const ETCD: Kind = Kind {
    role: "etcd",
    doors: &[("client", 12379), ("peer", 12380)],
    health: ("client", "/health", "\"health\":\"true\""),
};
const DATA_NODE: Kind = Kind {
    role: "datanode",
    doors: &[("listen", 7600), ("metrics-listen", 7680)],
    health: ("metrics-listen", "/health/ready", " 200 "),
};
const SERVER_COORDINATOR: Kind = Kind {
    role: "server-coordinator",
    doors: &[("listen", 7500), ("metrics-listen", 7580)],
    health: ("metrics-listen", "/health/ready", " 200 "),
};
const CLIENT_COORDINATOR: Kind = Kind {
    role: "client-coordinator",
    doors: &[("grpc-listen", 7400), ("rest-listen", 7480)],
    health: ("rest-listen", "/health/ready", " 200 "),
};

/// One process of the platform.
#[derive(Debug)]
struct Server {
    name: String,
    role: &'static str,
    /// Of a data node.
    cluster: Option<String>,
    /// By door.
    addresses: BTreeMap<&'static str, String>,
    health: (&'static str, &'static str, &'static str),
    program: Program,
    arguments: Vec<String>,
    surroundings: Surroundings,
    folder: DataFolder,
    process: Option<Process>,
}

impl Server {
    fn start(&mut self) -> Result<(), Error> {
        let arguments = self.arguments.iter();
        let (folder, surroundings) = (&self.folder, &self.surroundings);
        let process = Process::spawn_in(&self.program, arguments, folder, surroundings)?;
        self.process = Some(process);
        Ok(())
    }

    fn process(&mut self) -> Result<&mut Process, Error> {
        let missing = || {
            let never = std::io::Error::other("it was never started");
            io_error(format!("looking for the process of {}", self.name))(never)
        };
        self.process.as_mut().ok_or_else(missing)
    }

    fn is_ready(&self) -> bool {
        let (door, page, part) = self.health;
        let page = health::page(&self.addresses[door], page);
        page.is_some_and(|page| page.contains(part))
    }
}

/// A platform of many processes, ready to serve. Dropping it kills all of them.
#[derive(Debug)]
pub struct Fleet {
    servers: Vec<Server>,
    network: Option<Network>,
}

impl Fleet {
    /// Founds a platform of data clusters with so many nodes each (of `[3, 1]`, `c1` has `n1` to
    /// `n3`, and `c2` has `n4`), with `etcd1` to `etcd3`, `s1` to `s3`, `cc1` and `cc2`. The data
    /// nodes get these environment variables. Every process answers then, and each cluster has a
    /// master; its replicas may still follow.
    ///
    /// # Errors
    /// If the binary or etcd is missing, or a process does not start.
    pub async fn start(
        clusters: &[u16],
        environment: &[(&str, &str)],
        network: Option<Network>,
    ) -> Result<Self, Error> {
        let mut fleet = Self {
            servers: Vec::new(),
            network,
        };
        for number in 1..=ETCD_MEMBERS {
            fleet.add(format!("etcd{number}"), &ETCD, etcd()).await?;
        }
        fleet.introduce_etcd();
        let url = format!(
            "etcd://{}/tierkv",
            fleet.addresses("etcd", "client").join(",")
        );
        for (cluster, nodes) in founding::names(clusters) {
            for name in nodes {
                fleet.add(name, &DATA_NODE, program(None)).await?;
                let server = fleet.servers.last_mut();
                let Some(server) = server else { continue };
                let data = server.folder.data().display().to_string();
                let places = ["--cluster", &cluster, "--data-dir", &data];
                server.arguments.extend(places.map(str::to_owned));
                server.cluster = Some(cluster.clone());
                for (variable, value) in environment {
                    server.surroundings = server.surroundings.clone().set(variable, value);
                }
            }
        }
        let coordinators = [
            (SERVER_COORDINATORS, "s", &SERVER_COORDINATOR),
            (CLIENT_COORDINATORS, "cc", &CLIENT_COORDINATOR),
        ];
        for (count, prefix, kind) in coordinators {
            for number in 1..=count {
                let name = format!("{prefix}{number}");
                fleet.add(name, kind, program(None)).await?;
            }
        }
        for server in &mut fleet.servers {
            if server.role != ETCD.role {
                let words = ["--node", &server.name, "--coordination-url", &url];
                let words = words.map(str::to_owned);
                server.arguments.splice(0..0, words);
                server.arguments.insert(0, server.role.to_owned());
            }
        }
        fleet.come_up(clusters, &url).await?;
        Ok(fleet)
    }

    /// Adds a process with its addresses, each an option of its command.
    async fn add(&mut self, name: String, kind: &Kind, program: Program) -> Result<(), Error> {
        let mut surroundings = Surroundings::default();
        let mut addresses = BTreeMap::new();
        match &mut self.network {
            Some(network) => {
                let host = network.add(&name).await?;
                surroundings = surroundings.wrap(network.entrance(&name)?);
                let doors = kind.doors.iter();
                addresses.extend(doors.map(|(door, port)| (*door, format!("{host}:{port}"))));
            }
            None => {
                let doors = kind.doors.iter().map(|(door, _)| *door);
                addresses.extend(doors.zip(self.free_addresses(kind.doors.len())?));
            }
        }
        let mut arguments = Vec::new();
        if kind.role != ETCD.role {
            for (door, address) in &addresses {
                arguments.extend([format!("--{door}"), address.clone()]);
            }
        }
        self.servers.push(Server {
            folder: DataFolder::new(&name)?,
            name,
            role: kind.role,
            cluster: None,
            addresses,
            health: kind.health,
            program,
            arguments,
            surroundings,
            process: None,
        });
        Ok(())
    }

    /// Addresses on free ports of loopback that no process of the platform has, whether it runs or
    /// not.
    fn free_addresses(&self, count: usize) -> Result<Vec<String>, Error> {
        let mut addresses = Vec::new();
        while addresses.len() < count {
            let address = format!("{}:{}", Ipv4Addr::LOCALHOST, free_port()?);
            let mut taken = self.servers.iter().flat_map(|it| it.addresses.values());
            if !taken.any(|taken| *taken == address) && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        Ok(addresses)
    }

    /// Gives each member of etcd the addresses of all.
    fn introduce_etcd(&mut self) {
        let peers = self.servers.iter();
        let peers = peers.map(|it| format!("{}=http://{}", it.name, it.addresses["peer"]));
        let peers = peers.collect::<Vec<_>>().join(",");
        for server in &mut self.servers {
            let url = |door| format!("http://{}", server.addresses[door]);
            let data = server.folder.data().display().to_string();
            let arguments = [
                ("name", server.name.clone()),
                ("data-dir", data),
                ("listen-client-urls", url("client")),
                ("advertise-client-urls", url("client")),
                ("listen-peer-urls", url("peer")),
                ("initial-advertise-peer-urls", url("peer")),
                ("initial-cluster", peers.clone()),
                ("logger", "zap".to_owned()),
                ("log-level", "warn".to_owned()),
            ];
            let arguments = arguments.into_iter();
            server.arguments = arguments
                .map(|(name, value)| format!("--{name}={value}"))
                .collect();
        }
    }

    /// Starts all processes, and founds the platform.
    async fn come_up(&mut self, clusters: &[u16], url: &str) -> Result<(), Error> {
        let is_etcd = |server: &&mut Server| server.role == ETCD.role;
        for server in self.servers.iter_mut().filter(is_etcd) {
            server.start()?;
        }
        for name in self.names_of(ETCD.role) {
            self.await_ready(&name).await?;
        }
        founding::found(&program(None), clusters, url).await?;
        for server in self.servers.iter_mut().filter(|it| it.role != ETCD.role) {
            server.start()?;
        }
        for name in self.names() {
            self.await_ready(&name).await?;
        }
        Ok(())
    }

    /// Waits until a process is ready. A data node counts as ready when one of its cluster is: the
    /// master serves, and the others may still follow.
    async fn await_ready(&mut self, name: &str) -> Result<(), Error> {
        let cluster = self.server(name)?.cluster.clone();
        let ready = poll_until(START_LIMIT, || {
            let checked = self.check_started();
            let mut alternatives = self.servers.iter().filter(|server| {
                server.name == name || (cluster.is_some() && server.cluster == cluster)
            });
            let is_ready = checked.map(|()| alternatives.any(Server::is_ready));
            async move { is_ready.map(|it| it.then_some(())).transpose() }
        });
        let ready = ready.await;
        let not_ready = || Err(self.process(name)?.unexpected("does not become ready"));
        ready.unwrap_or_else(not_ready)
    }

    /// Checks that every process runs that was started.
    fn check_started(&mut self) -> Result<(), Error> {
        let mut started = self.servers.iter_mut().filter_map(|it| it.process.as_mut());
        started.try_for_each(Process::check)
    }

    /// The names of all processes, from the lowest tier up.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let names = self.servers.iter().map(|server| server.name.clone());
        names.collect()
    }

    /// The names of all processes of a role.
    #[must_use]
    pub fn names_of(&self, role: &str) -> Vec<String> {
        let servers = self.servers.iter().filter(|server| server.role == role);
        servers.map(|server| server.name.clone()).collect()
    }

    /// The addresses behind one door of all processes of a role: `client` and `peer` of etcd,
    /// `listen` and `metrics-listen` of data nodes and server coordinators, `grpc-listen` and
    /// `rest-listen` of client coordinators.
    #[must_use]
    pub fn addresses(&self, role: &str, door: &str) -> Vec<String> {
        let servers = self.servers.iter().filter(|server| server.role == role);
        let addresses = servers.filter_map(|server| server.addresses.get(door).cloned());
        addresses.collect()
    }

    /// The process of this name, of its last start.
    ///
    /// # Errors
    /// If there is none.
    pub fn process(&mut self, name: &str) -> Result<&mut Process, Error> {
        self.server(name)?.process()
    }

    /// Starts an ended process again on its data; does not wait for it.
    ///
    /// # Errors
    /// If there is no such process, or it does not start.
    pub fn restart(&mut self, name: &str) -> Result<(), Error> {
        self.server(name)?.start()
    }

    /// Checks that every process runs.
    ///
    /// # Errors
    /// [`Error::Ended`], with the log of one that does not.
    pub fn check(&mut self) -> Result<(), Error> {
        let mut processes = self.servers.iter_mut().map(Server::process);
        processes.try_for_each(|process| process?.check())
    }

    /// Runs a command of the platform's binary against its client coordinators, and returns the
    /// first line that it prints.
    ///
    /// # Errors
    /// If it fails, with what it printed.
    pub async fn command(&self, words: &[&str]) -> Result<String, Error> {
        let addresses = self.addresses(CLIENT_COORDINATOR.role, "grpc-listen");
        let surroundings = Surroundings::default().set("TIERKV_ADDRESS", addresses.join(","));
        let folder = DataFolder::new("command")?;
        let mut process = Process::spawn_in(&program(None), words, &folder, &surroundings)?;
        let ended = process.wait_until("end", COMMAND_LIMIT, Process::status);
        match ended.await?.success() {
            true => Ok(process.first_line().unwrap_or_default()),
            false => Err(process.unexpected(format!("failed: {}", words.join(" ")))),
        }
    }

    /// From now on, everything that the host of one process sends to that of another is lost, also
    /// on existing connections.
    ///
    /// # Errors
    /// If there is no such process, or no network.
    pub fn cut(&mut self, from: &str, to: &str, loss: Loss) -> Result<(), Error> {
        self.network()?.cut(from, to, loss)
    }

    /// Heals all cuts.
    ///
    /// # Errors
    /// If there is no network, or the system refuses.
    pub fn heal(&mut self) -> Result<(), Error> {
        self.network()?.heal()
    }

    /// Whether a new connection can be made from the host of one process to the first door of
    /// another.
    ///
    /// # Errors
    /// If there is no such process, or no network.
    pub fn connects(&mut self, from: &str, to: &str) -> Result<bool, Error> {
        let address = self.server(to)?.addresses.values().next().cloned();
        let port = address.and_then(|address| address.rsplit_once(':')?.1.parse().ok());
        self.network()?.connects(from, to, port.unwrap_or_default())
    }

    /// Ends all processes (`SIGTERM`), the upper tiers first.
    ///
    /// # Errors
    /// If one fails at its end, or takes too long.
    pub async fn stop(&mut self) -> Result<(), Error> {
        for server in self.servers.iter_mut().rev() {
            let is_etcd = server.role == ETCD.role;
            let process = server.process()?;
            let status = process.stop(STOP_LIMIT).await?;
            // etcd ends by the signal that it was sent.
            if !status.success() && !is_etcd {
                return Err(process.unexpected(format!("ended with {status}")));
            }
        }
        Ok(())
    }

    fn server(&mut self, name: &str) -> Result<&mut Server, Error> {
        let server = self.servers.iter_mut().find(|server| server.name == name);
        server.ok_or_else(|| {
            let missing = std::io::Error::other("the platform has no such process");
            io_error(format!("looking for {name}"))(missing)
        })
    }

    fn network(&mut self) -> Result<&mut Network, Error> {
        self.network.as_mut().ok_or_else(|| {
            let missing = std::io::Error::other(
                "all processes are on loopback; start the fleet with a network",
            );
            io_error("cutting a line")(missing)
        })
    }
}

fn etcd() -> Program {
    Program::of_package(
        "etcd",
        "install the Debian package etcd-server (`make deps` does)",
    )
}
