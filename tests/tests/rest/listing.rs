//! Listing keys by pages, and counting them.

use serde_json::{Value, json};
use tierkv_tests::ephemeral::Ephemeral;

use crate::{get, problem, put};

async fn page(platform: &Ephemeral, query: &str) -> Value {
    let response = get(platform, &format!("/v1/kv/n?{query}")).await;
    assert_eq!(response.status, 200, "{query}: {response:?}");
    response.json()
}

fn keys(page: &Value) -> Vec<&str> {
    let items = page["items"].as_array().unwrap();
    items
        .iter()
        .map(|item| item["key"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn keys_are_listed_by_prefix_and_range() {
    let platform = Ephemeral::start().await.unwrap();
    let mut version = 0;
    for key in ["a", "a%2Fb", "a%2Bb", "b", "c"] {
        version = put(&platform, &format!("/v1/kv/n/{key}"), key.as_bytes()).await;
    }
    put(&platform, "/v1/kv/n/d?ttl=60s", b"\xff").await;
    put(&platform, "/v1/kv/other/a", b"elsewhere").await;
    assert_eq!(
        keys(&page(&platform, "").await),
        ["a", "a+b", "a/b", "b", "c", "d"]
    );
    for (query, expected) in [
        ("prefix=a", &["a", "a+b", "a/b"][..]),
        ("prefix=a/", &["a/b"]),
        ("prefix=a+", &["a+b"]),
        ("prefix_base64=YSs=", &["a+b"]),
        ("prefix=x", &[]),
        ("start=b&end=d", &["b", "c"]),
        ("start=c", &["c", "d"]),
        ("end=a%2B", &["a"]),
        ("start_base64=Yw&end_base64=ZA", &["c"]),
        ("prefix=a&consistency=latest", &["a", "a+b", "a/b"]),
    ] {
        let found = page(&platform, query).await;
        assert_eq!(keys(&found), expected, "{query}");
        assert!(found["next_page_token"].is_null(), "{query}");
    }
    let listed = page(&platform, "start=c").await;
    let expected = json!({"key": "c", "value": "c", "version": version.to_string()});
    assert_eq!(listed["items"][0], expected);
    assert_eq!(listed["items"][1]["value_base64"], "/w==");
    assert!(listed["items"][1]["expires_at"].as_u64().unwrap() > (version >> 16) + 50_000);

    for (query, count) in [
        ("", 6),
        ("prefix=a", 3),
        ("start=b&end=d", 2),
        ("prefix=x", 0),
    ] {
        let response = get(&platform, &format!("/v1/count/n?{query}")).await;
        assert_eq!(response.json(), json!({"count": count}), "{query}");
    }
}

#[tokio::test]
async fn pages_list_every_key_once() {
    let platform = Ephemeral::start().await.unwrap();
    let mut versions = Vec::new();
    for number in 0..250 {
        let key = format!("k{number:04}");
        let version = put(&platform, &format!("/v1/kv/n/{key}"), b"v").await;
        versions.push((key, version.to_string()));
    }
    assert_eq!(keys(&page(&platform, "").await).len(), 100, "the default");
    for limit in [1, 7, 100, 250, 1_000] {
        let mut found = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let on = token.map_or(String::new(), |token| format!("&page_token={token}"));
            let page = page(&platform, &format!("prefix=k&limit={limit}{on}")).await;
            let items = page["items"].as_array().unwrap();
            assert!(items.len() <= limit, "{} of {limit}", items.len());
            found.extend(items.iter().map(|item| {
                let text = |name: &str| item[name].as_str().unwrap().to_owned();
                (text("key"), text("version"))
            }));
            token = page["next_page_token"].as_str().map(str::to_owned);
            if token.is_none() {
                break;
            }
        }
        assert_eq!(found, versions, "with a limit of {limit}");
    }
}

#[tokio::test]
async fn a_page_of_large_values_ends_before_its_limit() {
    let platform = Ephemeral::start().await.unwrap();
    for number in 0..9 {
        put(
            &platform,
            &format!("/v1/kv/n/{number}"),
            &vec![b'v'; 1 << 20],
        )
        .await;
    }
    let (mut found, mut pages, mut token) = (Vec::new(), 0, String::new());
    loop {
        let on = if token.is_empty() {
            String::new()
        } else {
            format!("page_token={token}")
        };
        let page = page(&platform, &on).await;
        found.extend(keys(&page).into_iter().map(str::to_owned));
        pages += 1;
        match page["next_page_token"].as_str() {
            Some(next) => token = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(
        found,
        (0..9).map(|number| number.to_string()).collect::<Vec<_>>()
    );
    assert!(pages > 1, "9 MiB in one page");
}

#[tokio::test]
async fn a_bad_selection_is_refused() {
    let platform = Ephemeral::start().await.unwrap();
    put(&platform, "/v1/kv/n/a", b"v").await;
    for (query, word) in [
        ("prefix=a&start=b", "exclude"),
        ("prefix=a&prefix_base64=YQ==", "one of them"),
        ("prefix_base64=?", "base64"),
        ("limit=0", "limit must be a whole number from 1 to 1000"),
        ("limit=1001", "(the limit max_page_items), not '1001'"),
        ("limit=-1", "limit"),
        ("limit=4294967296", "limit"),
        ("page_token=?", "as it was given in next_page_token"),
        ("page_token=YWJj", "token"),
        ("consistency=newest", "one of"),
        ("prefix=a&prefix=b", "twice"),
        ("explain=true", "explain"),
        ("page=2", "'page'"),
    ] {
        let response = get(&platform, &format!("/v1/kv/n?{query}")).await;
        let words = problem(&response, 400, "InvalidArgument").detail;
        assert!(words.contains(word), "{query}: {words}");
    }
    for query in ["prefix=a&end=b", "limit=5", "page_token=YWJj"] {
        let response = get(&platform, &format!("/v1/count/n?{query}")).await;
        problem(&response, 400, "InvalidArgument");
    }
    assert_eq!(keys(&page(&platform, "").await), ["a"]);
}
