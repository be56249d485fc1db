//! The wall clock is set while the platform runs and while it is down (CLOCK-STEADY): keys
//! expire at their time to live, requests are remembered for two minutes, and no client is
//! refused for long.

// Test helpers panic as tests do.
#![allow(clippy::unwrap_used)]

use std::{
    ffi::OsString,
    fs,
    io::Write as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use tierkv::{Client, Consistency, PutOptions, ReadOptions};
use tierkv_harness::{DataFolder, Options, Proxy, Surroundings, TierKv, WallClock, poll_until};
use tierkv_tests::{
    binary,
    http::Request,
    ledger::{Attempt, Kind},
    metrics::counter,
    named::NamedWrites,
};
use tierkv_types::{Clock as _, SystemClock};
use tokio::time::sleep;

/// The steps that a wall clock is set by, in seconds.
const STEPS: [i64; 3] = [-60, -15, 3_600];
const HOUR: i64 = 3_600;
/// The tolerance of an expiry.
const TOLERANCE: Duration = Duration::from_millis(500);
/// The pause between two reads of a key.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Timeout for everything that must happen; long, because the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(30);
/// The largest error of the time that a coordinator returns: the round trip to the master that
/// it learned the time from.
const ESTIMATE: Duration = Duration::from_secs(2);
/// The longest time that a start waits for a synchronised clock.
const SYNCHRONISATION_WAIT: Duration = Duration::from_secs(30);

async fn start(folder: Option<DataFolder>, surroundings: Surroundings) -> TierKv {
    let options = Options {
        folder,
        surroundings,
        ..Options::default()
    };
    TierKv::start(options).await.unwrap()
}

/// Starts a platform whose wall clock is `clock`.
async fn start_by(clock: &WallClock) -> TierKv {
    start(None, clock.in_surroundings(Surroundings::default())).await
}

async fn connect(address: &str) -> Client {
    let builder = Client::builder().address(address);
    builder.timeout(PATIENCE).connect().await.unwrap()
}

/// The platform time in an answer over REST, in milliseconds.
async fn platform_ms(platform: &TierKv) -> u64 {
    let answer = Request::new("GET", "/v1/kv/default/none").send(platform.rest());
    let answer = answer.await.unwrap();
    answer.header("tierkv-time-ms").unwrap().parse().unwrap()
}

/// A key with a time to live.
struct ExpiringKey {
    key: String,
    life: Duration,
    /// It was applied between `sent` and `acknowledged`.
    sent: Instant,
    acknowledged: Instant,
}

impl ExpiringKey {
    async fn born(client: &Client, key: String, life: Duration) -> Self {
        let options = PutOptions {
            ttl: Some(life),
            ..PutOptions::default()
        };
        let sent = Instant::now();
        client.put_with(&key, "value", options).await.unwrap();
        Self {
            key,
            life,
            sent,
            acknowledged: Instant::now(),
        }
    }

    /// Reads the key until it is absent; it must be there for its time to live and no longer.
    async fn check_until_expired(&self, client: &Client, consistency: Consistency) {
        let options = ReadOptions {
            consistency,
            ..ReadOptions::default()
        };
        let mut times_seen = 0;
        loop {
            let asked = Instant::now();
            let found = client.get_with(&self.key, options).await.unwrap();
            let (key, since) = (&self.key, self.sent.elapsed());
            if found.value.is_none() {
                assert!(
                    since >= self.life - TOLERANCE,
                    "{key} expired after at most {since:?}"
                );
                assert!(times_seen > 0, "{key} was never there");
                return;
            }
            let lived = asked.saturating_duration_since(self.acknowledged);
            assert!(
                lived <= self.life + TOLERANCE,
                "{key} is still there after {lived:?}"
            );
            times_seen += 1;
            sleep(POLL_INTERVAL).await;
        }
    }
}

/// The first write, which ends the time in which a new platform follows the wall clock.
async fn put_first(platform: &TierKv) {
    let client = connect(platform.grpc()).await;
    client.put("first", "").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_expires_at_its_time_to_live_when_the_wall_clock_is_set() {
    let clock = WallClock::new().unwrap();
    let platform = start_by(&clock).await;
    let client = connect(platform.grpc()).await;
    // Each step is followed by one back, so that no step adds to another.
    for (number, ahead) in STEPS.into_iter().chain([0]).enumerate() {
        let life = Duration::from_secs(2);
        let cached = ExpiringKey::born(&client, format!("cached {number}"), life).await;
        let latest = ExpiringKey::born(&client, format!("latest {number}"), life).await;
        sleep(Duration::from_millis(300)).await;
        clock.set_ahead(ahead).unwrap();
        tokio::join!(
            cached.check_until_expired(&client, Consistency::Cached),
            latest.check_until_expired(&client, Consistency::Latest),
        );
        // A key that is written after the step.
        let after = ExpiringKey::born(&client, format!("after {number}"), life).await;
        after
            .check_until_expired(&client, Consistency::Latest)
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_expires_at_its_time_to_live_when_the_wall_clock_is_set_over_a_restart() {
    let clock = WallClock::new().unwrap();
    let mut platform = start_by(&clock).await;
    for (number, ahead) in STEPS.into_iter().chain([0]).enumerate() {
        let client = connect(platform.grpc()).await;
        let [short, long] = [2, 8].map(Duration::from_secs);
        let short = ExpiringKey::born(&client, format!("short {number}"), short).await;
        let long = ExpiringKey::born(&client, format!("long {number}"), long).await;
        if number % 2 == 0 {
            platform.stop().await.unwrap();
        } else {
            platform.kill9().unwrap();
        }
        clock.set_ahead(ahead).unwrap();
        platform.restart().await.unwrap();
        let client = connect(platform.grpc()).await;
        long.check_until_expired(&client, Consistency::Latest).await;
        let found = client.get(&short.key).await.unwrap();
        assert_eq!(found.value, None, "the key did not expire");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_remembered_for_two_minutes_of_true_time() {
    const MEMORY_MS: u64 = 120_000;
    let clock = WallClock::new().unwrap();
    let mut platform = start_by(&clock).await;
    put_first(&platform).await;
    let now = platform_ms(&platform).await;
    // Requests that would be forgotten in some seconds, and in a minute.
    let attempts = [MEMORY_MS - 25_000, MEMORY_MS - 60_000].map(|age_ms| Attempt {
        number: age_ms,
        born_ms: now - age_ms,
        kind: Kind::Put(10),
    });
    let mut versions = Vec::new();
    for (number, ahead) in STEPS.into_iter().enumerate() {
        let writes = NamedWrites::connect(platform.grpc(), "", 1).unwrap();
        for (place, attempt) in attempts.iter().enumerate() {
            let answer = writes.write("key", *attempt).await.unwrap();
            versions.push((place, answer.version));
        }
        if number == 1 {
            platform.restart().await.unwrap();
        }
        clock.set_ahead(ahead).unwrap();
    }
    for (place, version) in &versions {
        assert_eq!(*version, versions[*place].1, "the write was applied again");
    }
    let writes = NamedWrites::connect(platform.grpc(), "", 1).unwrap();
    let refused = poll_until(2 * PATIENCE, || async {
        let answer = writes.write("key", attempts[0]).await;
        let time = platform_ms(&platform).await;
        answer.err().map(|error| (error, time))
    });
    let (error, time) = refused.await.expect("an old request is still answered");
    assert!(error.birth_refused_at.is_some(), "{error}");
    assert!(
        time >= attempts[0].born_ms + MEMORY_MS,
        "the request was refused too early"
    );
    let younger = writes.write("key", attempts[1]).await.unwrap();
    assert_eq!(younger.version, versions[1].1);
    // The gauge is set, and old requests are forgotten, once a second. The first write and the
    // younger one remain.
    let remembered = poll_until(PATIENCE, || async {
        let count = counter(platform.rest(), "tierkv_remembered_requests").await;
        let expected = 2.0;
        ((count.unwrap() - expected).abs() < f64::EPSILON).then_some(())
    });
    remembered
        .await
        .expect("refused requests are not forgotten");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_offset_of_the_wall_clock_is_measured_and_logged() {
    let clock = WallClock::new().unwrap();
    let mut platform = start_by(&clock).await;
    put_first(&platform).await;
    let rest = platform.rest().to_owned();
    let is_shown = async |ahead: f64, alarm: f64| {
        let shown = poll_until(PATIENCE, || async {
            let seconds = counter(&rest, "tierkv_wall_clock_ahead_seconds").await;
            let alarmed = counter(&rest, "tierkv_wall_clock_alarm").await;
            let is_near = (seconds.unwrap() - ahead).abs() < 1.0;
            (is_near && (alarmed.unwrap() - alarm).abs() < f64::EPSILON).then_some(())
        });
        shown
            .await
            .unwrap_or_else(|| panic!("the metrics do not show {ahead} s"));
    };
    is_shown(0.0, 0.0).await;
    let before = platform_ms(&platform).await;
    for (ahead, alarm) in [(30, 0.0), (HOUR, 1.0), (-HOUR, 1.0), (0, 0.0)] {
        clock.set_ahead(ahead).unwrap();
        is_shown(ahead as f64, alarm).await;
    }
    let passed = platform_ms(&platform).await.saturating_sub(before);
    assert!(
        passed < 1_000_000,
        "platform time followed the wall clock by {passed} ms"
    );
    let log = platform.process().log_tail();
    for words in ["over a minute ahead", "within a second"] {
        assert!(log.contains(words), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_platform_follows_the_wall_clock_until_its_first_write() {
    let clock = WallClock::new().unwrap();
    clock.set_ahead(HOUR).unwrap();
    let mut platform = start_by(&clock).await;
    let is_near = async |platform: &TierKv, ahead: i64| {
        let near = poll_until(PATIENCE, || async {
            let wall = i64::try_from(SystemClock.wall_millis()).unwrap() + ahead * 1_000;
            let time = i64::try_from(platform_ms(platform).await).unwrap();
            ((wall - time).abs() < 2_000).then_some(())
        });
        near.await
            .unwrap_or_else(|| panic!("platform time is not {ahead} s ahead"));
    };
    is_near(&platform, HOUR).await;
    clock.set_ahead(0).unwrap();
    is_near(&platform, 0).await;
    // Nothing was written yet.
    platform.restart().await.unwrap();
    clock.set_ahead(-HOUR).unwrap();
    is_near(&platform, -HOUR).await;
    put_first(&platform).await;
    let before = platform_ms(&platform).await;
    clock.set_ahead(HOUR).unwrap();
    sleep(Duration::from_secs(1)).await;
    let passed = platform_ms(&platform).await.saturating_sub(before);
    assert!(passed < 60_000, "platform time advanced by {passed} ms");
    platform.restart().await.unwrap();
    let passed = platform_ms(&platform).await.saturating_sub(before);
    assert!(
        passed < 60_000,
        "platform time advanced by {passed} ms over the restart"
    );
}

/// Two platforms of different times serve one address, one after the other. A client of the
/// first must continue with the second.
async fn client_goes_on(first_ahead: i64, second_ahead: i64) {
    let clocks = [WallClock::new().unwrap(), WallClock::new().unwrap()];
    clocks[0].set_ahead(first_ahead).unwrap();
    clocks[1].set_ahead(second_ahead).unwrap();
    let mut first = start_by(&clocks[0]).await;
    let second = start_by(&clocks[1]).await;
    let line = Proxy::start(first.grpc()).await.unwrap();
    let client = connect(&line.address).await;
    client.put("key", "first").await.unwrap();
    line.turn_to(second.grpc());
    first.kill9().unwrap();
    let client = client.with_timeout(Duration::from_secs(10));
    // A write under way when its stream broke has an unknown outcome, at most once per stream.
    let mut losses = 0;
    while let Err(error) = client.put("key", "second").await {
        assert!(error.is_refused_for_birth() && losses < 2, "{error}");
        losses += 1;
    }
    assert_eq!(client.increment("number", 1).await.unwrap().value, 1);
    let found = client.get("key").await.unwrap();
    assert_eq!(found.value.as_deref(), Some(&b"second"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_continues_with_a_platform_of_an_earlier_time() {
    client_goes_on(HOUR, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_continues_with_a_platform_of_a_later_time() {
    client_goes_on(0, HOUR).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_continues_with_a_platform_of_another_time() {
    const LINES: u64 = 2_000;
    let clock = WallClock::new().unwrap();
    clock.set_ahead(HOUR).unwrap();
    let mut first = start_by(&clock).await;
    let second = start(None, Surroundings::default()).await;
    let line = Proxy::start(first.grpc()).await.unwrap();
    let mut importing = Command::new(binary::tierkv().path)
        .args(["import", "-", "--address", &line.address])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = importing.stdin.take().unwrap();
    let feeding = std::thread::spawn(move || {
        for number in 0..LINES {
            writeln!(lines, "{{\"key\":\"k{number}\",\"value\":\"v\"}}").unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let watcher = connect(first.grpc()).await;
    let is_under_way = poll_until(PATIENCE, || async {
        let found = watcher.get("k100").await.unwrap();
        found.value.map(drop)
    });
    is_under_way.await.expect("no line is imported");
    line.turn_to(second.grpc());
    first.kill9().unwrap();
    feeding.join().unwrap();
    let output = importing.wait_with_output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(printed, format!("{LINES} imported, 0 bad lines left out\n"));
    let client = connect(second.grpc()).await;
    let last = format!("k{}", LINES - 1);
    assert!(client.get(last).await.unwrap().value.is_some());
}

/// Starts a server with another boot-time clock, which it takes for another boot of the machine.
fn in_another_boot() -> Surroundings {
    let words = [
        "unshare",
        "--user",
        "--map-current-user",
        "--time",
        "--boottime",
    ];
    let words = words.into_iter().chain(["1000000", "--"]);
    Surroundings::default().wrap(words.map(OsString::from))
}

/// Changes a stored time: whether the wall clock was synchronised then.
fn store_synchronised(folder: &DataFolder, is_synchronised: bool) {
    const CHECKSUM: std::ops::Range<usize> = 12..16;
    const FLAGS: usize = 40;
    const IS_SYNCHRONISED: u8 = 2;
    let path = folder.data().join("c1/n1/platform-time");
    let mut bytes = fs::read(&path).unwrap();
    let others = bytes[FLAGS] & !IS_SYNCHRONISED;
    bytes[FLAGS] = others | if is_synchronised { IS_SYNCHRONISED } else { 0 };
    let first = crc32c::crc32c(&bytes[..CHECKSUM.start]);
    let checksum = crc32c::crc32c_append(first, &bytes[CHECKSUM.end..]);
    bytes[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
    fs::write(path, bytes).unwrap();
}

/// The kernel reported no synchronised clock before the machine stopped: the clock may have been
/// wrong, so a later one shows nothing, and no start waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn time_between_boots_does_not_count_from_an_unsynchronised_wall_clock() {
    let mut platform = start(None, Surroundings::default()).await;
    put_first(&platform).await;
    let before = platform_ms(&platform).await;
    let folder = platform.folder().clone();
    platform.stop().await.unwrap();
    store_synchronised(&folder, false);
    let stopped = Instant::now();
    sleep(Duration::from_secs(15)).await;
    let platform = start(Some(folder), in_another_boot()).await;
    let started = Instant::now();
    let after = platform_ms(&platform).await;
    assert!(started - stopped < SYNCHRONISATION_WAIT);
    let passed = Duration::from_millis(after.saturating_sub(before));
    let moment = Duration::from_secs(10);
    assert!(
        passed <= started.elapsed() + moment,
        "{passed:?} were counted"
    );
}

/// Whether the kernel reports a synchronised clock decides if the time between two boots counts.
/// A test cannot set that, so it accepts both.
#[tokio::test(flavor = "multi_thread")]
async fn time_between_boots_counts_if_the_wall_clock_is_synchronised() {
    let mut platform = start(None, Surroundings::default()).await;
    let client = connect(platform.grpc()).await;
    client.put("first", "").await.unwrap();
    // The time is stored at the latest when the platform stops.
    let before = platform_ms(&platform).await;
    let folder = platform.folder().clone();
    platform.stop().await.unwrap();
    store_synchronised(&folder, true);
    let stopped = Instant::now();
    sleep(Duration::from_secs(3)).await;
    let platform = start(Some(folder), in_another_boot()).await;
    let started = Instant::now();
    let after = platform_ms(&platform).await;
    let (down, up) = (started - stopped, started.elapsed());
    let passed = Duration::from_millis(after.saturating_sub(before));
    // Allowed time from the end of the wait to the first answer.
    let moment = Duration::from_secs(10);
    if SystemClock.is_synchronised() {
        assert!(
            passed + ESTIMATE >= down,
            "only {passed:?} were counted of {down:?}"
        );
        assert!(passed <= down + up + moment);
    } else {
        assert!(down >= SYNCHRONISATION_WAIT, "the start waited {down:?}");
        assert!(passed <= up + moment, "{passed:?} were counted");
    }
    let client = connect(platform.grpc()).await;
    client.put("second", "").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_waits_for_the_clock_can_be_stopped() {
    let mut platform = start(None, Surroundings::default()).await;
    put_first(&platform).await;
    let folder = platform.folder().clone();
    platform.stop().await.unwrap();
    store_synchronised(&folder, true);
    // It prints no addresses while it waits, so `TierKv::start` would not return.
    let data = folder.data().display().to_string();
    let arguments = [
        "dev",
        "--grpc-listen",
        "127.0.0.1:0",
        "--rest-listen",
        "127.0.0.1:0",
        "--data-dir",
        &data,
    ];
    let mut process = tierkv_harness::Process::spawn_in(
        &binary::tierkv(),
        arguments,
        &folder,
        &in_another_boot(),
    )
    .unwrap();
    let is_waiting = process.wait_until("wait or serve", PATIENCE, |process| {
        process.check()?;
        let waits = process.log_tail().contains("waiting until the wall clock");
        Ok((waits || process.first_line().is_some()).then_some(()))
    });
    is_waiting.await.unwrap();
    let began = Instant::now();
    let status = process.stop(PATIENCE).await.unwrap();
    assert_eq!(status.code(), Some(0), "{}", process.log_tail());
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
}
