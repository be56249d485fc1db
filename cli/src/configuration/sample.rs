//! The declarations as a file that an operator begins with.

use super::{ConfigurationArguments, layers};

/// How wide comments are, in characters.
const WIDTH: usize = 90;

/// A commented file with every key at its default. The keys are commented out: what an
/// operator does not set follows the release's defaults.
pub(crate) fn sample() -> String {
    let loaded = layers::load(&ConfigurationArguments::default(), &[], &[]);
    let mut text = String::from(
        "# Configuration of TierKV, with every key at its default.\n\
         #\n\
         # `tierkv dev --config FILE` or TIERKV_CONFIG=FILE reads it. A variable TIERKV_ and the\n\
         # key in capitals (TIERKV_WAL_MAX_BYTES for wal.max_bytes) wins over the file, and\n\
         # `--set KEY=VALUE` over both. `tierkv config check` tells what is set, and by whom.\n",
    );
    let mut section = "";
    for told in &loaded.told {
        let (of, name) = told.key.rsplit_once('.').unwrap_or(("", told.key));
        if of != section {
            section = of;
            text.push_str(&format!("\n[{section}]\n"));
        } else if !text.ends_with("]\n") {
            text.push('\n');
        }
        for line in wrapped(&told.meaning, WIDTH) {
            text.push_str(&format!("# {line}\n"));
        }
        text.push_str(&format!("#{name} = {}\n", told.toml));
    }
    text
}

/// The words in lines of at most `width` characters, where a word is not longer.
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

    /// The sample that is shipped, from this crate's folder.
    const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../ops/tierkv.toml");

    #[test]
    fn the_shipped_sample_is_this_one() {
        let shipped = fs::read_to_string(SHIPPED).unwrap();
        assert!(
            shipped == sample(),
            "ops/tierkv.toml drifted; write it anew: tierkv config sample >ops/tierkv.toml"
        );
    }

    #[test]
    fn the_sample_sets_what_it_says_once_it_is_uncommented() {
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
        for (told, default) in loaded.told.iter().zip(&defaults.told) {
            assert_eq!(told.toml, default.toml, "{}", told.key);
            assert_eq!(told.origin, Origin::File(file.clone()), "{}", told.key);
            assert_eq!(default.origin, Origin::Default, "{}", told.key);
        }
    }

    #[test]
    fn words_are_wrapped_where_they_are_apart() {
        assert_eq!(wrapped("one two  three", 7), ["one two", "three"]);
        assert_eq!(wrapped("unbreakable", 3), ["unbreakable"]);
        assert!(wrapped("", 3).is_empty());
    }
}
