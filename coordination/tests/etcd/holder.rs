//! COORD-LEASE, where the holder's whole process is paused: this test binary, started again.

use std::{env, fs, time::Duration};

use bytes::Bytes;
use tierkv_coordination::{LeaderElection, Standing};
use tierkv_harness::{DataFolder, Process, Program, Surroundings};
use tierkv_types::clock::{Clock, SystemClock};

use crate::servers::{connect, eventually, new_name, one, within};

/// The endpoint and the platform's name, for the child.
const ENDPOINT: &str = "TIERKV_COORDINATION_TEST_ENDPOINT";
const NAME: &str = "TIERKV_COORDINATION_TEST_NAME";
/// What the child's lines begin with.
const LINE: &str = "standing";
/// Lines of the child after it went on.
const LINES_AFTER: usize = 20;

fn boot_nanos() -> u128 {
    SystemClock.boot_time().since_boot().as_nanos()
}

/// Does nothing, except in the child of the next test. There it stands for election, and prints its
/// standing again and again, with the boot-time clock before it looked, until it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn candidate_of_the_pause() {
    let (Ok(endpoint), Ok(name)) = (env::var(ENDPOINT), env::var(NAME)) else {
        return;
    };
    let store = connect(&[endpoint], &name).await;
    let candidacy = store.nominate("office", "child", Bytes::new()).await;
    let candidacy = candidacy.expect("a candidacy");
    loop {
        let now = boot_nanos();
        let standing = match candidacy.standing() {
            Standing::Waiting => "waiting",
            Standing::Leading(_) => "leading",
            Standing::Lost => "lost",
        };
        println!("{LINE} {now} {standing}");
        // Not tokio's: the standing must be right also where no timer has run yet.
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The lines of the child: the clock, and whether it saw itself as the leader.
fn lines(child: &Process) -> Vec<(u128, bool)> {
    let printed = fs::read_to_string(child.folder().path().join("stdout.log"));
    let printed = printed.expect("the child's output");
    let mut lines = Vec::new();
    for line in printed.split_inclusive('\n') {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ([LINE, now, standing], true) = (&words[..], line.ends_with('\n')) {
            let now = now.parse().expect("a time");
            lines.push((now, *standing == "leading"));
        }
    }
    lines
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_paused_does_not_see_itself_as_the_leader() {
    let server = one().await;
    let name = new_name();
    let address = server.addresses().remove(0);
    let folder = DataFolder::new("candidate").expect("a folder");
    let program = Program {
        name: "the candidate",
        path: env::current_exe().expect("this program"),
        remedy: "run the test again",
    };
    let surroundings = Surroundings::default()
        .set(ENDPOINT, &address)
        .set(NAME, &name);
    let arguments = ["--exact", "holder::candidate_of_the_pause", "--nocapture"];
    let mut child =
        Process::spawn_in(&program, arguments, &folder, &surroundings).expect("a child");
    eventually("the child's leadership", || {
        child.check().expect("the child runs");
        let leads = lines(&child).iter().any(|(_, leads)| *leads);
        async move { leads.then_some(()) }
    })
    .await;
    let store = connect(&[address], &name).await;
    let candidacy = store.nominate("office", "parent", Bytes::new()).await;
    let mut candidacy = candidacy.expect("a candidacy");
    assert_eq!(candidacy.standing(), Standing::Waiting);

    child.pause().expect("a pause");
    let epoch = within("the next leader", candidacy.leading()).await;
    assert!(epoch.is_some());
    let other_leads = boot_nanos();
    child.resume().expect("a resumption");
    let after = eventually("the child's lines", || {
        child.check().expect("the child runs");
        let mut after = lines(&child);
        after.retain(|(now, _)| *now > other_leads);
        async move { (after.len() >= LINES_AFTER).then_some(after) }
    })
    .await;
    assert!(
        after.iter().all(|(_, leads)| !leads),
        "two leaders at a time: {after:?}"
    );
}
