use std::{fs, net::SocketAddr, num::NonZeroUsize, sync::Arc, time::Duration};

use tempfile::TempDir;
use tierkv_client_coordinator::{ClientCoordinatorSettings, ConnectionLimits, MetricsPage};
use tierkv_storage::{EvictionPolicy, MemoryLimits, StorageSettings, WalSync};
use tierkv_types::{ClusterId, NodeId, PlatformId};

use super::*;
use crate::{
    configuration::{ByteSize, CacheKind, Entry, HostPort},
    descriptors::Descriptors,
};

/// A file, and the arguments that name it.
struct Fixture {
    _folder: TempDir,
    arguments: ConfigurationArguments,
}

fn file(text: &str) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tierkv.toml");
    fs::write(&path, text).unwrap();
    Fixture {
        _folder: folder,
        arguments: ConfigurationArguments {
            config: Some(path),
            set: Vec::new(),
        },
    }
}

fn set(pairs: &[&str]) -> ConfigurationArguments {
    ConfigurationArguments {
        config: None,
        set: pairs.iter().map(|text| pair(text).unwrap()).collect(),
    }
}

fn environment(variables: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    (variables.iter())
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

fn loaded(arguments: &ConfigurationArguments) -> Loaded {
    load(arguments, &[], &[])
}

/// The only problem, in words.
fn problem(loaded: &Loaded) -> String {
    let [problem] = &loaded.problems[..] else {
        panic!("one problem, not {:?}", loaded.problems);
    };
    problem.to_string()
}

/// A client coordinator's settings, as `dev` takes them from the configuration.
fn client_coordinator(loaded: &Loaded) -> ClientCoordinatorSettings {
    let (node, metrics) = (NodeId::new("cc1").unwrap(), no_metrics());
    let descriptors = Descriptors::of(1 << 20);
    (loaded.configuration).client_coordinator(PlatformId(1), node, descriptors, metrics)
}

fn no_metrics() -> MetricsPage {
    MetricsPage(Arc::new(String::new))
}

#[test]
fn of_nothing_everything_has_the_default_of_its_owner() {
    let loaded = loaded(&ConfigurationArguments::default());
    assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
    assert!(
        loaded
            .entries
            .iter()
            .all(|entry| entry.origin == Origin::Default)
    );
    let storage = loaded.configuration.storage("dir".into());
    let default = StorageSettings::new("dir");
    assert_eq!(format!("{storage:?}"), format!("{default:?}"));
    let default =
        ClientCoordinatorSettings::new(PlatformId(1), NodeId::new("cc1").unwrap(), no_metrics());
    let settings = client_coordinator(&loaded);
    assert_eq!(format!("{settings:?}"), format!("{default:?}"));
}

/// A file that sets every key.
const EVERY_KEY: &str = r#"
data_dir = "elsewhere"
node = "n7"
cluster = "c3"
listen = "127.0.0.1:3"
advertise = "n7.example.com:3"
metrics_listen = "127.0.0.1:4"
grpc_listen = "127.0.0.1:1"
rest_listen = "[::1]:2"
[coordination]
url = "etcds://e1:1,e2/shop"
user = "tierkv"
password_file = "p"
ca_file = "ca"
cert_file = "cert"
key_file = "key"
[cache]
kind = "none"
max_bytes = "64MiB"
[rest]
allowed_hosts = ["KV.example.com", "::1"]
allowed_origins = ["https://app.example.com:443"]
[reads]
max_staleness_ms = 2051
[threads]
workers = 3
[wal]
sync = "interval"
sync_interval_ms = 20
segment_bytes = 1048576
max_bytes = "2 MiB"
retention_ms = 480000
[memory]
policy = "lru"
max_records = 7
max_bytes = "1 GiB"
pinned_max_bytes = "3 MiB"
[store]
checkpoint_interval_ms = 500
checkpoint_bytes = "2 MiB"
"#;

#[test]
fn every_limit_reaches_the_doors() {
    let fixture = file(
        "
        [limits]
        connections = 1000
        stream_bytes = 34603008
        head_timeout_ms = 101
        body_timeout_ms = 102
        rest_idle_timeout_ms = 103
        grpc_ping_interval_ms = 104
        grpc_ping_timeout_ms = 105
        ",
    );
    let loaded = loaded(&fixture.arguments);
    assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
    let path = fixture.arguments.config.unwrap();
    let of_limits = |entry: &&Entry| entry.key.starts_with("limits.");
    for entry in loaded.entries.iter().filter(of_limits) {
        assert_eq!(entry.origin, Origin::File(path.clone()), "{}", entry.key);
    }
    let wanted = ConnectionLimits {
        connections: 1_000,
        stream_bytes: 33 << 20,
        head_timeout: Duration::from_millis(101),
        body_timeout: Duration::from_millis(102),
        rest_idle_timeout: Duration::from_millis(103),
        ping_interval: Duration::from_millis(104),
        ping_timeout: Duration::from_millis(105),
    };
    let settings = client_coordinator(&loaded);
    assert_eq!(format!("{:?}", settings.limits), format!("{wanted:?}"));
}

#[test]
fn every_key_reaches_what_it_sets() {
    let fixture = file(EVERY_KEY);
    let loaded = loaded(&fixture.arguments);
    assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let path = fixture.arguments.config.unwrap();
    // The limits have a test of their own.
    let others = |entry: &&Entry| !entry.key.starts_with("limits.");
    for entry in loaded.entries.iter().filter(others) {
        assert_eq!(entry.origin, Origin::File(path.clone()), "{}", entry.key);
    }
    let places = &loaded.configuration.places;
    assert_eq!(places.data_dir, Path::new("elsewhere"));
    assert_eq!(places.grpc_listen, SocketAddr::from(([127, 0, 0, 1], 1)));
    assert_eq!(places.rest_listen.to_string(), "[::1]:2");
    assert_eq!(places.node, NodeId::new("n7").ok());
    assert_eq!(places.cluster, ClusterId::new("c3").ok());
    assert_eq!(places.listen.unwrap().port(), 3);
    assert_eq!(places.metrics_listen.unwrap().port(), 4);
    let advertised = HostPort("n7.example.com:3".to_owned());
    assert_eq!(places.advertise, Some(advertised));
    let coordination = &loaded.configuration.coordination;
    assert_eq!(coordination.url.to_string(), "etcds://e1:1,e2:2379/shop");
    assert_eq!(coordination.user.as_deref(), Some("tierkv"));
    let files = [
        &coordination.password_file,
        &coordination.ca_file,
        &coordination.cert_file,
        &coordination.key_file,
    ];
    let files = files.map(|file| file.as_deref().unwrap());
    assert_eq!(files, ["p", "ca", "cert", "key"].map(Path::new));
    assert_eq!(loaded.configuration.cache.kind, Some(CacheKind::None));
    assert_eq!(loaded.configuration.cache.max_bytes, ByteSize(64 << 20));
    let settings = client_coordinator(&loaded);
    assert_eq!(settings.max_staleness, Duration::from_millis(2_051));
    assert_eq!(settings.grpc_listen, places.grpc_listen);
    assert_eq!(settings.rest_listen, places.rest_listen);
    let hosts = settings.rest_allowed_hosts.iter().map(ToString::to_string);
    assert_eq!(hosts.collect::<Vec<_>>(), ["kv.example.com", "[::1]"]);
    let origins = settings.rest_allowed_origins.iter();
    let origins = origins.map(ToString::to_string);
    assert_eq!(origins.collect::<Vec<_>>(), ["https://app.example.com"]);
    assert_eq!(loaded.configuration.threads.workers(), NonZeroUsize::new(3));
    let storage = loaded.configuration.storage("dir".into());
    let wanted = StorageSettings {
        platform: None,
        dir: "dir".into(),
        segment_bytes: 1 << 20,
        checkpoint_interval: Duration::from_millis(500),
        checkpoint_bytes: 2 << 20,
        pinned_limit_bytes: 3 << 20,
        memory: MemoryLimits {
            policy: EvictionPolicy::Lru,
            max_records: 7,
            max_bytes: 1 << 30,
        },
        log_retention: Duration::from_secs(480),
        log_limit_bytes: 2 << 20,
        sync: WalSync::Interval(Duration::from_millis(20)),
    };
    assert_eq!(format!("{storage:?}"), format!("{wanted:?}"));
}

#[test]
fn the_environment_wins_over_the_file_and_flags_over_both() {
    let Fixture {
        _folder,
        mut arguments,
    } = file("data_dir = \"a\"\n[wal]\nretention_ms = 1001\nsync = \"interval\"\n");
    arguments.set = vec![("wal.retention_ms".to_owned(), "1003".to_owned())];
    let variables = environment(&[
        ("TIERKV_WAL_RETENTION_MS", "1002"),
        ("TIERKV_DATA_DIR", "007"),
        ("TIERKV_WAL_MAX_BYTES", "1 GiB"),
        (
            "TIERKV_REST_ALLOWED_HOSTS",
            "kv.example.com, kv2.example.com",
        ),
    ]);
    let flags = [("grpc_listen", "127.0.0.1:9".to_owned())];
    let loaded = load(&arguments, &flags, &variables);
    assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
    assert_eq!(loaded.configuration.wal.retention_ms, 1_003);
    assert_eq!(loaded.configuration.places.data_dir, Path::new("007"));
    let hosts = loaded.entries.iter();
    let hosts = hosts.filter(|entry| entry.key == "rest.allowed_hosts");
    let hosts: Vec<&str> = hosts.map(|entry| entry.toml.as_str()).collect();
    assert_eq!(hosts, [r#"["kv.example.com","kv2.example.com"]"#]);
    let origin = |key: &str| {
        let entry = loaded
            .entries
            .iter()
            .find(|entry| entry.key == key)
            .unwrap();
        entry.origin.clone()
    };
    assert_eq!(origin("wal.retention_ms"), Origin::Flag);
    assert_eq!(origin("grpc_listen"), Origin::Flag);
    assert_eq!(
        origin("data_dir"),
        Origin::Environment("TIERKV_DATA_DIR".to_owned())
    );
    assert!(matches!(origin("wal.sync"), Origin::File(_)));
    assert_eq!(origin("rest_listen"), Origin::Default);
}

#[test]
fn unknown_keys_are_told_with_the_nearest_known_one() {
    let fixture = file(
        "datadir = \"x\"\n[wal]\nmax_byte = 3\n[reads]\nmax_staleness = 5\n[ui]\ncolour = \"red\"\n",
    );
    let loaded = loaded(&fixture.arguments);
    assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
    let warnings = loaded.warnings.join("\n");
    assert_eq!(loaded.warnings.len(), 4, "{warnings}");
    assert!(
        warnings.contains("sets datadir,") && warnings.contains("did you mean data_dir?"),
        "{warnings}"
    );
    assert!(warnings.contains("sets wal.max_byte,"), "{warnings}");
    assert!(
        warnings.contains("did you mean wal.max_bytes?"),
        "{warnings}"
    );
    assert!(warnings.contains("sets reads.max_staleness,"), "{warnings}");
    assert!(
        warnings.contains("did you mean reads.max_staleness_ms?"),
        "{warnings}"
    );
    // Nothing is like it.
    let distant = "sets ui.colour, which is an unknown key and is ignored; `tierkv config check`";
    assert!(warnings.contains(distant), "{warnings}");
    assert!(warnings.contains("tierkv.toml"), "{warnings}");
}

#[test]
fn a_slip_in_a_variable_is_told_and_other_variables_are_not() {
    let variables = environment(&[
        ("TIERKV_WAL_MAXBYTES", "1"),
        ("TIERKV_LOG", "info"),
        ("TIERKV_ADDRESS", "127.0.0.1:1"),
        ("TIERKV_CONFIG", "x"),
        ("TIERKV_NAMESPACE", "x"),
    ]);
    let loaded = load(&ConfigurationArguments::default(), &[], &variables);
    let [warning] = &loaded.warnings[..] else {
        panic!("one warning, not {:?}", loaded.warnings);
    };
    assert!(warning.contains("TIERKV_WAL_MAXBYTES") && warning.contains("TIERKV_WAL_MAX_BYTES"));
}

#[test]
fn bad_values_are_all_told_with_key_origin_and_what_is_right() {
    let fixture = file(
        "data_dir = 5\ngrpc_listen = \"here\"\n\
         [cache]\nmax_bytes = \"8 GB\"\n\
         [reads]\nmax_staleness_ms = \"5s\"\n\
         [wal]\nsync = true\nsync_interval_ms = -1\n\
         [rest]\nallowed_hosts = [\"kv:80\"]\nallowed_origins = [\"*\", 7]\n\
         [memory]\npolicy = \"LRU\"\nmax_records = 1.5\nmax_bytes = [1]\n\
         [store.checkpoint_bytes]\nmany = 1\n",
    );
    let loaded = loaded(&fixture.arguments);
    let problems: Vec<String> = loaded.problems.iter().map(Problem::to_string).collect();
    for (key, said, right) in [
        ("data_dir", "5", "path"),
        ("grpc_listen", "\"here\"", "127.0.0.1:7400"),
        ("cache.max_bytes", "\"8 GB\"", "512 MiB"),
        ("reads.max_staleness_ms", "\"5s\"", "whole number"),
        ("wal.sync ", "true", "\"always\" or \"interval\""),
        ("wal.sync_interval_ms", "-1", "whole number"),
        ("memory.policy", "\"LRU\"", "s3fifo"),
        ("memory.max_records", "1.5", "whole number"),
        ("memory.max_bytes", "[1]", "number of bytes"),
        ("rest.allowed_hosts", "[\"kv:80\"]", "without ports"),
        ("rest.allowed_origins", "7", "a scheme and a host"),
        ("store.checkpoint_bytes", "a section", "number of bytes"),
    ] {
        let words = problems.iter().find(|words| words.starts_with(key));
        let words = words.unwrap_or_else(|| panic!("{key}: {problems:?}"));
        assert!(words.contains("tierkv.toml"), "{words}");
        assert!(words.contains(said) && words.contains(right), "{words}");
    }
    assert_eq!(problems.len(), 12, "{problems:?}");
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    assert!(loaded.accept().is_err());
}

#[test]
fn a_file_that_is_none_is_told_once() {
    for text in ["wal = 3\n", "data_dir = always\n", "[wal\n"] {
        let fixture = file(text);
        let words = problem(&loaded(&fixture.arguments));
        assert!(words.contains("tierkv.toml"), "{words}");
    }
    let missing = ConfigurationArguments {
        config: Some("/nowhere/tierkv.toml".into()),
        set: Vec::new(),
    };
    let words = problem(&loaded(&missing));
    assert_eq!(
        words,
        "/nowhere/tierkv.toml: the file does not exist; `tierkv config sample \
         >/nowhere/tierkv.toml` writes one to start from"
    );
    let words = problem(&loaded(&file("[wal\n").arguments));
    assert!(
        words.contains("is not valid TOML") && words.contains("[wal"),
        "{words}"
    );
    assert!(!words.ends_with('\n'), "{words:?}");
}

#[test]
fn flags_that_set_nothing_or_twice_are_told() {
    let words = problem(&loaded(&set(&["wal.synch=always"])));
    assert!(
        words.contains("wal.synch") && words.contains("wal.sync?"),
        "{words}"
    );
    let words = problem(&loaded(&set(&["foo=1"])));
    assert_eq!(
        words,
        "foo (flag): there is no such key; `tierkv config check` lists the keys"
    );
    let words = problem(&loaded(&set(&["wal.sync=always", "wal.sync=interval"])));
    assert!(words.contains("twice"), "{words}");
    let flags = [("data_dir", "a".to_owned())];
    let loaded = load(&set(&["data_dir=b"]), &flags, &[]);
    assert!(problem(&loaded).contains("twice"));
    assert!(pair("wal.sync").is_err());
    assert_eq!(pair("a = b=c").unwrap(), ("a".to_owned(), "b=c".to_owned()));
}

/// Settings that make no sense together, the key that is named, and words of its bound.
const SENSELESS: &[(&[&str], &str, &str)] = &[
    (
        &["cache.max_bytes=1KiB"],
        "cache.max_bytes",
        "at least 1 MiB",
    ),
    (
        &["reads.max_staleness_ms=2049"],
        "reads.max_staleness_ms",
        "from 2050 to 60000",
    ),
    (
        &["reads.max_staleness_ms=60001"],
        "reads.max_staleness_ms",
        "from 2050 to 60000",
    ),
    (
        &["wal.segment_bytes=65535"],
        "wal.segment_bytes",
        "at least 64 KiB",
    ),
    (
        &["wal.segment_bytes=1025 MiB"],
        "wal.segment_bytes",
        "at most 1 GiB",
    ),
    (
        &["wal.max_bytes=127 MiB"],
        "wal.max_bytes",
        "2 times wal.segment_bytes, which is 64 MiB",
    ),
    (
        &["wal.sync_interval_ms=0"],
        "wal.sync_interval_ms",
        "from 1 to 60000",
    ),
    (
        &["wal.retention_ms=604800001"],
        "wal.retention_ms",
        "from 1000 to 604800000",
    ),
    (&["memory.max_bytes=0"], "memory.max_bytes", "at least 1 B"),
    (
        &["memory.pinned_max_bytes=1 KiB", "store.checkpoint_bytes=1"],
        "memory.pinned_max_bytes",
        "at least 1 MiB",
    ),
    (
        &["memory.pinned_max_bytes=16MiB"],
        "store.checkpoint_bytes",
        "at most memory.pinned_max_bytes, which is 16 MiB",
    ),
    (&["threads.workers=1025"], "threads.workers", "at most 1024"),
    (
        &["store.checkpoint_interval_ms=9"],
        "store.checkpoint_interval_ms",
        "from 10 to 3600000",
    ),
    (
        &["store.checkpoint_bytes=0"],
        "store.checkpoint_bytes",
        "at least 1 B",
    ),
];

#[test]
fn what_makes_no_sense_is_told_with_its_bound() {
    for (pairs, key, words) in SENSELESS {
        let message = problem(&loaded(&set(pairs)));
        assert!(
            message.starts_with(key) && message.contains(words),
            "{message}"
        );
    }
    for pair in [
        "reads.max_staleness_ms=2050",
        "reads.max_staleness_ms=60000",
    ] {
        let loaded = loaded(&set(&[pair]));
        assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
    }
}
