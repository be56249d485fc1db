//! [`Doubt`]: a write whose master was lost before it answered.
//!
//! The write is sent again under its request id: a master that has it, or had it and is back,
//! returns its outcome, and one that has not applies it (TXN-IDS). But a refusal of a later try does
//! not show what became of an earlier one, which may still be on its way.

use tierkv_types::{Code, Error};

/// Whether an earlier try of a write may have been applied.
#[derive(Debug, Default)]
pub(crate) struct Doubt(Option<Error>);

impl Doubt {
    /// Takes the failure of a try. Returns it in the form by which a retry is decided.
    pub(crate) fn after(&mut self, failure: Error) -> Error {
        if failure.code != Code::OutcomeUnknown {
            return failure;
        }
        let again = Error::unavailable(failure.message.clone());
        self.0.get_or_insert(failure);
        again
    }

    /// The error for the client, if the last try failed with `failure`.
    pub(crate) fn end(self, failure: Error) -> Error {
        let Some(mut first) = self.0 else {
            return failure;
        };
        if failure.message != first.message {
            let messages = (&first.message, &failure.message);
            first.message = format!("{}; the last retry failed: {}", messages.0, messages.1).into();
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_after_a_lost_answer_says_nothing() {
        let mut doubt = Doubt::default();
        let refused = Error::new(Code::Conflict, "if_absent does not hold");
        assert_eq!(doubt.after(refused.clone()).code, Code::Conflict);
        let unknown = Error::new(Code::OutcomeUnknown, "no answer came");
        assert_eq!(doubt.after(unknown).code, Code::Unavailable);
        assert_eq!(doubt.after(refused.clone()).code, Code::Conflict);
        let end = doubt.end(refused);
        assert_eq!(end.code, Code::OutcomeUnknown);
        assert!(end.message.contains("if_absent does not hold"), "{end}");
    }

    #[test]
    fn without_doubt_a_failure_stays_what_it_is() {
        let refused = Error::new(Code::Conflict, "if_absent does not hold");
        assert_eq!(Doubt::default().end(refused).code, Code::Conflict);
    }
}
