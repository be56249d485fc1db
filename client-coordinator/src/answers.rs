//! Answers that come as a stream.

use futures::stream::BoxStream;
use tierkv_types::Error;

/// The answers of an operation that streams them; an error is the last one.
pub(crate) type Answers<T> = BoxStream<'static, Result<T, Error>>;
