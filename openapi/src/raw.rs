//! Bodies that are no JSON.

use utoipa::ToSchema;

// `format: binary` is what generators of clients go by: without it they take the body for
// text, or leave the operation out.
/// A value as it is: any bytes.
#[derive(Clone, Debug, ToSchema)]
#[schema(value_type = String, format = Binary)]
pub struct RawValue(pub Vec<u8>);
