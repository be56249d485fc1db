//! Snapshots of ranges.

use tierkv_types::{ItemKey, ItemRange, Version};

use super::{ME, StoreBackend, batch, granted, item, key};
use crate::{Item, store::StoreSnapshot};

fn range(prefix: &[u8]) -> ItemRange {
    let Ok(range) = ItemRange::of_prefix("suite", prefix) else {
        unreachable!("the prefix keeps the rules");
    };
    range
}

/// All items of a snapshot, read in pieces of `bytes`.
async fn all(mut snapshot: Box<dyn StoreSnapshot>, bytes: usize) -> Vec<(ItemKey, Item)> {
    let mut found = Vec::new();
    loop {
        let some = granted(snapshot.next(bytes).await);
        if some.is_empty() {
            return found;
        }
        found.extend(some);
    }
}

pub(super) async fn a_snapshot_keeps_what_was_there(backend: &dyn StoreBackend) {
    let store = backend.open("snapshot").await;
    granted(store.claim(ME).await);
    let first = [
        (key(1), Some(item(1, b"one"))),
        (key(2), Some(item(1, b"one"))),
    ];
    granted(store.checkpoint(ME, batch(1, first.to_vec())).await);
    let (before, counted) = (
        granted(store.snapshot(&range(b"")).await),
        granted(store.snapshot(&range(b"")).await),
    );
    let second = vec![
        (key(1), None),
        (key(2), Some(item(2, b"two"))),
        (key(3), Some(item(2, b"two"))),
    ];
    granted(store.checkpoint(ME, batch(2, second)).await);
    let after = granted(store.snapshot(&range(b"")).await);
    let held = |number, version, value| (key(number), item(version, value));
    let was = [held(1, 1, b"one"), held(2, 1, b"one")];
    assert_eq!(all(before, 1 << 20).await, was);
    let mut counted = counted;
    assert_eq!(granted(counted.count(Version::ZERO).await), 2);
    let is = [held(2, 2, b"two"), held(3, 2, b"two")];
    assert_eq!(all(after, 1 << 20).await, is);
    drop(counted);
    store.close().await;
}

pub(super) async fn a_snapshot_is_of_its_range_in_the_order_of_keys(backend: &dyn StoreBackend) {
    let store = backend.open("ranges").await;
    granted(store.claim(ME).await);
    let named = |namespace: &str, name: &[u8]| {
        let Ok(key) = ItemKey::new(namespace, name) else {
            unreachable!("the key keeps the rules");
        };
        (key, Some(item(1, name)))
    };
    let names: [&[u8]; 7] = [b"\0", b"a", b"a\0", b"a\xFF", b"a\xFF\xFF", b"b", b"\xFF"];
    let mut changes: Vec<_> = names.iter().map(|name| named("suite", name)).collect();
    // Neighbours on either side.
    for other in ["suit", "suite-", "suite0", "suitf"] {
        changes.extend([
            named(other, b"\0"),
            named(other, b"a"),
            named(other, b"\xFF"),
        ]);
    }
    granted(store.checkpoint(ME, batch(1, changes)).await);
    let found = async |range: ItemRange| {
        let snapshot = granted(store.snapshot(&range).await);
        let found = all(snapshot, 1 << 20).await.into_iter();
        let keys = found.map(|(key, _)| key.key().to_vec());
        keys.collect::<Vec<_>>()
    };
    assert_eq!(found(range(b"")).await, names);
    assert_eq!(found(range(b"a")).await, names[1..5]);
    assert_eq!(found(range(b"a\xFF")).await, names[3..5]);
    assert_eq!(found(range(b"\xFF")).await, names[6..]);
    assert_eq!(found(range(b"c")).await, [[0; 0]; 0]);
    let between = |start: &[u8], end: &[u8]| granted_range(ItemRange::between("suite", start, end));
    assert_eq!(found(between(b"a\0", b"b")).await, names[2..5]);
    assert_eq!(found(between(b"b", b"")).await, names[5..]);
    assert_eq!(found(between(b"b", b"b")).await, [[0; 0]; 0]);
    store.close().await;
}

fn granted_range(range: Result<ItemRange, tierkv_types::Error>) -> ItemRange {
    let Ok(range) = range else {
        unreachable!("the range keeps the rules");
    };
    range
}

pub(super) async fn a_snapshot_hands_out_about_as_much_as_is_asked(backend: &dyn StoreBackend) {
    let store = backend.open("pieces").await;
    granted(store.claim(ME).await);
    // Small rows, then a few of limit size, then small ones again.
    let length = |number: u64| match number {
        1_000..1_010 => 1 << 20,
        _ => 20,
    };
    let changes = (0..2_000).map(|number| (key(number), Some(item(1, &vec![7; length(number)]))));
    granted(store.checkpoint(ME, batch(1, changes.collect())).await);
    for bytes in [1, 10_000, 1 << 20] {
        let mut snapshot = granted(store.snapshot(&range(b"")).await);
        let mut keys = Vec::new();
        loop {
            let some = granted(snapshot.next(bytes).await);
            let Some((_, last)) = some.last() else {
                break;
            };
            let taken: usize = some.iter().map(|(_, item)| item.value.len()).sum();
            assert!(
                taken - last.value.len() < bytes,
                "{taken} bytes for {bytes}"
            );
            keys.extend(some.into_iter().map(|(key, _)| key));
        }
        let mut expected: Vec<ItemKey> = (0..2_000).map(key).collect();
        expected.sort();
        assert_eq!(keys, expected, "in pieces of {bytes} bytes");
    }
    store.close().await;
}

pub(super) async fn a_snapshot_counts_what_has_not_expired(backend: &dyn StoreBackend) {
    let store = backend.open("counted").await;
    granted(store.claim(ME).await);
    let expiring = |expires: Option<u64>| Item {
        expires: expires.map(Version::from_bits),
        ..item(1, b"v")
    };
    let changes = (0..3_000).map(|number| match number % 3 {
        0 => (key(number), Some(expiring(None))),
        1 => (key(number), Some(expiring(Some(100 + number)))),
        _ => (key(number), Some(expiring(Some(u64::MAX)))),
    });
    granted(store.checkpoint(ME, batch(1, changes.collect())).await);
    let count = async |prefix: &[u8], now: u64| {
        let mut snapshot = granted(store.snapshot(&range(prefix)).await);
        granted(snapshot.count(Version::from_bits(now)).await)
    };
    assert_eq!(count(b"", 0).await, 3_000);
    // The one that expires now is gone.
    assert_eq!(count(b"", 101).await, 2_999);
    assert_eq!(count(b"", 100 + 3_000).await, 2_000);
    assert_eq!(count(b"key-1", 0).await, 1_111);
    assert_eq!(count(b"none", 0).await, 0);
    let mut snapshot = granted(store.snapshot(&range(b"")).await);
    for count in [0, 1, 5, 1_001, 1_500] {
        // All but the first are not there.
        let keys: Vec<ItemKey> = (0..count).map(|nth| key(nth * 6_000)).collect();
        let found = snapshot.count_among(&keys, Version::ZERO).await;
        assert_eq!(granted(found), count.min(1), "of {count}");
        let keys: Vec<ItemKey> = (0..count).map(key).collect();
        let found = snapshot.count_among(&keys, Version::from_bits(5_000)).await;
        let expected = (0..count).filter(|number| number % 3 != 1).count() as u64;
        assert_eq!(granted(found), expected, "of {count}");
    }
    drop(snapshot);
    store.close().await;
}
