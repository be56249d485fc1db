//! How a command ends, for the person at the terminal and for scripts.

use std::{io, process::ExitCode};

use crate::output::note;

use tierkv::Code;

/// The exit status of whatever could not be done; 1 is left to a negative answer.
pub(crate) const FAILED: u8 = 2;
/// The exit status of a write of which it is not known whether it happened.
pub(crate) const UNKNOWN: u8 = 3;

/// How every command ends: an exit code, or words for the person at the terminal.
pub(crate) type Outcome = Result<ExitCode, Box<dyn std::error::Error>>;

/// How a command ends that changed something, once it is done: the exit status must not make
/// a script do it again, whatever became of printing the answer.
pub(crate) fn done(printed: io::Result<()>) -> ExitCode {
    match printed {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => note(format_args!(
            "tierkv: it is done, but the answer could not be printed: {error}"
        )),
        // Whoever read this has enough.
        _ => {}
    }
    ExitCode::SUCCESS
}

/// Prints why a command failed, and returns the exit status by which a script can tell.
pub(crate) fn failed(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    let io = error.downcast_ref::<io::Error>().map(io::Error::kind);
    if io == Some(io::ErrorKind::BrokenPipe) {
        // Whoever read this has enough.
        return ExitCode::SUCCESS;
    }
    note(format_args!("tierkv: {error}"));
    match error.downcast_ref::<tierkv::Error>() {
        Some(error) if error.is_condition_failed() => ExitCode::FAILURE,
        Some(error) if error.code() == Code::NotFound => ExitCode::FAILURE,
        Some(error) if error.is_outcome_unknown() => ExitCode::from(UNKNOWN),
        _ => ExitCode::from(FAILED),
    }
}

/// The worse of two ends: what says more about how little is known of what was done.
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
