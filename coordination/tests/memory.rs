//! The memory backend: the conformance suite, ephemeral and durable, and the contents of its
//! directory at the start.

mod ephemeral {
    use std::sync::Arc;

    use async_trait::async_trait;
    use tierkv_coordination::{
        Coordination, MemoryCoordination, conformance::Backend, coordination_conformance,
    };

    struct Ephemeral(Arc<MemoryCoordination>);

    #[async_trait]
    impl Backend for Ephemeral {
        fn coordination(&self) -> Arc<dyn Coordination> {
            Arc::<MemoryCoordination>::clone(&self.0)
        }

        async fn expire_member(&mut self, group: &str, member: &str) {
            assert!(self.0.expire(group, member));
        }

        async fn expire_candidate(&mut self, election: &str, candidate: &str) {
            assert!(self.0.expire(election, candidate));
        }

        async fn restart(&mut self) -> bool {
            false
        }
    }

    coordination_conformance!(shared: Ephemeral(MemoryCoordination::ephemeral()));
}

mod persistent {
    use std::sync::Arc;

    use async_trait::async_trait;
    use tempfile::TempDir;
    use tierkv_coordination::{
        Coordination, MemoryCoordination, conformance::Backend, coordination_conformance,
    };

    struct Persistent {
        store: Option<Arc<MemoryCoordination>>,
        directory: TempDir,
    }

    impl Persistent {
        fn new() -> Self {
            let directory = TempDir::new().expect("a directory");
            let store = MemoryCoordination::open(directory.path()).expect("a store");
            Self {
                store: Some(store),
                directory,
            }
        }

        fn store(&self) -> &Arc<MemoryCoordination> {
            self.store.as_ref().expect("the store is open")
        }
    }

    #[async_trait]
    impl Backend for Persistent {
        fn coordination(&self) -> Arc<dyn Coordination> {
            Arc::<MemoryCoordination>::clone(self.store())
        }

        async fn expire_member(&mut self, group: &str, member: &str) {
            assert!(self.store().expire(group, member));
        }

        async fn expire_candidate(&mut self, election: &str, candidate: &str) {
            assert!(self.store().expire(election, candidate));
        }

        async fn restart(&mut self) -> bool {
            self.store = None;
            let store = MemoryCoordination::open(self.directory.path()).expect("a store");
            self.store = Some(store);
            true
        }
    }

    coordination_conformance!(Persistent::new());
}

mod directory {
    use std::{fs, path::Path, process::Command, sync::Arc};

    use bytes::Bytes;
    use tempfile::TempDir;
    use tierkv_coordination::{
        ConfigStore, CoordinationError, GroupMembership, LeaderElection, MemoryCoordination,
        Standing, Swap, Watch,
    };

    const IMAGE: &str = "coordination.json";
    const NEXT_IMAGE: &str = "coordination.json.tmp";

    fn open(directory: &Path) -> Arc<MemoryCoordination> {
        MemoryCoordination::open(directory).expect("a store")
    }

    /// The message of a refusal, which must be of kind `Storage` and name the path.
    fn refusal(directory: &Path) -> String {
        match MemoryCoordination::open(directory) {
            Err(CoordinationError::Storage(why)) => {
                let path = directory.display().to_string();
                assert!(why.contains(&path), "{why} does not name {path}");
                why
            }
            other => panic!("not refused: {other:?}"),
        }
    }

    #[tokio::test]
    async fn a_missing_directory_is_created() {
        let parent = TempDir::new().unwrap();
        let directory = parent.path().join("a/b");
        let store = open(&directory);
        assert!(store.put_if_absent("key", Bytes::new()).await.is_ok());
        drop(store);
        let store = open(&directory);
        assert!(store.get("key").await.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_damaged_file_is_refused_with_its_path() {
        let directory = TempDir::new().unwrap();
        let store = open(directory.path());
        let value = Bytes::from_static(b"value");
        assert!(store.put_if_absent("key", value).await.is_ok());
        drop(store);
        let path = directory.path().join(IMAGE);
        let whole = fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        let middle = flipped.len() * 2 / 3;
        flipped[middle] ^= 1;
        for damaged in [&flipped[..], &whole[..whole.len() / 2], b"", b"nonsense\n"] {
            fs::write(&path, damaged).unwrap();
            let why = refusal(directory.path());
            assert!(why.contains("damaged") && why.contains(IMAGE), "{why}");
            assert_eq!(
                fs::read(&path).unwrap(),
                damaged,
                "the evidence was changed"
            );
        }
        fs::write(&path, &whole).unwrap();
        assert!(open(directory.path()).get("key").await.unwrap().is_some());
    }

    #[test]
    fn a_newer_format_is_refused_with_its_path() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join(IMAGE);
        fs::write(&path, "{\"format\":2,\"crc32c\":0}\nof the future").unwrap();
        let why = refusal(directory.path());
        assert!(why.contains("format 2") && why.contains("newer"), "{why}");
    }

    #[tokio::test]
    async fn a_leftover_of_a_crash_is_harmless() {
        let directory = TempDir::new().unwrap();
        let store = open(directory.path());
        assert!(store.put_if_absent("a", Bytes::new()).await.is_ok());
        drop(store);
        let leftover = directory.path().join(NEXT_IMAGE);
        fs::write(&leftover, "{\"format\":1,\"crc3").unwrap();
        let store = open(directory.path());
        assert!(store.get("a").await.unwrap().is_some());
        assert!(store.put_if_absent("b", Bytes::new()).await.is_ok());
        drop(store);
        assert!(!leftover.exists());
        assert!(open(directory.path()).get("b").await.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_directory_in_use_is_refused() {
        let directory = TempDir::new().unwrap();
        let store = open(directory.path());
        let why = refusal(directory.path());
        assert!(why.contains("another process"), "{why}");
        drop(store);
        open(directory.path());
    }

    #[tokio::test]
    async fn a_failing_directory_leaves_the_state_as_it_was_on_disk() {
        let parent = TempDir::new().unwrap();
        let (directory, away) = (parent.path().join("here"), parent.path().join("away"));
        let store = open(&directory);
        let Ok(Swap::Won(first)) = store.put_if_absent("key", Bytes::from_static(b"1")).await
        else {
            panic!("the creation lost");
        };
        let watched = store.watch_prefix("").await.unwrap();
        let before = store.get("key").await;

        fs::rename(&directory, &away).unwrap();
        let two = Bytes::from_static(b"2");
        let failed = [
            store.compare_and_swap("key", first, two.clone()).await,
            store.put_if_absent("other", two.clone()).await,
            store.delete("key", first).await,
        ];
        for failed in failed {
            assert!(
                matches!(failed, Err(CoordinationError::Storage(_))),
                "{failed:?}"
            );
        }
        let failed = store.nominate("election", "one", Bytes::new()).await;
        assert!(
            matches!(failed, Err(CoordinationError::Storage(_))),
            "{failed:?}"
        );
        assert_eq!(store.get("key").await, before);
        assert_eq!(store.get("other").await, Ok(None));
        assert_eq!(watched.current().len(), 1);
        assert_eq!(
            *store.observe_leader("election").await.unwrap().current(),
            None
        );

        // The disk is back: so is the store, and it is what it would be after a restart.
        fs::rename(&away, &directory).unwrap();
        let Ok(Swap::Won(second)) = store.compare_and_swap("key", first, two.clone()).await else {
            panic!("the swap lost");
        };
        assert!(second > first);
        drop(store);
        let record = open(&directory).get("key").await.unwrap().unwrap();
        assert_eq!((record.value, record.revision), (two, second));
    }

    #[tokio::test]
    async fn handles_are_notified_of_the_end_of_their_store() {
        let directory = TempDir::new().unwrap();
        let store = open(directory.path());
        let mut watched = store.watch("key").await.unwrap();
        let mut member = store.join("group", "one", Bytes::new()).await.unwrap();
        let mut candidacy = store
            .nominate("election", "one", Bytes::new())
            .await
            .unwrap();
        assert!(matches!(candidacy.standing(), Standing::Leading(_)));
        drop(store);
        assert_eq!(watched.changed().await, Err(CoordinationError::Closed));
        assert_eq!(*watched.current(), None);
        member.lost().await;
        assert!(member.is_lost());
        assert_eq!(candidacy.standing(), Standing::Lost);
        assert_eq!(candidacy.leading().await, None);
        // They don't keep the directory in use.
        let store = open(directory.path());
        member.leave().await.unwrap();
        candidacy.resign().await.unwrap();
        drop(store);
    }

    /// The writer of the crash test: this test binary, started again by the test.
    const WRITE_INTO: &str = "TIERKV_COORDINATION_TEST_WRITE_INTO";

    /// Does nothing, except in the child of the crash test. There it writes until it is killed, and
    /// appends each number to `acknowledged` after its change was acknowledged.
    #[tokio::test]
    async fn writer_of_the_crash_test() {
        use std::io::Write;
        let Some(directory) = std::env::var_os(WRITE_INTO) else {
            return;
        };
        let directory = Path::new(&directory);
        let mut acknowledged = fs::File::options()
            .create(true)
            .append(true)
            .open(directory.join("acknowledged"))
            .unwrap();
        let store = open(directory);
        loop {
            let seen = store.get("counter").await.unwrap();
            let next = match &seen {
                None => 1,
                Some(seen) => number(&seen.value) + 1,
            };
            let value = Bytes::from(next.to_string());
            let swap = match seen {
                None => store.put_if_absent("counter", value).await,
                Some(seen) => {
                    store
                        .compare_and_swap("counter", seen.revision, value)
                        .await
                }
            };
            let Ok(Swap::Won(revision)) = swap else {
                panic!("a lone writer failed: {swap:?}");
            };
            let mut candidacy = store.nominate("office", "one", Bytes::new()).await.unwrap();
            let epoch = candidacy.leading().await.unwrap();
            // One write, so that a kill can't tear the line.
            let line = format!("{next} {revision} {epoch}\n");
            acknowledged.write_all(line.as_bytes()).unwrap();
        }
    }

    #[tokio::test]
    async fn acknowledged_changes_survive_a_kill() {
        use std::time::{Duration, Instant};
        let directory = TempDir::new().unwrap();
        let log = directory.path().join("acknowledged");
        let mut read = 0;
        for _ in 0..3 {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "directory::writer_of_the_crash_test"])
                .env(WRITE_INTO, directory.path())
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap();
            let deadline = Instant::now() + Duration::from_secs(30);
            while fs::read_to_string(&log).map_or(0, |text| text.lines().count()) < read + 50 {
                assert!(Instant::now() < deadline, "the child does not write");
                assert!(child.try_wait().unwrap().is_none(), "the child failed");
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            child.kill().unwrap();
            child.wait().unwrap();

            let text = fs::read_to_string(&log).unwrap();
            let lines: Vec<Vec<u64>> = text
                .lines()
                .map(|line| line.split(' ').map(|part| part.parse().unwrap()).collect())
                .collect();
            read = lines.len();
            for pair in lines.windows(2) {
                // The last change before a kill may lack its line.
                assert!(
                    pair[1][0] > pair[0][0] && pair[1][0] <= pair[0][0] + 2,
                    "{pair:?}"
                );
                assert!(
                    pair[1][1] > pair[0][2],
                    "a number was given twice: {pair:?}"
                );
                assert!(
                    pair[1][2] > pair[1][1],
                    "a number was given twice: {pair:?}"
                );
            }
            let last = &lines[read - 1];
            let record = open(directory.path())
                .get("counter")
                .await
                .unwrap()
                .unwrap();
            assert!(
                number(&record.value) >= last[0],
                "an acknowledged swap is lost"
            );
            assert!(record.revision.0 >= last[1], "an acknowledged swap is lost");
        }
    }

    fn number(value: &[u8]) -> u64 {
        std::str::from_utf8(value)
            .ok()
            .and_then(|text| text.parse().ok())
            .expect("a number")
    }
}
