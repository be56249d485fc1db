//! Clients that others make of the contract: a Python and a TypeScript client generated of the
//! REST gateway's document, and a Node client of the `.proto` files. Each does every operation
//! of a real server.

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

/// How long a step may take at the very most.
const LIMIT: Duration = Duration::from_secs(120);

#[tokio::test]
async fn a_python_client_is_generated() {
    let platform = Ephemeral::start().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let example = folder.path().join("example.py");
    let addressed = shown("python").replace("127.0.0.1:7480", &platform.rest);
    fs::write(&example, addressed).unwrap();
    let arguments = [platform.rest.as_str(), example.to_str().unwrap()];
    let said = outside::script("generated_python.py", &arguments, LIMIT).await;
    let said = said.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(said, "15 operations\n1\n2026/pier\ndone\n");
}

#[tokio::test]
async fn a_typescript_client_is_generated() {
    let platform = Ephemeral::start().await.unwrap();
    let folder = NodeFolder::new().unwrap();
    let document = format!("http://{}/openapi.json", platform.rest);
    let generate = [document.as_str(), "--output", "tierkv.d.ts"];
    let said = folder.program("openapi-typescript", &generate, LIMIT).await;
    said.unwrap_or_else(|error| panic!("{error}"));
    let types = folder.read("tierkv.d.ts").unwrap();
    for name in operations(&platform.rest).await {
        assert!(types.contains(&format!("\n    {name}: {{\n")), "no {name}");
    }

    let example = shown("ts").replace("127.0.0.1:7480", &platform.rest);
    folder.write("example.ts", &example).unwrap();
    let checked = folder.program("tsc", &["--project", "."], LIMIT).await;
    checked.unwrap_or_else(|error| panic!("{error}"));
    let arguments = [platform.rest.as_str()];
    let said = folder.script("rest_client.js", &arguments, LIMIT).await;
    let said = said.unwrap_or_else(|error| panic!("{error}"));
    assert!(said.ends_with("done\n"), "{said}");
    let said = folder.script("example.js", &[], LIMIT).await;
    assert_eq!(said.unwrap_or_else(|error| panic!("{error}")), "256\n");
}

#[tokio::test]
async fn a_node_client_needs_only_the_files_of_the_contract() {
    let platform = Ephemeral::start().await.unwrap();
    let folder = NodeFolder::new().unwrap();
    let files = repository().join("proto/proto");
    let arguments = [platform.grpc.as_str(), files.to_str().unwrap()];
    let said = folder.script("grpc_client.mjs", &arguments, LIMIT).await;
    let said = said.unwrap_or_else(|error| panic!("{error}"));
    assert!(said.ends_with("done\n"), "{said}");

    let example = shown("js")
        .replace("127.0.0.1:7400", &platform.grpc)
        .replace("\"proto/proto\"", &format!("{files:?}"));
    folder.write("example.mjs", &example).unwrap();
    let said = folder.script("example.mjs", &[], LIMIT).await;
    let said = said.unwrap_or_else(|error| panic!("{error}"));
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 3, "{said}");
    assert!(lines[0].starts_with("hello SOURCE_"), "{said}");
    assert!(lines[1].starts_with("greeting "), "{said}");
    assert!(lines[2].starts_with("CODE_NOT_FOUND "), "{said}");
}

/// What `docs/clients.md` shows in this language.
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
        "docs/clients.md shows nothing in {language}"
    );
    code
}

/// The operations that the server's document has.
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
