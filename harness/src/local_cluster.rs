//! A real `tierkv cluster`: a platform of many processes on this machine.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

use crate::{
    error::{Error, io_error},
    folder::DataFolder,
    poll::poll_until,
    port::{MAX_PORT_ATTEMPTS, free_port},
    process::{Process, Program},
    surroundings::Surroundings,
    tierkv::program,
};

/// Timeout for a start of all processes.
const START_LIMIT: Duration = Duration::from_secs(150);
/// Timeout for the end of all processes.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// Timeout for the end of a killed process.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Bytes of a log that are shown.
const LOG_TAIL: usize = 4 << 10;

/// One process of the platform, as `cluster.json` describes it.
#[derive(Clone, Debug, Deserialize)]
pub struct Member {
    /// Its name, as in `/v1/cluster`.
    pub name: String,
    /// Its role, as in `datanode`.
    pub role: String,
    /// The cluster of a data node.
    pub cluster: Option<String>,
    /// Its process id at the start of the platform.
    pub pid: u32,
    /// Its addresses, as `host:port`.
    pub addresses: BTreeMap<String, String>,
    /// The command that starts it.
    pub argv: Vec<String>,
    /// The environment variables of that command.
    pub env: BTreeMap<String, String>,
    /// Its log.
    pub log: PathBuf,
}

impl Member {
    /// The value of an option of its command, as of `--data-dir`.
    #[must_use]
    pub fn option(&self, name: &str) -> Option<&str> {
        let at = self.place_of(name)?;
        Some(&self.argv[at])
    }

    /// The place of an option's value in the command.
    fn place_of(&self, option: &str) -> Option<usize> {
        let at = self.argv.iter().position(|word| word == option)? + 1;
        (at < self.argv.len()).then_some(at)
    }
}

#[derive(Deserialize)]
struct Description {
    processes: Vec<Member>,
}

/// How many data clusters a platform has, and how many nodes each of them.
#[derive(Clone, Copy, Debug)]
struct Shape {
    clusters: u16,
    nodes: u16,
}

/// A platform of many processes, ready to serve. Dropping it kills all of them.
#[derive(Debug)]
pub struct LocalCluster {
    process: Process,
    shape: Shape,
    ports: [u16; 2],
    members: Vec<Member>,
    /// Those that were started again, by name.
    restarted: BTreeMap<String, Process>,
}

impl LocalCluster {
    /// Starts a platform of so many data clusters of one node each in a new folder.
    ///
    /// # Errors
    /// If the binary or etcd is missing, or a process does not start.
    pub async fn start(clusters: u16) -> Result<Self, Error> {
        Self::start_replicated(clusters, 1).await
    }

    /// Starts a platform of so many data clusters, each of so many nodes: with three, `c1` has `n1`
    /// to `n3`, and `c2` has `n4` to `n6`. Their masters serve then; replicas may still start.
    ///
    /// # Errors
    /// The same.
    pub async fn start_replicated(clusters: u16, nodes: u16) -> Result<Self, Error> {
        let shape = Shape { clusters, nodes };
        let mut attempt = 1;
        loop {
            let folder = DataFolder::new("cluster")?;
            match Self::start_in(&folder, shape, [free_port()?, free_port()?]).await {
                Err(error) if error.is_port_race() && attempt < MAX_PORT_ATTEMPTS => attempt += 1,
                result => return result,
            }
        }
    }

    async fn start_in(folder: &DataFolder, shape: Shape, ports: [u16; 2]) -> Result<Self, Error> {
        let dir = folder.data().join("platform");
        let arguments = [
            "cluster".to_owned(),
            "--dir".to_owned(),
            dir.display().to_string(),
            "--clusters".to_owned(),
            shape.clusters.to_string(),
            "--nodes".to_owned(),
            shape.nodes.to_string(),
            "--grpc".to_owned(),
            ports[0].to_string(),
            "--rest".to_owned(),
            ports[1].to_string(),
        ];
        let surroundings = Surroundings::default();
        let mut process = Process::spawn_in(&program(None), arguments, folder, &surroundings)?;
        let ready = process.wait_until("become ready", START_LIMIT, |process| {
            let line = process.last_line();
            match line.as_deref().and_then(|line| line.strip_prefix("ready ")) {
                Some(path) => Ok(Some(PathBuf::from(path))),
                None => process.check().map(|()| None),
            }
        });
        let path = ready.await?;
        Ok(Self {
            members: members(&path)?,
            process,
            shape,
            ports,
            restarted: BTreeMap::new(),
        })
    }

    /// All processes, as they were described at the start.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The process of this name.
    ///
    /// # Errors
    /// If there is none.
    pub fn member(&self, name: &str) -> Result<&Member, Error> {
        let member = self.members.iter().find(|member| member.name == name);
        member.ok_or_else(|| self.process.unexpected(format!("has no process {name}")))
    }

    /// The addresses of one kind of all processes of a role.
    #[must_use]
    pub fn addresses(&self, role: &str, kind: &str) -> Vec<String> {
        let members = self.members.iter().filter(|member| member.role == role);
        let addresses = members.filter_map(|member| member.addresses.get(kind).cloned());
        addresses.collect()
    }

    /// The current process id of a process.
    ///
    /// # Errors
    /// If there is no such process.
    pub fn pid(&self, name: &str) -> Result<u32, Error> {
        match self.restarted.get(name) {
            Some(process) => Ok(process.pid()),
            None => Ok(self.member(name)?.pid),
        }
    }

    /// Sends a signal to a process.
    ///
    /// # Errors
    /// If there is no such process, or the system refuses.
    pub fn signal(&self, name: &str, signal: Signal) -> Result<(), Error> {
        let pid = i32::try_from(self.pid(name)?).ok().and_then(Pid::from_raw);
        let sent = pid.map(|pid| kill_process(pid, signal));
        match sent {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(io_error(format!("signalling {name}"))(error.into())),
            None => Err(self.process.unexpected(format!("{name} has no process id"))),
        }
    }

    /// Kills a process at once (`SIGKILL`), and waits for its end.
    ///
    /// # Errors
    /// If there is no such process, or it does not end.
    pub async fn kill9(&mut self, name: &str) -> Result<(), Error> {
        if let Some(process) = self.restarted.get_mut(name) {
            return process.kill9();
        }
        self.end(name, Signal::KILL).await
    }

    /// Ends a process in order (`SIGTERM`), and waits for its end.
    ///
    /// # Errors
    /// If there is no such process, or it does not end.
    pub async fn terminate(&mut self, name: &str) -> Result<(), Error> {
        if let Some(process) = self.restarted.get_mut(name) {
            return process.stop(STOP_LIMIT).await.map(drop);
        }
        self.end(name, Signal::TERM).await
    }

    /// Ends a process of the platform's start by a signal.
    async fn end(&self, name: &str, signal: Signal) -> Result<(), Error> {
        self.signal(name, signal)?;
        let member = self.member(name)?.clone();
        let ended = poll_until(END_LIMIT, || async { (!lives(&member)).then_some(()) });
        let ended = ended.await;
        ended.ok_or_else(|| {
            self.process
                .unexpected(format!("{name} got {signal:?} and lives"))
        })
    }

    /// Removes the data of an ended data node, as if its disk were new.
    ///
    /// # Errors
    /// If there is no such data node, or its data can't be removed.
    pub fn wipe(&self, name: &str) -> Result<(), Error> {
        let member = self.member(name)?;
        let (Some(dir), Some(cluster)) = (member.option("--data-dir"), &member.cluster) else {
            return Err(self.process.unexpected(format!("{name} has no data")));
        };
        let dir = Path::new(dir).join(cluster).join(name);
        fs::remove_dir_all(&dir).map_err(io_error(format!("removing {}", dir.display())))
    }

    /// The end of a process's log, whoever started it.
    #[must_use]
    pub fn log_of(&self, name: &str) -> String {
        let first = self.member(name).map(|member| fs::read(&member.log));
        let first = first.map(Result::unwrap_or_default).unwrap_or_default();
        let end = &first[first.len().saturating_sub(LOG_TAIL)..];
        let again = self.restarted.get(name).map(Process::log_tail);
        format!(
            "{}{}",
            String::from_utf8_lossy(end),
            again.unwrap_or_default()
        )
    }

    /// Starts an ended process again on its data, by the command of its description.
    ///
    /// # Errors
    /// If there is no such process, or it does not start.
    pub fn restart(&mut self, name: &str) -> Result<(), Error> {
        self.restart_with(name, &[])
    }

    /// As [`restart`](Self::restart), with other values of some of its options, as in
    /// `("--listen", "127.0.0.1:1")`.
    ///
    /// # Errors
    /// If there is no such process or option, or it does not start.
    pub fn restart_with(&mut self, name: &str, options: &[(&str, &str)]) -> Result<(), Error> {
        self.start_like(name, name, options)
    }

    /// Starts a process with the name `name`, by the command of the process `like` with other values
    /// of some of its options: a further process of the platform, if there is none of that name. Its
    /// name is then one like any other here.
    ///
    /// # Errors
    /// If there is no process `like` or no such option, or it does not start.
    pub fn start_like(
        &mut self,
        name: &str,
        like: &str,
        options: &[(&str, &str)],
    ) -> Result<(), Error> {
        self.start_like_in(name, like, options, Surroundings::default())
    }

    /// As [`start_like`](Self::start_like), in these surroundings.
    ///
    /// # Errors
    /// The same.
    pub fn start_like_in(
        &mut self,
        name: &str,
        like: &str,
        options: &[(&str, &str)],
        mut surroundings: Surroundings,
    ) -> Result<(), Error> {
        let mut member = self.member(like)?.clone();
        for (option, value) in options {
            match member.place_of(option) {
                Some(at) => member.argv[at] = (*value).to_owned(),
                None => {
                    let what = format!("starts {like} without {option}");
                    return Err(self.process.unexpected(what));
                }
            }
        }
        let program = Program {
            name: "restarted process",
            path: PathBuf::from(&member.argv[0]),
            remedy: "it ran before",
        };
        for (variable, value) in &member.env {
            surroundings = surroundings.set(variable, value);
        }
        let folder = DataFolder::new("restarted")?;
        let arguments = member.argv[1..].iter();
        let process = Process::spawn_in(&program, arguments, &folder, &surroundings)?;
        self.restarted.insert(name.to_owned(), process);
        Ok(())
    }

    /// A process that was started again.
    ///
    /// # Errors
    /// If it was not.
    pub fn restarted(&mut self, name: &str) -> Result<&mut Process, Error> {
        let missing = self
            .process
            .unexpected(format!("has not started {name} again"));
        self.restarted.get_mut(name).ok_or(missing)
    }

    /// Ends the whole platform (`SIGTERM`), and checks that none of its processes is left.
    ///
    /// # Errors
    /// If one is left, or it takes too long.
    pub async fn stop(&mut self) -> Result<ExitStatus, Error> {
        let status = self.process.stop(STOP_LIMIT).await?;
        for process in self.restarted.values_mut() {
            // They were ended by their command lines; this reaps them.
            process
                .wait_until("end", END_LIMIT, Process::status)
                .await?;
        }
        match self.members.iter().find(|member| lives(member)) {
            None => Ok(status),
            Some(member) => {
                let what = format!("{} is left over, pid {}", member.name, member.pid);
                Err(self.process.unexpected(what))
            }
        }
    }

    /// Starts the whole platform again on its data, after [`stop`](Self::stop).
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_again(&mut self) -> Result<(), Error> {
        let folder = self.process.folder().clone();
        let again = Self::start_in(&folder, self.shape, self.ports).await?;
        *self = again;
        Ok(())
    }

    /// The end of the platform's own output.
    #[must_use]
    pub fn log_tail(&self) -> String {
        self.process.log_tail()
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        // It would report the ends of the others.
        drop(self.process.kill9());
        for member in self.members.iter().filter(|member| lives(member)) {
            if let Some(pid) = i32::try_from(member.pid).ok().and_then(Pid::from_raw) {
                // It may have ended in between.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

fn members(path: &Path) -> Result<Vec<Member>, Error> {
    let what = format!("reading {}", path.display());
    let text = fs::read(path).map_err(io_error(what.as_str()))?;
    let description: Description =
        serde_json::from_slice(&text).map_err(|error| io_error(what)(error.into()))?;
    Ok(description.processes)
}

/// Whether the process of the platform's start still lives: its id may belong to another one by
/// now.
fn lives(member: &Member) -> bool {
    let Ok(command) = fs::read(format!("/proc/{}/cmdline", member.pid)) else {
        return false;
    };
    let arguments = member
        .argv
        .iter()
        .flat_map(|argument| [argument.as_bytes(), &[0]]);
    command == arguments.collect::<Vec<_>>().concat()
}
