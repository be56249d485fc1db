//! Serves the API's description (OpenAPI) and the user interface for it (Swagger UI, built in).

use std::sync::{Arc, LazyLock};

use axum::{
    Router,
    extract::Path,
    http::{
        HeaderValue,
        header::{CONTENT_ENCODING, CONTENT_TYPE},
    },
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use tierkv_openapi::events::{ProgressEvent, RemovedEvent, WrittenEvent};
use tierkv_types::{Code, Error};
use utoipa::OpenApi;
use utoipa_swagger_ui::Config;

use super::{
    answer::{Failure, uncounted},
    batches, increments, keys, listing, operators, touches, watching,
};

/// The path of the document.
const DOCUMENT: &str = "/openapi.json";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "TierKV",
        description = "A layered key-value platform for read-heavy services: a cache tier and a \
                       durable store under one guarantee.\n\nKeys and values are any bytes. JSON \
                       carries them as text under `key` and `value`, or as base64 under \
                       `key_base64` and `value_base64`; versions are strings, because they \
                       exceed what a JSON number holds exactly. Every answer tells the \
                       platform's time in `tierkv-time-ms`. Failures are problems (RFC 9457) \
                       that say what to do next.",
    ),
    tags(
        (name = "keys", description = "Single keys."),
        (name = "batches", description = "Many keys at once."),
        (name = "listing", description = "Keys by prefix or range."),
        (name = "operators", description = "Topology, health and metrics."),
    ),
    paths(
        keys::get,
        keys::head,
        keys::put,
        keys::delete,
        increments::increment,
        touches::touch,
        batches::batch_get,
        batches::write,
        listing::list,
        listing::count,
        watching::watch,
        operators::cluster,
        operators::live,
        operators::ready,
        operators::metrics,
    ),
    // The data of a watch's events, which the stream's schema does not refer to.
    components(schemas(WrittenEvent, RemovedEvent, ProgressEvent)),
)]
struct Document;

/// The text of the document, built once.
static TEXT: LazyLock<String> = LazyLock::new(|| {
    let mut text = Document::openapi()
        .to_pretty_json()
        .unwrap_or_else(|error| format!("{{\"error\": \"{error}\"}}"));
    text.push('\n');
    text
});

/// The setup of the user interface. Its default setup asks a server on the internet to validate the
/// document, and takes values only from files. Text values are requested as text, because it shows
/// no others.
const SETUP: &str = r##"window.onload = () => {
  window.ui = SwaggerUIBundle({
    url: "/openapi.json",
    dom_id: "#swagger-ui",
    deepLinking: true,
    displayRequestDuration: true,
    tryItOutEnabled: true,
    validatorUrl: null,
    fileUploadMediaTypes: [],
    presets: [SwaggerUIBundle.presets.apis, SwaggerUIStandalonePreset],
    plugins: [() => ({ afterLoad() { this.fn.isFileUploadIntended = () => false; } })],
    requestInterceptor: (request) => {
      if (request.headers?.accept === "application/octet-stream") {
        request.headers.accept = "text/plain, application/octet-stream";
      }
      return request;
    },
    layout: "StandaloneLayout",
  });
};
"##;
/// The name of the user interface's setup file.
const SETUP_FILE: &str = "swagger-initializer.js";

/// The routes of the document and the user interface.
pub(super) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route(DOCUMENT, get(document))
        .route("/docs", get(async || Redirect::permanent("/docs/")))
        .route("/docs/", get(async || file("")))
        .route(
            "/docs/{*file}",
            get(async |Path(path): Path<String>| file(&path)),
        )
}

async fn document() -> Response {
    ([(CONTENT_TYPE, "application/json")], TEXT.as_str()).into_response()
}

/// A file of the user interface; the empty name is its start page.
fn file(name: &str) -> Response {
    if name == SETUP_FILE {
        return ([(CONTENT_TYPE, "text/javascript")], SETUP).into_response();
    }
    match utoipa_swagger_ui::serve(name, Arc::new(Config::from(DOCUMENT))) {
        Ok(Some(file)) => {
            let mut response = ([(CONTENT_TYPE, file.content_type)], file.bytes).into_response();
            if file.gzpipped {
                let gzip = HeaderValue::from_static("gzip");
                response.headers_mut().insert(CONTENT_ENCODING, gzip);
            }
            response
        }
        Ok(None) => uncounted(&Error::new(
            Code::NotFound,
            "the user interface has no such file; its start page is /docs/",
        )),
        Err(error) => Failure::from(Error::new(Code::Internal, error.to_string())).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs};

    use serde_json::Value;

    use super::*;

    const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../openapi/openapi.json");

    #[test]
    fn the_shipped_document_is_this_one() {
        assert!(
            fs::read_to_string(SHIPPED).is_ok_and(|shipped| shipped == *TEXT),
            "openapi/openapi.json drifted; regenerate it with `tierkv dev --ephemeral` \
             running: curl --output openapi/openapi.json http://127.0.0.1:7480/openapi.json"
        );
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_operation_has_a_name() {
        let document: Value = serde_json::from_str(&TEXT).unwrap();
        let mut names = BTreeSet::new();
        for (path, operations) in document["paths"].as_object().unwrap() {
            for operation in operations.as_object().unwrap().values() {
                let name = operation["operationId"].as_str().unwrap();
                assert!(
                    names.insert(name.to_owned()),
                    "{path}: {name} is there twice"
                );
                assert!(operation["summary"].is_string(), "{path}: no summary");
            }
        }
        assert_eq!(names.len(), 15);
        let mut waiting = vec![&document];
        while let Some(value) = waiting.pop() {
            if let Some(to) = value["$ref"].as_str() {
                let found = document.pointer(to.trim_start_matches('#'));
                assert!(found.is_some(), "{to} leads nowhere");
            }
            match value {
                Value::Array(items) => waiting.extend(items),
                Value::Object(fields) => waiting.extend(fields.values()),
                _ => {}
            }
        }
    }

    /// Client generators leave out a body without a schema, treat bytes as text unless a binary
    /// format comes first, and send only one of several types.
    #[test]
    fn every_body_has_a_schema_and_values_are_binary() {
        let document: Value = serde_json::from_str(&TEXT).unwrap();
        let operations = (document["paths"].as_object().unwrap().values())
            .flat_map(|path| path.as_object().unwrap().iter());
        let mut bodies = 0;
        for (method, operation) in operations {
            let name = &operation["operationId"];
            let request = operation.get("requestBody");
            let types = request.map(|body| body["content"].as_object().unwrap().len());
            assert!(types.is_none_or(|types| types == 1), "{name}: {types:?}");
            let answers = operation["responses"].as_object().unwrap();
            for (status, body) in answers.iter().map(|(status, body)| (&**status, body)) {
                let is_bare = method == "head" || status == "304";
                assert_eq!(body["content"].is_null(), is_bare, "{name}: {status}");
            }
            for content in (request.into_iter().chain(answers.values()))
                .filter_map(|body| body["content"].as_object())
            {
                bodies += 1;
                for (media_type, body) in content {
                    let schema = &body["schema"];
                    assert!(schema.is_object(), "{name}: {media_type} has no schema");
                    let is_binary = schema["format"] == "binary";
                    assert_eq!(
                        is_binary,
                        media_type == "application/octet-stream",
                        "{name}"
                    );
                }
            }
        }
        assert!(bodies > 100, "{bodies}");
        let get = TEXT.split("\"operationId\": \"get\"").nth(1).unwrap();
        let (bytes, text) = (get.find("application/octet-stream"), get.find("text/plain"));
        assert!(bytes < text, "GET answers bytes first");
    }
}
