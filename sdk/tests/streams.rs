//! Scans, counts and watches at coordinators that break as the test scripts them.

#![allow(clippy::unwrap_used)] // A test may panic: that is how it fails.

mod played;

use std::time::{Duration, Instant};

use tierkv::{
    Change, Client, Code, Consistency, Page, ScanOptions, Selection,
    rpc::proto::v1::{
        self, Removed, ScanItem, ScanRequest, ScanResponse, WatchEvent, WatchRequest,
        WatchResponse, Written, scan_request, watch_event,
    },
};

use crate::played::{Played, Plot, Word};

/// The number of keys of the scripted platform.
const KEYS: u8 = 10;

fn response(keys: impl Iterator<Item = u8>, next: &str) -> Word<ScanResponse> {
    let item = |key| ScanItem {
        key: vec![key].into(),
        value: vec![key; 3].into(),
        version: key.into(),
        expires_at_ms: 0,
    };
    Word::Send(ScanResponse {
        items: keys.map(item).collect(),
        next_page_token: next.to_owned().into(),
    })
}

/// The remaining keys of a resumed scan, two at a time, each pair with its token.
fn by_twos(scan: &ScanRequest) -> Vec<Word<ScanResponse>> {
    let from = match std::str::from_utf8(&scan.page_token).unwrap() {
        "" => 0,
        token => token.strip_prefix("after ").unwrap().parse::<u8>().unwrap() + 1,
    };
    let most = match scan.limit {
        0 => KEYS,
        limit => u8::try_from(limit).unwrap(),
    };
    let end = KEYS.min(from + most);
    (from..end)
        .step_by(2)
        .map(|first| {
            let last = (first + 1).min(end - 1);
            let next = match last + 1 == KEYS {
                true => String::new(),
                false => format!("after {last}"),
            };
            response(first..=last, &next)
        })
        .collect()
}

async fn scanned(client: &Client, options: ScanOptions) -> Result<Vec<u8>, tierkv::Error> {
    let mut items = client.scan_with(Selection::all(), options);
    let mut keys = Vec::new();
    while let Some(item) = items.next().await {
        let item = item?;
        assert_eq!(item.value, vec![item.key[0]; 3]);
        assert_eq!(item.version, u64::from(item.key[0]));
        keys.push(item.key[0]);
    }
    assert!(items.next().await.is_none(), "it is over");
    Ok(keys)
}

fn scanning(
    play: impl Fn(usize, &ScanRequest) -> Vec<Word<ScanResponse>> + Send + Sync + 'static,
) -> Plot {
    Plot {
        scan: Box::new(play),
        ..Plot::default()
    }
}

#[tokio::test]
async fn a_broken_scan_goes_on_behind_what_came() {
    let breaks = [
        Word::Break,
        Word::Refuse(Code::Unavailable),
        Word::Refuse(Code::DeadlineExceeded),
    ];
    let played = Played::with(scanning(move |number, scan| {
        let mut words = by_twos(scan);
        if let Some(end) = breaks.get(number) {
            words.truncate(number);
            words.push(end.clone());
        }
        words
    }));
    let client = played.client().await;
    let keys = scanned(&client, ScanOptions::default()).await.unwrap();
    assert_eq!(keys, (0..KEYS).collect::<Vec<_>>());
    let tokens: Vec<_> = (played.scans().into_iter())
        .map(|scan| String::from_utf8(scan.page_token.to_vec()).unwrap())
        .collect();
    assert_eq!(tokens, ["", "", "after 1", "after 5"]);
}

#[tokio::test]
async fn a_scan_that_the_server_cut_short_goes_on_and_keeps_its_limit() {
    let played = Played::with(scanning(|_, scan| {
        let mut words = by_twos(scan);
        words.truncate(1);
        words
    }));
    let client = played.client().await;
    let limited = ScanOptions {
        limit: Some(5),
        ..ScanOptions::default()
    };
    assert_eq!(scanned(&client, limited).await.unwrap(), [0, 1, 2, 3, 4]);
    let limits: Vec<_> = played.scans().iter().map(|scan| scan.limit).collect();
    assert_eq!(limits, [5, 3, 1]);
    let nothing = ScanOptions {
        limit: Some(0),
        ..ScanOptions::default()
    };
    let refused = scanned(&client, nothing).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("limit: at least 1"), "{refused}");
    assert_eq!(played.scans().len(), 3, "nothing is not asked for");
}

#[tokio::test]
async fn another_coordinator_goes_on_with_a_scan() {
    let breaking = Played::with(scanning(|_, scan| {
        let mut words = by_twos(scan);
        words.truncate(2);
        words.push(Word::Hang);
        words
    }));
    let answering = Played::with(scanning(|_, scan| by_twos(scan)));
    let client = (breaking.builder())
        .address(answering.address.to_string())
        .in_order()
        .timeout(Duration::from_secs(2))
        .connect()
        .await
        .unwrap();
    let keys = scanned(&client, ScanOptions::default()).await.unwrap();
    assert_eq!(keys, (0..KEYS).collect::<Vec<_>>());
    assert_eq!(answering.scans()[0].page_token, "after 3");
}

#[tokio::test]
async fn a_scan_ends_with_what_does_not_pass_or_takes_too_long() {
    for (word, code) in [
        (Word::Refuse(Code::TokenExpired), Code::TokenExpired),
        (Word::Refuse(Code::InvalidArgument), Code::InvalidArgument),
        (Word::Hang, Code::DeadlineExceeded),
        (Word::Break, Code::Unavailable),
    ] {
        let played = Played::with(scanning(move |_, _| vec![word.clone()]));
        let timeout = Duration::from_millis(300);
        let client = played.client().await.with_timeout(timeout);
        let began = Instant::now();
        let error = scanned(&client, ScanOptions::default()).await.unwrap_err();
        assert_eq!(error.code(), code);
        assert!(began.elapsed() < timeout + Duration::from_secs(3));
    }
}

#[tokio::test]
async fn pages_follow_each_other_by_their_tokens() {
    let played = Played::with(scanning(|number, scan| match number {
        0 => vec![Word::Break],
        _ => by_twos(scan),
    }));
    let client = played.client().await;
    let mut keys = Vec::new();
    let mut page_token = None;
    loop {
        let options = ScanOptions {
            limit: Some(4),
            page_token,
            ..ScanOptions::default()
        };
        let page = client.scan_page(Selection::range("a", "z"), options).await;
        let Page {
            items,
            next_page_token,
        } = page.unwrap();
        keys.push(items.iter().map(|item| item.key[0]).collect::<Vec<_>>());
        page_token = next_page_token;
        if page_token.is_none() {
            break;
        }
    }
    assert_eq!(keys, [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8, 9]]);
    let range = v1::KeyRange {
        start: "a".into(),
        end: "z".into(),
    };
    for scan in played.scans() {
        let selection = scan.selection.unwrap();
        assert_eq!(selection, scan_request::Selection::Range(range.clone()));
    }
    let empty = Played::with(scanning(|_, _| Vec::new()));
    let client = empty.client().await;
    let page = client.scan_page(Selection::all(), ScanOptions::default());
    assert_eq!(page.await.unwrap(), Page::default());
    assert_eq!(empty.scans()[0].limit, tierkv::DEFAULT_PAGE_ITEMS);
}

#[tokio::test]
async fn a_count_is_asked_for_again() {
    let played = Played::with(Plot {
        count: Box::new(|number, _| match number {
            0 => Err(Code::Unavailable),
            1 => Ok(7),
            _ => Err(Code::InvalidArgument),
        }),
        ..Plot::default()
    });
    let client = played.client().await;
    assert_eq!(client.count(Selection::prefix("a")).await.unwrap(), 7);
    let error = client.count(Selection::all()).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert_eq!(played.counts().len(), 3);
}

#[tokio::test]
async fn in_a_session_that_wrote_scans_and_counts_read_the_newest() {
    let played = Played::with(Plot {
        operation: Box::new(|_, _| played::put_answer(7)),
        scan: Box::new(|_, _| Vec::new()),
        count: Box::new(|_, _| Ok(0)),
        ..Plot::default()
    });
    let session = played.client().await.session();
    for _ in 0..2 {
        scanned(&session, ScanOptions::default()).await.unwrap();
        session.count(Selection::all()).await.unwrap();
        session.put("key", "value").await.unwrap();
    }
    let latest = v1::ReadOptions {
        consistency: v1::Consistency::Latest.into(),
        ..v1::ReadOptions::default()
    };
    let scans = played.scans().into_iter().map(|scan| scan.options);
    assert_eq!(scans.collect::<Vec<_>>(), [None, Some(latest)]);
    let counts = played.counts().into_iter().map(|count| count.options);
    assert_eq!(counts.collect::<Vec<_>>(), [None, Some(latest)]);
    assert_eq!(Consistency::default(), Consistency::Cached);
}

fn event(version: u64, value: Option<&'static str>) -> WatchEvent {
    WatchEvent {
        key: "key".into(),
        version,
        kind: Some(match value {
            Some(value) => watch_event::Kind::Written(Written {
                value: value.into(),
                expires_at_ms: 0,
            }),
            None => watch_event::Kind::Removed(Removed {}),
        }),
    }
}

fn watched(events: Vec<WatchEvent>, token: &'static str) -> Word<WatchResponse> {
    Word::Send(WatchResponse {
        events,
        resume_token: token.into(),
        is_partial: false,
    })
}

fn watching(
    play: impl Fn(usize, &WatchRequest) -> Vec<Word<WatchResponse>> + Send + Sync + 'static,
) -> Plot {
    Plot {
        watch: Box::new(play),
        ..Plot::default()
    }
}

#[tokio::test]
async fn a_watch_goes_on_by_its_token_until_that_expired() {
    let played = Played::with(watching(|number, _| match number {
        0 => vec![Word::Refuse(Code::Unavailable)],
        1 => vec![
            watched(vec![], "t0"),
            watched(vec![event(1, Some("one")), event(2, None)], "t1"),
            Word::Break,
        ],
        2 => vec![
            watched(vec![event(3, Some("three"))], "t2"),
            watched(vec![], "t3"),
        ],
        // No coordinator answers for a while.
        3 | 4 => vec![Word::Refuse(Code::Unavailable)],
        _ => vec![Word::Refuse(Code::TokenExpired)],
    }));
    let client = played.client().await;
    let mut watch = client.watch("k").await.unwrap();
    assert_eq!(watch.resume_token(), "t0");
    let written = |value: &'static str| Change::Written {
        value: value.into(),
        expires_at: None,
    };
    for (version, change, token) in [
        // The token covers both events, so it moves on with the second.
        (1, written("one"), "t0"),
        (2, Change::Removed, "t1"),
        (3, written("three"), "t2"),
    ] {
        let event = watch.next().await.unwrap().unwrap();
        assert_eq!((event.version, event.change), (version, change));
        assert_eq!(watch.resume_token(), token);
    }
    let error = watch.next().await.unwrap().unwrap_err();
    assert_eq!(error.code(), Code::TokenExpired);
    assert_eq!(
        watch.resume_token(),
        "t3",
        "tokens move without events, too"
    );
    assert!(watch.next().await.is_none());
    let asked: Vec<_> = (played.watches().into_iter())
        .map(|watch| String::from_utf8(watch.resume_token.to_vec()).unwrap())
        .collect();
    assert_eq!(asked, ["", "", "t1", "t3", "t3", "t3"]);
}

#[tokio::test]
async fn a_watch_goes_on_at_another_coordinator() {
    let first = Played::with(watching(|_, _| {
        vec![
            watched(vec![], "t0"),
            watched(vec![event(1, None)], "t1"),
            Word::Hang,
        ]
    }));
    let second = Played::with(watching(|_, _| {
        vec![
            watched(vec![], "t2"),
            watched(vec![event(2, None)], "t3"),
            Word::Hang,
        ]
    }));
    let client = (first.builder())
        .address(second.address.to_string())
        .in_order()
        .connect()
        .await
        .unwrap();
    let mut watch = client.watch("k").await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().version, 1);
    drop(first);
    assert_eq!(watch.next().await.unwrap().unwrap().version, 2);
    assert_eq!(second.watches()[0].resume_token, "t1");
}

#[tokio::test]
async fn a_watch_that_can_not_begin_fails() {
    let played = Played::with(watching(|_, watch| match watch.resume_token.is_empty() {
        true => vec![Word::Break],
        false => vec![Word::Refuse(Code::TokenExpired)],
    }));
    let client = played
        .client()
        .await
        .with_timeout(Duration::from_millis(200));
    let error = client.watch("k").await.map(drop).unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    let error = client.watch_from("k", "old").await.map(drop).unwrap_err();
    assert_eq!(error.code(), Code::TokenExpired);
}
