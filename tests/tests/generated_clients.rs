//! Generated clients: a Python and a TypeScript client from the REST gateway's OpenAPI document,
//! and a Node client from the `.proto` files. Each calls every operation of a real server.

// Test helpers panic as tests do.
#![allow(clippy::unwrap_used)]

use std::{fs, time::Duration};

use serde_json::Value;
use tierkv_tests::{
    binary::repository,
    ephemeral::Ephemeral,
    http::Request,
    outside::{self, NodeFolder},
};

/// Timeout for a step.
const LIMIT: Duration = Duration::from_secs(120);

#[tokio::test]
async fn a_generated_python_client_calls_every_operation() {
    let platform = Ephemeral::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let example = folder.path().join("example.py");
    let addressed = shown("python").replace("127.0.0.1:7480", &platform.rest);
    fs::write(&example, addressed).unwrap();
    let arguments = [platform.rest.as_str(), example.to_str().unwrap()];
    let printed = outside::script("generated_python.py", &arguments, LIMIT).await;
    let printed = printed.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(printed, "15 operations\n1\n2026/pier\ndone\n");
}

#[tokio::test]
async fn a_generated_typescript_client_calls_every_operation() {
    let platform = Ephemeral::start().await.unwrap();
    let folder = NodeFolder::new().unwrap();
    let document = format!("http://{}/openapi.json", platform.rest);
    let generate = [document.as_str(), "--output", "tierkv.d.ts"];
    let printed = folder.program("openapi-typescript", &generate, LIMIT).await;
    printed.unwrap_or_else(|error| panic!("{error}"));
    let types = folder.read("tierkv.d.ts").unwrap();
    for name in operations(&platform.rest).await {
        assert!(types.contains(&format!("\n    {name}: {{\n")), "no {name}");
    }

    let example = shown("ts").replace("127.0.0.1:7480", &platform.rest);
    folder.write("example.ts", &example).unwrap();
    let checked = folder.program("tsc", &["--project", "."], LIMIT).await;
    checked.unwrap_or_else(|error| panic!("{error}"));
    let arguments = [platform.rest.as_str()];
    let printed = folder.script("rest_client.js", &arguments, LIMIT).await;
    let printed = printed.unwrap_or_else(|error| panic!("{error}"));
    assert!(printed.ends_with("done\n"), "{printed}");
    let printed = folder.script("example.js", &[], LIMIT).await;
    assert_eq!(printed.unwrap_or_else(|error| panic!("{error}")), "256\n");
}

#[tokio::test]
async fn a_node_client_needs_only_the_files_of_the_contract() {
    let platform = Ephemeral::start().await.unwrap();
    let folder = NodeFolder::new().unwrap();
    let files = repository().join("proto/proto");
    let arguments = [platform.grpc.as_str(), files.to_str().unwrap()];
    let printed = folder.script("grpc_client.mjs", &arguments, LIMIT).await;
    let printed = printed.unwrap_or_else(|error| panic!("{error}"));
    assert!(printed.ends_with("done\n"), "{printed}");

    let example = shown("js")
        .replace("127.0.0.1:7400", &platform.grpc)
        .replace("\"proto/proto\"", &format!("{files:?}"));
    folder.write("example.mjs", &example).unwrap();
    let printed = folder.script("example.mjs", &[], LIMIT).await;
    let printed = printed.unwrap_or_else(|error| panic!("{error}"));
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines.len(), 3, "{printed}");
    assert!(lines[0].starts_with("hello SOURCE_"), "{printed}");
    assert!(lines[1].starts_with("greeting "), "{printed}");
    assert!(lines[2].starts_with("CODE_NOT_FOUND "), "{printed}");
}

/// The example of `docs/clients.md` in this language.
fn shown(language: &str) -> String {
    let page = fs::read_to_string(repository().join("docs/clients.md")).unwrap();
    let parts = page.split("\n```").map(|part| format!("{part}\n"));
    let parts = parts.filter_map(|part| {
        let code = part.strip_prefix(&format!("{language}\n"))?;
        Some(code.to_owned())
    });
    let code: String = parts.collect();
    assert!(
        !code.is_empty(),
        "docs/clients.md has no example in {language}"
    );
    code
}

/// The names of the operations in the server's OpenAPI document.
async fn operations(rest: &str) -> Vec<String> {
    let answer = Request::new("GET", "/openapi.json").send(rest).await;
    let document: Value = serde_json::from_slice(&answer.unwrap().body).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let names: Vec<_> = (paths.values())
        .flat_map(|path| path.as_object().unwrap().values())
        .map(|operation| operation["operationId"].as_str().unwrap().to_owned())
        .collect();
    assert!(names.len() >= 15, "{names:?}");
    names
}
