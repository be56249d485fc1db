//! Pages of other web sites in a real browser must not reach a platform on this machine, unless
//! their origin is listed.

// Test helpers panic as tests do.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use tierkv_harness::free_port;
use tierkv_tests::{ephemeral::Ephemeral, outside};

/// Timeout for the browser.
const LIMIT: Duration = Duration::from_secs(180);

#[tokio::test]
async fn pages_of_other_sites_are_refused_in_a_browser() {
    let pages = free_port().unwrap().to_string();
    let list = format!("rest.allowed_origins=http://app.test:{pages}");
    let closed = Ephemeral::start().await.unwrap();
    let open = Ephemeral::start_with(&["--set", &list]).await.unwrap();
    let chromium = outside::installed("chromium").unwrap();
    let driver = outside::installed("chromedriver").unwrap();
    let profile = tempfile::tempdir().unwrap();
    let arguments = [
        closed.rest.as_str(),
        open.rest.as_str(),
        &pages,
        chromium.to_str().unwrap(),
        driver.to_str().unwrap(),
        profile.path().to_str().unwrap(),
    ];
    let printed = outside::script("web_pages.py", &arguments, LIMIT).await;
    assert_eq!(printed.unwrap_or_else(|error| panic!("{error}")), "done\n");
}
