use futures::stream::{iter, pending};
use tierkv_types::ItemKey;

use super::*;

fn item(number: u64, value: usize) -> ScannedItem {
    let key = ItemKey::new("n", format!("{number:06}").as_bytes());
    ScannedItem {
        item_key: key.unwrap().into(),
        value: vec![7; value].into(),
        version: number,
        expires: 0,
    }
}

/// A cluster's stream: replies of `a_reply` small items each, with empty ones among them.
fn played(numbers: impl Iterator<Item = u64>, a_reply: usize) -> Vec<Result<ScanReply, Error>> {
    let items: Vec<ScannedItem> = numbers.map(|number| item(number, 3)).collect();
    let mut replies = vec![Ok(ScanReply::default())];
    replies.extend(items.chunks(a_reply).map(|some| {
        Ok(ScanReply {
            items: some.to_vec(),
        })
    }));
    replies
}

fn merged(clusters: Vec<Vec<Result<ScanReply, Error>>>, limit: u64) -> Merged {
    let replies = clusters.into_iter().map(|replies| iter(replies).boxed());
    Merged::new(replies.collect(), limit)
}

/// The numbers of all items up to the end, and how the stream ended.
async fn read(merged: Merged) -> (Vec<u64>, Result<(), Error>) {
    let mut found = Vec::new();
    let mut replies = Box::pin(merged.replies());
    while let Some(reply) = replies.next().await {
        match reply {
            Ok(reply) => {
                assert!(!reply.items.is_empty(), "an empty reply");
                found.extend(reply.items.iter().map(|item| item.version));
            }
            Err(error) => {
                assert!(replies.next().await.is_none());
                return (found, Err(error));
            }
        }
    }
    (found, Ok(()))
}

#[tokio::test]
async fn the_streams_of_all_clusters_become_one_in_key_order() {
    // One cluster is empty, and one ends long before the others.
    let clusters = || {
        vec![
            played((0..1_000).filter(|number| number % 3 == 0), 7),
            played((0..1_000).filter(|number| number % 3 == 1), 100),
            played((0..100).filter(|number| number % 3 == 2), 1),
            vec![],
        ]
    };
    let expected: Vec<u64> = (0..1_000)
        .filter(|number| number % 3 != 2 || *number < 100)
        .collect();
    let (found, end) = read(merged(clusters(), 0)).await;
    assert_eq!((found, end), (expected.clone(), Ok(())));
    for limit in [1, 2, 99, 700, 701, 10_000] {
        let (found, end) = read(merged(clusters(), limit)).await;
        let count = expected.len().min(usize::try_from(limit).unwrap());
        assert_eq!((&found[..], end), (&expected[..count], Ok(())), "{limit}");
    }
    let (found, end) = read(merged(vec![], 0)).await;
    assert_eq!((found, end), (vec![], Ok(())));
}

/// After a broken stream's last item any item may be missing, so nothing after it is passed on.
#[tokio::test]
async fn a_stream_that_fails_midway_ends_the_scan_where_it_broke() {
    let mut broken_off = played((0..100).filter(|number| number % 2 == 0), 10);
    broken_off.push(Err(broken(Error::unavailable("connection reset"))));
    let whole = played((0..1_000).filter(|number| number % 2 == 1), 10);
    let (found, end) = read(merged(vec![broken_off, whole], 0)).await;
    assert_eq!(found, (0..99).collect::<Vec<u64>>());
    let error = end.unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
    assert!(error.message.contains("page token"), "{error}");
}

#[test]
fn a_broken_stream_has_an_error_for_users() {
    let code_of = |code| broken(Error::new(code, "words")).code;
    assert_eq!(code_of(Code::NotMaster), Code::Unavailable);
    assert_eq!(code_of(Code::DataLoss), Code::DataLoss);
    assert_eq!(code_of(Code::DeadlineExceeded), Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_key_of_two_owners_is_not_passed_on_twice() {
    let clusters = vec![played(0..10, 3), played(5..20, 3)];
    let (found, end) = read(merged(clusters, 0)).await;
    assert_eq!(found.last(), found.iter().max());
    assert!(found.len() <= 6, "{found:?}");
    assert_eq!(end.unwrap_err().code, Code::Internal);
}

#[tokio::test]
async fn replies_hold_about_a_frame_and_a_larger_item_comes_alone() {
    let large = |numbers: std::ops::Range<u64>, value| {
        let items = numbers.map(|number| item(number * 2, value)).collect();
        vec![Ok(ScanReply { items })]
    };
    let small = large(0..4, FRAME_BYTES / 4);
    let huge = vec![Ok(ScanReply {
        items: vec![item(3, FRAME_BYTES)],
    })];
    let replies: Vec<Vec<u64>> = merged(vec![small, huge], 0)
        .replies()
        .map(|reply| {
            reply
                .unwrap()
                .items
                .iter()
                .map(|item| item.version)
                .collect()
        })
        .collect()
        .await;
    assert_eq!(replies, [vec![0, 2], vec![3], vec![4, 6]]);
}

/// Items known to be next are not held back by a slow cluster.
#[tokio::test]
async fn available_items_are_passed_on_before_waiting_for_more() {
    let quick = iter(played(0..10, 10)).boxed();
    let slow = iter(played(5..6, 1).into_iter().map(|reply| {
        reply.map(|mut reply| {
            for item in &mut reply.items {
                item.item_key = ItemKey::new("n", b"000005x").unwrap().into();
            }
            reply
        })
    }));
    let slow = slow.chain(pending()).boxed();
    let mut replies = Box::pin(Merged::new(vec![quick, slow], 0).replies());
    let first = replies.next().await.unwrap().unwrap();
    // 0 to 5, and the slow cluster's item; the item after that is not known yet.
    assert_eq!(first.items.len(), 7);
}
