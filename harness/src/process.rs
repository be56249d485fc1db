//! The guard of one server process. The process runs in its own process group, its output goes
//! to files, and dropping the guard kills the group.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal};

use crate::{
    error::{Error, io_error},
    folder::DataFolder,
    poll::poll_until,
    surroundings::Surroundings,
    user::User,
};

/// Folders of programs that are not on the `PATH` of every user.
const SYSTEM_FOLDERS: [&str; 2] = ["/usr/sbin", "/sbin"];
/// Bytes of a log's end in an error message.
const LOG_TAIL_BYTES: u64 = 4096;

/// A program to run.
#[derive(Clone, Debug)]
pub struct Program {
    /// The name in messages.
    pub name: &'static str,
    /// A path, or a name to look up on the `PATH`.
    pub path: PathBuf,
    /// What to do if it is missing; part of the error message.
    pub remedy: &'static str,
}

impl Program {
    /// A program of a Debian package, looked up on the `PATH`.
    #[must_use]
    pub fn of_package(name: &'static str, remedy: &'static str) -> Self {
        Self {
            name,
            path: name.into(),
            remedy,
        }
    }

    /// The path of the program.
    ///
    /// # Errors
    /// If it is missing.
    pub(crate) fn located(&self) -> Result<PathBuf, Error> {
        if self.path.components().count() > 1 {
            return self
                .path
                .canonicalize()
                .map_err(|_| self.missing(self.path.display().to_string()));
        }
        std::env::var_os("PATH")
            .iter()
            .flat_map(std::env::split_paths)
            .chain(SYSTEM_FOLDERS.map(PathBuf::from))
            .map(|folder| folder.join(&self.path))
            .find(|path| path.is_file())
            .ok_or_else(|| self.missing(self.name.to_owned()))
    }

    fn missing(&self, program: String) -> Error {
        Error::Missing {
            program,
            remedy: self.remedy.to_owned(),
        }
    }
}

/// A running server process. Dropping it kills the process and its children.
#[derive(Debug)]
pub struct Process {
    name: &'static str,
    child: Child,
    pid: Pid,
    folder: DataFolder,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `program` with `arguments`, in `folder` and as an unprivileged user.
    ///
    /// Its output goes to `stdout.log` (truncated) and `stderr.log` (appended) in the folder.
    ///
    /// # Errors
    /// If the program is missing or the system refuses to run it.
    pub fn spawn(
        program: &Program,
        arguments: impl IntoIterator<Item = impl Into<OsString>>,
        folder: &DataFolder,
    ) -> Result<Self, Error> {
        Self::spawn_in(program, arguments, folder, &Surroundings::default())
    }

    /// As [`Process::spawn`], in `surroundings`.
    ///
    /// # Errors
    /// If the program or its wrapper is missing, or the system refuses to run it.
    pub fn spawn_in(
        program: &Program,
        arguments: impl IntoIterator<Item = impl Into<OsString>>,
        folder: &DataFolder,
        surroundings: &Surroundings,
    ) -> Result<Self, Error> {
        let what = || format!("starting {}", program.name);
        let mut path = program.located()?;
        let stdout = File::create(stdout_of(folder)).map_err(io_error(what()))?;
        let stderr = OpenOptions::new()
            .create(true)
            .append(true)
            .open(stderr_of(folder))
            .map_err(io_error(what()))?;
        let user = User::for_servers();
        if let Some(user) = user {
            path = user
                .runnable(&path, folder.path())
                .map_err(io_error(what()))?;
        }
        let mut words = (surroundings.wrapper.iter().cloned()).chain([path.into_os_string()]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command
            .args(words)
            .args(arguments.into_iter().map(Into::into))
            .envs(surroundings.environment.iter().cloned())
            .current_dir(folder.data())
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .process_group(0);
        if let Some(user) = user {
            command.uid(user.uid).gid(user.gid);
        }
        let child = command.spawn().map_err(io_error(what()))?;
        let pid = i32::try_from(child.id())
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| io_error(what())(io::Error::other("the process has no usable id")))?;
        Ok(Self {
            name: program.name,
            child,
            pid,
            folder: folder.clone(),
            ended: None,
        })
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The server's folder.
    #[must_use]
    pub const fn folder(&self) -> &DataFolder {
        &self.folder
    }

    /// The exit status, if the process ended.
    ///
    /// # Errors
    /// If the system does not return it.
    pub fn status(&mut self) -> Result<Option<ExitStatus>, Error> {
        if self.ended.is_none() {
            self.ended = self
                .child
                .try_wait()
                .map_err(io_error(format!("asking for the state of {}", self.name)))?;
        }
        Ok(self.ended)
    }

    /// An error with the end of the log, if the process ended.
    ///
    /// # Errors
    /// [`Error::Ended`].
    pub fn check(&mut self) -> Result<(), Error> {
        match self.status()? {
            None => Ok(()),
            Some(status) => Err(Error::Ended {
                name: self.name.to_owned(),
                status: words_of(status),
                log: self.log_tail(),
            }),
        }
    }

    /// Kills it at once (`SIGKILL`), with all processes of its group, and waits for its end.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn kill9(&mut self) -> Result<(), Error> {
        if self.status()?.is_some() {
            return Ok(());
        }
        let what = format!("killing {}", self.name);
        rustix::process::kill_process_group(self.pid, Signal::KILL)
            .map_err(|error| io_error(what.as_str())(error.into()))?;
        self.ended = Some(self.child.wait().map_err(io_error(what))?);
        Ok(())
    }

    /// Pauses it (`SIGSTOP`), as on a machine that hangs.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn pause(&self) -> Result<(), Error> {
        self.signal(Signal::STOP, "pausing")
    }

    /// Resumes a paused process (`SIGCONT`).
    ///
    /// # Errors
    /// If the system refuses.
    pub fn resume(&self) -> Result<(), Error> {
        self.signal(Signal::CONT, "resuming")
    }

    /// From now on, writes of the process beyond `bytes` of a file fail with `EFBIG`. The signal
    /// `SIGXFSZ` ends a process that does not handle it.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn limit_file_size(&self, bytes: u64) -> Result<(), Error> {
        self.limit(&format!("--fsize={bytes}:{bytes}"))
    }

    /// Limits its file descriptors to `count`; open ones stay open. Only the soft limit is set,
    /// so it can be raised again.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn limit_descriptors(&self, count: u64) -> Result<(), Error> {
        self.limit(&format!("--nofile={count}:"))
    }

    /// The number of its open file descriptors.
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    pub fn descriptors(&self) -> Result<usize, Error> {
        let what = || format!("counting the descriptors of {}", self.name);
        let open = fs::read_dir(format!("/proc/{}/fd", self.pid()));
        Ok(open.map_err(io_error(what()))?.count())
    }

    fn limit(&self, option: &str) -> Result<(), Error> {
        let what = format!("limiting {} by {option}", self.name);
        // As the server's user, because a root without all capabilities may not do this.
        let mut command = Command::new("prlimit");
        command.arg(format!("--pid={}", self.pid())).arg(option);
        if let Some(user) = User::for_servers() {
            command.uid(user.uid).gid(user.gid);
        }
        let output = command.output().map_err(io_error(what.as_str()))?;
        if output.status.success() {
            return Ok(());
        }
        let printed = String::from_utf8_lossy(&output.stderr);
        Err(io_error(what)(io::Error::other(printed.into_owned())))
    }

    /// Sends `SIGTERM` and waits for its end.
    ///
    /// # Errors
    /// [`Error::TimedOut`] if it still runs after `limit`; it is killed then.
    pub async fn stop(&mut self, limit: Duration) -> Result<ExitStatus, Error> {
        if let Some(status) = self.status()? {
            return Ok(status);
        }
        self.signal(Signal::TERM, "stopping")?;
        let end = self.wait_until("stop", limit, |this| this.status()).await;
        if end.is_err() {
            self.kill9()?;
        }
        end
    }

    /// Calls `question` until it returns `Some`.
    ///
    /// # Errors
    /// [`Error::TimedOut`] after `limit`, or the error of `question`.
    pub async fn wait_until<T>(
        &mut self,
        what: &'static str,
        limit: Duration,
        mut question: impl FnMut(&mut Self) -> Result<Option<T>, Error>,
    ) -> Result<T, Error> {
        let answer = poll_until(limit, || {
            let answer = question(self).transpose();
            async move { answer }
        })
        .await;
        answer.unwrap_or_else(|| {
            Err(Error::TimedOut {
                name: self.name.to_owned(),
                what,
                waited: limit,
                log: self.log_tail(),
            })
        })
    }

    /// The first line of its standard output, once it is complete.
    #[must_use]
    pub fn first_line(&self) -> Option<String> {
        let text = fs::read_to_string(stdout_of(&self.folder)).ok()?;
        text.split_once('\n').map(|(line, _)| line.to_owned())
    }

    /// The last complete line of its standard output.
    #[must_use]
    pub fn last_line(&self) -> Option<String> {
        let text = fs::read_to_string(stdout_of(&self.folder)).ok()?;
        let (whole, _) = text.rsplit_once('\n')?;
        whole.lines().last().map(str::to_owned)
    }

    /// The end of its output.
    #[must_use]
    pub fn log_tail(&self) -> String {
        [stdout_of(&self.folder), stderr_of(&self.folder)]
            .iter()
            .filter_map(|path| tail_of(path).ok())
            .collect::<Vec<_>>()
            .join("")
    }

    /// Everything that this server and the ones before it in its folder logged.
    ///
    /// # Errors
    /// If the log can't be read.
    pub fn whole_log(&self) -> Result<String, Error> {
        let path = stderr_of(&self.folder);
        let log = fs::read(&path).map_err(io_error(format!("reading {}", path.display())))?;
        Ok(String::from_utf8_lossy(&log).into_owned())
    }

    /// An [`Error::Unexpected`] about this server.
    pub(crate) fn unexpected(&self, what: impl Into<String>) -> Error {
        Error::Unexpected {
            name: self.name.to_owned(),
            what: what.into(),
            log: self.log_tail(),
        }
    }

    fn signal(&self, signal: Signal, doing: &str) -> Result<(), Error> {
        rustix::process::kill_process(self.pid, signal)
            .map_err(|error| io_error(format!("{doing} {}", self.name))(error.into()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A failure here means that the process ended already, or that nothing more can be done
        // while unwinding.
        let _ = self.kill9();
    }
}

fn stdout_of(folder: &DataFolder) -> PathBuf {
    folder.path().join("stdout.log")
}

fn stderr_of(folder: &DataFolder) -> PathBuf {
    folder.path().join("stderr.log")
}

fn tail_of(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn words_of(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Process {
        let folder = DataFolder::new("shell").unwrap();
        let program = Program::of_package("sh", "install dash");
        Process::spawn(&program, ["-c", script], &folder).unwrap()
    }

    fn is_alive(pid: u32) -> bool {
        // A killed grandchild stays a zombie until its new parent collects it.
        fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
            !stat
                .rsplit(')')
                .next()
                .is_some_and(|rest| rest.starts_with(" Z"))
        })
    }

    async fn ended(mut process: Process) -> Error {
        poll_until(Duration::from_secs(10), || {
            let end = process.check().err();
            async move { end }
        })
        .await
        .unwrap()
    }

    #[tokio::test]
    async fn the_error_of_an_early_end_contains_the_log() {
        let error = ended(shell("echo out; echo the reason >&2; exit 3")).await;
        let words = error.to_string();
        assert!(words.contains("exit status 3"), "{words}");
        assert!(
            words.contains("out") && words.contains("the reason"),
            "{words}"
        );
    }

    #[tokio::test]
    async fn a_taken_port_is_recognised_in_the_log() {
        let error = ended(shell("echo 'bind: Address already in use' >&2; exit 1")).await;
        assert!(error.is_port_race());
    }

    #[tokio::test]
    async fn dropping_kills_the_whole_group() {
        let process = shell("sleep 1000 & echo $!; wait");
        let sleeper: u32 = poll_until(Duration::from_secs(10), || async { process.first_line() })
            .await
            .unwrap()
            .parse()
            .unwrap();
        let shell = process.pid();
        assert!(is_alive(shell) && is_alive(sleeper));
        drop(process);
        let gone = poll_until(Duration::from_secs(10), || async {
            (!is_alive(shell) && !is_alive(sleeper)).then_some(())
        });
        assert!(gone.await.is_some());
    }

    #[tokio::test]
    async fn stop_sends_sigterm_and_kills_after_the_timeout() {
        let mut polite = shell("trap 'exit 7' TERM; echo up; while :; do sleep 0.01; done");
        let up = poll_until(Duration::from_secs(10), || async { polite.first_line() });
        up.await.unwrap();
        let status = polite.stop(Duration::from_secs(10)).await.unwrap();
        assert_eq!(status.code(), Some(7));

        let mut deaf = shell("trap '' TERM; echo up; while :; do sleep 0.01; done");
        let up = poll_until(Duration::from_secs(10), || async { deaf.first_line() });
        up.await.unwrap();
        let error = deaf.stop(Duration::from_millis(50)).await.unwrap_err();
        assert!(
            matches!(error, Error::TimedOut { what: "stop", .. }),
            "{error}"
        );
        assert!(!is_alive(deaf.pid()));
    }

    #[test]
    fn a_missing_server_names_its_package() {
        let folder = DataFolder::new("missing").unwrap();
        let program = Program::of_package("no-such-server", "install the package no-such-server");
        let error = Process::spawn(&program, ["-v"], &folder).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("install the package no-such-server")
        );
    }
}
