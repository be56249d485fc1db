//! The systems under test. Each starts when a cell first needs it, is loaded once, and runs to
//! the end of the run.

mod etcds;
pub(crate) mod tiers;

use std::{collections::BTreeMap, env, path::PathBuf, time::Duration};

use tierkv_harness::{
    DataFolder, Error as HarnessError, Etcd, Options, Process, Program, Redis, SeparateTiers,
    TierKv,
};
use tierkv_workload::{
    Check, Distribution, Failure, Operations, Plan, Session, Shape, Unary, load,
};
use tokio::task::JoinSet;

use crate::{cost::Meter, echo::EchoClient, note, redis::RedisClient, rounds::Side};

/// The namespace of all records.
pub(crate) const NAMESPACE: &str = "bench";
/// Concurrent tasks in every cell.
pub(crate) const TASKS: usize = 64;
/// Data nodes in sync, and members of etcd, in a cell of replicated writes.
pub(crate) const REPLICAS: usize = 3;
/// Connections of a unary cell.
const CONNECTIONS: usize = 8;
/// Sessions to load the platform and to warm its cache.
const LOAD_SESSIONS: usize = 4;
/// Writes in flight while the platform is loaded.
const LOAD_TASKS: usize = 1_024;
/// Keys in one batch read while the cache is warmed.
const WARM_KEYS: u64 = 500;
/// Batches in flight while the cache is warmed, in each session.
const WARM_TASKS: u64 = 8;
/// Capacity of the platform's embedded cache, in MiB: all records fit.
const CACHE_MIB: &str = "1024";
/// The least share (of 1) of reads that the cache must answer in a cell of hits.
const LEAST_CACHED: f64 = 0.99;
/// Timeout for the start of the echo server.
const ECHO_START_LIMIT: Duration = Duration::from_secs(10);

/// The settings that all cells share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) keys: u64,
    pub(crate) duration: Duration,
    pub(crate) shape: Shape,
}

impl Settings {
    fn plan(self, operations: Operations) -> Plan {
        Plan {
            shape: self.shape,
            keys: self.keys,
            distribution: Distribution::Zipfian,
            operations,
            check: Check::Content,
            tasks: TASKS,
            duration: self.duration,
            seed: 1,
        }
    }

    /// Every record once.
    pub(crate) fn loading(self) -> Plan {
        Plan {
            tasks: LOAD_TASKS,
            ..self.plan(Operations::Writes)
        }
    }
}

/// The path of a reading of every record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Through the cache tier, which the reading fills.
    Cached,
    /// Bypassing the cache tier, from the data node's memory tier.
    Latest,
}

/// The build of the platform that a stage runs.
#[derive(Clone, Debug)]
pub(crate) struct Build {
    /// Its name in messages.
    pub(crate) name: &'static str,
    /// Its binary; `None`: the one beside this program.
    pub(crate) binary: Option<PathBuf>,
}

/// The running servers.
#[derive(Debug)]
pub(crate) struct Stage {
    settings: Settings,
    build: Build,
    /// The platform, started but not loaded.
    empty_platform: Option<TierKv>,
    platform: Option<TierKv>,
    /// The platforms with each role in a process of its own, loaded, by their number of data nodes.
    tiers: BTreeMap<usize, SeparateTiers>,
    /// By their number of members.
    etcds: BTreeMap<usize, Etcd>,
    redis: Option<Redis>,
    echo: Option<Echo>,
}

#[derive(Debug)]
struct Echo {
    process: Process,
    address: String,
}

pub(crate) fn harness(error: HarnessError) -> Failure {
    Failure::of(error)
}

impl Stage {
    /// A stage with the platform of this build.
    pub(crate) const fn new(settings: Settings) -> Self {
        let build = Build {
            name: "the platform",
            binary: None,
        };
        Self::of_build(settings, build)
    }

    /// A stage with the platform of another build.
    pub(crate) const fn of_build(settings: Settings, build: Build) -> Self {
        Self {
            settings,
            build,
            empty_platform: None,
            platform: None,
            tiers: BTreeMap::new(),
            etcds: BTreeMap::new(),
            redis: None,
            echo: None,
        }
    }

    /// Unary reads of the platform with a warm cache.
    pub(crate) async fn platform_unary_hits(&mut self) -> Result<Side<Unary>, Failure> {
        let (address, meter) = self.warm_platform().await?;
        let targets = (0..CONNECTIONS).map(|_| Unary::connect(&address, NAMESPACE));
        Ok(Side {
            targets: targets.collect::<Result<_, _>>()?,
            meter,
            plan: self.settings.plan(Operations::Reads),
            least_cached: LEAST_CACHED,
        })
    }

    /// Reads of the platform through the SDK with a warm cache.
    pub(crate) async fn platform_session_hits(&mut self) -> Result<Side<Session>, Failure> {
        let (address, meter) = self.warm_platform().await?;
        Ok(Side {
            targets: vec![Session::connect(&address, NAMESPACE).await?],
            meter,
            plan: self.settings.plan(Operations::Reads),
            least_cached: LEAST_CACHED,
        })
    }

    /// Durable writes to the platform through the SDK.
    pub(crate) async fn platform_session_puts(&mut self) -> Result<Side<Session>, Failure> {
        let (address, meter) = self.loaded_platform().await?;
        Ok(Side {
            targets: vec![Session::connect(&address, NAMESPACE).await?],
            meter,
            plan: self.settings.plan(Operations::Writes),
            least_cached: 0.0,
        })
    }

    /// Reads of redis.
    pub(crate) async fn redis_reads(&mut self) -> Result<Side<RedisClient>, Failure> {
        if self.redis.is_none() {
            let redis = Redis::start(&[]).await.map_err(harness)?;
            note(format_args!("loading redis"));
            RedisClient::connect(&redis.address())
                .await?
                .load(&self.settings.loading())
                .await?;
            self.redis = Some(redis);
        }
        let redis = started(self.redis.as_mut())?;
        Ok(Side {
            targets: vec![RedisClient::connect(&redis.address()).await?],
            meter: Meter::new(vec![redis.pid()], redis.process().folder().data()),
            plan: self.settings.plan(Operations::Reads),
            least_cached: 0.0,
        })
    }

    /// The bare echo.
    pub(crate) async fn echo(&mut self) -> Result<Side<EchoClient>, Failure> {
        if self.echo.is_none() {
            self.echo = Some(Echo::start(self.settings.shape).await?);
        }
        let echo = started(self.echo.as_mut())?;
        let targets = (0..CONNECTIONS).map(|_| EchoClient::connect(&echo.address, NAMESPACE));
        Ok(Side {
            targets: targets.collect::<Result<_, _>>()?,
            meter: Meter::new(vec![echo.process.pid()], echo.process.folder().data()),
            plan: Plan {
                check: Check::Length,
                ..self.settings.plan(Operations::Reads)
            },
            least_cached: 0.0,
        })
    }

    /// Starts the platform if it does not run yet; does not load it.
    pub(crate) async fn start_platform(&mut self) -> Result<(), Failure> {
        if self.platform.is_none() && self.empty_platform.is_none() {
            let options = Options {
                binary: self.build.binary.clone(),
                arguments: vec!["--cache-mib".to_owned(), CACHE_MIB.to_owned()],
                ..Options::default()
            };
            let platform = TierKv::start(options).await.map_err(harness)?;
            self.empty_platform = Some(platform);
        }
        Ok(())
    }

    /// Starts the platform and writes every record once, unless it is loaded already.
    pub(crate) async fn load_platform(&mut self) -> Result<(), Failure> {
        if self.platform.is_some() {
            return Ok(());
        }
        self.start_platform().await?;
        // If the load fails, the server is dropped and the next cell starts another.
        if let Some(platform) = self.empty_platform.take() {
            note(format_args!("loading {}", self.build.name));
            let sessions = sessions(platform.grpc()).await?;
            let outcome = load(&sessions, &self.settings.loading()).await?;
            note(format_args!("loaded at {:.0} puts/s", outcome.rate()));
            self.platform = Some(platform);
        }
        Ok(())
    }

    async fn loaded_platform(&mut self) -> Result<(String, Meter), Failure> {
        self.load_platform().await?;
        let platform = started(self.platform.as_mut())?;
        let meter = Meter::new(vec![platform.pid()], platform.folder().data());
        Ok((platform.grpc().to_owned(), meter))
    }

    /// The platform with every record in its cache, checked by the source of its answers.
    async fn warm_platform(&mut self) -> Result<(String, Meter), Failure> {
        let (address, meter) = self.loaded_platform().await?;
        note(format_args!("warming the cache of {}", self.build.name));
        let sessions = sessions(&address).await?;
        // The first reading fills the cache; the second checks that it is full.
        read_all(&sessions, self.settings, Reading::Cached).await?;
        let cached = read_all(&sessions, self.settings, Reading::Cached).await?;
        let share = f64::from(u32::try_from(cached).unwrap_or(u32::MAX))
            / f64::from(u32::try_from(self.settings.keys).unwrap_or(u32::MAX));
        if share < LEAST_CACHED {
            return Err(Failure(format!(
                "after every record was read once only {:.1} % came from the cache",
                share * 100.0
            )));
        }
        Ok((address, meter))
    }
}

impl Echo {
    async fn start(shape: Shape) -> Result<Self, Failure> {
        let folder = DataFolder::new("echo").map_err(harness)?;
        let program = Program {
            name: "the echo server",
            path: env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe")),
            remedy: "the benchmark's own binary must stay where it is",
        };
        let arguments = ["echo-server", "--shape", shape.name()];
        let mut process = Process::spawn(&program, arguments, &folder).map_err(harness)?;
        let address = process
            .wait_until("print its addresses", ECHO_START_LIMIT, |process| {
                process.check()?;
                Ok(process.first_line())
            })
            .await
            .map_err(harness)?;
        Ok(Self { process, address })
    }
}

fn started<T>(server: Option<&mut T>) -> Result<&mut T, Failure> {
    server.ok_or_else(|| Failure("the server did not start".to_owned()))
}

pub(crate) async fn sessions(address: &str) -> Result<Vec<Session>, Failure> {
    let mut sessions = Vec::new();
    for _ in 0..LOAD_SESSIONS {
        sessions.push(Session::connect(address, NAMESPACE).await?);
    }
    Ok(sessions)
}

/// Reads every record in batches, checks it, and counts those that came from a cache.
pub(crate) async fn read_all(
    sessions: &[Session],
    settings: Settings,
    reading: Reading,
) -> Result<u64, Failure> {
    let mut tasks = JoinSet::new();
    let count = sessions.len() as u64 * WARM_TASKS;
    for (number, session) in (0..count).zip(sessions.iter().cycle()) {
        let (session, shape, keys) = (session.clone(), settings.shape, settings.keys);
        tasks.spawn(async move {
            let mut cached = 0;
            let mut start = number * WARM_KEYS;
            while start < keys {
                let indexes = start..keys.min(start + WARM_KEYS);
                let names: Vec<_> = indexes.clone().map(|index| shape.key(index)).collect();
                let answers = match reading {
                    Reading::Cached => session.batch_get(&names).await?,
                    Reading::Latest => session.batch_get_latest(&names).await?,
                };
                for (index, answer) in indexes.zip(answers) {
                    let value = answer.value.unwrap_or_default();
                    if !shape.is_value(index, &value) {
                        return Err(Failure(format!(
                            "record {index} was read with a wrong value"
                        )));
                    }
                    cached += u64::from(answer.cached);
                }
                start += count * WARM_KEYS;
            }
            Ok(cached)
        });
    }
    let mut cached = 0;
    while let Some(end) = tasks.join_next().await {
        cached += end.map_err(Failure::of)??;
    }
    Ok(cached)
}
