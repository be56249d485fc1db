//! Reads over scripted members, on simulated time.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use futures::future::join_all;
use tierkv_rpc::proto::internal::ReadReply;
use tokio::time::sleep;

use super::*;

const READ_TIME: Duration = Duration::from_secs(2);
const MILLI: Duration = Duration::from_millis(1);
/// A member that takes so long answers nothing.
const NEVER: u64 = u64::MAX;

/// What a member does with reads.
#[derive(Default)]
struct Script {
    /// How long it takes, in microseconds.
    takes: AtomicU64,
    refuses: Mutex<Option<Code>>,
    asked: AtomicUsize,
}

#[derive(Clone, Default)]
struct Scripted(Arc<Script>);

impl Ask for Scripted {
    fn ask(
        &self,
        read: Read,
        deadline: Instant,
    ) -> impl Future<Output = Result<reply::Kind, CallError>> + Send + 'static {
        let script = Arc::clone(&self.0);
        async move {
            script.asked.fetch_add(1, Ordering::SeqCst);
            match script.takes.load(Ordering::SeqCst) {
                NEVER => {
                    sleep_until(deadline).await;
                    let late = Error::new(Code::DeadlineExceeded, "scripted");
                    return Err(CallError::Lost(late));
                }
                micros => sleep(Duration::from_micros(micros)).await,
            }
            match *script.refuses.lock().unwrap() {
                Some(code) => Err(CallError::Refused(Error::new(code, "scripted"))),
                None => Ok(reply::Kind::Read(ReadReply {
                    clock: read.clock,
                    ..ReadReply::default()
                })),
            }
        }
    }
}

/// A cluster of scripted members; the first is the master.
struct Stage {
    scripts: Vec<Arc<Script>>,
    members: Vec<Member<Scripted>>,
    balance: Arc<Balance>,
}

impl Stage {
    fn new(takes: &[u64]) -> Self {
        let scripts: Vec<Arc<Script>> = (takes.iter())
            .map(|takes| {
                Arc::new(Script {
                    takes: AtomicU64::new(*takes),
                    ..Script::default()
                })
            })
            .collect();
        let members = scripts.iter().enumerate().map(|(at, script)| Member {
            peer: Scripted(Arc::clone(script)),
            load: SharedLoad::default(),
            is_master: at == 0,
        });
        Self {
            members: members.collect(),
            scripts,
            balance: Arc::default(),
        }
    }

    fn takes(&self, at: usize, micros: u64) {
        self.scripts[at].takes.store(micros, Ordering::SeqCst);
    }

    fn refuses(&self, at: usize, code: Option<Code>) {
        *self.scripts[at].refuses.lock().unwrap() = code;
    }

    /// How many reads each member was asked since the last call.
    fn asked(&self) -> Vec<usize> {
        let asked = self.scripts.iter();
        asked
            .map(|script| script.asked.swap(0, Ordering::SeqCst))
            .collect()
    }

    async fn read(&self) -> Result<Duration, Error> {
        let begun = Instant::now();
        let deadline = begun + READ_TIME;
        read(&self.members, &self.balance, Read::default(), deadline).await?;
        Ok(begun.elapsed())
    }

    /// So many reads by `readers` at once, one after the other each; how long they took, sorted.
    async fn reads(&self, readers: usize, each: usize) -> Vec<Duration> {
        let reader = async |_| {
            let mut took = Vec::new();
            for _ in 0..each {
                took.push(self.read().await.unwrap());
            }
            took
        };
        let mut all: Vec<Duration> = join_all((0..readers).map(reader)).await.concat();
        all.sort_unstable();
        all
    }
}

fn percent(asked: &[usize]) -> Vec<usize> {
    let all: usize = asked.iter().sum();
    asked.iter().map(|asked| asked * 100 / all).collect()
}

fn p99(sorted: &[Duration]) -> Duration {
    sorted[sorted.len() * 99 / 100]
}

#[tokio::test(start_paused = true)]
async fn in_quiet_each_member_answers_its_share() {
    for takes in [[300, 300, 300], [500, 1_500, 2_000], [2_000, 800, 3_000]] {
        let stage = Stage::new(&takes);
        for readers in [1, 8, 32] {
            stage.reads(readers, 3_000 / readers).await;
            let shares = percent(&stage.asked());
            let fair = shares.iter().all(|share| (20..=47).contains(share));
            assert!(fair, "{takes:?}, {readers} readers: {shares:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_that_stops_delays_few_reads_and_comes_back() {
    for stopped in 0..3 {
        let stage = Stage::new(&[1_000, 1_000, 1_000]);
        stage.reads(16, 100).await;
        stage.asked();
        stage.takes(stopped, NEVER);
        let took = stage.reads(16, 500).await;
        assert!(p99(&took) <= 10 * MILLI, "{:?}", p99(&took));
        assert!(took[took.len() - 1] <= 50 * MILLI, "{:?}", took.last());
        let asked = stage.asked();
        assert!(asked[stopped] < 100, "{asked:?}");

        stage.takes(stopped, 1_000);
        sleep(READ_TIME).await;
        stage.reads(16, 50).await;
        stage.asked();
        stage.reads(16, 200).await;
        let shares = percent(&stage.asked());
        assert!(shares[stopped] >= 20, "{shares:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_member_gets_few_reads_and_a_second_try() {
    let stage = Stage::new(&[1_000, 1_000, 80_000]);
    let took = stage.reads(8, 500).await;
    assert!(p99(&took) <= 30 * MILLI, "{:?}", p99(&took));
    let shares = percent(&stage.asked());
    assert!(shares[2] <= 5, "{shares:?}");
    stage.takes(2, 1_000);
    sleep(20_000 * MILLI).await;
    stage.reads(8, 500).await;
    let shares = percent(&stage.asked());
    assert!((20..=47).contains(&shares[2]), "{shares:?}");
}

#[tokio::test(start_paused = true)]
async fn hedges_never_double_the_load() {
    // All take long, as in an overload.
    let stage = Stage::new(&[60_000, 60_000, 60_000]);
    stage.reads(50, 40).await;
    let asked: usize = stage.asked().iter().sum();
    // A twentieth, what was saved up, and the first ones, before anything was answered.
    let most = 2_000 + 2_000 / 20 + 50 + 50;
    assert!((2_001..=most).contains(&asked), "{asked}");
}

#[tokio::test(start_paused = true)]
async fn what_a_replica_refuses_its_master_answers() {
    let refused = [
        Code::NotMaster,
        Code::WrongOwner,
        Code::Unavailable,
        Code::DataLoss,
        Code::ResourceExhausted,
    ];
    for code in refused {
        let stage = Stage::new(&[1_000, 200, 200]);
        (1..3).for_each(|at| stage.refuses(at, Some(code)));
        stage.reads(1, 300).await;
        let asked = stage.asked();
        assert_eq!(asked[0], 300, "{code:?}");
        // They are asked again and again, but not for each read.
        assert!((8..250).contains(&(asked[1] + asked[2])), "{asked:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_is_final_ends_the_read() {
    for code in [Code::InvalidArgument, Code::DeadlineExceeded] {
        let stage = Stage::new(&[100, 100, 100]);
        (0..3).for_each(|at| stage.refuses(at, Some(code)));
        assert_eq!(stage.read().await.unwrap_err().code, code);
        assert_eq!(stage.asked().iter().sum::<usize>(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn if_all_refuse_the_last_refusal_is_the_error() {
    let stage = Stage::new(&[100, 100, 100]);
    (0..3).for_each(|at| stage.refuses(at, Some(Code::NotMaster)));
    assert_eq!(stage.read().await.unwrap_err().code, Code::NotMaster);
    assert_eq!(stage.asked(), [1, 1, 1]);
    stage.refuses(2, None);
    assert!(stage.read().await.is_ok());
    let nobody: [Member<Scripted>; 0] = [];
    let asked = read(&nobody, &stage.balance, Read::default(), Instant::now()).await;
    assert_eq!(asked.unwrap_err().code, Code::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn reads_carry_the_clock_that_answers_have_shown() {
    let stage = Stage::new(&[100, 100]);
    let clock = Version::from_millis(1_700_000_000_000);
    let shown = reply::Kind::Read(ReadReply {
        clock: clock.to_bits(),
        ..ReadReply::default()
    });
    stage.balance.learn_clock(&shown);
    let deadline = Instant::now() + 1_000 * MILLI;
    let answer = read(&stage.members, &stage.balance, Read::default(), deadline).await;
    let Ok(reply::Kind::Read(answer)) = answer else {
        panic!("{answer:?}")
    };
    assert!(answer.clock >= clock.to_bits());
}
