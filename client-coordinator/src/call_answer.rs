//! Answers of unary gRPC calls, with the platform's time.

use tierkv_rpc::{add_platform_time, proto::status::to_status};
use tierkv_types::Error;
use tonic::{Response, Status};

/// An answer or a refusal, with the platform's time in milliseconds, if it is available.
pub(crate) fn answer<T>(
    outcome: Result<T, Error>,
    platform_time_ms: Option<u64>,
) -> Result<Response<T>, Status> {
    let mut answer = match outcome {
        Ok(answer) => Ok(Response::new(answer)),
        Err(error) => Err(to_status(&error)),
    };
    if let Some(millis) = platform_time_ms {
        let metadata = match &mut answer {
            Ok(response) => response.metadata_mut(),
            Err(status) => status.metadata_mut(),
        };
        add_platform_time(metadata, millis);
    }
    answer
}
