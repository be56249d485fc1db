//! Client text, made safe to repeat in an error message.

/// Maximum length of the repeated text.
const SHOWN_LETTERS: usize = 100;

/// A client's text without control characters, cut to a readable length.
pub(super) fn shortened(text: &str) -> String {
    let letters = text.escape_debug().to_string();
    match letters.char_indices().nth(SHOWN_LETTERS) {
        Some((end, _)) => format!("{}...", &letters[..end]),
        None => letters,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_letters() {
        assert_eq!(shortened("a\nb"), "a\\nb");
        let long = "\u{e9}".repeat(SHOWN_LETTERS);
        assert_eq!(shortened(&long), long);
        assert_eq!(shortened(&format!("{long}x")), format!("{long}..."));
    }
}
