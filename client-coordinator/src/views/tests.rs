use tierkv_protocol::placement::WeightedCluster;
use tierkv_types::{Code, Epoch, Round, SlotRun, SlotTable};

use super::*;

const BOUND: Duration = Duration::from_millis(500);

fn at(millis: u64) -> BootTime {
    BootTime::from_boot(Duration::from_millis(millis))
}

fn cluster(name: &str) -> ClusterId {
    ClusterId::new(name).unwrap()
}

fn clusters(names: &[&str]) -> BTreeSet<ClusterId> {
    names.iter().map(|name| cluster(name)).collect()
}

/// The map of a platform of two clusters.
fn map() -> PlacementMap {
    let clusters = ["c1", "c2"].map(|name| WeightedCluster {
        id: cluster(name),
        weight: 1,
    });
    PlacementMap::initial(clusters.to_vec()).unwrap()
}

fn slot_of(name: &str) -> Slot {
    let slots = (0..4_096).map(|slot| Slot::new(slot).unwrap());
    let (map, name) = (map(), cluster(name));
    slots
        .into_iter()
        .find(|slot| *map.owner(*slot).0 == name)
        .unwrap()
}

/// An answer that claims all slots.
fn answer(asked_at: u64, epoch: u64) -> Vouched {
    let all = SlotRun {
        first: 0,
        count: 4_096,
        revision: 1,
    };
    Vouched {
        asked_at: at(asked_at),
        epoch: Epoch(epoch),
        round: Round(1),
        clock: Version::from_millis(1_000_000),
        slots: Arc::new(SlotTable::from_runs(vec![all]).unwrap()),
    }
}

/// The epoch of a cluster's newest answer.
fn epoch(views: &Views, name: &str) -> Option<Epoch> {
    let (snapshot, name) = (views.now(), cluster(name));
    let view = snapshot.clusters.iter().find(|view| view.cluster == name)?;
    Some(view.freshness.newest()?.epoch)
}

#[test]
fn a_cluster_without_slots_is_neither_fresh_nor_a_clock() {
    let views = Views::default();
    views.list(map(), &clusters(&["c1", "c3"]), at(10));
    let idle = Vouched {
        slots: Arc::default(),
        ..answer(20, 1)
    };
    views.learn(&cluster("c3"), idle);
    assert!(!views.is_one_fresh(at(30), BOUND));
    assert_eq!(views.platform_time(at(30)), None);
    assert!(views.clusters().is_empty());
    views.learn(&cluster("c1"), answer(20, 1));
    assert!(views.is_one_fresh(at(30), BOUND));
    assert!(views.platform_time(at(30)).is_some());
}

#[test]
fn a_cluster_that_is_listed_no_more_is_forgotten() {
    let views = Views::default();
    views.learn(&cluster("c1"), answer(1, 1));
    assert!(views.clusters().is_empty(), "nobody is listed yet");
    views.list(map(), &clusters(&["c1", "c2"]), at(10));
    views.learn(&cluster("c1"), answer(20, 1));
    views.learn(&cluster("c2"), answer(20, 9));
    assert_eq!(views.clusters(), [cluster("c1"), cluster("c2")]);
    views.list(map(), &clusters(&["c1"]), at(30));
    assert_eq!(views.clusters(), [cluster("c1")]);
    let place = views.now().place(slot_of("c2")).unwrap();
    assert_eq!(views.now().view(place).cluster, cluster("c1"));
    // A late answer does not bring it back.
    views.learn(&cluster("c2"), answer(25, 9));
    assert_eq!(epoch(&views, "c2"), None);
}

#[test]
fn answers_of_an_earlier_cluster_of_the_same_name_are_dropped() {
    let views = Views::default();
    let both = clusters(&["c1", "c2"]);
    views.list(map(), &both, at(10));
    views.learn(&cluster("c2"), answer(20, 9));
    views.list(map(), &clusters(&["c1"]), at(30));
    views.list(map(), &both, at(40));
    // Its epoch would outrank all of the new cluster's.
    views.learn(&cluster("c2"), answer(39, 9));
    assert_eq!(epoch(&views, "c2"), None);
    views.learn(&cluster("c2"), answer(41, 1));
    assert_eq!(epoch(&views, "c2"), Some(Epoch(1)));
    // Listed again unchanged, it keeps what it has.
    views.list(map(), &both, at(50));
    views.learn(&cluster("c2"), answer(42, 1));
    assert_eq!(epoch(&views, "c2"), Some(Epoch(1)));
}

#[test]
fn one_cluster_that_answers_is_enough() {
    let views = Views::default();
    views.list(map(), &clusters(&["c1", "c2"]), at(0));
    assert!(!views.is_one_fresh(at(0), BOUND));
    views.learn(&cluster("c1"), answer(100, 1));
    assert!(views.is_one_fresh(at(600), BOUND));
    assert!(!views.is_one_fresh(at(601), BOUND));
    views.learn(&cluster("c2"), answer(500, 1));
    assert!(views.is_one_fresh(at(1_000), BOUND));
    // The other one's last answer does not count once that is forgotten.
    views.list(map(), &clusters(&["c1"]), at(700));
    assert!(!views.is_one_fresh(at(700), BOUND));
}

#[test]
fn a_cluster_is_silent_once_it_has_not_answered_for_longer_than_the_bound() {
    let views = Views::default();
    let (first, second) = (slot_of("c1"), slot_of("c2"));
    let silent = |slot, now| views.now().silence(slot, at(now), BOUND);
    let lasts = |slot, now| silent(slot, now).map(|silence| silence.lasts.unwrap().as_millis());
    assert_eq!(silent(first, 9_000), None, "nobody is listed yet");
    views.list(map(), &clusters(&["c1", "c2"]), at(1_000));
    assert_eq!(lasts(first, 1_500), None);
    assert_eq!(lasts(first, 1_501), Some(501));
    views.learn(&cluster("c1"), answer(1_400, 1));
    assert_eq!(
        (lasts(first, 1_900), lasts(second, 1_900)),
        (None, Some(900))
    );
    let error = silent(second, 1_900).unwrap().error();
    assert_eq!(error.code, Code::Unavailable);
    assert!(
        error.message.contains("c2 has not answered for 900 ms"),
        "{error}"
    );
    // One that was removed is silent at once.
    views.list(map(), &clusters(&["c1"]), at(1_900));
    let silence = silent(second, 1_900).unwrap();
    assert_eq!(
        (silence.cluster.clone(), silence.lasts),
        (cluster("c2"), None)
    );
    assert!(silence.error().message.contains("c2 was removed"));
}

#[test]
fn the_platforms_time_is_the_median_and_a_slots_time_its_owners() {
    let views = Views::default();
    assert_eq!(views.platform_time(at(0)), None);
    views.list(map(), &clusters(&["c1", "c2"]), at(0));
    let ahead = |millis: u64| Vouched {
        clock: Version::from_millis(1_000_000 + millis),
        ..answer(100, 1)
    };
    let [first, second] = ["c1", "c2"].map(slot_of);
    views.learn(&cluster("c2"), ahead(3_600_000));
    let time = |slot| views.time_of(slot, at(200)).map(Version::millis);
    // c1 has not answered yet.
    assert_eq!(time(first), Some(4_600_100));
    views.learn(&cluster("c1"), ahead(0));
    assert_eq!(time(first), Some(1_000_100));
    assert_eq!(time(second), Some(4_600_100));
    let platform = views.platform_time(at(200)).map(Version::millis);
    assert_eq!(platform, Some(1_000_100), "of two, the lower id's");
}
