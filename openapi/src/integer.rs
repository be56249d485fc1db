//! 64-bit integers in JSON, whose numbers are exact only up to 2^53.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use tierkv_types::Error;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, OneOfBuilder, RefOr, Schema, Type},
};

/// A signed 64-bit integer: written as a string, read from a string or a JSON number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Integer(pub i64);

const EXPECTED: &str = "a whole number of 64 bits with its sign, as in 5, -5 or \"5\"";

impl Serialize for Integer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Integer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Integer;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTED)
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Integer, E> {
                Ok(Integer(number))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Integer, E> {
                let small = i64::try_from(number).map(Integer);
                small.map_err(|_| E::invalid_value(de::Unexpected::Unsigned(number), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Integer, E> {
                let digits = text.strip_prefix('-').unwrap_or(text);
                let number = match digits.bytes().all(|byte| byte.is_ascii_digit()) {
                    true => text.parse().ok(),
                    false => None,
                };
                (number.map(Integer))
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl PartialSchema for Integer {
    fn schema() -> RefOr<Schema> {
        let number = ObjectBuilder::new().schema_type(Type::Integer);
        let text = ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some("^-?[0-9]{1,19}$"));
        OneOfBuilder::new()
            .item(number.minimum(Some(i64::MIN)).maximum(Some(i64::MAX)))
            .item(text)
            .description(Some(
                "A signed 64-bit integer, as a JSON number or a string.",
            ))
            .into()
    }
}

impl ToSchema for Integer {
    fn name() -> Cow<'static, str> {
        "Integer".into()
    }
}

/// Parses a version, which has only digits.
///
/// # Errors
/// `InvalidArgument`, naming the field `name`.
pub fn version(name: &str, text: &str) -> Result<u64, Error> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits.then(|| text.parse().ok()).flatten()).ok_or_else(|| {
        Error::invalid(format!(
            "{name} must be a version, which is a decimal number of 64 bits, not '{}'",
            text.escape_debug()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_exact_in_both_forms() {
        for (json, number) in [
            ("0", 0),
            ("-5", -5),
            ("\"5\"", 5),
            ("9223372036854775807", i64::MAX),
            ("\"-9223372036854775808\"", i64::MIN),
        ] {
            assert_eq!(serde_json::from_str::<Integer>(json).unwrap().0, number);
        }
        for bad in [
            "1.0",
            "1e3",
            "null",
            "true",
            "\"\"",
            "\"-\"",
            "\"+1\"",
            "\" 1\"",
            "9223372036854775808",
            "\"9223372036854775808\"",
        ] {
            let error = serde_json::from_str::<Integer>(bad).unwrap_err();
            assert!(error.to_string().contains("whole number"), "{bad}: {error}");
        }
        assert_eq!(serde_json::to_string(&Integer(-7)).unwrap(), "\"-7\"");
    }

    #[test]
    fn versions_are_digits() {
        assert_eq!(version("v", "18446744073709551615"), Ok(u64::MAX));
        for bad in ["", "+1", "-1", "1.0", "0x1", "18446744073709551616", "\""] {
            assert!(version("v", bad).is_err(), "{bad}");
        }
    }
}
