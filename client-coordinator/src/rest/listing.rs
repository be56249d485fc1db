//! Lists and counts keys by prefix or range.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::Response,
};
use bytes::Bytes;
use futures::StreamExt;
use tierkv_cache::Cache;
use tierkv_openapi::{
    answers::{Counted, Page},
    octets,
    parameters::{
        ListingParameters, NamespacePath, PageParameters, SelectionParameters, TimeoutParameter,
    },
    refusals::{AnyRefusal, TokenRefusal},
};
use tierkv_rpc::proto::v1::{
    CountRequest, KeyRange, ScanItem, ScanRequest, ScanResponse, scan_request::Selection,
};
use tierkv_types::Error;
use tokio::time::{Instant, timeout_at};

use crate::answers::Answers;

use super::{
    Gateway,
    answer::{Failure, json},
    parameters::Parameters,
    path,
};

/// The page size if the request has no limit.
const DEFAULT_PAGE_ITEMS: u32 = 100;
/// Maximum page size. Over it: `InvalidArgument`.
const MAX_PAGE_ITEMS: u32 = 1_000;
/// Size of keys and values at which a page ends; the first item always fits.
const PAGE_BYTES: usize = 4 << 20;

/// Parses the selection; without parameters, it is all keys.
fn selection(parameters: &mut Parameters) -> Result<Selection, Error> {
    let prefix = parameters.octets("prefix")?;
    let start = parameters.octets("start")?;
    let end = parameters.octets("end")?;
    match (prefix, start, end) {
        (prefix, None, None) => Ok(Selection::Prefix(prefix.unwrap_or_default())),
        (None, start, end) => Ok(Selection::Range(KeyRange {
            start: start.unwrap_or_default(),
            end: end.unwrap_or_default(),
        })),
        _ => Err(Error::invalid(
            "a prefix and a range (start, end) exclude each other; give one of them",
        )),
    }
}

/// A page of keys
///
/// In the order of their keys. A page of large values may have fewer items than its limit;
/// only a page without `next_page_token` is the last one.
#[utoipa::path(
    get, path = "/v1/kv/{namespace}", tag = "listing", operation_id = "list",
    params(NamespacePath, SelectionParameters, PageParameters, ListingParameters, TimeoutParameter),
    responses(
        (status = 200, description = "The page.", body = Page),
        AnyRefusal, TokenRefusal,
    ),
)]
pub(super) async fn list<C: Cache>(
    State(gateway): State<Arc<Gateway<C>>>,
    request: Request,
) -> Result<Response, Failure> {
    let namespace = path::namespace(request.uri(), path::KV)?;
    let mut parameters = Parameters::of(request.uri())?;
    let selection = selection(&mut parameters)?;
    let limit = parameters.number("limit", 1..=MAX_PAGE_ITEMS, Some("max_page_items"))?;
    let page_token = match parameters.text("page_token")? {
        Some(token) => octets::token_bytes("page_token", "next_page_token", &token)?,
        None => Bytes::new(),
    };
    let options = parameters.read_options()?;
    let deadline = parameters.deadline()?;
    parameters.finish()?;
    let scan = ScanRequest {
        namespace,
        selection: Some(selection),
        limit: limit.unwrap_or(DEFAULT_PAGE_ITEMS),
        page_token,
        options: Some(options),
    };
    let answers = gateway.operations.scan(scan, deadline).await?;
    Ok(json(&page(answers, deadline).await?))
}

/// Collects a page from the responses of a scan.
async fn page(mut answers: Answers<ScanResponse>, deadline: Instant) -> Result<Page, Error> {
    let mut items: Vec<ScanItem> = Vec::new();
    let mut bytes = 0;
    let mut next = Bytes::new();
    loop {
        let answer = timeout_at(deadline, answers.next()).await;
        let answer = answer.map_err(|_| {
            Error::new(
                tierkv_types::Code::DeadlineExceeded,
                "the page was not read within the timeout; lower the limit or raise the timeout",
            )
        })?;
        let Some(answer) = answer.transpose()? else {
            break;
        };
        let more: usize = (answer.items.iter())
            .map(|item| item.key.len() + item.value.len())
            .sum();
        if !items.is_empty() && bytes + more > PAGE_BYTES {
            // The item that does not fit starts the next page.
            break;
        }
        bytes += more;
        items.extend(answer.items);
        next = answer.next_page_token;
        if next.is_empty() {
            break;
        }
    }
    Ok(Page::new(items, &next))
}

/// The number of keys
#[utoipa::path(
    get, path = "/v1/count/{namespace}", tag = "listing", operation_id = "count",
    params(NamespacePath, SelectionParameters, ListingParameters, TimeoutParameter),
    responses(
        (status = 200, description = "The number.", body = Counted),
        AnyRefusal,
    ),
)]
pub(super) async fn count<C: Cache>(
    State(gateway): State<Arc<Gateway<C>>>,
    request: Request,
) -> Result<Response, Failure> {
    let namespace = path::namespace(request.uri(), path::COUNT)?;
    let mut parameters = Parameters::of(request.uri())?;
    let selection = selection(&mut parameters)?.into();
    let options = parameters.read_options()?;
    let deadline = parameters.deadline()?;
    parameters.finish()?;
    let wanted = CountRequest {
        namespace,
        selection: Some(selection),
        options: Some(options),
    };
    let count = gateway.operations.count(wanted, deadline).await?.count;
    Ok(json(&Counted { count }))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::stream;

    use super::*;

    fn response(keys: &[&'static str], value: usize, next: &'static str) -> ScanResponse {
        let item = |key: &&'static str| ScanItem {
            key: Bytes::from_static(key.as_bytes()),
            value: vec![b'v'; value].into(),
            version: 1,
            expires_at_ms: 0,
        };
        ScanResponse {
            items: keys.iter().map(item).collect(),
            next_page_token: Bytes::from_static(next.as_bytes()),
        }
    }

    async fn gathered(answers: Vec<Result<ScanResponse, Error>>) -> Result<(usize, bool), Error> {
        let deadline = Instant::now() + Duration::from_secs(5);
        let page = page(stream::iter(answers).boxed(), deadline).await?;
        Ok((page.items.len(), page.next_page_token.is_some()))
    }

    #[tokio::test]
    async fn a_page_ends_with_its_scan() {
        let answers = vec![
            Ok(response(&["a", "b"], 1, "b")),
            Ok(response(&["c"], 1, "")),
        ];
        assert_eq!(gathered(answers).await, Ok((3, false)));
        // A page at its limit has a token.
        assert_eq!(
            gathered(vec![Ok(response(&["a"], 1, "a"))]).await,
            Ok((1, true))
        );
        assert_eq!(gathered(vec![]).await, Ok((0, false)));
    }

    #[tokio::test]
    async fn a_page_of_large_values_is_closed_and_loses_none() {
        let answers = vec![
            Ok(response(&["a"], 3 << 20, "a")),
            Ok(response(&["b"], 3 << 20, "b")),
            Ok(response(&["c"], 3 << 20, "")),
        ];
        assert_eq!(gathered(answers).await, Ok((1, true)));
        let large = vec![Ok(response(&["a"], 5 << 20, "a"))];
        assert_eq!(gathered(large).await, Ok((1, true)));
    }

    #[tokio::test]
    async fn a_scan_that_fails_gives_no_page() {
        let answers = vec![
            Ok(response(&["a"], 1, "a")),
            Err(Error::unavailable("the master went")),
        ];
        assert!(gathered(answers).await.is_err());
        let never = stream::pending().boxed();
        let late = page(never, Instant::now() + Duration::from_millis(1)).await;
        assert_eq!(late.unwrap_err().code, tierkv_types::Code::DeadlineExceeded);
    }
}
