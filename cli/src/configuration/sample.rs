//! The sample file: all declared keys with their docs and defaults.

use super::{ConfigurationArguments, layers};

/// Width of comments, in characters.
const WIDTH: usize = 90;

/// A file with every key at its default. The keys are commented out, so that keys that an
/// operator does not set follow the release's defaults.
pub(crate) fn sample() -> String {
    let loaded = layers::load(&ConfigurationArguments::default(), &[], &[]);
    let mut text = String::from(
        "# Configuration of TierKV, with every key at its default.\n\
         #\n\
         # `tierkv dev --config FILE` or TIERKV_CONFIG=FILE reads it. A variable TIERKV_ and the\n\
         # key in capitals (TIERKV_WAL_MAX_BYTES for wal.max_bytes) wins over the file, and\n\
         # `--set KEY=VALUE` over both. `tierkv config check` shows all values and origins.\n",
    );
    let mut section = "";
    for entry in &loaded.entries {
        let (of, name) = entry.key.rsplit_once('.').unwrap_or(("", entry.key));
        if of != section {
            section = of;
            text.push_str(&format!("\n[{section}]\n"));
        } else if !text.ends_with("]\n") {
            text.push('\n');
        }
        for line in wrapped(&entry.meaning, WIDTH) {
            text.push_str(&format!("# {line}\n"));
        }
        text.push_str(&format!("#{name} = {}\n", entry.toml));
    }
    text
}

/// Wraps words into lines of at most `width` characters; only a longer word exceeds that.
fn wrapped(words: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::configuration::Origin;

    /// Path of the shipped sample, from this crate's folder.
    const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../ops/tierkv.toml");

    #[test]
    fn the_shipped_sample_is_this_one() {
        let shipped = fs::read_to_string(SHIPPED).unwrap();
        assert!(
            shipped == sample(),
            "ops/tierkv.toml is out of date; run: tierkv config sample >ops/tierkv.toml"
        );
    }

    #[test]
    fn the_uncommented_sample_sets_every_key_to_its_default() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tierkv.toml");
        let set: String = sample()
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(key) if !key.starts_with(' ') => format!("{key}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        fs::write(&file, set).unwrap();
        let from_file = ConfigurationArguments {
            config: Some(file.clone()),
            ..ConfigurationArguments::default()
        };
        let loaded = layers::load(&from_file, &[], &[]);
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
        let defaults = layers::load(&ConfigurationArguments::default(), &[], &[]);
        for (entry, default) in loaded.entries.iter().zip(&defaults.entries) {
            assert_eq!(entry.toml, default.toml, "{}", entry.key);
            assert_eq!(entry.origin, Origin::File(file.clone()), "{}", entry.key);
            assert_eq!(default.origin, Origin::Default, "{}", entry.key);
        }
    }

    #[test]
    fn words_are_wrapped_at_spaces() {
        assert_eq!(wrapped("one two  three", 7), ["one two", "three"]);
        assert_eq!(wrapped("unbreakable", 3), ["unbreakable"]);
        assert!(wrapped("", 3).is_empty());
    }
}
