//! Damaged, foreign and read-only data directories. A start is refused with a message that names
//! the file and the offset, or every read is right. `tierkv admin recover` brings a node back
//! with the data that can be kept.
//!
//! `TIERKV_DAMAGE_SEED` repeats the random choices of a run.

// Test helpers panic as tests do, and the seed must be printed.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{
    collections::BTreeMap,
    env, fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::Value;
use tierkv::{Client, Code, Consistency, ReadOptions};
use tierkv_harness::{DataFolder, Error, Options, Process, TierKv, poll_until};
use tierkv_tests::binary;
use tierkv_types::record::RecordHeader;
use tokio::task::JoinSet;

/// Flips in the log, in the node state and in coordination's record; one byte each.
const LOG_FLIPS: usize = 40;
const NODE_STATE_FLIPS: usize = 12;
const COORDINATION_FLIPS: usize = 12;
/// Flips in the store's file.
const STORE_FLIPS: usize = 24;
/// Concurrent starts of nodes.
const AT_ONCE: usize = 4;

/// Writes before the last checkpoint, and after it.
const EARLY_WRITES: u64 = 120;
const LATE_WRITES: u64 = 60;
/// Keys that are overwritten and deleted.
const KEYS: u64 = 50;
/// Timeout for a checkpoint or a command.
const PATIENCE: Duration = Duration::from_secs(60);
/// Where a segment's records begin.
const SEGMENT_HEADER_BYTES: usize = 64;
/// The exit status of a failed command.
const FAILED: i32 = 2;

const LATEST: Consistency = Consistency::Latest;

/// A data directory of a stopped platform, and its expected content.
struct Base {
    folder: DataFolder,
    /// The value of every key; `None` if it was deleted.
    keys: BTreeMap<String, Option<Vec<u8>>>,
    /// The writes in order; each is one record.
    writes: Vec<(String, Option<Vec<u8>>)>,
}

impl Base {
    /// Makes a platform's directory, whose store has the early writes and whose log has all. If
    /// `stops`, the platform stops in order, with everything stored; otherwise it is killed.
    async fn new(stops: bool) -> Self {
        let mut platform = TierKv::start(Options::default()).await.unwrap();
        let client = connect(&platform).await;
        let mut writes = Vec::new();
        write(&client, &mut writes, EARLY_WRITES).await;
        let files = store_files(platform.folder().data());
        write(&client, &mut writes, 1).await;
        let stored = poll_until(PATIENCE, || async {
            (store_files(platform.folder().data()) != files).then_some(())
        });
        stored.await.expect("no checkpoint was made");
        // The next checkpoint begins in a second.
        write(&client, &mut writes, LATE_WRITES).await;
        let folder = platform.folder().clone();
        if stops {
            assert!(platform.stop().await.unwrap().success());
        } else {
            platform.kill9().unwrap();
        }
        Self {
            folder,
            keys: writes.iter().cloned().collect(),
            writes,
        }
    }

    fn copy(&self) -> DataFolder {
        let folder = DataFolder::new("damage").unwrap();
        copy(self.folder.data(), folder.data());
        folder
    }
}

/// Puts and deletes of a few keys, one after the other.
async fn write(client: &Client, writes: &mut Vec<(String, Option<Vec<u8>>)>, count: u64) {
    for _ in 0..count {
        let number = writes.len() as u64;
        // The same key is not written twice in a row.
        let key = format!("key-{}", number * 7 % KEYS);
        let value = (number % 9 != 8).then(|| {
            let word = format!("value {number} of {key} ");
            word.repeat(1 + usize::try_from(number % 13).unwrap() * 8)
                .into_bytes()
        });
        match &value {
            Some(value) => {
                client.put(&key, value.clone()).await.unwrap();
            }
            // Each write is one record, even the delete of an absent key.
            None => {
                client.delete(&key).await.unwrap();
            }
        }
        writes.push((key, value));
    }
}

async fn connect(platform: &TierKv) -> Client {
    let builder = Client::builder().address(platform.grpc());
    builder.namespace("damage").connect().await.unwrap()
}

/// Copies a directory and makes the owner of `to` the owner of the copy. The zeros at the end of
/// a file become a hole.
fn copy(from: &Path, to: &Path) {
    let owner = fs::metadata(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let copied = to.join(path.file_name().unwrap());
        if path.is_dir() {
            fs::create_dir(&copied).unwrap();
            chown(&copied, Some(owner.uid()), Some(owner.gid())).unwrap();
            copy(&path, &copied);
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0);
        fs::write(&copied, &bytes[..end.map_or(0, |end| end + 1)]).unwrap();
        let file = fs::File::options().write(true).open(&copied).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
        chown(&copied, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
}

/// Every file below a directory, with its content.
fn everything(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(everything(&path));
        } else if !path.to_string_lossy().ends_with("-shm") {
            // SQLite may rebuild this file at any time.
            files.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    files
}

fn store_files(dir: &Path) -> Vec<(u64, SystemTime)> {
    let names = ["store.sqlite", "store.sqlite-wal"];
    let about = names.map(|name| fs::metadata(dir.join("c1/n1").join(name)));
    (about.iter().flatten())
        .map(|about| (about.len(), about.modified().unwrap()))
        .collect()
}

fn segment(dir: &Path) -> PathBuf {
    let log = fs::read_dir(dir.join("c1/n1/log")).unwrap();
    let segments = log.map(|entry| entry.unwrap().path());
    segments
        .filter(|path| path.extension() == Some("log".as_ref()))
        .max()
        .unwrap()
}

/// The offset of every record of a segment, with the record's index.
fn records(segment: &[u8]) -> Vec<(usize, u64)> {
    let mut at = SEGMENT_HEADER_BYTES;
    let mut records = Vec::new();
    while let Ok(header) = RecordHeader::read(&segment[at..]) {
        records.push((at, header.position.index.0));
        at += header.len;
    }
    records
}

fn flip(file: &Path, offset: usize, mask: u8) {
    let mut bytes = fs::read(file).unwrap();
    bytes[offset] ^= mask;
    fs::write(file, bytes).unwrap();
}

/// One flipped byte.
#[derive(Clone, Debug)]
struct Flip {
    file: PathBuf,
    offset: usize,
    mask: u8,
}

/// The result of a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Started {
    Refused,
    Right,
    /// Reads of some keys reported lost data; all others were right.
    Lost,
}

/// Flips the byte and starts the node, which must never return a wrong value.
async fn start_damaged(
    folder: DataFolder,
    flip: Flip,
    keys: BTreeMap<String, Option<Vec<u8>>>,
) -> Started {
    let path = folder.data().join(&flip.file);
    self::flip(&path, flip.offset, flip.mask);
    let options = Options {
        folder: Some(folder.clone()),
        ..Options::default()
    };
    match TierKv::start(options).await {
        Err(Error::Ended { status, log, .. }) => {
            assert_eq!(status, format!("exit status {FAILED}"), "{flip:?}: {log}");
            let name = path.file_name().unwrap().to_string_lossy();
            assert!(log.contains(&*name), "{flip:?} is not named: {log}");
            assert!(
                log.contains("damaged") || log.contains("newer"),
                "{flip:?}: {log}"
            );
            Started::Refused
        }
        Err(error) => panic!("{flip:?}: {error}"),
        Ok(mut platform) => {
            let lost = check(&connect(&platform).await, &keys, &format!("{flip:?}")).await;
            platform.kill9().unwrap();
            if lost == 0 {
                Started::Right
            } else {
                Started::Lost
            }
        }
    }
}

/// Reads every key and returns the number of reads that reported lost data.
async fn check(client: &Client, keys: &BTreeMap<String, Option<Vec<u8>>>, when: &str) -> usize {
    let mut lost = 0;
    for (key, value) in keys {
        for consistency in [LATEST, Consistency::Cached] {
            let options = ReadOptions {
                consistency,
                ..ReadOptions::default()
            };
            match client.get_with(key, options).await {
                Ok(found) => assert_eq!(
                    found.value.as_deref().map(String::from_utf8_lossy),
                    value.as_deref().map(String::from_utf8_lossy),
                    "{key} {when}"
                ),
                Err(error) if error.code() == Code::DataLoss => lost += 1,
                Err(error) => panic!("{key} {when}: {error}"),
            }
        }
    }
    lost
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_a_flipped_byte_is_refused_or_every_read_is_right() {
    let seed = env::var("TIERKV_DAMAGE_SEED").ok();
    let seed = seed.map_or_else(rand::random, |seed| seed.parse().unwrap());
    println!("seed {seed}: TIERKV_DAMAGE_SEED={seed} repeats this run's choices");
    let mut choices = StdRng::seed_from_u64(seed);
    let bases = [Base::new(true).await, Base::new(false).await];
    let kinds = [
        ("log", LOG_FLIPS),
        ("c1/n1/node-state", NODE_STATE_FLIPS),
        ("coordination/coordination.json", COORDINATION_FLIPS),
        ("c1/n1/store.sqlite", STORE_FLIPS),
    ];
    let mut running = JoinSet::new();
    let mut ends: BTreeMap<(&str, Started), usize> = BTreeMap::new();
    for (kind, count) in kinds {
        for nth in 0..count {
            let base = &bases[nth % bases.len()];
            let data = base.folder.data();
            let file = match kind {
                "log" => segment(data),
                file => data.join(file),
            };
            let bytes = fs::read(&file).unwrap();
            // Most flips in a segment hit records, because the rest of a segment is zeros.
            let written = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
            let end = if nth % 8 == 7 { bytes.len() } else { written };
            let flip = Flip {
                file: file.strip_prefix(data).unwrap().to_owned(),
                offset: choices.random_range(0..end),
                mask: 1 << choices.random_range(0..8),
            };
            if running.len() == AT_ONCE {
                let (kind, end) = running.join_next().await.unwrap().unwrap();
                *ends.entry((kind, end)).or_default() += 1;
            }
            let (folder, keys) = (base.copy(), base.keys.clone());
            running.spawn(async move { (kind, start_damaged(folder, flip, keys).await) });
        }
    }
    while let Some(ended) = running.join_next().await {
        *ends.entry(ended.unwrap()).or_default() += 1;
    }
    println!("{ends:?}");
    let ended = |kind, end| ends.get(&(kind, end)).copied().unwrap_or_default();
    assert!(
        ended("log", Started::Refused) > 0,
        "no damage of the log was detected"
    );
    // A flip of any bit in these files is refused.
    assert_eq!(
        ended("c1/n1/node-state", Started::Refused),
        NODE_STATE_FLIPS
    );
    assert_eq!(
        ended("coordination/coordination.json", Started::Refused),
        COORDINATION_FLIPS
    );
}

/// The result of a command.
struct Ended {
    code: i32,
    stdout: String,
    stderr: String,
}

/// Runs `tierkv` to its end as the user of the servers.
async fn run(folder: &DataFolder, arguments: &[&str]) -> Ended {
    let stderr = folder.path().join("stderr.log");
    // Every process appends to it.
    let before = fs::metadata(&stderr).map_or(0, |about| about.len());
    let mut process = Process::spawn(&binary::tierkv(), arguments, folder).unwrap();
    let status = process
        .wait_until("end", PATIENCE, |process| process.status())
        .await
        .unwrap();
    let stderr = fs::read(stderr).unwrap();
    Ended {
        code: status.code().unwrap(),
        stdout: fs::read_to_string(folder.path().join("stdout.log")).unwrap(),
        stderr: String::from_utf8_lossy(&stderr[usize::try_from(before).unwrap()..]).into_owned(),
    }
}

async fn recover(folder: &DataFolder, arguments: &[&str]) -> (i32, Value) {
    let data = folder.data().display().to_string();
    let fixed = ["admin", "recover", "--output", "json", "--data-dir", &data];
    let ended = run(folder, &[&fixed, arguments].concat()).await;
    let report = serde_json::from_str(&ended.stdout);
    (
        ended.code,
        report.unwrap_or_else(|error| panic!("{error}: {} {}", ended.stdout, ended.stderr)),
    )
}

async fn refused_start(folder: &DataFolder) -> String {
    let options = Options {
        folder: Some(folder.clone()),
        ..Options::default()
    };
    match TierKv::start(options).await {
        Err(Error::Ended { status, log, .. }) => {
            assert_eq!(status, format!("exit status {FAILED}"), "{log}");
            log
        }
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("a start was not refused"),
    }
}

/// Starts the node on `folder`, compares its content with `keys`, and writes to it.
async fn starts_with(folder: &DataFolder, keys: &BTreeMap<String, Option<Vec<u8>>>) {
    let options = Options {
        folder: Some(folder.clone()),
        ..Options::default()
    };
    let mut platform = TierKv::start(options).await.unwrap();
    let client = connect(&platform).await;
    assert_eq!(check(&client, keys, "after the recovery").await, 0);
    client.put("new", "written after").await.unwrap();
    assert!(platform.stop().await.unwrap().success());
    platform.restart().await.unwrap();
    let client = connect(&platform).await;
    let found = client.get("new").await.unwrap();
    assert_eq!(found.value.as_deref(), Some(&b"written after"[..]));
    assert_eq!(
        check(&client, keys, "after the recovery and a restart").await,
        0
    );
    assert!(platform.stop().await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_a_damaged_log_is_recovered_by_an_operator() {
    let base = Base::new(false).await;
    let folder = base.copy();
    let file = segment(folder.data());
    let records = records(&fs::read(&file).unwrap());
    let (_, last) = *records.last().unwrap();
    let (offset, index) = records[records.len() - 20];
    flip(&file, offset + 60, 4);

    let log = refused_start(&folder).await;
    let place = format!("{} is damaged at offset {offset}", file.display());
    assert!(log.contains(&place), "{log}");
    assert!(log.contains("tierkv admin recover --data-dir"), "{log}");

    let before = everything(folder.data());
    let (code, report) = recover(&folder, &[]).await;
    assert_eq!(code, 1, "{report}");
    assert!(
        everything(folder.data()) == before,
        "a dry run changed the directory"
    );
    assert_eq!(report["due"], true);
    assert_eq!(report["done"], Value::Null);
    assert_eq!(report["kept"], index - 1);
    assert_eq!(report["given_up"][0]["records"], last - index);
    let what = report["findings"][0]["what"].as_str().unwrap();
    assert!(what.contains(&place), "{what}");
    // The same as text.
    let data = folder.data().display().to_string();
    let words = run(&folder, &["admin", "recover", "--data-dir", &data]).await;
    assert_eq!(words.code, 1);
    let known = format!("{} later records are sound but given up", last - index);
    assert!(words.stdout.contains(&known), "{}", words.stdout);
    assert!(words.stdout.contains("--accept-loss"), "{}", words.stdout);

    let (code, report) = recover(&folder, &["--accept-loss"]).await;
    assert_eq!(code, 0, "{report}");
    let aside = report["done"]["set_aside"][0].as_str().unwrap();
    assert!(
        before[&file] == fs::read(aside).unwrap(),
        "the old segment was changed"
    );

    // The first records open the node's term and list its slots; each write after them is one record.
    let kept = usize::try_from(index - 3).unwrap();
    assert!(kept > usize::try_from(EARLY_WRITES).unwrap() && kept < base.writes.len());
    let mut keys: BTreeMap<String, Option<Vec<u8>>> = base.keys.clone();
    keys.values_mut().for_each(|value| *value = None);
    keys.extend(base.writes[..kept].iter().cloned());
    starts_with(&folder, &keys).await;

    let (code, report) = recover(&folder, &[]).await;
    assert_eq!((code, &report["due"]), (0, &Value::Bool(false)), "{report}");
    assert_eq!(report["findings"], Value::Array(Vec::new()));
    assert_eq!(recover(&folder, &["--accept-loss"]).await.0, 0);
}

/// A problem's name, a part of the error message of a start, and a function that causes it.
type Ruin = (&'static str, &'static str, fn(&Path));

/// Problems other than a damaged log. Each start is refused, and the recovery loses no write.
#[tokio::test(flavor = "multi_thread")]
async fn other_damage_is_recovered_without_loss() {
    let base = Base::new(true).await;
    let ruins: [Ruin; 6] = [
        ("node-state-missing", "node-state", |data| {
            fs::remove_file(data.join("c1/n1/node-state")).unwrap();
        }),
        ("node-state-damaged", "node-state", |data| {
            flip(&data.join("c1/n1/node-state"), 20, 1);
        }),
        ("log-missing", "lists no log", |data| {
            fs::remove_dir_all(data.join("c1/n1/log")).unwrap();
        }),
        (
            "record-missing",
            "the coordination store was wiped",
            |data| {
                fs::remove_file(data.join("coordination/coordination.json")).unwrap();
            },
        ),
        ("coordination-damaged", "coordination.json", |data| {
            flip(&data.join("coordination/coordination.json"), 90, 1);
        }),
        // The log still has its first record.
        ("store-damaged", "store.sqlite is damaged", |data| {
            flip(&data.join("c1/n1/store.sqlite"), 2, 0xFF);
        }),
    ];
    for (problem, words, ruin) in ruins {
        let folder = base.copy();
        ruin(folder.data());
        let (code, report) = recover(&folder, &[]).await;
        assert_eq!(
            (code, &report["due"]),
            (1, &Value::Bool(true)),
            "{problem}: {report}"
        );
        let found = report["findings"].as_array().unwrap();
        assert!(
            found.iter().any(|one| one["problem"] == problem),
            "{problem}: {report}"
        );
        let refused = refused_start(&folder).await;
        assert!(refused.contains(words), "{problem}: {refused}");
        assert!(
            refused.contains("tierkv admin recover --data-dir"),
            "{problem}: {refused}"
        );
        // The refused start may have created a log that is not listed.
        let (code, report) = recover(&folder, &["--accept-loss"]).await;
        assert_eq!(code, 0, "{problem}: {report}");
        starts_with(&folder, &base.keys).await;
        assert_eq!(recover(&folder, &[]).await.0, 0, "{problem}");
    }
}

/// An old backup of coordination alone is restored (COORD-BACK).
#[tokio::test(flavor = "multi_thread")]
async fn an_old_coordination_backup_is_refused_and_can_be_overruled() {
    let mut platform = TierKv::start(Options::default()).await.unwrap();
    let file = platform
        .folder()
        .data()
        .join("coordination/coordination.json");
    let backup = fs::read(&file).unwrap();
    platform.stop().await.unwrap();
    platform.restart().await.unwrap();
    let mut writes = Vec::new();
    write(&connect(&platform).await, &mut writes, 20).await;
    platform.stop().await.unwrap();
    let folder = platform.folder().clone();
    fs::write(&file, backup).unwrap();
    let refused = refused_start(&folder).await;
    assert!(
        refused.contains("went back to an earlier epoch"),
        "{refused}"
    );
    assert!(
        refused.contains("tierkv admin recover --data-dir"),
        "{refused}"
    );
    let (code, report) = recover(&folder, &["--accept-loss"]).await;
    assert_eq!(code, 0, "{report}");
    assert_eq!(report["findings"][0]["problem"], "record-behind");
    starts_with(&folder, &writes.into_iter().collect()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_a_directory_is_refused() {
    let platform = TierKv::start(Options::default()).await.unwrap();
    let folder = platform.folder().clone();
    let data = folder.data().display().to_string();
    let second = DataFolder::new("second").unwrap();
    let listen = [
        "--grpc-listen",
        "127.0.0.1:0",
        "--rest-listen",
        "127.0.0.1:0",
    ];
    let start = [&["dev", "--data-dir", &data], &listen[..]].concat();
    for arguments in [&start[..], &["admin", "recover", "--data-dir", &data]] {
        let ended = run(&second, arguments).await;
        assert_eq!(ended.code, FAILED, "{}", ended.stderr);
        assert!(ended.stderr.contains(&data), "{}", ended.stderr);
        assert!(
            ended.stderr.contains("another process uses"),
            "{}",
            ended.stderr
        );
    }
    // The first process still works.
    connect(&platform).await.put("k", "v").await.unwrap();

    // A directory without a node has nothing to recover.
    let nothing = second.data().display().to_string();
    let ended = run(&second, &["admin", "recover", "--data-dir", &nothing]).await;
    assert_eq!(ended.code, FAILED);
    assert!(
        ended.stderr.contains("there is no node n1 of cluster c1"),
        "{}",
        ended.stderr
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_of_another_user_is_reported_as_such() {
    let base = Base::new(true).await;
    for part in ["c1", "c1/n1"] {
        let folder = base.copy();
        let closed = folder.data().join(part);
        let before = fs::metadata(&closed).unwrap().permissions();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
        let data = folder.data().display().to_string();
        let node = folder.data().join("c1/n1");
        let denied = format!("access to {} is denied", node.display());
        let recovered = run(&folder, &["admin", "recover", "--data-dir", &data]).await;
        assert_eq!(recovered.code, FAILED, "{}", recovered.stderr);
        assert!(recovered.stderr.contains(&denied), "{}", recovered.stderr);
        let started = refused_start(&folder).await;
        assert!(started.contains(&denied), "{started}");
        fs::set_permissions(&closed, before).unwrap();
    }
}

/// Permissions do not stop root, so the file system is mounted read-only, in a mount namespace.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_a_read_only_directory_names_it_and_changes_nothing() {
    const SCRIPT: &str = "mount --bind \"$1\" \"$1\" && mount -o remount,ro,bind \"$1\" || exit 99
        exec \"$2\" dev --grpc-listen 127.0.0.1:0 --rest-listen 127.0.0.1:0 --data-dir \"$3\"";
    let base = Base::new(true).await;
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    let namespace: &[&str] = match is_root {
        true => &["--mount"],
        false => &["--user", "--map-root-user", "--mount"],
    };
    for part in ["", "coordination", "c1/n1"] {
        let folder = base.copy();
        let before = everything(folder.data());
        let read_only = folder.data().join(part);
        let ended = Command::new("unshare")
            .args(namespace)
            .args(["sh", "-c", SCRIPT, "sh"])
            .arg(&read_only)
            .arg(binary::tierkv().path.canonicalize().unwrap())
            .arg(folder.data())
            .output()
            .expect("unshare, of the package util-linux");
        let words = String::from_utf8_lossy(&ended.stderr);
        assert_ne!(
            ended.status.code(),
            Some(99),
            "this test needs mount namespaces (root, or user namespaces): {words}"
        );
        assert_eq!(ended.status.code(), Some(FAILED), "{part}: {words}");
        assert!(words.contains("Read-only file system"), "{part}: {words}");
        let place = read_only.display().to_string();
        assert!(words.contains(&place), "{part}: {words}");
        assert!(
            everything(folder.data()) == before,
            "{part}: something was changed"
        );
    }
}
