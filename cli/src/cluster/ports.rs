//! The ports of a local platform, chosen once and kept in its folder.

use std::{collections::BTreeMap, fs, io::ErrorKind, net::TcpListener, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::shape::Shape;

/// The first port that is chosen: above the standard ports of the servers that a platform uses.
const FIRST_PORT: u16 = 12_000;
/// Ports of connections that go out, where the system does not name its own.
const USUAL_OUTGOING: u16 = 32_768;
/// Ports that are tried for one address.
const MAX_TRIES: usize = 1_000;

/// The kept ports, and the shape that must not change.
#[derive(Serialize, Deserialize)]
struct Kept {
    clusters: u16,
    /// One, in folders of earlier releases.
    #[serde(default = "one")]
    nodes: u16,
    ports: BTreeMap<String, u16>,
}

const fn one() -> u16 {
    1
}

/// The ports of all addresses, by `NAME.ADDRESS`.
pub(super) struct Ports {
    path: PathBuf,
    kept: Kept,
    /// Bound until all are chosen, so that no two are the same.
    taken: Vec<TcpListener>,
}

impl Ports {
    /// Reads the ports in the file `path`; at the first start, only those of `shape` are known.
    pub(super) fn open(path: PathBuf, shape: &Shape) -> Result<Self, Box<dyn std::error::Error>> {
        let mut kept = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|error| format!("{} can't be read: {error}; remove it", path.display()))?,
            Err(error) if error.kind() == ErrorKind::NotFound => Kept {
                clusters: shape.clusters,
                nodes: shape.nodes,
                ports: BTreeMap::new(),
            },
            Err(error) => return Err(error.into()),
        };
        if kept.clusters != shape.clusters {
            return Err(format!(
                "the platform in this folder has {} clusters, not {}: slots can't move yet; name \
                 another folder with --dir, or give --clusters {}",
                kept.clusters, shape.clusters, kept.clusters
            )
            .into());
        }
        if kept.nodes != shape.nodes {
            return Err(format!(
                "the clusters in this folder have {} data nodes each, not {}: give --nodes {}, or \
                 name another folder with --dir",
                kept.nodes, shape.nodes, kept.nodes
            )
            .into());
        }
        kept.ports.insert("cc1.grpc".to_owned(), shape.first_grpc);
        kept.ports.insert("cc1.rest".to_owned(), shape.first_rest);
        Ok(Self {
            path,
            kept,
            taken: Vec::new(),
        })
    }

    /// The port of the address `name`; a free one if it has none yet. The system gives it to no
    /// connection that goes out, so that the process finds it free again after a restart.
    pub(super) fn of(&mut self, name: &str) -> Result<u16, Box<dyn std::error::Error>> {
        if let Some(port) = self.kept.ports.get(name) {
            return Ok(*port);
        }
        // Another process of the platform may not run now.
        let known: Vec<u16> = self.kept.ports.values().copied().collect();
        let ports = FIRST_PORT..outgoing_begin().max(FIRST_PORT + 1);
        for _ in 0..MAX_TRIES {
            let port = rand::random_range(ports.clone());
            if known.contains(&port) {
                continue;
            }
            if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
                self.taken.push(listener);
                self.kept.ports.insert(name.to_owned(), port);
                return Ok(port);
            }
        }
        Err(format!("no free port of 127.0.0.1 was found for {name} in {ports:?}").into())
    }

    /// Keeps the ports in the file, and frees them for their processes.
    pub(super) fn keep(self) -> Result<(), Box<dyn std::error::Error>> {
        fs::write(&self.path, serde_json::to_string_pretty(&self.kept)? + "\n")?;
        Ok(())
    }
}

/// The first port that the system gives to connections that go out.
fn outgoing_begin() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let begin = range
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse().ok());
    begin.unwrap_or(USUAL_OUTGOING)
}
