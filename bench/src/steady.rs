//! The cell `steady-writes`: many minutes of durable writes, sampled every second.
//!
//! 64 tasks of the SDK put uniformly drawn keys into an empty platform as fast as they can: new
//! keys at first, overwrites later. There is no peer; the cell shows whether rate and latency
//! stay steady and resources stay bounded. Reading order: this file (the run), [`sample`] (one
//! second), [`figures`] (the figures of all samples), [`plot`].

pub(crate) mod figures;
pub(crate) mod plot;
pub(crate) mod sample;

use std::time::Duration;

use tierkv_harness::{Options, TierKv};
use tierkv_workload::{
    Check, Distribution, Failure, Operations, Plan, Session, Shape, Window, Writers,
};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use self::{
    figures::SteadyFigures,
    sample::{Observer, Sample},
};
use crate::{
    note,
    stage::{NAMESPACE, TASKS, harness},
};

/// The default duration of the cell.
pub(crate) const DURATION_SECONDS: u64 = 600;
/// The number of records; more than in the other cells, whose records fit the cache.
const KEYS: u64 = 2_000_000;
/// The interval of the samples.
const PERIOD: Duration = Duration::from_secs(1);
/// Timeout for the answers after the last write began.
const LATE_LIMIT: Duration = Duration::from_secs(60);
/// The interval of progress messages, in samples.
const NOTE_EVERY: usize = 30;

/// Runs the cell for `duration`.
pub(crate) async fn measure(shape: Shape, duration: Duration) -> Result<SteadyFigures, Failure> {
    let mut platform = TierKv::start(Options::default()).await.map_err(harness)?;
    let session = Session::connect(platform.grpc(), NAMESPACE).await?;
    let plan = Plan {
        shape,
        keys: KEYS,
        distribution: Distribution::Uniform,
        operations: Operations::Writes,
        check: Check::Content,
        tasks: TASKS,
        duration,
        seed: 1,
    };
    let mut observer = Observer::new(&platform).await?;
    let mut writers = Writers::start(&[session], &plan)?;
    let (samples, windows) = observed(&mut platform, &mut observer, &mut writers, &plan).await?;
    SteadyFigures::new(samples, &windows)
}

async fn observed(
    platform: &mut TierKv,
    observer: &mut Observer,
    writers: &mut Writers,
    plan: &Plan,
) -> Result<(Vec<Sample>, Vec<Window>), Failure> {
    let mut ticks = interval_at(Instant::now() + PERIOD, PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let limit = Instant::now() + plan.duration + LATE_LIMIT;
    let (mut samples, mut windows) = (Vec::new(), Vec::new());
    while writers.is_running() {
        ticks.tick().await;
        platform.process().check().map_err(harness)?;
        if Instant::now() > limit {
            return Err(Failure(format!(
                "writes were not answered {LATE_LIMIT:?} after the end"
            )));
        }
        let window = writers.take();
        let sample = observer.look(&window, writers.distinct_keys()).await?;
        if samples.len() % NOTE_EVERY == 0 {
            note(format_args!("steady-writes: {sample}"));
        }
        samples.push(sample);
        windows.push(window);
    }
    Ok((samples, windows))
}
