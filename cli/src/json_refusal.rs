//! Error messages for invalid JSON.

use serde_json::error::Category;

/// What is wrong, and where.
pub(crate) fn why(error: &serde_json::Error) -> String {
    let place = match (error.line(), error.column()) {
        (0, _) => String::new(),
        (1, column) => format!(" at column {column}"),
        (line, column) => format!(" at line {line}, column {column}"),
    };
    match error.classify() {
        Category::Eof => format!("the JSON is cut off{place}"),
        Category::Syntax => format!(
            "it is no JSON{place}: names and texts need double quotes, with a backslash before \
             quotes inside, and commas between them"
        ),
        Category::Data | Category::Io => {
            let words = error.to_string();
            let words = words.split(" at line ").next().unwrap_or(&words);
            format!("{words}{place}")
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_str};

    #[test]
    fn the_message_has_the_error_and_its_place() {
        let why = |text: &str| super::why(&from_str::<Value>(text).unwrap_err());
        assert!(why("{a").starts_with("it is no JSON at column 2: "));
        assert!(why("[1,\n nope]").starts_with("it is no JSON at line 2, column 3: "));
        assert_eq!(why("{\"a\""), "the JSON is cut off at column 4");
        let number = from_str::<u8>("\"1\"").unwrap_err();
        assert_eq!(
            super::why(&number),
            "invalid type: string \"1\", expected u8 at column 3"
        );
        let number = serde_json::from_value::<u8>("1".into()).unwrap_err();
        assert!(super::why(&number).ends_with("expected u8"));
    }
}
