//! Damage of a data node's files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rand::{Rng, rngs::StdRng};

/// The store's file in a node's directory.
const STORE: &str = "store.sqlite";
/// Where a segment's records begin.
const SEGMENT_HEADER_BYTES: usize = 64;

/// Flips a bit of a random byte that was written to the log. Returns the place.
pub(crate) fn flip_log(dir: &Path, random: &mut StdRng) -> String {
    flip(&segment(dir, random), random)
}

/// Flips a bit of a random byte that was written to the store. Returns the place.
pub(crate) fn flip_store(dir: &Path, random: &mut StdRng) -> String {
    flip(&dir.join(STORE), random)
}

/// Cuts a random segment of the log at a random byte of what was written to it. Returns the place.
pub(crate) fn truncate_log(dir: &Path, random: &mut StdRng) -> String {
    let file = segment(dir, random);
    let bytes = fs::read(&file).unwrap();
    let length = random.random_range(SEGMENT_HEADER_BYTES..written(&bytes));
    let truncated = fs::File::options().write(true).open(&file).unwrap();
    truncated.set_len(length as u64).unwrap();
    format!("{} is cut at {length}", file.display())
}

fn flip(file: &Path, random: &mut StdRng) -> String {
    let mut bytes = fs::read(file).unwrap();
    let offset = random.random_range(0..written(&bytes));
    let mask = 1 << random.random_range(0..8);
    bytes[offset] ^= mask;
    fs::write(file, bytes).unwrap();
    format!("{} is flipped at {offset} by {mask:#04x}", file.display())
}

/// The length of a file without the zeros at its end.
fn written(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1
}

/// A random segment of the log that has records.
fn segment(dir: &Path, random: &mut StdRng) -> PathBuf {
    let log = fs::read_dir(dir.join("log")).unwrap();
    let files = log.map(|entry| entry.unwrap().path());
    let segments = files.filter(|path| path.extension() == Some("log".as_ref()));
    let is_used = |path: &PathBuf| written(&fs::read(path).unwrap()) > SEGMENT_HEADER_BYTES;
    let mut segments: Vec<PathBuf> = segments.filter(is_used).collect();
    segments.sort();
    segments.swap_remove(random.random_range(0..segments.len()))
}
