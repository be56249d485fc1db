use super::*;

/// The circles of a crate with this root file; each of `files` is one module.
fn circles(root: &str, files: &[(&str, &str)]) -> Vec<String> {
    let source = |path: &Path| match path.to_str()? {
        "lib.rs" => Some(root.to_owned()),
        path => {
            let found = files.iter().find(|(name, _)| *name == path);
            found.map(|(_, text)| (*text).to_owned())
        }
    };
    let imports = Imports::of_crate(Path::new("lib.rs"), &source);
    imports.circles().iter().map(Circle::to_string).collect()
}

#[test]
fn two_files_that_import_each_other_are_a_circle() {
    let found = circles(
        "mod log; mod store; mod clock;",
        &[
            (
                "log.rs",
                "use crate::{clock::Clock, store::{self, Store as Kept}};",
            ),
            ("store.rs", "use super::log::Log; pub struct Store;"),
            ("clock.rs", "pub struct Clock;"),
        ],
    );
    let expected = "a circle of imports:\n  log.rs imports Store, store of store.rs\n  store.rs \
                    imports Log of log.rs\n";
    assert_eq!(found, [expected]);
}

#[test]
fn a_re_exported_name_counts_as_an_import_of_the_file_that_defines_it() {
    let root = "mod tier; pub use tier::{Cache, Entry};";
    let files = |entry: &'static str| {
        [
            (
                "tier.rs",
                "mod cache; mod entry; pub use self::{cache::*, entry::Entry};",
            ),
            (
                "tier/cache.rs",
                "use super::Entry; pub struct Cache(Entry);",
            ),
            ("tier/entry.rs", entry),
        ]
    };
    assert_eq!(circles(root, &files("pub struct Entry;")), [""; 0]);
    for entry in [
        "use crate::Cache; pub struct Entry;",
        "use super::Cache; pub struct Entry;",
        "pub struct Entry; fn f() -> Vec<super::cache::Cache> { vec![] }",
        "pub struct Entry; fn f() { assert!(crate::Cache::is_full()) }",
    ] {
        assert_eq!(circles(root, &files(entry)).len(), 1, "{entry}");
    }
}

#[test]
fn a_circle_lists_all_of_its_files_and_no_others() {
    let found = circles(
        "mod a; mod b; mod c; mod above; mod below;",
        &[
            ("a.rs", "use crate::b::B;"),
            (
                "b.rs",
                "mod inner { use crate::c::C; } use crate::below::D;",
            ),
            ("c.rs", "use crate::a::A;"),
            ("above.rs", "use crate::a::A;"),
            ("below.rs", "pub struct D;"),
        ],
    );
    assert_eq!(found.len(), 1, "{found:?}");
    for import in [
        "a.rs imports B of b.rs",
        "b.rs imports C of c.rs",
        "c.rs imports A of a.rs",
    ] {
        assert!(found[0].contains(import), "{import}: {found:?}");
    }
    assert_eq!(found[0].lines().count(), 4, "{found:?}");
}

#[test]
fn tests_and_submodules_make_no_circle() {
    let log = "
        //! Beside [`crate::store::Store`].
        use crate::store::Store;
        mod segment;
        use segment::Segment;
        #[cfg(test)]
        use crate::reader::Reader;
        #[cfg(test)]
        mod tests;
    ";
    let found = circles(
        "mod log; mod reader; mod store;",
        &[
            ("log.rs", log),
            ("log/segment.rs", "use super::Log; pub struct Segment;"),
            ("reader.rs", "use crate::log::Log;"),
            (
                "store.rs",
                "#[cfg(test)] mod tests { use crate::log::Log; } pub struct Store;",
            ),
        ],
    );
    assert_eq!(found, [""; 0]);
}
