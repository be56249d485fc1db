//! Parsing of JSON as strict as its schema. A derived deserializer would accept more: an array
//! for an object, with the fields in the order of the source code, and `null` for a missing
//! field.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::Value;

use crate::json_refusal;

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map))
    }
}

/// Parses one object.
///
/// # Errors
/// If the JSON is not an object, or not of the shape `T`.
pub fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    deserializer.deserialize_map(ObjectVisitor(PhantomData))
}

/// One JSON object of the shape `T`, for parsing by its type.
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        object(deserializer).map(Self)
    }
}

/// Parses a field that may be left out, but not be `null`.
///
/// # Errors
/// If the field is not of the shape `T`.
pub fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Parses an array of objects.
///
/// # Errors
/// If the JSON is not an array, or an item is not an object of the shape `T`.
pub fn objects<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    let objects = Vec::<Object<T>>::deserialize(deserializer)?;
    Ok(objects.into_iter().map(|Object(object)| object).collect())
}

/// Parses a JSON document that is one object.
///
/// # Errors
/// If it is not an object, not of the shape `T`, or followed by more text: what is wrong, and in
/// which field.
pub fn document<'de, T: Deserialize<'de>>(json: &'de [u8]) -> Result<T, String> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let document: Object<T> = serde_path_to_error::deserialize(&mut deserializer)
        .map_err(|error| json_refusal::of_field(error.inner(), &error.path().to_string()))?;
    deserializer
        .end()
        .map_err(|error| json_refusal::why(&error))?;
    Ok(document.0)
}

/// Reads a JSON value that is one object.
///
/// # Errors
/// If it is not an object, or not of the shape `T`: what is wrong, and in which field.
pub fn of_value<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    let document: Object<T> = serde_path_to_error::deserialize(value)
        .map_err(|error| json_refusal::of_field(error.inner(), &error.path().to_string()))?;
    Ok(document.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[serde(deserialize_with = "objects")]
        items: Vec<Inner>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Inner {
        number: u8,
    }

    #[test]
    fn objects_are_not_arrays() {
        let sound = document::<Outer>(b" {\"items\": [{\"number\": 1}]} ").unwrap();
        assert_eq!(sound.items, [Inner { number: 1 }]);
        let value = serde_json::json!({"items": [{"number": 1}]});
        assert_eq!(of_value::<Outer>(value).unwrap(), sound);
        let why = of_value::<Outer>(serde_json::json!({"items": [[1]]})).unwrap_err();
        assert_eq!(why, "items[0] must be a JSON object, not a list");
        for bad in [
            "[[{\"number\": 1}]]",
            "[]",
            "{\"items\": [[1]]}",
            "{\"items\": {\"number\": 1}}",
            "{\"items\": []} {}",
            "null",
            "",
        ] {
            assert!(document::<Outer>(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
