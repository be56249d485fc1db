//! A real `tierkv dev`.

use std::{
    env,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use serde::Deserialize;

use crate::{
    error::Error,
    folder::DataFolder,
    process::{Process, Program},
    surroundings::Surroundings,
};

/// The environment variable with the binary to run instead of the one beside the current
/// executable.
pub const BINARY_VARIABLE: &str = "TIERKV_BIN";
/// Timeout for a start, which includes the recovery of the folder's data.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Timeout for an orderly stop.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// How a platform is started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The data folder; `None`: a new one.
    pub folder: Option<DataFolder>,
    /// The binary to run; `None`: the one of this build.
    pub binary: Option<PathBuf>,
    /// More arguments of `tierkv dev`.
    pub arguments: Vec<String>,
    /// Its environment variables and wrapper command.
    pub surroundings: Surroundings,
}

/// A whole platform in one process on loopback, ready to serve. Dropping it kills the process.
#[derive(Debug)]
pub struct TierKv {
    process: Process,
    announced: Announced,
    program: Program,
    arguments: Vec<String>,
    surroundings: Surroundings,
}

/// What `tierkv dev --output json` prints once it serves.
#[derive(Debug, Deserialize)]
struct Announced {
    grpc: String,
    rest: String,
    pid: u32,
}

impl TierKv {
    /// Starts a platform and waits until it prints its addresses.
    ///
    /// # Errors
    /// If the binary is missing or does not start.
    pub async fn start(options: Options) -> Result<Self, Error> {
        let folder = options.folder.map_or_else(|| DataFolder::new("dev"), Ok)?;
        let program = program(options.binary);
        let Options {
            arguments,
            surroundings,
            ..
        } = options;
        let (process, announced) = launch(&program, &folder, &arguments, &surroundings).await?;
        Ok(Self {
            process,
            announced,
            program,
            arguments,
            surroundings,
        })
    }

    /// The gRPC address, as `host:port`.
    #[must_use]
    pub fn grpc(&self) -> &str {
        &self.announced.grpc
    }

    /// The REST address, as `host:port`.
    #[must_use]
    pub fn rest(&self) -> &str {
        &self.announced.rest
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The process.
    pub const fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The data folder; it outlives the process.
    #[must_use]
    pub const fn folder(&self) -> &DataFolder {
        self.process.folder()
    }

    /// Kills it at once (`SIGKILL`).
    ///
    /// # Errors
    /// If the system refuses.
    pub fn kill9(&mut self) -> Result<(), Error> {
        self.process.kill9()
    }

    /// Sends `SIGTERM` and waits for its end.
    ///
    /// # Errors
    /// If it does not end in time.
    pub async fn stop(&mut self) -> Result<ExitStatus, Error> {
        self.process.stop(STOP_LIMIT).await
    }

    /// Starts it again on the same data, after killing a process that still runs. The addresses
    /// change.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn restart(&mut self) -> Result<(), Error> {
        self.kill9()?;
        let folder = self.process.folder().clone();
        let surroundings = &self.surroundings;
        let (process, announced) =
            launch(&self.program, &folder, &self.arguments, surroundings).await?;
        self.process = process;
        self.announced = announced;
        Ok(())
    }
}

async fn launch(
    program: &Program,
    folder: &DataFolder,
    more_arguments: &[String],
    surroundings: &Surroundings,
) -> Result<(Process, Announced), Error> {
    let data = folder.data().display().to_string();
    let fixed = [
        "dev",
        "--output",
        "json",
        "--grpc-listen",
        "127.0.0.1:0",
        "--rest-listen",
        "127.0.0.1:0",
        "--data-dir",
        &data,
    ];
    let arguments = fixed
        .into_iter()
        .chain(more_arguments.iter().map(String::as_str));
    let mut process = Process::spawn_in(program, arguments, folder, surroundings)?;
    let line = process
        .wait_until(
            "print its addresses",
            START_LIMIT,
            |process| match process.first_line() {
                Some(line) => Ok(Some(line)),
                None => process.check().map(|()| None),
            },
        )
        .await?;
    let announced: Announced = serde_json::from_str(&line).map_err(|error| {
        process.unexpected(format!("did not announce itself as JSON ({error}): {line}"))
    })?;
    if announced.pid != process.pid() {
        let what = format!("announced the process id {}", announced.pid);
        return Err(process.unexpected(what));
    }
    Ok((process, announced))
}

/// The given binary, or else the one in `TIERKV_BIN`, or else the one beside the current
/// executable or one folder up (tests run from `deps/`).
pub(crate) fn program(binary: Option<PathBuf>) -> Program {
    let path = binary
        .or_else(|| env::var_os(BINARY_VARIABLE).map(PathBuf::from))
        .or_else(|| beside(&env::current_exe().ok()?))
        .unwrap_or_else(|| PathBuf::from("./tierkv"));
    Program {
        name: "tierkv",
        path,
        remedy: "build it first (`cargo build --package tierkv-cli`, in the same profile) \
                 or name it in TIERKV_BIN",
    }
}

fn beside(executable: &Path) -> Option<PathBuf> {
    executable
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("tierkv"))
        .find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    /// A script in place of the platform, which prints `line` once it runs.
    fn script(line: &str) -> (tempfile::TempDir, Options) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tierkv");
        let text = format!(
            "#!/bin/sh\ntrap 'exit 0' TERM\necho \"$@$PLACE\" >>arguments\necho \"{line}\"\n\
             while :; do sleep 0.01; done\n"
        );
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let options = Options {
            binary: Some(path),
            arguments: vec!["--cache-mib".to_owned(), "64".to_owned()],
            surroundings: Surroundings::default()
                .set("PLACE", "?")
                .wrap(["env", "PLACE=!"]),
            ..Options::default()
        };
        (folder, options)
    }

    #[tokio::test]
    async fn a_platform_starts_stops_and_starts_again_on_the_same_data() {
        let (_folder, options) =
            script(r#"{\"grpc\":\"127.0.0.1:1\",\"rest\":\"127.0.0.1:2\",\"pid\":$$,\"more\":0}"#);
        let mut platform = TierKv::start(options).await.unwrap();
        assert_eq!(
            (platform.grpc(), platform.rest()),
            ("127.0.0.1:1", "127.0.0.1:2")
        );
        let first = platform.pid();
        platform.kill9().unwrap();
        assert!(platform.process().check().is_err());
        platform.restart().await.unwrap();
        assert_ne!(platform.pid(), first);
        assert!(platform.stop().await.unwrap().success());

        let data = platform.folder().data();
        let arguments = fs::read_to_string(data.join("arguments")).unwrap();
        let lines: Vec<&str> = arguments.lines().collect();
        let expected = format!(
            "dev --output json --grpc-listen 127.0.0.1:0 --rest-listen 127.0.0.1:0 \
             --data-dir {} --cache-mib 64!",
            data.display()
        );
        assert_eq!(lines, [expected.as_str(), expected.as_str()]);
    }

    #[tokio::test]
    async fn a_malformed_announcement_is_an_error() {
        let (_folder, options) = script("listening somewhere");
        let error = TierKv::start(options).await.unwrap_err().to_string();
        assert!(error.contains("did not announce itself as JSON"), "{error}");
        assert!(error.contains("listening somewhere"), "{error}");
    }

    #[test]
    fn the_binary_is_found_from_a_test_and_from_a_program() {
        let target = tempfile::tempdir().unwrap();
        let binary = target.path().join("tierkv");
        std::fs::write(&binary, "").unwrap();
        std::fs::create_dir(target.path().join("deps")).unwrap();
        let from_test = beside(&target.path().join("deps/some_test-0123"));
        let from_program = beside(&target.path().join("tierkv-bench"));
        assert_eq!(from_test.as_ref(), Some(&binary));
        assert_eq!(from_program.as_ref(), Some(&binary));
        assert_eq!(beside(&target.path().join("a/b/c/program")), None);
    }
}
