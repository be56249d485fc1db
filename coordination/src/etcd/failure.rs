//! What a failed call to etcd means: whether the change may have happened, and what to do next.

use std::error::Error as _;

use tonic::{Code, ConnectError, Status};

/// Why one attempt of a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) kind: Kind,
    /// For operators and logs.
    pub(super) words: String,
}

/// The kinds of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Certainly nothing happened; another member may be able to do it.
    NotDone,
    /// Certainly nothing happened, because of the token; authenticate again.
    StaleToken,
    /// Certainly nothing happened, and no other member would do it.
    Refused,
    /// The answer is of another cluster, or of an older state of this one.
    OtherStore,
    /// It may have happened, or may happen yet.
    Unknown,
}

/// Refusals because of the token. The last one is of a user whose token etcd does not look at,
/// because authentication was switched on after the connection.
const STALE_TOKEN: &[&str] = &[
    "etcdserver: invalid auth token",
    "etcdserver: revision of auth store is old",
    "etcdserver: user name is empty",
];

/// Refusals that no member would answer otherwise.
const REFUSED: &[&str] = &[
    "etcdserver: permission denied",
    "etcdserver: authentication failed, invalid user ID or password",
    "etcdserver: request is too large",
    LEASE_NOT_FOUND,
];

/// Refusals before anything was proposed to the cluster. "mvcc: database space exceeded" is not
/// one of them: the change that fills the store is applied, and then answered with this error.
const NOT_PROPOSED: &[&str] = &["etcdserver: no leader", "etcdserver: too many requests"];

/// The message for a lease that has ended.
pub(super) const LEASE_NOT_FOUND: &str = "etcdserver: requested lease not found";
/// The message if authentication is switched off in etcd.
pub(super) const AUTH_NOT_ENABLED: &str = "etcdserver: authentication is not enabled";

impl Failure {
    pub(super) const fn new(kind: Kind, words: String) -> Self {
        Self { kind, words }
    }

    /// The meaning of an error of the member at `address`.
    pub(super) fn of(error: &etcd_client::Error, address: &str) -> Self {
        let kind = match error {
            etcd_client::Error::GRpcStatus(status) => kind_of(status),
            etcd_client::Error::InvalidArgs(_)
            | etcd_client::Error::InvalidUri(_)
            | etcd_client::Error::InvalidMetadataValue(_) => Kind::Refused,
            _ => Kind::Unknown,
        };
        Self::new(kind, words(error, address))
    }

    /// The failure of the first request over a new connection, which had no effect.
    pub(super) fn of_first_request(error: &etcd_client::Error, address: &str) -> Self {
        let mut failure = Self::of(error, address).before_sending();
        if is_foreign(error) {
            failure.words = format!("{}; {IS_IT_ETCD}", failure.words);
        }
        failure
    }

    /// The same failure, of something that was done before the call itself was sent: the call
    /// certainly had no effect.
    #[must_use]
    pub(super) fn before_sending(mut self) -> Self {
        if matches!(self.kind, Kind::Unknown | Kind::StaleToken) {
            self.kind = Kind::NotDone;
        }
        self
    }
}

/// What to ask about an answer that etcd does not give.
const IS_IT_ETCD: &str = "is that an etcd? check coordination.url";

/// Whether what answered is perhaps no etcd: it was reached, and the failure is none of etcd's own.
fn is_foreign(error: &etcd_client::Error) -> bool {
    match error {
        etcd_client::Error::GRpcStatus(status) => {
            !was_not_sent(status) && !status.message().starts_with("etcdserver: ")
        }
        _ => false,
    }
}

/// The message of an error, with its causes: tonic's own is often only "transport error".
fn words(error: &etcd_client::Error, address: &str) -> String {
    let etcd_client::Error::GRpcStatus(status) = error else {
        return format!("etcd at {address}: {error}");
    };
    let message = match status.message() {
        "" => "it gave no reason",
        message => message,
    };
    let mut words = format!("etcd at {address}: {message}");
    let mut source = status.source();
    while let Some(cause) = source {
        let cause_words = cause.to_string();
        if !words.contains(&cause_words) {
            words = format!("{words}: {cause_words}");
        }
        source = cause.source();
    }
    if status.message() == "etcdserver: user name is empty" {
        words.push_str("; configure the user and the password of etcd");
    }
    words
}

fn kind_of(status: &Status) -> Kind {
    let message = status.message();
    if was_not_sent(status) || NOT_PROPOSED.contains(&message) {
        return Kind::NotDone;
    }
    if STALE_TOKEN.contains(&message) || status.code() == Code::Unauthenticated {
        return Kind::StaleToken;
    }
    if REFUSED.contains(&message) {
        return Kind::Refused;
    }
    Kind::Unknown
}

/// Whether there was no connection to send the request over. Every other failure of a connection
/// may come after the request was received.
fn was_not_sent(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(code: Code, message: &str) -> Kind {
        let status = Status::new(code, message);
        Failure::of(&etcd_client::Error::GRpcStatus(status), "a:1").kind
    }

    #[test]
    fn an_answer_that_is_not_of_etcd_is_questioned() {
        let words = |code, message: &str| {
            let error = etcd_client::Error::GRpcStatus(Status::new(code, message));
            Failure::of_first_request(&error, "a:1").words
        };
        assert_eq!(
            words(Code::Unknown, ""),
            "etcd at a:1: it gave no reason; is that an etcd? check coordination.url"
        );
        assert!(words(Code::Internal, "h2 protocol error").ends_with(IS_IT_ETCD));
        assert!(!words(Code::Unavailable, "etcdserver: no leader").contains(IS_IT_ETCD));
    }

    #[test]
    fn only_what_certainly_did_not_happen_counts_as_that() {
        for (code, message, expected) in [
            (Code::Unavailable, "etcdserver: no leader", Kind::NotDone),
            (
                Code::ResourceExhausted,
                "etcdserver: too many requests",
                Kind::NotDone,
            ),
            (
                Code::Unauthenticated,
                "etcdserver: invalid auth token",
                Kind::StaleToken,
            ),
            (
                Code::InvalidArgument,
                "etcdserver: revision of auth store is old",
                Kind::StaleToken,
            ),
            (
                Code::PermissionDenied,
                "etcdserver: permission denied",
                Kind::Refused,
            ),
            (
                Code::Unavailable,
                "etcdserver: request timed out",
                Kind::Unknown,
            ),
            (
                Code::Unavailable,
                "etcdserver: leader changed",
                Kind::Unknown,
            ),
            (
                Code::ResourceExhausted,
                "etcdserver: mvcc: database space exceeded",
                Kind::Unknown,
            ),
            (Code::Unavailable, "transport error", Kind::Unknown),
            (Code::Cancelled, "Timeout expired", Kind::Unknown),
            (
                Code::ResourceExhausted,
                "h2 protocol error: too_many_pings",
                Kind::Unknown,
            ),
        ] {
            assert_eq!(kind(code, message), expected, "{message}");
        }
    }

    #[test]
    fn a_connection_that_was_never_made_sent_nothing() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let status = Status::from_error(Box::new(ConnectError(Box::new(refused))));
        let failure = Failure::of(&etcd_client::Error::GRpcStatus(status), "a:1");
        assert_eq!(failure.kind, Kind::NotDone);
        assert!(
            failure.words.contains("connection refused"),
            "{}",
            failure.words
        );
    }

    #[test]
    fn what_failed_before_the_call_was_sent_is_certain() {
        let unknown = Failure::new(Kind::Unknown, String::new());
        assert_eq!(unknown.before_sending().kind, Kind::NotDone);
        let refused = Failure::new(Kind::Refused, String::new());
        assert_eq!(refused.before_sending().kind, Kind::Refused);
    }
}
