//! CACHE-MARK: marks are read before entries and never go back.

use tierkv_types::ClusterId;

use super::{Backend, cluster, key, look_up, mark, store, value};
use crate::{Cache, State};

/// A lookup returns the cluster's mark as it was before the entry was read, with hits and with
/// misses.
pub async fn marks_are_read_with_the_entries(backend: &impl Backend) {
    let cache = backend.cache().await;
    let found = look_up(&cache, &[key(b"k")]).await;
    assert_eq!(found[0].mark, None);
    assert_eq!(cache.delete(&[key(b"k")]).await, Ok(()));
    store(&cache, b"k", value(1, "v")).await;
    for round in 1..20 {
        assert_eq!(cache.write_mark(&cluster(), mark(1, round)).await, Ok(()));
        let found = look_up(&cache, &[key(b"k"), key(b"missing")]).await;
        assert!(matches!(found[0].state, State::Entry(_)));
        for found in found {
            assert_eq!(found.mark, Some(mark(1, round)));
        }
    }
}

/// A mark of a lower epoch, or of a lower round of the same epoch, is not stored; writing the same
/// mark again is allowed.
pub async fn a_mark_never_goes_back(backend: &impl Backend) {
    let cache = backend.cache().await;
    let steps = [
        (mark(2, 5), mark(2, 5)),
        (mark(2, 4), mark(2, 5)),
        (mark(1, 9), mark(2, 5)),
        (mark(2, 5), mark(2, 5)),
        (mark(2, 6), mark(2, 6)),
        (mark(3, 1), mark(3, 1)),
        (mark(2, 7), mark(3, 1)),
    ];
    for (written, held) in steps {
        assert_eq!(cache.write_mark(&cluster(), written).await, Ok(()));
        let found = look_up(&cache, &[key(b"k")]).await;
        assert_eq!(found[0].mark, Some(held), "after writing {written:?}");
    }
}

/// Each cluster has its own mark.
pub async fn marks_of_clusters_are_apart(backend: &impl Backend) {
    let cache = backend.cache().await;
    let other = ClusterId::new("c2").expect("c2 is a name");
    assert_eq!(cache.write_mark(&cluster(), mark(1, 7)).await, Ok(()));
    let mut results = Vec::new();
    cache.lookup(&other, &[key(b"k")], &mut results).await;
    assert_eq!(results[0].mark, None);
    assert_eq!(cache.write_mark(&other, mark(1, 3)).await, Ok(()));
    cache.lookup(&other, &[key(b"k")], &mut results).await;
    assert_eq!(results[0].mark, Some(mark(1, 3)));
    assert_eq!(
        look_up(&cache, &[key(b"k")]).await[0].mark,
        Some(mark(1, 7))
    );
}

/// Every node returns its mark.
pub async fn marks_are_read_by_node(backend: &impl Backend) {
    let cache = backend.cache().await;
    let marks = cache.read_marks(&cluster()).await;
    assert!(!marks.is_empty() && marks.iter().all(|(_, mark)| mark.is_none()));
    assert_eq!(cache.write_mark(&cluster(), mark(1, 7)).await, Ok(()));
    for (node, found) in cache.read_marks(&cluster()).await {
        assert_eq!(found, Some(mark(1, 7)), "in node {node}");
    }
}
