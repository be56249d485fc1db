//! Batch reads, atomic batches and increments.

use serde_json::json;
use tierkv_tests::ephemeral::Ephemeral;

use crate::{get, post, problem, put};

#[tokio::test]
async fn a_batch_get_returns_the_keys_in_the_order_of_the_request() {
    let platform = Ephemeral::start().await.unwrap();
    let version = put(&platform, "/v1/kv/n/text?ttl=60s", "€".as_bytes()).await;
    put(&platform, "/v1/kv/n/%FF", b"\xfe").await;
    // Clients rewrite this key in an address.
    put(&platform, "/v1/kv/n/%2E%2E", b"").await;
    let asked = json!({
        "namespace": "n",
        "consistency": "latest",
        "keys": [{"key_base64": "/w=="}, {"key": "absent"}, {"key": "text"}, {"key": ".."}],
    });
    let response = post(&platform, "/v1/batch-get", &asked).await;
    assert_eq!(response.status, 200, "{response:?}");
    let answer = response.json();
    let [odd, absent, text, dots] = &answer["answers"].as_array().unwrap()[..] else {
        panic!("four answers, not {answer}");
    };
    assert_eq!(
        (&odd["key_base64"], &odd["value_base64"]),
        (&json!("/w=="), &json!("/g=="))
    );
    assert!(odd["key"].is_null() && odd["value"].is_null());
    assert_eq!(
        (&absent["key"], &absent["found"]),
        (&json!("absent"), &json!(false))
    );
    assert!(absent["value"].is_null());
    assert_eq!(
        (&text["value"], &text["source"]),
        (&json!("€"), &json!("master"))
    );
    assert_eq!(text["version"], version.to_string());
    assert_eq!(text["expires_at"], (version >> 16) + 60_000);
    assert_eq!((&dots["key"], &dots["value"]), (&json!(".."), &json!("")));

    let own =
        json!({"namespace": "n", "keys": [{"key": "text"}], "min_version": version.to_string()});
    let found = post(&platform, "/v1/batch-get", &own).await;
    assert_eq!(found.json()["answers"][0]["value"], "€");
    let empty = post(&platform, "/v1/batch-get", &json!({"keys": []})).await;
    assert_eq!(empty.json(), json!({"answers": []}));
}

#[tokio::test]
async fn a_batch_is_all_or_nothing() {
    let platform = Ephemeral::start().await.unwrap();
    let batch = json!({
        "conditions": [{"key": "leader", "if_absent": true}],
        "operations": [
            {"put": {"key": "leader", "value": "me", "ttl_ms": 60_000}},
            {"put": {"key_base64": "/w==", "value_base64": "/g=="}},
            {"increment": {"key": "terms", "delta": "5"}},
            {"delete": {"key": "absent"}},
        ],
    });
    let first = post(&platform, "/v1/write", &batch).await;
    assert_eq!(first.status, 200, "{first:?}");
    let answer = first.json();
    let version = answer["version"].as_str().unwrap();
    assert_eq!(
        first.header("etag"),
        Some(format!("\"{version}\"").as_str())
    );
    let expected = json!([{}, {}, {"number": "5"}, {"existed": false}]);
    assert_eq!(
        (&answer["results"], &answer["replayed"]),
        (&expected, &json!(false))
    );
    let leader = get(&platform, "/v1/kv/default/leader").await;
    assert_eq!(leader.body, b"me");
    assert_eq!(leader.header("etag"), first.header("etag"));
    assert!(leader.header("tierkv-expires-at-ms").is_some());
    assert_eq!(get(&platform, "/v1/kv/default/%FF").await.body, b"\xfe");

    problem(
        &post(&platform, "/v1/write", &batch).await,
        412,
        "ConditionFailed",
    );
    assert_eq!(
        get(&platform, "/v1/kv/default/terms").await.body,
        b"5",
        "counted twice"
    );

    let swap = json!({
        "conditions": [{"key": "leader", "if_version": version}],
        "operations": [
            {"put": {"key": "leader", "value": "you"}},
            {"put": {"key": "new", "value": ""}},
        ],
        "return_previous": true,
    });
    let swapped = post(&platform, "/v1/write", &swap).await.json();
    let expected = json!([
        {"existed": true, "previous_value": "me", "previous_version": version},
        {"existed": false},
    ]);
    assert_eq!(swapped["results"], expected, "{swapped}");
    problem(
        &post(&platform, "/v1/write", &swap).await,
        412,
        "ConditionFailed",
    );
}

#[tokio::test]
async fn an_invalid_batch_changes_nothing() {
    let platform = Ephemeral::start().await.unwrap();
    let puts = |count: usize| -> Vec<_> {
        (0..count)
            .map(|number| json!({"put": {"key": number.to_string(), "value": ""}}))
            .collect()
    };
    for batch in [
        json!({"operations": []}),
        json!({"operations": [{"delete": {"key": "0"}}, {"put": {"key": "0", "value": ""}}]}),
        json!({"operations": puts(1_001)}),
        json!({"operations": [{"put": {"key": "0", "value": "x"}}, {"delete": {"key": ""}}]}),
    ] {
        let response = post(&platform, "/v1/write", &batch).await;
        problem(&response, 400, "InvalidArgument");
    }
    problem(&get(&platform, "/v1/kv/default/0").await, 404, "NotFound");
}

#[tokio::test]
async fn increments_are_exact_over_all_64_bits() {
    let platform = Ephemeral::start().await.unwrap();
    let path = "/v1/increment/default/n";
    let add =
        async |delta: serde_json::Value| post(&platform, path, &json!({"delta": delta})).await;
    let first = add(json!(7)).await;
    assert_eq!(
        (first.status, &first.json()["value"]),
        (200, &json!("7")),
        "{first:?}"
    );
    assert_eq!(add(json!("-9")).await.json()["value"], "-2");
    let largest = add(json!("9223372036854775807")).await.json();
    assert_eq!(largest["value"], "9223372036854775805");
    assert_eq!(
        get(&platform, "/v1/kv/default/n").await.body,
        b"9223372036854775805"
    );
    let over = add(json!(3)).await;
    problem(&over, 400, "InvalidArgument");
    assert_eq!(add(json!(0)).await.json()["value"], "9223372036854775805");

    put(&platform, "/v1/kv/default/n", b"seven").await;
    problem(&add(json!(1)).await, 400, "InvalidArgument");
    let conditional = crate::send(
        &platform,
        "POST",
        path,
        &[("content-type", "application/json"), ("if-match", "*")],
        b"{\"delta\": 1}",
    );
    problem(&conditional.await, 400, "InvalidArgument");
}
