//! Bodies that are not JSON.

use utoipa::ToSchema;

// Generators of clients need `format: binary`: without it they treat the body as text, or leave
// the operation out.
/// The raw bytes of a value.
#[derive(Clone, Debug, ToSchema)]
#[schema(value_type = String, format = Binary)]
pub struct RawValue(pub Vec<u8>);
