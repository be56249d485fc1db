//! The structure of the workspace: which crates and files may import each other, which crates
//! may use which external systems, and how files are named.

// Test helpers panic as tests do.
#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use tierkv_tests::{
    binary::repository,
    imports::{Circle, Imports},
};

/// The crates that each crate may import. Every crate may also import `tierkv-types`, and the
/// re-exports of its imports. Arrows point down only; servers never import each other.
/// Dev-dependencies are not checked.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("tierkv-types", &[]),
    ("tierkv-protocol", &[]),
    ("tierkv-proto", &[]),
    ("tierkv-rpc", &["tierkv-proto"]),
    ("tierkv-openapi", &["tierkv-proto"]),
    ("tierkv-coordination", &[]),
    ("tierkv-cache", &["tierkv-protocol"]),
    ("tierkv-storage", &[]),
    (
        "tierkv-datanode",
        &[
            "tierkv-storage",
            "tierkv-coordination",
            "tierkv-cache",
            "tierkv-protocol",
            "tierkv-rpc",
        ],
    ),
    (
        "tierkv-server-coordinator",
        &[
            "tierkv-coordination",
            "tierkv-cache",
            "tierkv-protocol",
            "tierkv-rpc",
        ],
    ),
    (
        "tierkv-client-coordinator",
        &[
            "tierkv-coordination",
            "tierkv-cache",
            "tierkv-protocol",
            "tierkv-rpc",
            "tierkv-openapi",
        ],
    ),
    ("tierkv", &["tierkv-rpc"]),
    ("tierkv-workload", &["tierkv"]),
    (
        "tierkv-cli",
        &[
            "tierkv-protocol",
            "tierkv-openapi",
            "tierkv-coordination",
            "tierkv-cache",
            "tierkv-storage",
            "tierkv-datanode",
            "tierkv-server-coordinator",
            "tierkv-client-coordinator",
            "tierkv",
            "tierkv-workload",
        ],
    ),
    ("tierkv-harness", &[]),
    ("tierkv-tests", &["tierkv-harness", "tierkv"]),
    ("tierkv-bench", &["tierkv-workload", "tierkv-harness"]),
];

/// A crate that imports the first may also import the second.
const RE_EXPORTS: &[(&str, &str)] = &[("tierkv", "tierkv-rpc"), ("tierkv-rpc", "tierkv-proto")];

/// The only shipped crates that may use these external crates.
const ONLY_KNOWN_TO: &[(&str, &[&str])] = &[
    ("etcd-client", &["tierkv-coordination"]),
    ("memcache", &["tierkv-cache"]),
    ("sqlx", &["tierkv-storage", "tierkv-coordination"]),
    ("rusqlite", &["tierkv-storage"]),
];

/// Crates for tests and measurements, which may use any external crate.
const NOT_SHIPPED: &[&str] = &["tierkv-harness", "tierkv-tests", "tierkv-bench"];

/// Crates that wait, do I/O, read a clock or draw random numbers; the state machines use none.
const NOT_IN_PROTOCOL: &[&str] = &[
    "tokio",
    "tonic",
    "futures",
    "async-trait",
    "rand",
    "rustix",
    "metrics",
];

/// Names that do not describe the content.
const EMPTY_NAMES: &[&str] = &[
    "common", "util", "utils", "helper", "helpers", "manager", "misc",
];

/// A source file past this is split by noun.
const MAX_LINES: usize = 700;

/// The crates of the workspace, as cargo describes them.
fn packages() -> Vec<Value> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version",
            "1",
        ])
        .current_dir(repository())
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo metadata: {words}");
    let mut metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].take();
    serde_json::from_value(packages).unwrap()
}

/// The dependencies of each crate of the workspace, without dev-dependencies.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    (packages().iter())
        .map(|package| {
            let ships = |dependency: &&Value| dependency["kind"] != "dev";
            let names = (package["dependencies"].as_array().unwrap().iter())
                .filter(ships)
                .map(|dependency| dependency["name"].as_str().unwrap().to_owned())
                .collect();
            (package["name"].as_str().unwrap().to_owned(), names)
        })
        .collect()
}

/// The root files of all libraries and binaries.
fn roots() -> Vec<PathBuf> {
    let packages = packages();
    let targets = packages
        .iter()
        .flat_map(|package| package["targets"].as_array().unwrap());
    let ships = |target: &&Value| ["lib", "bin"].iter().any(|kind| target["kind"][0] == *kind);
    let roots = targets.filter(ships);
    roots
        .map(|target| target["src_path"].as_str().unwrap().into())
        .collect()
}

/// What a crate may import, re-exports included.
fn allowed(name: &str) -> Option<BTreeSet<&'static str>> {
    let (_, listed) = MAY_IMPORT.iter().find(|(known, _)| *known == name)?;
    let mut allowed: BTreeSet<&str> = listed.iter().copied().collect();
    allowed.insert("tierkv-types");
    for (through, brought) in RE_EXPORTS {
        if allowed.contains(through) {
            allowed.insert(brought);
        }
    }
    Some(allowed)
}

#[test]
fn crates_import_only_what_the_table_allows() {
    let crates = dependencies();
    let mut wrong = Vec::new();
    for (name, dependencies) in &crates {
        let Some(allowed) = allowed(name) else {
            wrong.push(format!("{name} has no row in the table"));
            continue;
        };
        for dependency in dependencies {
            if crates.contains_key(dependency) && !allowed.contains(dependency.as_str()) {
                wrong.push(format!("{name} imports {dependency}"));
            }
        }
    }
    let gone = MAY_IMPORT
        .iter()
        .filter(|(name, _)| !crates.contains_key(*name));
    wrong.extend(gone.map(|(name, _)| format!("{name} is in the table and not in the workspace")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_table_of_imports_points_down_only() {
    for (name, _) in MAY_IMPORT {
        let mut reached = BTreeSet::new();
        let mut open = vec![*name];
        while let Some(at) = open.pop() {
            for next in allowed(at).unwrap() {
                assert!(
                    next != *name || *name == "tierkv-types",
                    "{name} reaches itself by {at}"
                );
                if next != at && reached.insert(next) {
                    open.push(next);
                }
            }
        }
    }
}

#[test]
fn only_the_listed_crates_use_an_external_system() {
    let mut wrong = Vec::new();
    for (name, dependencies) in dependencies() {
        for (system, knowing) in ONLY_KNOWN_TO {
            let may = knowing.contains(&name.as_str()) || NOT_SHIPPED.contains(&name.as_str());
            if dependencies.contains(*system) && !may {
                wrong.push(format!("{name} uses {system}; only {knowing:?} may"));
            }
        }
        if name == "tierkv-protocol" {
            let impure = NOT_IN_PROTOCOL
                .iter()
                .filter(|import| dependencies.contains(**import));
            wrong.extend(impure.map(|import| format!("the state machines import {import}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_files_import_each_other() {
    let mut circles = Vec::new();
    for root in roots() {
        let imports = Imports::of_crate(&root, &|path| fs::read_to_string(path).ok());
        circles.extend(imports.circles().iter().map(Circle::to_string));
    }
    let inside = format!("{}/", repository().display());
    assert!(
        circles.is_empty(),
        "move what both sides need into a file below them:\n{}",
        circles.concat().replace(&inside, "")
    );
}

/// Every source file of the repository, and every folder with one.
fn sources() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![repository().to_owned()];
    while let Some(folder) = folders.pop() {
        // Folders with this file are build folders, without sources.
        if folder.join("CACHEDIR.TAG").exists() {
            continue;
        }
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && !name.starts_with('.') {
                folders.push(path);
            } else if is_source(&path) {
                files.push(path);
            }
        }
    }
    assert!(files.len() > 100, "the sources were not found: {files:?}");
    files
}

fn is_source(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("rs" | "py" | "sh" | "proto"))
}

#[test]
fn names_of_files_describe_their_content() {
    let mut wrong = Vec::new();
    let crates = dependencies();
    for name in crates.keys() {
        if name.split('-').any(|word| EMPTY_NAMES.contains(&word)) {
            wrong.push(format!("the crate {name}"));
        }
    }
    for path in sources() {
        let inside = path.strip_prefix(repository()).unwrap();
        let empty = |part: &Path| {
            let stem = part.file_stem().and_then(|stem| stem.to_str());
            stem.is_some_and(|stem| EMPTY_NAMES.contains(&stem))
        };
        if inside.iter().any(|part| empty(Path::new(part))) {
            wrong.push(inside.display().to_string());
        }
        let text = fs::read_to_string(&path).unwrap();
        for line in text.lines() {
            let words: Vec<&str> = line
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .collect();
            let declares = |pair: &[&str]| pair[0] == "mod" && EMPTY_NAMES.contains(&pair[1]);
            let is_comment = line.trim_start().starts_with("//");
            if !is_comment && words.windows(2).any(declares) {
                wrong.push(format!("{}: {}", inside.display(), line.trim()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "names that do not describe the content:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn no_source_file_is_too_long() {
    let giants: Vec<String> = (sources().iter())
        .filter_map(|path| {
            let lines = fs::read_to_string(path).unwrap().lines().count();
            (lines > MAX_LINES).then(|| format!("{}: {lines} lines", path.display()))
        })
        .collect();
    assert!(
        giants.is_empty(),
        "split these by noun:\n{}",
        giants.join("\n")
    );
}
