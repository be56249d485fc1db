use futures::stream::iter;
use tierkv_rpc::proto::v1::KeyRange;

use super::*;

fn range() -> ItemRange {
    ItemRange::of_prefix("n", b"").unwrap()
}

fn key(number: u64) -> ItemKey {
    ItemKey::new("n", &number.to_be_bytes()).unwrap()
}

fn reply(numbers: std::ops::Range<u64>) -> Result<ScanReply, Error> {
    let items = numbers.map(|number| ScannedItem {
        item_key: key(number).into(),
        value: Bytes::from_static(b"v"),
        version: number,
        expires: Version::from_millis(number).to_bits(),
    });
    Ok(ScanReply {
        items: items.collect(),
    })
}

/// Each response's versions, and the last key covered by its token.
type Responses = Vec<(Vec<u64>, Option<u64>)>;

async fn collected(
    replies: Vec<Result<ScanReply, Error>>,
    limit: u32,
) -> (Responses, Result<(), Error>) {
    let pages = Pages::new(range(), iter(replies).boxed(), limit);
    let mut stream = Box::pin(pages.responses());
    let mut responses = Responses::new();
    while let Some(response) = stream.next().await {
        let ScanResponse {
            items,
            next_page_token,
        } = match response {
            Ok(response) => response,
            Err(error) => return (responses, Err(error)),
        };
        let on = (!next_page_token.is_empty()).then(|| {
            let rest = page_token::rest(range(), &next_page_token).unwrap();
            let last = items.last().unwrap();
            assert_eq!(rest, range().after(&key(last.version)));
            last.version
        });
        for item in &items {
            assert_eq!(item.key, item.version.to_be_bytes()[..]);
            assert_eq!(item.expires_at_ms, item.version);
        }
        let versions = items.iter().map(|item| item.version).collect();
        responses.push((versions, on));
    }
    (responses, Ok(()))
}

#[tokio::test]
async fn every_response_but_the_last_has_a_token() {
    let replies = || vec![reply(0..3), reply(3..3), reply(3..5), reply(5..6)];
    let all = vec![
        (vec![0, 1, 2], Some(2)),
        (vec![3, 4], Some(4)),
        (vec![5], None),
    ];
    assert_eq!(collected(replies(), 0).await, (all.clone(), Ok(())));
    // Exactly the limit: there are no more items.
    assert_eq!(collected(replies(), 6).await, (all.clone(), Ok(())));
    assert_eq!(collected(replies(), 100).await, (all, Ok(())));
}

#[tokio::test]
async fn a_limit_cuts_off_and_shows_whether_there_is_more() {
    let cases = [
        (1, vec![(vec![0], Some(0))]),
        (2, vec![(vec![0, 1], Some(1))]),
        // The reply ends where the limit is, and there is another.
        (3, vec![(vec![0, 1, 2], Some(2))]),
        (4, vec![(vec![0, 1, 2], Some(2)), (vec![3], Some(3))]),
    ];
    for (limit, expected) in cases {
        // As from below, which is asked for one item more than the limit.
        let more = (limit + 1).min(6);
        let replies = match more {
            2..=3 => vec![reply(0..u64::from(more))],
            _ => vec![reply(0..3), reply(3..u64::from(more))],
        };
        assert_eq!(
            collected(replies, limit).await,
            (expected, Ok(())),
            "{limit}"
        );
    }
}

#[tokio::test]
async fn an_empty_result_is_one_empty_response() {
    let nothing = (vec![(vec![], None)], Ok(()));
    assert_eq!(collected(vec![], 0).await, nothing);
    assert_eq!(collected(vec![reply(0..0)], 7).await, nothing);
}

#[tokio::test]
async fn responses_before_a_break_are_sent_with_a_token() {
    let broken = Error::unavailable("the scan broke off");
    let replies = vec![reply(0..3), reply(3..4), Err(broken.clone())];
    let before = vec![(vec![0, 1, 2], Some(2)), (vec![3], Some(3))];
    assert_eq!(collected(replies, 0).await, (before, Err(broken.clone())));
    let nothing = collected(vec![Err(broken.clone())], 0).await;
    assert_eq!(nothing, (vec![], Err(broken)));
}

#[test]
fn a_selection_is_required() {
    let refused = selected("n", None).unwrap_err();
    assert!(refused.message.contains("empty prefix"), "{refused}");
    let prefix = Selection::Prefix(Bytes::new());
    assert_eq!(selected("n", Some(prefix)), Ok(range()));
    let all = Selection::Range(KeyRange::default());
    assert_eq!(selected("n", Some(all)), Ok(range()));
}
