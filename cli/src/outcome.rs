//! How a command ends: its exit status and its error message.

use std::{io, process::ExitCode};

use crate::{kept, output::note};

use tierkv::Code;

/// The exit status of an error; 1 is for a negative answer.
pub(crate) const FAILED: u8 = 2;
/// The exit status of a write with an unknown outcome.
pub(crate) const UNKNOWN: u8 = 3;

/// The result of every command: an exit code, or an error for standard error.
pub(crate) type Outcome = Result<ExitCode, Box<dyn std::error::Error>>;

/// The exit status of a command after its change was applied. It is success even if printing the
/// answer failed, so that a script does not repeat the change.
pub(crate) fn done(printed: io::Result<()>) -> ExitCode {
    match printed {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => note(format_args!(
            "tierkv: it is done, but the answer could not be printed: {error}"
        )),
        // The reader closed the pipe.
        _ => {}
    }
    ExitCode::SUCCESS
}

/// Prints the error of a command, and returns its exit status.
pub(crate) fn failed(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    let io = error.downcast_ref::<io::Error>().map(io::Error::kind);
    if io == Some(io::ErrorKind::BrokenPipe) {
        // The reader closed the pipe.
        return ExitCode::SUCCESS;
    }
    note(format_args!("tierkv: {}{error}", kept::place()));
    match error.downcast_ref::<tierkv::Error>() {
        Some(error) if error.is_condition_failed() => ExitCode::FAILURE,
        Some(error) if error.code() == Code::NotFound => ExitCode::FAILURE,
        Some(error) if error.is_outcome_unknown() => ExitCode::from(UNKNOWN),
        _ => ExitCode::from(FAILED),
    }
}

/// The worse of two exit statuses, in the order 0, 1, 2, 3.
pub(crate) fn worse(one: ExitCode, other: ExitCode) -> ExitCode {
    let order = [
        ExitCode::SUCCESS,
        ExitCode::FAILURE,
        ExitCode::from(FAILED),
        ExitCode::from(UNKNOWN),
    ];
    let place = |code| order.iter().position(|known| *known == code);
    if place(one) < place(other) {
        other
    } else {
        one
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubt_is_worse_than_failure_and_failure_than_a_negative_answer() {
        for (one, other, worst) in [(0, 0, 0), (0, 1, 1), (1, 2, 2), (3, 2, 3), (2, 0, 2)] {
            let (one, other) = (ExitCode::from(one), ExitCode::from(other));
            assert_eq!(worse(one, other), ExitCode::from(worst));
            assert_eq!(worse(other, one), ExitCode::from(worst));
        }
    }
}
