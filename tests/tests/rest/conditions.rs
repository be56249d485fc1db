//! Conditional requests.

use tierkv_tests::ephemeral::Ephemeral;

use crate::{call, get, problem, put, send};

const PATH: &str = "/v1/kv/default/k";

#[tokio::test]
async fn a_client_that_has_the_current_version_gets_304_without_the_value() {
    let platform = Ephemeral::start().await.unwrap();
    let version = put(&platform, PATH, b"v").await;
    let (etag, weak) = (format!("\"{version}\""), format!("W/\"{version}\""));
    let listed = format!("\"1\", {etag}");
    for method in ["GET", "HEAD"] {
        for tags in [&etag, &weak, &listed, "*"] {
            let response = send(&platform, method, PATH, &[("if-none-match", tags)], b"").await;
            assert_eq!((response.status, response.body.len()), (304, 0), "{tags}");
            assert_eq!(response.header("etag"), Some(etag.as_str()));
            assert!(response.header("tierkv-age-ms").is_some());
        }
        for tags in ["\"1\"", "\"x\""] {
            let response = send(&platform, method, PATH, &[("if-none-match", tags)], b"").await;
            assert_eq!(response.status, 200, "{tags}");
        }
        for tags in [&etag, &listed, "*"] {
            let response = send(&platform, method, PATH, &[("if-match", tags)], b"").await;
            assert_eq!(response.status, 200, "{tags}");
        }
        for tags in [&weak, "\"1\""] {
            let response = send(&platform, method, PATH, &[("if-match", tags)], b"").await;
            assert_eq!(response.status, 412, "{tags}");
        }
    }
    // An absent key has no version to compare.
    call(&platform, "DELETE", PATH).await;
    let absent = send(&platform, "GET", PATH, &[("if-none-match", "*")], b"").await;
    problem(&absent, 404, "NotFound");
}

#[tokio::test]
async fn a_write_is_applied_only_if_its_condition_holds() {
    let platform = Ephemeral::start().await.unwrap();
    let attempt = async |method: &str, header: (&str, &str), body: &[u8]| {
        send(&platform, method, PATH, &[header], body).await
    };
    let only_if_there = ("if-match", "*");
    let only_if_absent = ("if-none-match", "*");
    problem(
        &attempt("PUT", only_if_there, b"0").await,
        412,
        "ConditionFailed",
    );
    problem(
        &attempt("DELETE", only_if_there, b"").await,
        412,
        "ConditionFailed",
    );

    let created = attempt("PUT", only_if_absent, b"1").await;
    assert_eq!(created.status, 200, "{created:?}");
    problem(
        &attempt("PUT", only_if_absent, b"2").await,
        412,
        "ConditionFailed",
    );
    assert_eq!(get(&platform, PATH).await.body, b"1");

    let first = created.header("etag").unwrap();
    let changed = attempt("PUT", ("if-match", first), b"3").await;
    assert_eq!(changed.status, 200, "{changed:?}");
    problem(
        &attempt("PUT", ("if-match", first), b"4").await,
        412,
        "ConditionFailed",
    );
    problem(
        &attempt("DELETE", ("if-match", first), b"").await,
        412,
        "ConditionFailed",
    );
    let found = get(&platform, PATH).await;
    assert_eq!(
        (&found.body[..], found.header("etag")),
        (&b"3"[..], changed.header("etag"))
    );

    let second = changed.header("etag").unwrap();
    let deleted = attempt("DELETE", ("if-match", second), b"").await;
    assert_eq!(
        (deleted.status, &deleted.json()["existed"]),
        (200, &true.into())
    );
    problem(&get(&platform, PATH).await, 404, "NotFound");
}

#[tokio::test]
async fn a_write_with_an_invalid_condition_is_refused() {
    let platform = Ephemeral::start().await.unwrap();
    let version = put(&platform, PATH, b"before").await;
    let (etag, weak) = (format!("\"{version}\""), format!("W/\"{version}\""));
    let two = format!("{etag}, \"1\"");
    let bare = version.to_string();
    let date = "Sat, 21 Nov 2026 12:00:00 GMT";
    for (headers, word) in [
        (&[("if-match", bare.as_str())][..], "double quotes"),
        (&[("if-match", "")], "double quotes"),
        (&[("if-match", "\"1")], "double quotes"),
        (&[("if-match", &two)], "several"),
        (&[("if-unmodified-since", date)], "modification date"),
    ] {
        for method in ["PUT", "DELETE"] {
            let response = send(&platform, method, PATH, headers, b"after").await;
            let words = problem(&response, 400, "InvalidArgument").detail;
            assert!(words.contains(word), "{headers:?}: {words}");
        }
    }
    for headers in [
        &[("if-none-match", etag.as_str())][..],
        &[("if-match", &etag), ("if-none-match", "*")],
    ] {
        let response = send(&platform, "PUT", PATH, headers, b"after").await;
        problem(&response, 400, "InvalidArgument");
    }
    let response = send(&platform, "DELETE", PATH, &[("if-none-match", "*")], b"").await;
    problem(&response, 400, "InvalidArgument");
    for tags in [weak.as_str(), "\"x\"", "\"0\""] {
        for method in ["PUT", "DELETE"] {
            let response = send(&platform, method, PATH, &[("if-match", tags)], b"after").await;
            problem(&response, 412, "ConditionFailed");
        }
    }
    let malformed = send(&platform, "GET", PATH, &[("if-none-match", &bare)], b"").await;
    problem(&malformed, 400, "InvalidArgument");
    let found = get(&platform, PATH).await;
    assert_eq!(
        (&found.body[..], found.header("etag")),
        (&b"before"[..], Some(etag.as_str()))
    );
}
