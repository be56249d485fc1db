//! Reads the values of keys from the merged layers.

use figment::{
    Figment, Metadata, Source,
    value::{Num, Value},
};

use super::{Entry, Origin, Problem, setting::Setting};

/// Name of the layer of the environment; its values are [`Origin::Environment`].
pub(super) const ENVIRONMENT: &str = "environment";

/// Reads keys one after the other and collects entries and problems.
pub(super) struct Reader<'a> {
    values: &'a Figment,
    pub(super) entries: Vec<Entry>,
    pub(super) problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(values: &'a Figment) -> Self {
        Self {
            values,
            entries: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// Reads the value of a key. An invalid value is reported as a problem and replaced by the
    /// default.
    pub(super) fn take<T: Setting>(
        &mut self,
        key: &'static str,
        meaning: &'static str,
        default: T,
    ) -> T {
        let origin = self.values.find_metadata(key).map(origin);
        let origin = origin.unwrap_or(Origin::Default);
        let value = match self.values.find_value(key) {
            Err(_) => default,
            Ok(found) => match read(&found) {
                Ok(value) => value,
                Err(said) => {
                    let words = format!("{said} is not a valid value; use {}", T::FORM);
                    self.problems.push(Problem {
                        key: key.to_owned(),
                        origin: origin.clone(),
                        words,
                    });
                    default
                }
            },
        };
        let words: Vec<&str> = meaning.split_whitespace().collect();
        self.entries.push(Entry {
            key,
            meaning: words.join(" "),
            toml: value.toml(),
            json: value.json(),
            origin,
        });
        value
    }
}

fn origin(metadata: &Metadata) -> Origin {
    match (&*metadata.name, &metadata.source) {
        (_, Some(Source::File(path))) => Origin::File(path.clone()),
        (ENVIRONMENT, Some(Source::Custom(name))) => Origin::Environment(name.clone()),
        _ => Origin::Flag,
    }
}

/// Parses a value.
///
/// # Errors
/// The value as it was written, if it is invalid.
fn read<T: Setting>(found: &Value) -> Result<T, String> {
    let text = match found {
        Value::String(_, text) => text.clone(),
        Value::Array(_, items) if T::IS_LIST => {
            let items = items.iter().map(|item| match item {
                // A comma would split it in two.
                Value::String(_, text) if !text.contains(',') => Ok(text.as_str()),
                other => Err(shown(other)),
            });
            items.collect::<Result<Vec<_>, _>>()?.join(",")
        }
        Value::Num(_, number) if T::IS_NUMBER && number.to_u128_lossy().is_some() => {
            number.to_u128_lossy().unwrap_or_default().to_string()
        }
        other => return Err(shown(other)),
    };
    T::parse(&text).ok_or_else(|| shown(found))
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(_, text) => format!("{text:?}"),
        Value::Bool(_, truth) => truth.to_string(),
        Value::Num(_, Num::F32(number)) => number.to_string(),
        Value::Num(_, Num::F64(number)) => number.to_string(),
        Value::Num(_, number) => match (number.to_u128_lossy(), number.to_i128()) {
            (Some(number), _) => number.to_string(),
            (None, Some(number)) => number.to_string(),
            (None, None) => "this number".to_owned(),
        },
        Value::Array(_, items) => {
            let items: Vec<String> = items.iter().map(shown).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Dict(..) => "a section".to_owned(),
        Value::Char(..) | Value::Empty(..) => "this".to_owned(),
    }
}
