//! Runs a test again in a user, network and process namespace of its own. All of its processes end
//! with the test that ran it again, however that one ends: its death kills the first process of the
//! namespace, whose death kills the others.

use std::{
    env,
    io::{self, BufRead, BufReader, pipe},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{IP_REMEDY, Network};
use crate::{
    error::{Error, io_error},
    folder::{DataFolder, ROOT_VARIABLE},
    process::Program,
    tierkv::{BINARY_VARIABLE, program},
    user::User,
};

/// Set in the test's own environment once it runs in the namespace.
const INSIDE_VARIABLE: &str = "TIERKV_HARNESS_INSIDE";
/// Makes a bridge and a host on it, as [`Network`] does.
const PROBE: &str = "PATH=$PATH:/usr/sbin:/sbin; ip link add probe type bridge && \
                     unshare --net -- ip link add veth type veth peer name eth0";
/// The line by which a test program reports that the one test passed.
const PASSED: &str = "test result: ok. 1 passed";

/// Where a test of a network is.
#[derive(Debug)]
pub enum Place {
    /// In a namespace of its own: this is its network.
    Inside(Network),
    /// It ran there, in another process, and passed: nothing is left to do.
    Done,
    /// This machine does not allow it; why.
    Refused(Error),
}

/// Runs the test of this name again, alone, in a namespace of its own; called there, returns the
/// network. What the test prints is printed here.
///
/// # Errors
/// If the test fails inside, or the system refuses what it should not.
pub fn enter(test: &str) -> Result<Place, Error> {
    enter_with(test, &[])
}

/// As [`enter`]. The test finds copies of these folders at [`copy_of`]: the user that it runs as
/// there may not read them where they are.
///
/// # Errors
/// As [`enter`].
// Test programs print for people.
#[allow(clippy::print_stdout)]
pub fn enter_with(test: &str, folders: &[&Path]) -> Result<Place, Error> {
    if env::var_os(INSIDE_VARIABLE).is_some() {
        return Network::new().map(Place::Inside);
    }
    // Owned by the servers' user, and holds programs that it may not run where they are.
    let folder = DataFolder::new("inside")?;
    if let Err(refused) = probe(&folder) {
        return Ok(Place::Refused(refused));
    }
    for from in folders {
        folder.place(from, &name_of(from)?)?;
    }
    let what = || format!("running {test} again");
    let this = env::current_exe().map_err(io_error(what()))?;
    let mut command = unshare(&folder)?;
    command
        .arg(runnable(&this, &folder)?)
        .args([test, "--exact", "--nocapture"])
        .env(INSIDE_VARIABLE, "1")
        .env(ROOT_VARIABLE, folder.data());
    // A test program without the platform has none.
    if let Ok(binary) = program(None).located() {
        command.env(BINARY_VARIABLE, runnable(&binary, &folder)?);
    }
    let (printed, output) = pipe().map_err(io_error(what()))?;
    let copy = output.try_clone().map_err(io_error(what()))?;
    let mut child = (command.stdout(copy).stderr(output).spawn()).map_err(io_error(what()))?;
    // The pipe ends with its last writer.
    drop(command);
    let mut has_passed = false;
    for line in BufReader::new(printed).lines() {
        let line = line.map_err(io_error(what()))?;
        has_passed |= line.starts_with(PASSED);
        println!("{line}");
    }
    let status = child.wait().map_err(io_error(what()))?;
    if status.success() && has_passed {
        return Ok(Place::Done);
    }
    Err(Error::FailedInside {
        test: test.to_owned(),
    })
}

/// Where the copy of a folder is that [`enter_with`] was called with.
///
/// # Errors
/// If this is no test inside.
pub fn copy_of(from: &Path) -> Result<PathBuf, Error> {
    let copies = env::var_os(INSIDE_VARIABLE).and(env::var_os(ROOT_VARIABLE));
    let outside = || {
        let outside = io::Error::other("this test does not run inside; call `enter_with` first");
        io_error(format!("finding the copy of {}", from.display()))(outside)
    };
    Ok(PathBuf::from(copies.ok_or_else(outside)?).join(name_of(from)?))
}

/// Covers `/run` with an empty folder, for this test and its processes alone: the namespaces that
/// `ip netns add` makes are listed there, so that no other process of the machine has them.
///
/// # Errors
/// If this is no test inside, or the system refuses.
pub fn cover_run() -> Result<(), Error> {
    mount(&["-t", "tmpfs", "tmpfs", "/run"])
}

/// Mounts an empty disk of so many bytes over a folder, for this test and the processes that it
/// starts.
///
/// # Errors
/// If this is no test inside, or the system refuses.
pub fn mount_disk(folder: &Path, bytes: u64) -> Result<(), Error> {
    let options = format!("size={bytes},mode=0755");
    let folder = folder.display().to_string();
    mount(&["-t", "tmpfs", "-o", &options, "tmpfs", &folder])
}

/// Removes a disk of [`mount_disk`] with everything on it, once no process uses it.
///
/// # Errors
/// If it is in use, or there is none.
pub fn unmount_disk(folder: &Path) -> Result<(), Error> {
    command_inside("umount", &[&folder.display().to_string()])
}

fn mount(words: &[&str]) -> Result<(), Error> {
    command_inside("mount", words)
}

/// Runs a command that changes what this test and its processes see of the file system.
fn command_inside(command: &str, words: &[&str]) -> Result<(), Error> {
    let what = format!("{command} {}", words.join(" "));
    if env::var_os(INSIDE_VARIABLE).is_none() {
        let outside = io::Error::other("this test does not run inside; call `enter` first");
        return Err(io_error(what)(outside));
    }
    let output = Command::new(command).args(words).output();
    let output = output.map_err(io_error(what.as_str()))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let printed = String::from_utf8_lossy(&output.stderr).into_owned();
            Err(io_error(what)(io::Error::other(printed)))
        }
    }
}

/// The last part of a folder's path.
fn name_of(folder: &Path) -> Result<PathBuf, Error> {
    let name = folder.file_name().map(PathBuf::from);
    name.ok_or_else(|| {
        let nameless = io::Error::other("it ends without a name");
        io_error(format!("copying {}", folder.display()))(nameless)
    })
}

/// Whether this machine allows what a network needs.
fn probe(folder: &DataFolder) -> Result<(), Error> {
    Program::of_package("ip", IP_REMEDY).located()?;
    let mut command = unshare(folder)?;
    let output = command.args(["sh", "-c", PROBE]).output();
    let output = output.map_err(io_error("probing network namespaces"))?;
    if output.status.success() {
        return Ok(());
    }
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(Error::NoNetwork { log })
}

/// A command that enters new namespaces as the servers' user, who is root inside. It is killed when
/// the thread that spawned it ends.
fn unshare(folder: &DataFolder) -> Result<Command, Error> {
    let find = |name| Program::of_package(name, "install the Debian package util-linux").located();
    let mut command = Command::new(find("setpriv")?);
    command
        .args(["--pdeathsig", "KILL"])
        .arg(find("unshare")?)
        .args(["--user", "--map-root-user", "--net"])
        .args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"])
        .current_dir(folder.data())
        .stdin(Stdio::null());
    if let Some(user) = User::for_servers() {
        command.uid(user.uid).gid(user.gid);
    }
    Ok(command)
}

/// A path at which the servers' user may run the program.
fn runnable(program: &Path, folder: &DataFolder) -> Result<PathBuf, Error> {
    let what = format!("making {} runnable", program.display());
    let Some(user) = User::for_servers() else {
        return Ok(program.to_owned());
    };
    user.runnable(program, folder.path())
        .map_err(io_error(what))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::print_stdout)] // Why a machine can't run a test is for people.

    use std::{io::Read, sync::mpsc, thread, time::Duration};

    use super::*;

    /// Timeout for the end of all processes.
    const END_LIMIT: Duration = Duration::from_secs(20);
    /// Leaves processes behind: one in its own process group and session, and one that waits.
    const LEAVE: &str = "setsid sleep infinity & echo left && exec sleep infinity";

    #[test]
    fn all_processes_inside_end_with_who_started_them() {
        let folder = DataFolder::new("inside").unwrap();
        if let Err(why) = probe(&folder) {
            return println!("not checked: {why}");
        }
        let (printed, output) = pipe().unwrap();
        let mut printed = BufReader::new(printed);
        let starting = thread::spawn(move || {
            let mut command = unshare(&folder).unwrap();
            command.args(["sh", "-c", LEAVE]).stdout(output);
            let child = command.spawn().unwrap();
            drop(command);
            let mut line = String::new();
            printed.read_line(&mut line).unwrap();
            assert_eq!(line, "left\n");
            (child, printed, folder)
        });
        let (mut child, mut printed, _folder) = starting.join().unwrap();
        // Each of them holds the pipe.
        let (ended, end) = mpsc::channel();
        thread::spawn(move || ended.send(printed.read_to_end(&mut Vec::new())));
        end.recv_timeout(END_LIMIT).unwrap().unwrap();
        assert!(!child.wait().unwrap().success());
    }
}
