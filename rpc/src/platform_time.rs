//! The platform's time in the metadata of every gRPC answer; request ids are born in it. Frames of
//! a session have a field for it instead.

use tonic::metadata::{MetadataMap, MetadataValue};

/// The name of the metadata; REST has a header of the same name.
const TIME_MS: &str = "tierkv-time-ms";

/// Adds the platform's time, in milliseconds since the Unix epoch.
pub fn add_platform_time(metadata: &mut MetadataMap, millis: u64) {
    metadata.insert(TIME_MS, MetadataValue::from(millis));
}

/// The platform's time of an answer, in milliseconds since the Unix epoch; `None` if it is missing
/// or malformed.
#[must_use]
pub fn platform_time(metadata: &MetadataMap) -> Option<u64> {
    metadata.get(TIME_MS)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_read_as_it_was_added() {
        let mut metadata = MetadataMap::new();
        assert_eq!(platform_time(&metadata), None);
        add_platform_time(&mut metadata, 1_700_000_000_000);
        assert_eq!(platform_time(&metadata), Some(1_700_000_000_000));
        metadata.insert(TIME_MS, MetadataValue::from_static("soon"));
        assert_eq!(platform_time(&metadata), None);
    }
}
