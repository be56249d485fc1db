//! Clients that share no code with the platform: programs and scripts in Python, from the
//! environment that `ops/deps.sh test` makes of `tests/outside/requirements.txt`.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tierkv_harness::Error;
use tokio::{process::Command, time::timeout};

use crate::binary::repository;

const REMEDY: &str = "run ops/deps.sh test (or make test), which installs it";

/// Runs a script of `tests/outside`; answers what it printed.
///
/// # Errors
/// If the environment is missing or older than its list, or the script fails or takes
/// longer than `limit`; what it said is in the error.
pub async fn script(name: &str, arguments: &[&str], limit: Duration) -> Result<String, Error> {
    let path = repository().join("tests/outside").join(name);
    let mut command = Command::new(environment()?.join("bin/python"));
    command.arg(path);
    run(command, name, arguments, limit).await
}

/// Runs a program of the environment; answers what it printed.
///
/// # Errors
/// As of [`script`].
pub async fn program(name: &str, arguments: &[&str], limit: Duration) -> Result<String, Error> {
    let command = Command::new(environment()?.join("bin").join(name));
    run(command, name, arguments, limit).await
}

/// The path of a program of the system.
///
/// # Errors
/// If it is not installed.
pub fn installed(name: &'static str) -> Result<PathBuf, Error> {
    env::var_os("PATH")
        .iter()
        .flat_map(env::split_paths)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| missing(name))
}

/// The Python environment, which lies beside what cargo builds.
fn environment() -> Result<PathBuf, Error> {
    let name = "the environment of tests/outside";
    let beside = || {
        // target/debug/deps/test-0123 → target/outside-venv
        let test = env::current_exe().ok()?;
        Some(test.ancestors().nth(3)?.join("outside-venv"))
    };
    let folder = beside().ok_or_else(|| missing(name))?;
    let list = |path: &Path| fs::read(path).map_err(|_| missing(name));
    let wanted = list(&repository().join("tests/outside/requirements.txt"))?;
    match list(&folder.join("installed.txt"))? == wanted {
        true => Ok(folder),
        false => Err(missing(name)),
    }
}

fn missing(program: &str) -> Error {
    Error::Missing {
        program: program.to_owned(),
        remedy: REMEDY.to_owned(),
    }
}

/// Kills a process and those it started, once this is dropped.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // A failure here means that all of them are gone already.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

async fn run(
    mut command: Command,
    name: &str,
    arguments: &[&str],
    limit: Duration,
) -> Result<String, Error> {
    let broken = |source: io::Error| Error::Io {
        what: format!("running {name}"),
        source,
    };
    let folder = tempfile::tempdir().map_err(broken)?;
    let child = command
        .args(arguments)
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(broken)?;
    let pid = (child.id()).and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    // A browser that a script started must not outlive it.
    let _group = Group(pid);
    let ended = timeout(limit, child.wait_with_output()).await;
    let output = ended
        .map_err(|_| broken(io::ErrorKind::TimedOut.into()))?
        .map_err(broken)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(said);
    }
    Err(Error::Ended {
        name: name.to_owned(),
        status: output.status.to_string(),
        log: format!("{said}{}", String::from_utf8_lossy(&output.stderr)),
    })
}
