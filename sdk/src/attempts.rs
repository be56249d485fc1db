//! Decides, from the failed attempts of one write, whether to retry and what to report.
//!
//! A write is retried under the same request id, and masters apply an id at most once. Once the
//! outcome of any attempt is unknown, only success is definite: a later attempt may be refused
//! although the lost one was applied, before or after it.
//!
//! An attempt that takes long goes on while another coordinator is tried. As long as it is not
//! answered, its outcome is unknown, too; if it is refused after all, nothing was done for it.
//!
//! Until then, a write refused for the birth of its request id had no effect. It is sent again
//! under a new id.
//!
//! If the timeout passes before a later attempt is sent, the write ends with the error of the
//! attempt before: it names the cause.

use tierkv_rpc::CallError;
use tierkv_types::{Code, Error as Refusal, RequestId};

use crate::error::{Error, is_retryable};

/// After an attempt was lost, a refusal such as `ConditionFailed` proves nothing: the lost attempt
/// may still arrive, and once it is applied, a retry returns its result. This limits the retries
/// after such refusals.
const MAX_CONTRADICTIONS: u32 = 4;

/// Whether another coordinator may succeed.
pub(crate) const fn is_better_elsewhere(code: Code) -> bool {
    !matches!(code, Code::Conflict)
}

/// What to do after an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Send it again, if there is time.
    Again,
    /// Send it under a new id, born at this platform time, if there is time.
    Renew(u64),
    /// Wait for the attempts that are not answered yet: what this one says depends on them.
    Wait,
    /// Report how it ended.
    Conclude,
}

/// The attempts of one write so far.
#[derive(Debug)]
pub(crate) struct Attempts {
    id: RequestId,
    /// Whether the answer of any attempt was lost, so that its outcome stays unknown.
    is_lost: bool,
    /// How many attempts are not answered yet.
    unanswered: usize,
    contradictions: u32,
    /// Whether an attempt has failed.
    is_begun: bool,
    last: Refusal,
}

impl Attempts {
    /// The state before the first attempt. `made_before`: the caller may have sent this id before.
    pub(crate) fn new(id: RequestId, made_before: bool) -> Self {
        Self {
            id,
            is_lost: made_before,
            unanswered: 0,
            contradictions: 0,
            is_begun: false,
            last: Refusal::unavailable("it was never sent"),
        }
    }

    /// Records that an attempt is sent.
    pub(crate) fn sent(&mut self) {
        self.unanswered += 1;
    }

    /// Whether the outcome of any attempt is unknown.
    const fn is_unknown(&self) -> bool {
        self.is_lost || self.unanswered > 0
    }

    /// Records a failed attempt and returns what to do next.
    pub(crate) fn failed(&mut self, failure: CallError) -> Next {
        self.unanswered = self.unanswered.saturating_sub(1);
        let is_first = !std::mem::replace(&mut self.is_begun, true);
        if let CallError::Unsent(error) = &failure
            && error.code == Code::DeadlineExceeded
            && !is_first
        {
            return match self.unanswered {
                0 => Next::Conclude,
                _ => Next::Wait,
            };
        }
        let is_lost = match &failure {
            CallError::Lost(_) => true,
            CallError::Refused(word) => word.code == Code::OutcomeUnknown,
            CallError::Unsent(_) => false,
        };
        self.last = failure.for_read();
        self.is_lost |= is_lost;
        if let Some(now) = self.last.birth_refused_at
            && !self.is_unknown()
        {
            return Next::Renew(now.get());
        }
        match self.last.code {
            _ if is_lost => Next::Again,
            code if is_retryable(code) => Next::Again,
            _ if !self.is_unknown() => Next::Conclude,
            // The limit may have room again; the deadline was only the attempt's.
            Code::ResourceExhausted | Code::DeadlineExceeded => Next::Again,
            _ if self.unanswered > 0 => Next::Wait,
            _ if self.contradictions < MAX_CONTRADICTIONS => {
                self.contradictions += 1;
                Next::Again
            }
            _ => Next::Conclude,
        }
    }

    /// Continues under another id. No attempt so far had an effect.
    pub(crate) fn renew(&mut self, id: RequestId) {
        debug_assert!(!self.is_unknown(), "an attempt under the old id was lost");
        self.id = id;
    }

    /// Why the last attempt failed.
    pub(crate) const fn last(&self) -> &Refusal {
        &self.last
    }

    /// The error of a write that did not succeed.
    pub(crate) fn conclude(self) -> Error {
        let is_birth_refused = self.last.birth_refused_at.is_some();
        if !self.is_unknown() && is_birth_refused {
            // The client chose the id, so the caller made no mistake.
            let refusal = Refusal::unavailable(format!(
                "the request id's birth time was refused until the timeout; nothing was done, \
                 try again (last error: {})",
                self.last.message
            ));
            return Error::from(refusal).refused_for_birth();
        }
        if !self.is_unknown() {
            return self.last.into();
        }
        let last = match self.last.code {
            Code::OutcomeUnknown => self.last.message.into_owned(),
            _ => self.last.to_string(),
        };
        let error = Error::unknown(
            self.id,
            format!(
                "the write was sent, but its outcome is unknown (last \
                 error: {last}); read the key, or retry with the same request id"
            ),
        );
        match is_birth_refused {
            true => error.refused_for_birth(),
            false => error,
        }
    }

    /// The error of a write that got the answer of another operation.
    pub(crate) fn mismatched(id: RequestId) -> Error {
        Error::unknown(
            id,
            "the answer belongs to another operation than the request; read the key",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: RequestId = RequestId {
        birth_millis: 7,
        random: [9; 16],
    };

    fn refused(code: Code) -> CallError {
        CallError::Refused(Refusal::new(code, "words"))
    }

    fn lost() -> CallError {
        CallError::Lost(Refusal::unavailable("the connection broke"))
    }

    /// The error after `failures`, if there is no time for another attempt.
    fn conclude(made_before: bool, failures: &[CallError]) -> Error {
        let mut attempts = Attempts::new(ID, made_before);
        for failure in failures {
            if attempts.failed(failure.clone()) == Next::Conclude {
                break;
            }
        }
        attempts.conclude()
    }

    #[test]
    fn before_any_attempt_was_lost_refusals_are_final() {
        for code in Code::ALL {
            let mut attempts = Attempts::new(ID, false);
            let next = attempts.failed(refused(code));
            let goes_on = is_retryable(code) || code == Code::OutcomeUnknown;
            assert_eq!(next != Next::Conclude, goes_on, "{code}");
            let error = attempts.conclude();
            assert_eq!(error.code(), code);
            let expected = (code == Code::OutcomeUnknown).then_some(ID);
            assert_eq!(error.request_id(), expected, "{code}");
        }
        let unsent = CallError::Unsent(Refusal::unavailable("nobody listens"));
        let error = conclude(false, &[unsent.clone(), unsent]);
        assert_eq!(
            (error.code(), error.request_id()),
            (Code::Unavailable, None)
        );
    }

    #[test]
    fn after_a_lost_attempt_no_refusal_is_definite() {
        for code in Code::ALL {
            for first in [lost(), refused(Code::OutcomeUnknown)] {
                let many = vec![refused(code); 20];
                let error = conclude(false, &[vec![first], many].concat());
                assert_eq!(error.code(), Code::OutcomeUnknown, "{code}");
                assert_eq!(error.request_id(), Some(ID), "{code}");
                assert!(error.message().contains("words"), "{error}");
            }
            let error = conclude(true, &vec![refused(code); 20]);
            assert_eq!(
                error.code(),
                Code::OutcomeUnknown,
                "{code} of an earlier id"
            );
        }
    }

    #[test]
    fn a_deadline_before_a_later_attempt_was_sent_hides_no_earlier_failure() {
        let overdue = || CallError::Unsent(Refusal::new(Code::DeadlineExceeded, "late"));
        let error = conclude(false, &[overdue()]);
        assert_eq!(
            (error.code(), error.message()),
            (Code::DeadlineExceeded, "late")
        );
        let error = conclude(false, &[refused(Code::Unavailable), overdue()]);
        assert_eq!(
            (error.code(), error.message()),
            (Code::Unavailable, "words")
        );
        let error = conclude(false, &[born_wrongly(50), overdue()]);
        assert!(error.code() == Code::Unavailable && error.is_refused_for_birth());
        for (made_before, failures) in [
            (false, vec![lost(), overdue()]),
            (false, vec![lost(), refused(Code::Unavailable), overdue()]),
            (true, vec![overdue()]),
        ] {
            let error = conclude(made_before, &failures);
            assert_eq!(error.code(), Code::OutcomeUnknown);
            assert_eq!(error.request_id(), Some(ID));
        }
    }

    #[test]
    fn a_refusal_counts_once_all_other_attempts_are_refused_too() {
        for code in Code::ALL {
            if is_retryable(code) || code == Code::OutcomeUnknown {
                continue;
            }
            let two = || {
                let mut attempts = Attempts::new(ID, false);
                attempts.sent();
                attempts.sent();
                let next = attempts.failed(refused(code));
                assert_ne!(next, Next::Conclude, "{code}: the other may be applied");
                attempts
            };
            assert_eq!(two().conclude().code(), Code::OutcomeUnknown, "{code}");
            let mut refused_both = two();
            assert_eq!(refused_both.failed(refused(code)), Next::Conclude);
            assert_eq!(refused_both.conclude().code(), code);
            let mut lost_one = two();
            lost_one.failed(lost());
            assert_eq!(lost_one.conclude().code(), Code::OutcomeUnknown, "{code}");
        }
        // With a late attempt, the earlier one's reason counts.
        let mut attempts = Attempts::new(ID, false);
        attempts.sent();
        attempts.sent();
        assert_eq!(attempts.failed(refused(Code::Unavailable)), Next::Again);
        let overdue = CallError::Unsent(Refusal::new(Code::DeadlineExceeded, "late"));
        assert_eq!(attempts.failed(overdue), Next::Conclude);
        assert_eq!(attempts.conclude().code(), Code::Unavailable);
    }

    #[test]
    fn no_new_id_is_made_while_an_attempt_is_unanswered() {
        let mut attempts = Attempts::new(ID, false);
        attempts.sent();
        attempts.sent();
        assert!(!matches!(attempts.failed(born_wrongly(50)), Next::Renew(_)));
        assert_eq!(attempts.failed(born_wrongly(60)), Next::Renew(60));
    }

    #[test]
    fn a_contradicted_write_is_not_asked_for_for_ever() {
        let mut attempts = Attempts::new(ID, false);
        assert_eq!(attempts.failed(lost()), Next::Again);
        let failed = std::iter::repeat_with(|| attempts.failed(refused(Code::ConditionFailed)));
        let again = failed.take_while(|next| *next != Next::Conclude).take(100);
        assert_eq!(again.count(), MAX_CONTRADICTIONS as usize);
        // Temporary failures are retried without a limit.
        for _ in 0..100 {
            assert_ne!(attempts.failed(refused(Code::Unavailable)), Next::Conclude);
            assert_ne!(
                attempts.failed(refused(Code::ResourceExhausted)),
                Next::Conclude
            );
        }
    }

    fn born_wrongly(platform_millis: u64) -> CallError {
        CallError::Refused(Refusal::birth_refused(platform_millis, "words"))
    }

    #[test]
    fn a_write_refused_for_its_birth_is_sent_under_a_new_id() {
        let mut attempts = Attempts::new(ID, false);
        assert_eq!(attempts.failed(born_wrongly(50)), Next::Renew(50));
        let new = RequestId {
            birth_millis: 50,
            ..ID
        };
        attempts.renew(new);
        assert_eq!(attempts.failed(born_wrongly(40)), Next::Renew(40));
        // A lost attempt under the new id counts for the new id.
        assert_eq!(attempts.failed(lost()), Next::Again);
        let error = attempts.conclude();
        assert_eq!(
            (error.code(), error.request_id()),
            (Code::OutcomeUnknown, Some(new))
        );
        assert!(!error.is_refused_for_birth());

        let error = conclude(false, &[born_wrongly(50)]);
        assert_eq!(
            error.code(),
            Code::Unavailable,
            "its caller did nothing wrong"
        );
        assert!(error.is_retryable() && error.is_refused_for_birth());
    }

    #[test]
    fn after_a_lost_attempt_no_new_id_is_made() {
        for made_before in [true, false] {
            let mut attempts = Attempts::new(ID, made_before);
            assert_eq!(attempts.failed(lost()), Next::Again);
            while attempts.failed(born_wrongly(50)) == Next::Again {}
            let error = attempts.conclude();
            assert_eq!(error.code(), Code::OutcomeUnknown);
            assert_eq!(error.request_id(), Some(ID));
            assert!(error.is_refused_for_birth(), "{error}");
        }
    }
}
