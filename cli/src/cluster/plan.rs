//! The processes of a local platform: their names, addresses and commands.

use std::{
    collections::BTreeMap,
    env,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

use serde::Serialize;
use serde_json::json;
use tierkv_coordination::directory::FoundingCluster;
use tierkv_types::{ClusterId, NodeId};

use super::{ports::Ports, shape::Shape};

/// Members of the etcd cluster.
const ETCD_MEMBERS: u16 = 3;
/// Client coordinators.
const CLIENT_COORDINATORS: u16 = 2;
/// Server coordinators.
const SERVER_COORDINATORS: u16 = 3;
/// The platform's name in etcd.
const PLATFORM: &str = "tierkv";
/// The file that describes the processes.
const DESCRIPTION: &str = "cluster.json";

/// The process ids of running processes, by name.
pub(super) type Pids = BTreeMap<String, u32>;

/// One process.
#[derive(Clone, Debug)]
pub(super) struct Process {
    /// As in `/v1/cluster`.
    pub(super) name: String,
    pub(super) role: &'static str,
    /// The cluster of a data node.
    pub(super) cluster: Option<String>,
    pub(super) addresses: BTreeMap<&'static str, String>,
    pub(super) argv: Vec<String>,
    pub(super) log: PathBuf,
}

/// All processes, in the order in which they are started.
pub(super) struct Plan {
    dir: PathBuf,
    clusters: u16,
    nodes: u16,
    etcd: Vec<Process>,
    roles: Vec<Process>,
    coordination_url: String,
}

/// One process in `cluster.json`.
#[derive(Serialize)]
struct Described<'a> {
    name: &'a str,
    role: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<&'a str>,
    pid: Option<u32>,
    addresses: &'a BTreeMap<&'static str, String>,
    argv: &'a [String],
    env: &'a BTreeMap<String, String>,
    log: &'a Path,
}

impl Plan {
    /// Plans the platform in the folder of `shape`, which is created if it does not exist. Ports are
    /// chosen at the first start and kept in the folder.
    pub(super) fn make(shape: &Shape) -> Result<Self, Box<dyn std::error::Error>> {
        let failed = |error: io::Error| {
            let dir = shape.dir.display();
            format!("the folder {dir} can't be used: {error}; name another one with --dir")
        };
        fs::create_dir_all(&shape.dir).map_err(failed)?;
        // Processes are restarted from any folder.
        let dir = shape.dir.canonicalize().map_err(failed)?;
        fs::create_dir_all(dir.join("logs")).map_err(failed)?;
        let mut ports = Ports::open(dir.join("ports.json"), shape)?;
        let etcd = etcd(&dir, &mut ports)?;
        let clients = etcd
            .iter()
            .map(|member| member.addresses["client"].as_str());
        let clients = clients.collect::<Vec<_>>().join(",");
        let coordination_url = format!("etcd://{clients}/{PLATFORM}");
        let roles = roles(&dir, &mut ports, shape, &coordination_url)?;
        ports.keep()?;
        Ok(Self {
            dir,
            clusters: shape.clusters,
            nodes: shape.nodes,
            etcd,
            roles,
            coordination_url,
        })
    }

    pub(super) fn etcd(&self) -> &[Process] {
        &self.etcd
    }

    pub(super) fn roles(&self) -> &[Process] {
        &self.roles
    }

    pub(super) fn all(&self) -> impl DoubleEndedIterator<Item = &Process> {
        self.etcd.iter().chain(&self.roles)
    }

    pub(super) fn coordination_url(&self) -> &str {
        &self.coordination_url
    }

    /// The clusters to found.
    pub(super) fn clusters(&self) -> Result<Vec<FoundingCluster>, tierkv_types::Error> {
        let cluster = |number| {
            Ok(FoundingCluster {
                id: ClusterId::new(&format!("c{number}"))?,
                weight: 1,
                members: data_nodes(number, self.nodes)
                    .map(|name| NodeId::new(&name))
                    .collect::<Result<_, _>>()?,
            })
        };
        (1..=self.clusters).map(cluster).collect()
    }

    /// The path of the file that describes the processes.
    pub(super) fn description(&self) -> PathBuf {
        self.dir.join(DESCRIPTION)
    }

    /// Writes that file, whole or not at all.
    pub(super) fn describe(&self, pids: &Pids) -> Result<(), Box<dyn std::error::Error>> {
        let env = environment();
        let processes: Vec<Described<'_>> = self
            .all()
            .map(|process| Described {
                name: &process.name,
                role: process.role,
                cluster: process.cluster.as_deref(),
                pid: pids.get(&process.name).copied(),
                addresses: &process.addresses,
                argv: &process.argv,
                env: &env,
                log: &process.log,
            })
            .collect();
        let text = serde_json::to_string_pretty(&json!({ "processes": processes }))?;
        let path = self.description();
        let new = path.with_extension("json.new");
        fs::write(&new, text + "\n")?;
        fs::rename(new, path)?;
        Ok(())
    }

    /// The processes as a table for people.
    pub(super) fn table(&self, pids: &Pids) -> String {
        let mut table = format!(
            "{:<8} {:<20} {:<8} {:>8}  ADDRESSES\n",
            "NAME", "ROLE", "CLUSTER", "PID"
        );
        for process in self.all() {
            let addresses = process.addresses.iter();
            let addresses = addresses.map(|(name, address)| format!("{name} {address}"));
            // Writing to a string can't fail.
            let _ = writeln!(
                table,
                "{:<8} {:<20} {:<8} {:>8}  {}",
                process.name,
                process.role,
                process.cluster.as_deref().unwrap_or("-"),
                (pids.get(&process.name)).map_or_else(String::new, u32::to_string),
                addresses.collect::<Vec<_>>().join("  ")
            );
        }
        let _ = write!(
            table,
            "\ncoordination URL: {}\nlogs: {}",
            self.coordination_url,
            self.dir.join("logs").display()
        );
        table
    }
}

/// The names of the data nodes of the cluster with this number: numbered through all clusters.
fn data_nodes(cluster: u16, nodes: u16) -> impl Iterator<Item = String> {
    let first = (cluster - 1) * nodes + 1;
    (first..first + nodes).map(|number| format!("n{number}"))
}

/// The variables that all processes of this program inherit and use.
fn environment() -> BTreeMap<String, String> {
    env::vars()
        .filter(|(name, _)| name.starts_with("TIERKV_"))
        .collect()
}

fn etcd(dir: &Path, ports: &mut Ports) -> Result<Vec<Process>, Box<dyn std::error::Error>> {
    let mut members = Vec::new();
    for number in 1..=ETCD_MEMBERS {
        let name = format!("etcd{number}");
        let client = ports.of(&format!("{name}.client"))?;
        let peer = ports.of(&format!("{name}.peer"))?;
        members.push((name, client, peer));
    }
    let peers = (members.iter()).map(|(name, _, peer)| format!("{name}=http://127.0.0.1:{peer}"));
    let peers = peers.collect::<Vec<_>>().join(",");
    let process = |(name, client, peer): (String, u16, u16)| {
        let url = |port| format!("http://127.0.0.1:{port}");
        let arguments = [
            ("--name", name.clone()),
            ("--data-dir", dir.join(&name).display().to_string()),
            ("--listen-client-urls", url(client)),
            ("--advertise-client-urls", url(client)),
            ("--listen-peer-urls", url(peer)),
            ("--initial-advertise-peer-urls", url(peer)),
            ("--initial-cluster", peers.clone()),
            ("--auto-compaction-retention", "1".to_owned()),
            ("--logger", "zap".to_owned()),
            ("--log-level", "warn".to_owned()),
        ];
        let arguments = (arguments.into_iter()).flat_map(|(flag, value)| [flag.to_owned(), value]);
        Process {
            log: dir.join("logs").join(format!("{name}.log")),
            role: "etcd",
            cluster: None,
            addresses: BTreeMap::from([
                ("client", format!("127.0.0.1:{client}")),
                ("peer", format!("127.0.0.1:{peer}")),
            ]),
            argv: ["etcd".to_owned()].into_iter().chain(arguments).collect(),
            name,
        }
    };
    Ok(members.into_iter().map(process).collect())
}

/// The processes of this program, from the lowest tier up.
fn roles(
    dir: &Path,
    ports: &mut Ports,
    shape: &Shape,
    coordination_url: &str,
) -> Result<Vec<Process>, Box<dyn std::error::Error>> {
    let program = env::current_exe()?.display().to_string();
    let mut processes = Vec::new();
    let mut add = |ports: &mut Ports,
                   role: &'static str,
                   name: String,
                   cluster: Option<String>,
                   doors: &[(&'static str, &str)]|
     -> Result<(), Box<dyn std::error::Error>> {
        let mut argv = vec![program.clone(), role.to_owned()];
        argv.extend(["--node".to_owned(), name.clone()]);
        argv.extend(["--coordination-url".to_owned(), coordination_url.to_owned()]);
        let mut addresses = BTreeMap::new();
        for (door, flag) in doors {
            let port = ports.of(&format!("{name}.{door}"))?;
            let address = format!("127.0.0.1:{port}");
            argv.extend([(*flag).to_owned(), address.clone()]);
            addresses.insert(*door, address);
        }
        if let Some(cluster) = &cluster {
            argv.extend(["--cluster".to_owned(), cluster.clone()]);
            argv.extend([
                "--data-dir".to_owned(),
                dir.join("data").display().to_string(),
            ]);
        }
        processes.push(Process {
            log: dir.join("logs").join(format!("{name}.log")),
            name,
            role,
            cluster,
            addresses,
            argv,
        });
        Ok(())
    };
    let server = [("grpc", "--listen"), ("metrics", "--metrics-listen")];
    let users = [("grpc", "--grpc-listen"), ("rest", "--rest-listen")];
    for number in 1..=shape.clusters {
        for name in data_nodes(number, shape.nodes) {
            let cluster = Some(format!("c{number}"));
            add(ports, "datanode", name, cluster, &server)?;
        }
    }
    for number in 1..=SERVER_COORDINATORS {
        let name = format!("s{number}");
        add(ports, "server-coordinator", name, None, &server)?;
    }
    for number in 1..=CLIENT_COORDINATORS {
        let name = format!("cc{number}");
        add(ports, "client-coordinator", name, None, &users)?;
    }
    Ok(processes)
}
