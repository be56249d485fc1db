//! The running processes of a local platform: started, watched and ended.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    net::TcpListener,
    os::unix::process::CommandExt as _,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

use super::plan::{Pids, Plan, Process};
use crate::{output, signals::Signals};

/// How long all processes may take to end; afterwards they are killed.
pub(super) const END_LIMIT: Duration = Duration::from_secs(12);
/// Pause between two looks at the processes.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// The processes that were started, by name.
#[derive(Default)]
pub(super) struct Running {
    children: BTreeMap<String, Child>,
    ended: BTreeMap<String, ExitStatus>,
}

impl Running {
    /// Starts a process; its output is appended to its log.
    pub(super) fn start(&mut self, process: &Process) -> Result<(), Box<dyn std::error::Error>> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&process.log)?;
        let (program, arguments) = process.argv.split_first().ok_or("a command is empty")?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C reaches this program only, which ends the others in order.
            .process_group(0)
            .spawn()
            .map_err(|error| match error.kind() {
                io::ErrorKind::NotFound if process.role == "etcd" => {
                    "etcd is not installed; install the Debian package etcd-server (`make deps` \
                     does not start its service)"
                        .to_owned()
                }
                _ => format!("{program} can't be started: {error}"),
            })?;
        self.children.insert(process.name.clone(), child);
        Ok(())
    }

    /// The process ids of all that were started.
    pub(super) fn pids(&self) -> Pids {
        (self.children.iter())
            .map(|(name, child)| (name.clone(), child.id()))
            .collect()
    }

    /// How the process of this name ended; `None` while it lives.
    pub(super) fn ended(&mut self, name: &str) -> io::Result<Option<ExitStatus>> {
        match self.children.get_mut(name) {
            Some(child) => child.try_wait(),
            None => Ok(None),
        }
    }

    /// Reports each process that ends, for ever.
    pub(super) async fn report_ends(&mut self) {
        loop {
            for (name, child) in &mut self.children {
                if self.ended.contains_key(name) {
                    continue;
                }
                if let Ok(Some(status)) = child.try_wait() {
                    output::note(format_args!(
                        "tierkv: {name} (pid {}) ended: {status}; start it again with \
                         ops/cluster-process.py restart {name}, or by its command in cluster.json",
                        child.id()
                    ));
                    self.ended.insert(name.clone(), status);
                }
            }
            sleep(LOOK_PAUSE).await;
        }
    }

    /// Ends all processes of the platform, those that were started again from elsewhere, too: the
    /// upper tiers first, then killing what is left after a time, or at another signal.
    pub(super) async fn end(&mut self, plan: &Plan, signals: &mut Signals) {
        let limit = Instant::now() + END_LIMIT;
        for tier in [
            "client-coordinator",
            "server-coordinator",
            "datanode",
            "etcd",
        ] {
            let processes: Vec<&Process> =
                plan.all().filter(|process| process.role == tier).collect();
            self.signal(&processes, Signal::TERM);
            while self.lives(&processes) {
                let is_over = Instant::now() >= limit;
                tokio::select! {
                    () = sleep(LOOK_PAUSE), if !is_over => continue,
                    () = signals.stop(), if !is_over => {}
                    () = std::future::ready(()), if is_over => {}
                }
                self.signal(&processes, Signal::KILL);
                break;
            }
        }
        for child in self.children.values_mut() {
            // All were ended or killed.
            drop(child.wait());
        }
    }

    fn signal(&mut self, processes: &[&Process], signal: Signal) {
        for pid in self.living(processes) {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                // It may have ended in between.
                let _ = kill_process(pid, signal);
            }
        }
    }

    fn lives(&mut self, processes: &[&Process]) -> bool {
        !self.living(processes).is_empty()
    }

    /// The process ids of those that live.
    fn living(&mut self, processes: &[&Process]) -> Vec<u32> {
        let mut pids = Vec::new();
        for process in processes {
            if let Some(child) = self.children.get_mut(&process.name)
                && matches!(child.try_wait(), Ok(None))
            {
                pids.push(child.id());
            }
        }
        for pid in pids_of(processes) {
            if !pids.contains(&pid) {
                pids.push(pid);
            }
        }
        pids
    }
}

/// Refuses to start a platform whose processes of before still live.
pub(super) fn check_that_none_lives(plan: &Plan) -> Result<(), String> {
    let processes: Vec<&Process> = plan.all().collect();
    let pids = pids_of(&processes);
    if pids.is_empty() {
        return Ok(());
    }
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    Err(format!(
        "processes of this platform still run (pid {}): another `tierkv cluster` runs on this \
         folder, or one was killed; stop it, or end them: kill {}",
        pids.join(", "),
        pids.join(" ")
    ))
}

/// Refuses to start a platform while something else listens on its ports: it would answer in the
/// place of a process that could not start.
pub(super) fn check_that_ports_are_free(plan: &Plan) -> Result<(), String> {
    for process in plan.all() {
        for (door, address) in &process.addresses {
            if let Err(error) = TcpListener::bind(address) {
                let remedy = match (process.name.as_str(), *door) {
                    ("cc1", "grpc") => "choose another port with --grpc (make cluster GRPC=PORT)",
                    ("cc1", "rest") => "choose another port with --rest (make cluster REST=PORT)",
                    _ => "end what listens there: this port was chosen at the first start",
                };
                let name = &process.name;
                return Err(format!(
                    "{name} can't listen on {address} ({door}): {error}; {remedy}"
                ));
            }
        }
    }
    Ok(())
}

/// Whether `words` are the command `argv`; a program may be named by its path or without one.
fn runs(words: &[&[u8]], argv: &[String]) -> bool {
    let (Some((program, arguments)), Some((ours, our_arguments))) =
        (words.split_first(), argv.split_first())
    else {
        return false;
    };
    let ours = ours.rsplit('/').next().unwrap_or(ours).as_bytes();
    program.rsplit(|byte| *byte == b'/').next() == Some(ours)
        && arguments
            .iter()
            .copied()
            .eq(our_arguments.iter().map(String::as_bytes))
}

/// The living processes of this machine that run one of these commands.
fn pids_of(processes: &[&Process]) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let mut pids = Vec::new();
    for entry in entries.flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // A zombie's command line is empty.
        let Ok(command) = fs::read(entry.path().join("cmdline")) else {
            continue;
        };
        let command = command.strip_suffix(&[0]).unwrap_or(&command);
        let words: Vec<&[u8]> = command.split(|byte| *byte == 0).collect();
        if processes.iter().any(|process| runs(&words, &process.argv)) {
            pids.push(pid);
        }
    }
    pids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_recognised_with_and_without_its_path() {
        let argv = ["etcd", "--name", "etcd1"].map(str::to_owned);
        for program in [&b"etcd"[..], b"/usr/bin/etcd"] {
            assert!(runs(&[program, b"--name", b"etcd1"], &argv));
        }
        for other in [
            &[&b"etcd"[..], b"--name", b"etcd2"][..],
            &[b"etcd", b"--name"],
            &[b"myetcd", b"--name", b"etcd1"],
            &[],
        ] {
            assert!(!runs(other, &argv));
        }
    }
}
