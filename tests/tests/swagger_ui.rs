//! The Swagger UI of a real platform in a real browser.

// Test helpers panic as tests do.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use tierkv_tests::{ephemeral::Ephemeral, http::Request, outside};

/// Timeout for the browser.
const LIMIT: Duration = Duration::from_secs(180);

#[tokio::test]
async fn a_key_is_set_and_read_in_a_browser() {
    let platform = Ephemeral::start().await.unwrap();
    let chromium = outside::installed("chromium").unwrap();
    let driver = outside::installed("chromedriver").unwrap();
    let profile = tempfile::tempdir().unwrap();
    let arguments = [
        platform.rest.as_str(),
        chromium.to_str().unwrap(),
        driver.to_str().unwrap(),
        profile.path().to_str().unwrap(),
    ];
    let printed = outside::script("swagger_ui.py", &arguments, LIMIT).await;
    assert_eq!(printed.unwrap_or_else(|error| panic!("{error}")), "done\n");

    // The key was really set.
    let get = Request::new("GET", "/v1/kv/default/greeting");
    let found = get.send(&platform.rest).await.unwrap();
    assert_eq!(found.body, b"set by a browser");
}
