//! The members of an etcd cluster, and calls to them.
//!
//! Each member has one connection. A call goes to the current member; if that fails, the next one
//! becomes the current one. Every call ends within [`CALL_LIMIT`]. A connection is tried with a
//! read before a change goes over it, so that a member which is dead or paused when it is first
//! used makes no outcome unknown.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use etcd_client::{Client, ConnectOptions, GetOptions};
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, timeout},
};

use super::{
    failure::{AUTH_NOT_ENABLED, Failure, Kind},
    history::{Answer, History},
};
use crate::{error::CoordinationError, location::EtcdLocation};

/// Timeout of a call, with all its attempts.
pub(super) const CALL_LIMIT: Duration = Duration::from_secs(2);
/// Largest answer of etcd, in bytes. A larger one ends in `Unavailable`.
pub(super) const MAX_ANSWER_BYTES: usize = 256 << 20;
/// The members that a call must be able to try within its timeout.
const MEMBERS_TRIED: usize = 3;
/// The pause after all members have failed.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// The members, and what all calls need.
pub(super) struct Cluster {
    members: Vec<Member>,
    /// The member of the next call.
    current: AtomicUsize,
    /// Timeout of one attempt that can be repeated.
    attempt_limit: Duration,
    options: ConnectOptions,
    credentials: Option<(String, String)>,
    /// A key that the user may read.
    probe: Vec<u8>,
    /// The number of the next connection.
    next_number: AtomicU64,
    pub(super) history: History,
    /// Its sender is dropped with the store.
    open: watch::Receiver<()>,
}

struct Member {
    address: String,
    connection: Mutex<Option<Connection>>,
}

/// A connection to one member; it is made again by itself when it breaks.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) client: Client,
    /// Distinguishes it from later ones to the same member.
    number: u64,
}

/// Whether a call may be sent again if its outcome is unknown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    Allowed,
    Forbidden,
}

impl Cluster {
    /// Makes no connection yet, but checks that `options` are usable.
    pub(super) async fn new(
        location: &EtcdLocation,
        options: ConnectOptions,
        credentials: Option<(String, String)>,
        probe: Vec<u8>,
        open: watch::Receiver<()>,
    ) -> Result<Self, CoordinationError> {
        let scheme = if location.is_tls() { "https" } else { "http" };
        let members: Vec<Member> = location
            .endpoints()
            .iter()
            .map(|endpoint| Member {
                address: format!("{scheme}://{endpoint}"),
                connection: Mutex::default(),
            })
            .collect();
        for member in &members {
            // This does not wait for the network: without a user, nothing is sent.
            let made = Client::connect([&member.address], Some(options.clone())).await;
            made.map_err(|error| {
                CoordinationError::InvalidArgument(format!(
                    "etcd at {} can't be used: {error}; check the certificates and the location",
                    member.address
                ))
            })?;
        }
        let tried = u32::try_from(members.len().clamp(1, MEMBERS_TRIED)).unwrap_or(1);
        Ok(Self {
            members,
            current: AtomicUsize::new(0),
            attempt_limit: CALL_LIMIT / tried,
            options,
            credentials,
            probe,
            next_number: AtomicU64::new(0),
            history: History::default(),
            open,
        })
    }

    /// Waits until the store is dropped.
    pub(super) async fn closed(&self) {
        let mut open = self.open.clone();
        // Nothing is ever sent: only the end of the sender is a change.
        while open.changed().await.is_ok() {}
    }

    /// Calls a member until one answers. `call` may happen several times. Also returns which
    /// member answered.
    pub(super) async fn read<A, F, Fut>(&self, call: F) -> Result<(A, usize), CoordinationError>
    where
        A: Answer,
        F: Fn(Client) -> Fut + Send + Sync,
        Fut: Future<Output = Result<A, etcd_client::Error>> + Send,
    {
        self.call(Repeat::Allowed, call).await
    }

    /// Calls a member; `call` happens at most once. If it may have happened, but was not answered,
    /// that is `OutcomeUnknown`.
    pub(super) async fn change<A, F, Fut>(&self, call: F) -> Result<A, CoordinationError>
    where
        A: Answer,
        F: Fn(Client) -> Fut + Send + Sync,
        Fut: Future<Output = Result<A, etcd_client::Error>> + Send,
    {
        let (answer, _) = self.call(Repeat::Forbidden, call).await?;
        Ok(answer)
    }

    async fn call<A, F, Fut>(
        &self,
        repeat: Repeat,
        call: F,
    ) -> Result<(A, usize), CoordinationError>
    where
        A: Answer,
        F: Fn(Client) -> Fut + Send + Sync,
        Fut: Future<Output = Result<A, etcd_client::Error>> + Send,
    {
        let deadline = Instant::now() + CALL_LIMIT;
        let mut is_renewed = false;
        let mut failed = 0;
        loop {
            let at = self.current();
            let failure = match self.attempt(at, repeat, deadline, &call).await {
                Ok(answer) => return Ok((answer, at)),
                Err(failure) => failure,
            };
            tracing::debug!(reason = failure.words, kind = ?failure.kind, "a call to etcd failed");
            if failure.kind == Kind::StaleToken && !is_renewed {
                // The same member again, over a new connection with a new token.
                is_renewed = true;
                continue;
            }
            self.turn_from(at);
            if let Some(error) = conclusion(&failure, repeat) {
                return Err(error);
            }
            failed += 1;
            if usize::is_multiple_of(failed, self.members.len()) {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            if Instant::now() >= deadline {
                return Err(CoordinationError::Unavailable(failure.words));
            }
        }
    }

    async fn attempt<A, F, Fut>(
        &self,
        at: usize,
        repeat: Repeat,
        deadline: Instant,
        call: &F,
    ) -> Result<A, Failure>
    where
        A: Answer,
        F: Fn(Client) -> Fut + Send + Sync,
        Fut: Future<Output = Result<A, etcd_client::Error>> + Send,
    {
        let address = &self.members[at].address;
        let connection = self.connection(at).await?;
        let floor = self.history.revision();
        let rest = deadline.saturating_duration_since(Instant::now());
        let limit = match repeat {
            Repeat::Allowed => self.attempt_limit.min(rest),
            Repeat::Forbidden => rest,
        };
        if limit.is_zero() {
            let words = format!("the time was used up before etcd at {address} was asked");
            return Err(Failure::new(Kind::NotDone, words));
        }
        match timeout(limit, call(connection.client.clone())).await {
            Ok(Ok(answer)) => {
                match self.history.check(answer.header(), floor, address) {
                    Ok(()) => Ok(answer),
                    // It was done, but not in the store that was meant.
                    Err(failure) if repeat == Repeat::Forbidden => {
                        Err(Failure::new(Kind::Unknown, failure.words))
                    }
                    Err(failure) => Err(failure),
                }
            }
            Ok(Err(error)) => {
                let failure = Failure::of(&error, address);
                if failure.kind == Kind::StaleToken {
                    self.discard(at, &connection).await;
                }
                Err(failure)
            }
            Err(_) => {
                // A peer that is silently dead would keep this connection busy for ever.
                self.discard(at, &connection).await;
                let words = format!("etcd at {address} did not answer within {limit:?}");
                Err(Failure::new(Kind::Unknown, words))
            }
        }
    }

    /// The member that is called next.
    pub(super) fn current(&self) -> usize {
        self.current.load(Ordering::SeqCst) % self.members.len()
    }

    /// Calls the next member from now on, unless that was done already.
    pub(super) fn turn_from(&self, at: usize) {
        let next = (at + 1) % self.members.len();
        let order = Ordering::SeqCst;
        // If another call has turned already, its choice stands.
        let _ = self.current.compare_exchange(at, next, order, order);
    }

    /// The address of a member, for messages.
    pub(super) fn address(&self, at: usize) -> &str {
        &self.members[at].address
    }

    /// A connection to a member that answered a read, at least when it was made.
    pub(super) async fn connection(&self, at: usize) -> Result<Connection, Failure> {
        let member = &self.members[at];
        match timeout(self.attempt_limit, self.opened(member)).await {
            Ok(connection) => connection,
            Err(_) => Err(Failure::new(
                Kind::NotDone,
                format!(
                    "etcd at {} did not answer within {:?}",
                    member.address, self.attempt_limit
                ),
            )),
        }
    }

    /// The member's connection is replaced at its next use.
    pub(super) async fn discard(&self, at: usize, connection: &Connection) {
        let mut slot = self.members[at].connection.lock().await;
        if slot
            .as_ref()
            .is_some_and(|it| it.number == connection.number)
        {
            *slot = None;
        }
    }

    async fn opened(&self, member: &Member) -> Result<Connection, Failure> {
        let mut slot = member.connection.lock().await;
        if let Some(connection) = &*slot {
            return Ok(connection.clone());
        }
        let client = self.connect(&member.address).await?;
        let connection = Connection {
            client,
            number: self.next_number.fetch_add(1, Ordering::SeqCst),
        };
        *slot = Some(connection.clone());
        Ok(connection)
    }

    /// Connects, authenticates, and reads something.
    async fn connect(&self, address: &str) -> Result<Client, Failure> {
        let failure = |error: &etcd_client::Error| Failure::of_first_request(error, address);
        let made = Client::connect([address], Some(self.options.clone())).await;
        let mut client = made.map_err(|error| failure(&error))?;
        if let Some(credentials) = &self.credentials {
            match client.update_user(Some(credentials.clone())).await {
                // As etcd's own clients do; once it is switched on, the next call finds out.
                Err(error) if is_auth_off(&error) => {}
                result => result.map_err(|error| failure(&error))?,
            }
        }
        let floor = self.history.revision();
        let options = GetOptions::new().with_keys_only();
        let mut kv = client.kv_client();
        let answer = kv.get(self.probe.clone(), Some(options)).await;
        let answer = answer.map_err(|error| failure(&error))?;
        self.history.check(answer.header(), floor, address)?;
        Ok(client)
    }
}

fn is_auth_off(error: &etcd_client::Error) -> bool {
    let etcd_client::Error::GRpcStatus(status) = error else {
        return false;
    };
    status.message() == AUTH_NOT_ENABLED
}

/// The outcome of a call after a failed attempt; `None` if it may be tried again.
fn conclusion(failure: &Failure, repeat: Repeat) -> Option<CoordinationError> {
    let words = failure.words.clone();
    match (failure.kind, repeat) {
        (Kind::Refused, _) => Some(CoordinationError::Unavailable(words)),
        (Kind::OtherStore, _) => Some(CoordinationError::Storage(words)),
        (Kind::Unknown, Repeat::Forbidden) => Some(CoordinationError::OutcomeUnknown(words)),
        (Kind::NotDone | Kind::StaleToken, _) | (Kind::Unknown, Repeat::Allowed) => None,
    }
}
