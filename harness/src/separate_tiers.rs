//! A real platform with one process of each role, and coordination in a real etcd of one member.

use std::{path::PathBuf, time::Duration};

use serde_json::Value;

use crate::{
    error::Error,
    etcd::Etcd,
    folder::DataFolder,
    founding,
    process::{Process, Program},
    surroundings::Surroundings,
    tierkv::program,
};

/// Timeout for the start of a process.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Where every server listens: a free port of loopback.
const ANY_PORT: &str = "127.0.0.1:0";

/// A data node, a server coordinator and a client coordinator, each in a process of its own.
/// Dropping it kills them and etcd.
#[derive(Debug)]
pub struct SeparateTiers {
    grpc: String,
    client_coordinator: Process,
    server_coordinator: Process,
    datanode: Process,
    /// Ends last: the others would report its end.
    _etcd: Etcd,
}

impl SeparateTiers {
    /// Starts all of them with this binary (`None`: the one of this build), and waits until they
    /// serve. The client coordinator has no cache.
    ///
    /// # Errors
    /// If etcd or the binary is missing, or a process does not start.
    pub async fn start(binary: Option<PathBuf>) -> Result<Self, Error> {
        let etcd = Etcd::start(1).await?;
        let url = format!("etcd://{}/bench", etcd.addresses().concat());
        let start = Start {
            program: program(binary),
            url: &url,
        };
        founding::found(&start.program, 1, &url).await?;
        let folder = DataFolder::new("datanode")?;
        let data = folder.data().display().to_string();
        let server = ["--listen", ANY_PORT, "--metrics-listen", ANY_PORT];
        let of_node = [&server[..], &["--cluster", "c1", "--data-dir", &data]].concat();
        let (datanode, _) = start.role("datanode", "n1", &of_node, &folder).await?;
        let folder = DataFolder::new("server-coordinator")?;
        let (server_coordinator, _) = start
            .role("server-coordinator", "s1", &server, &folder)
            .await?;
        let folder = DataFolder::new("client-coordinator")?;
        let users = ["--grpc-listen", ANY_PORT, "--rest-listen", ANY_PORT];
        let (client_coordinator, announced) = start
            .role("client-coordinator", "cc1", &users, &folder)
            .await?;
        let address = announced["grpc"].as_str();
        let grpc = address.map(str::to_owned).ok_or_else(|| {
            client_coordinator.unexpected(format!("announced no gRPC address: {announced}"))
        })?;
        Ok(Self {
            grpc,
            client_coordinator,
            server_coordinator,
            datanode,
            _etcd: etcd,
        })
    }

    /// The gRPC address of the client coordinator, as `host:port`.
    #[must_use]
    pub fn grpc(&self) -> &str {
        &self.grpc
    }

    /// The data node.
    #[must_use]
    pub const fn datanode(&self) -> &Process {
        &self.datanode
    }

    /// The process ids of the three roles, without etcd.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        let roles = [
            &self.client_coordinator,
            &self.server_coordinator,
            &self.datanode,
        ];
        roles.map(Process::pid).to_vec()
    }
}

/// What every process is started with.
struct Start<'a> {
    program: Program,
    url: &'a str,
}

impl Start<'_> {
    /// Starts a role and waits until it prints its addresses; returns them.
    async fn role(
        &self,
        role: &str,
        node: &str,
        more: &[&str],
        folder: &DataFolder,
    ) -> Result<(Process, Value), Error> {
        let words = [role, "--node", node, "--output", "json"];
        let words = [&words[..], &["--coordination-url", self.url], more].concat();
        let mut process = self.spawn(&words, folder)?;
        let line = process.wait_until("print its addresses", START_LIMIT, |process| match process
            .first_line()
        {
            Some(line) => Ok(Some(line)),
            None => process.check().map(|()| None),
        });
        let line = line.await?;
        let announced = serde_json::from_str(&line).map_err(|error| {
            process.unexpected(format!("did not announce itself as JSON ({error}): {line}"))
        })?;
        Ok((process, announced))
    }

    fn spawn(&self, words: &[&str], folder: &DataFolder) -> Result<Process, Error> {
        Process::spawn_in(&self.program, words, folder, &Surroundings::default())
    }
}
