//! Answers that come as a stream.

use futures::stream::BoxStream;
use tierkv_types::Error;

/// A stream of answers; an error is the last item.
pub(crate) type Answers<T> = BoxStream<'static, Result<T, Error>>;
