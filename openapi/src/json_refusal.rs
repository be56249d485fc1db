//! Error messages for invalid JSON, in plain words and with the name of the field.

use serde_json::error::Category;

/// Most characters of an invalid text that a message repeats.
const MAX_SHOWN: usize = 40;

/// What is wrong, and where in the text.
#[must_use]
pub fn why(error: &serde_json::Error) -> String {
    of_field(error, ".")
}

/// What is wrong; `path` is the field's, as in `operations[0].put.ttl_ms`, or `.` for the whole
/// document.
pub(crate) fn of_field(error: &serde_json::Error, path: &str) -> String {
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
            let words = match words.rsplit_once(" at line ") {
                Some((words, _)) if !place.is_empty() => words,
                _ => &words,
            };
            misfit(words, path)
        }
    }
}

/// The message for JSON of another shape. `words` are serde's.
fn misfit(words: &str, path: &str) -> String {
    let path = if path == "." { "" } else { path };
    let field = if path.is_empty() { "it" } else { path };
    let wrong = (words.strip_prefix("invalid type: "))
        .or_else(|| words.strip_prefix("invalid value: "))
        .and_then(|words| words.rsplit_once(", expected "));
    if let Some((found, expected)) = wrong {
        let (found, expected) = (kind_found(found), kind_expected(expected));
        return format!("{field} must be {expected}, not {found}");
    }
    let named = |prefix: &str| {
        let rest = words.strip_prefix(prefix)?.strip_prefix('`')?;
        rest.split_once('`')
    };
    if let Some((name, _)) = named("missing field ") {
        return format!("{name} is missing{}", inside(path));
    }
    if let Some((name, _)) = named("duplicate field ") {
        return format!("{name} is there twice{}", inside(path));
    }
    if let Some((name, fields)) = named("unknown field ") {
        let fields = fields.strip_prefix(", expected ").unwrap_or_default();
        let fields = fields.trim_start_matches("one of ").replace('`', "");
        let place = inside(parent(path, name));
        let name = shortened(name);
        return format!("there is no field {name}{place}; there are: {fields}");
    }
    if let Some((name, names)) = named("unknown variant ") {
        let names = names.strip_prefix(", expected ").unwrap_or_default();
        let (names, name) = (names.replace('`', ""), shortened(name));
        return format!("{field} must be {names}, not \"{name}\"");
    }
    match path {
        "" => words.to_owned(),
        path => format!("{path}: {words}"),
    }
}

/// The path of the object that has the field `name`: a refused name is the last part of a path.
fn parent<'a>(path: &'a str, name: &str) -> &'a str {
    match path.strip_suffix(name) {
        Some(before) => before.strip_suffix('.').unwrap_or(before),
        None => path,
    }
}

fn inside(path: &str) -> String {
    match path {
        "" => String::new(),
        path => format!(" in {path}"),
    }
}

/// What serde expected, as users of JSON call it.
fn kind_expected(expected: &str) -> String {
    match expected {
        "u8" => whole_numbers(u8::MAX),
        "u32" => whole_numbers(u32::MAX),
        "u64" => whole_numbers(u64::MAX),
        "a string" => "a text in double quotes".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a sequence" => "a list in square brackets".to_owned(),
        other => other.to_owned(),
    }
}

fn whole_numbers(most: impl std::fmt::Display) -> String {
    format!("a whole number from 0 to {most}")
}

/// What serde found, as users of JSON call it.
fn kind_found(found: &str) -> String {
    match found {
        "map" => return "an object".to_owned(),
        "sequence" => return "a list".to_owned(),
        _ => {}
    }
    let scalar = ["boolean `", "integer `", "floating point `"];
    let number = scalar.iter().find_map(|kind| found.strip_prefix(kind));
    match (number, found.strip_prefix("string ")) {
        (Some(number), _) => number.trim_end_matches('`').to_owned(),
        (None, Some(text)) => format!("the text {}", shortened(text)),
        (None, None) => shortened(found),
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::{Value, from_str};

    use crate::object::document;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)] // Only parsed.
    struct Form {
        count: u32,
        #[serde(default)]
        name: String,
        #[serde(default)]
        is_new: bool,
        #[serde(default)]
        colour: Option<Colour>,
        #[serde(default)]
        parts: Vec<Part>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Colour {
        Red,
        Blue,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)] // Only parsed.
    struct Part {
        size: u64,
    }

    #[test]
    fn text_that_is_no_json_is_refused_with_its_place() {
        let why = |text: &str| super::why(&from_str::<Value>(text).unwrap_err());
        assert!(why("{a").starts_with("it is no JSON at column 2: "));
        assert!(why("[1,\n nope]").starts_with("it is no JSON at line 2, column 3: "));
        assert_eq!(why("{\"a\""), "the JSON is cut off at column 4");
        let more = document::<Form>(b"{\"count\": 1} {}").unwrap_err();
        assert!(more.starts_with("it is no JSON at column 14"), "{more}");
    }

    #[test]
    fn json_of_another_shape_is_refused_with_the_field_in_plain_words() {
        for (json, expected) in [
            (
                "{\"count\": \"a at line 1\"}",
                "count must be a whole number from 0 to 4294967295, not the text \"a at line 1\"",
            ),
            (
                "{\"count\": -1}",
                "count must be a whole number from 0 to 4294967295, not -1",
            ),
            (
                "{\"count\": null}",
                "count must be a whole number from 0 to 4294967295, not null",
            ),
            (
                "{\"count\": 1, \"name\": 1.5}",
                "name must be a text in double quotes, not 1.5",
            ),
            (
                "{\"count\": 1, \"is_new\": {}}",
                "is_new must be true or false, not an object",
            ),
            (
                "{\"count\": 1, \"parts\": [{\"size\": 1}, {\"size\": true}]}",
                "parts[1].size must be a whole number from 0 to 18446744073709551615, not true",
            ),
            (
                "{\"count\": 1, \"parts\": 3}",
                "parts must be a list in square brackets, not 3",
            ),
            (
                "{\"count\": 1, \"parts\": [{}]}",
                "size is missing in parts[0]",
            ),
            ("{}", "count is missing"),
            ("{\"count\": 1, \"count\": 2}", "count is there twice"),
            (
                "{\"count\": 1, \"parts\": [{\"size\": 1, \"colour\": 2}]}",
                "there is no field colour in parts[0]; there are: size",
            ),
            (
                "{\"count\": 1, \"size\": 1}",
                "there is no field size; there are: count, name, is_new, colour, parts",
            ),
            (
                "{\"count\": 1, \"colour\": \"green\"}",
                "colour must be red or blue, not \"green\"",
            ),
            ("[]", "it must be a JSON object, not a list"),
        ] {
            let why = document::<Form>(json.as_bytes()).unwrap_err();
            assert_eq!(why, expected, "{json}");
        }
    }

    #[test]
    fn a_long_text_is_not_repeated() {
        let json = format!("{{\"count\": \"{}\"}}", "x".repeat(100_000));
        let why = document::<Form>(json.as_bytes()).unwrap_err();
        assert!(why.len() < 200 && why.ends_with('…'), "{why}");
    }
}
