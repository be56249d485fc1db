//! Clients that share no code with the platform: programs and scripts in Python and Node.
//!
//! They run in the environments that `ops/deps.sh test` installs from
//! `tests/outside/requirements.txt` and `tests/outside/node/package-lock.json`.

use std::{
    env, fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;
use tierkv_harness::Error;
use tokio::{process::Command, time::timeout};

use crate::binary::repository;

const PYTHON: &str = "requirements.txt";
const NODE: &str = "node/package-lock.json";
const REMEDY: &str = "run ops/deps.sh test (or make test), which installs it";

/// Runs a script of `tests/outside` and returns its output.
///
/// # Errors
/// If the environment is missing or older than its list, the script fails, or it takes longer
/// than `limit`. The error of a failed script contains its output.
pub async fn script(name: &str, arguments: &[&str], limit: Duration) -> Result<String, Error> {
    let path = repository().join("tests/outside").join(name);
    let mut command = Command::new(python()?.join("bin/python"));
    command.arg(path);
    run_in_its_own(command, name, arguments, limit).await
}

/// Runs a program of the Python environment and returns its output.
///
/// # Errors
/// As of [`script`].
pub async fn program(name: &str, arguments: &[&str], limit: Duration) -> Result<String, Error> {
    let command = Command::new(python()?.join("bin").join(name));
    run_in_its_own(command, name, arguments, limit).await
}

/// A temporary folder with the files of `tests/outside/node` and the packages of the Node
/// environment, to build and run programs in. Dropping it removes the folder.
#[derive(Debug)]
pub struct NodeFolder(TempDir);

impl NodeFolder {
    /// Creates the folder.
    ///
    /// # Errors
    /// If the environment is missing or older than its lock file.
    pub fn new() -> Result<Self, Error> {
        let packages = environment("outside-node", NODE, "installed.json")?;
        let fill = || {
            let folder = tempfile::tempdir()?;
            symlink(
                packages.join("node_modules"),
                folder.path().join("node_modules"),
            )?;
            for file in fs::read_dir(repository().join("tests/outside/node"))? {
                let file = file?;
                if file.file_type()?.is_file() {
                    fs::copy(file.path(), folder.path().join(file.file_name()))?;
                }
            }
            Ok(Self(folder))
        };
        fill().map_err(|source| Error::Io {
            what: "making a folder for Node".to_owned(),
            source,
        })
    }

    /// Runs a file of the folder with Node and returns its output.
    ///
    /// # Errors
    /// As of [`script`].
    pub async fn script(
        &self,
        name: &str,
        arguments: &[&str],
        limit: Duration,
    ) -> Result<String, Error> {
        let mut command = Command::new(installed("node")?);
        command.arg(name);
        run(command, self.0.path(), name, arguments, limit).await
    }

    /// Runs a program of a package in the folder and returns its output.
    ///
    /// # Errors
    /// As of [`script`].
    pub async fn program(
        &self,
        name: &str,
        arguments: &[&str],
        limit: Duration,
    ) -> Result<String, Error> {
        let program = format!("node_modules/.bin/{name}");
        self.script(&program, arguments, limit).await
    }

    /// Writes a file for a program to read or run.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        fs::write(self.0.path().join(name), text).map_err(|source| Error::Io {
            what: format!("writing {name}"),
            source,
        })
    }

    /// Reads a file of the folder that a program made.
    ///
    /// # Errors
    /// If it does not exist, or is not UTF-8.
    pub fn read(&self, name: &str) -> Result<String, Error> {
        fs::read_to_string(self.0.path().join(name)).map_err(|source| Error::Io {
            what: format!("reading {name}"),
            source,
        })
    }
}

/// The path of a program on the `PATH`.
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

fn python() -> Result<PathBuf, Error> {
    environment("outside-venv", PYTHON, "installed.txt")
}

/// The folder of an environment, in cargo's target directory. It contains a copy of the list
/// that it was installed from.
fn environment(folder: &str, list: &str, copy: &str) -> Result<PathBuf, Error> {
    let name = format!("the environment of tests/outside/{list}");
    let beside = || {
        // target/debug/deps/test-0123 → target/outside-venv
        let test = env::current_exe().ok()?;
        Some(test.ancestors().nth(3)?.join(folder))
    };
    let folder = beside().ok_or_else(|| missing(&name))?;
    let read = |path: &Path| fs::read(path).map_err(|_| missing(&name));
    let wanted = read(&repository().join("tests/outside").join(list))?;
    match read(&folder.join(copy))? == wanted {
        true => Ok(folder),
        false => Err(missing(&name)),
    }
}

fn missing(program: &str) -> Error {
    Error::Missing {
        program: program.to_owned(),
        remedy: REMEDY.to_owned(),
    }
}

/// A process group that is killed on drop.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // A failure here means that all processes ended already.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

async fn run_in_its_own(
    command: Command,
    name: &str,
    arguments: &[&str],
    limit: Duration,
) -> Result<String, Error> {
    let folder = tempfile::tempdir().map_err(|source| Error::Io {
        what: format!("making a folder for {name}"),
        source,
    })?;
    run(command, folder.path(), name, arguments, limit).await
}

async fn run(
    mut command: Command,
    folder: &Path,
    name: &str,
    arguments: &[&str],
    limit: Duration,
) -> Result<String, Error> {
    let broken = |source: io::Error| Error::Io {
        what: format!("running {name}"),
        source,
    };
    let child = command
        .args(arguments)
        .current_dir(folder)
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
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(printed);
    }
    Err(Error::Ended {
        name: name.to_owned(),
        status: output.status.to_string(),
        log: format!("{printed}{}", String::from_utf8_lossy(&output.stderr)),
    })
}
