//! What a client sent, as a refusal may repeat it.

/// Most letters of it in the words of a refusal.
const SHOWN_LETTERS: usize = 100;

/// Text of a client without control characters, cut to a length that people read.
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
