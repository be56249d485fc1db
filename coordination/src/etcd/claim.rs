//! Claims: keys under a lease, for members and candidates.
//!
//! Each claim has a lease of its own, renewed every third of its TTL by a task that ends with the
//! claim. A renewal is one request on a stream of its own, so that a server that died or was
//! restarted is noticed by the missing answer. A claim is released by revoking its lease, which
//! also keeps a delayed creation of its key from happening later.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{LeaseGrantOptions, PutOptions, Txn, TxnOp, TxnOpResponse};
use tierkv_types::clock::{BootTime, Clock};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};

use super::{
    cluster::Cluster,
    cut_off::CutOff,
    failure::{Failure, Kind, LEASE_NOT_FOUND},
    snapshot::{Range, unsigned},
    term::Term,
};
use crate::{error::CoordinationError, lease::Lease};

/// The part of the TTL after which a lease is renewed.
const RENEWALS: u32 = 3;
/// The part of the TTL that one attempt to renew may take.
const ATTEMPTS: u32 = 5;
/// The pause after an attempt that failed.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// What all claims of a store share.
pub(super) struct Claims {
    pub(super) cluster: Arc<Cluster>,
    pub(super) clock: Arc<dyn Clock>,
    /// The time to live of leases, in whole seconds.
    pub(super) ttl: Duration,
    pub(super) cut_off: CutOff,
}

/// A claimed key.
pub(super) struct Claimed {
    key: Range,
    lease: i64,
    /// The revision at which the key was created.
    pub(super) created: u64,
    pub(super) term: Arc<Term>,
}

/// Why a task of a claim stops renewing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    No,
    /// The lease was revoked.
    Released,
    /// The holder is gone; the lease is still to be revoked.
    Abandoned,
}

impl Claims {
    /// Creates `key` under a lease; `None` if it exists.
    pub(super) async fn claim(
        &self,
        key: Range,
        data: Bytes,
    ) -> Result<Option<Claimed>, CoordinationError> {
        let (lease, sent) = self.grant().await?;
        let term = Arc::new(Term::new(Arc::clone(&self.clock), self.ttl, sent));
        match self.create(&key, data, lease).await {
            Ok(Some(created)) => {
                self.cut_off.restore(&key);
                Ok(Some(Claimed {
                    key,
                    lease,
                    created,
                    term,
                }))
            }
            other => {
                // Nobody needs the lease. If the creation is only delayed, it then fails.
                let cluster = Arc::clone(&self.cluster);
                tokio::spawn(async move { drop(revoke(&cluster, lease).await) });
                other.map(|_| None)
            }
        }
    }

    pub(super) async fn grant(&self) -> Result<(i64, BootTime), CoordinationError> {
        let ttl = i64::try_from(self.ttl.as_secs()).unwrap_or(i64::MAX);
        let granting = self.cluster.read(|client| {
            let sent = self.clock.boot_time();
            let mut leases = client.lease_client();
            async move {
                let granted = leases.grant(ttl, Some(LeaseGrantOptions::new())).await?;
                Ok((sent, granted))
            }
        });
        let ((sent, granted), _) = granting.await?;
        Ok((granted.id(), sent))
    }

    /// The revision at which the key was created under this lease; `None` if another has it. It may
    /// be sent several times, because a key of this lease is this claim's, whichever created it.
    pub(super) async fn create(
        &self,
        key: &Range,
        data: Bytes,
        lease: i64,
    ) -> Result<Option<u64>, CoordinationError> {
        let put = PutOptions::new().with_lease(lease);
        let put = TxnOp::put(key.key(), data, Some(put));
        let txn = Txn::new()
            .when([key.is_at(0)])
            .and_then([put])
            .or_else([key.get()]);
        let creating = self.cluster.read(|client| {
            let mut kv = client.kv_client();
            let txn = txn.clone();
            async move { kv.txn(txn).await }
        });
        let (answer, _) = creating.await?;
        if answer.succeeded() {
            let revision = answer.header().map_or(0, |header| header.revision());
            return Ok(Some(unsigned(revision)));
        }
        let found = answer.op_responses().into_iter().find_map(|op| match op {
            TxnOpResponse::Get(found) => found.kvs().first().cloned(),
            _ => None,
        });
        let own = found.filter(|found| found.lease() == lease);
        Ok(own.map(|own| unsigned(own.create_revision())))
    }

    /// Holds a claim: `lost` is called once it is lost, after `watched` ended or the lease did.
    pub(super) fn hold(
        self: &Arc<Self>,
        claimed: Claimed,
        watched: impl Future<Output = ()> + Send + 'static,
        lost: impl FnOnce() + Send + 'static,
    ) -> Claim {
        let (stop, mut stopped) = watch::channel(Stop::No);
        let claim = Claim {
            cluster: Arc::clone(&self.cluster),
            lease: claimed.lease,
            term: Arc::clone(&claimed.term),
            stop,
        };
        let claims = Arc::clone(self);
        tokio::spawn(async move {
            let is_released = tokio::select! {
                () = claims.keep(&claimed) => false,
                () = watched => false,
                () = claims.cluster.closed() => false,
                stop = stop_of(&mut stopped) => stop == Stop::Released,
            };
            claimed.term.end();
            lost();
            if !is_released && !claims.cut_off.is_cut_off(&claimed.key) {
                // The name is free earlier; without an answer, the lease ends by itself.
                let _ = revoke(&claims.cluster, claimed.lease).await;
            }
        });
        claim
    }

    /// Renews the lease until it is lost.
    async fn keep(&self, claimed: &Claimed) {
        let Claimed { term, lease, .. } = claimed;
        let mut pause = self.ttl / RENEWALS;
        while !term.is_over() {
            sleep(pause.min(term.rest())).await;
            pause = RETRY_PAUSE;
            if term.is_over() || self.cut_off.is_cut_off(&claimed.key) {
                continue;
            }
            let member = self.cluster.current();
            let sent = self.clock.boot_time();
            let limit = (self.ttl / ATTEMPTS).min(term.rest());
            match self.renew(*lease, member, limit).await {
                Ok(()) => {
                    term.renew(sent);
                    pause = self.ttl / RENEWALS;
                }
                Err(failure) if failure.kind == Kind::Refused => {
                    let reason = failure.words;
                    tracing::warn!(reason, "a lease of etcd is gone");
                    return;
                }
                Err(failure) => {
                    let reason = failure.words;
                    tracing::debug!(reason, "a lease of etcd was not renewed, trying again");
                    self.cluster.turn_from(member);
                }
            }
        }
        tracing::debug!("a lease of etcd is over");
    }

    /// One renewal at one member. `Refused` means that the lease is gone.
    async fn renew(&self, lease: i64, member: usize, limit: Duration) -> Result<(), Failure> {
        let end = Instant::now() + limit;
        let address = self.cluster.address(member);
        let late = || {
            let words = format!("etcd at {address} did not answer within {limit:?}");
            Failure::new(Kind::Unknown, words)
        };
        let connection = timeout_at(end, self.cluster.connection(member));
        let connection = connection.await.map_err(|_| late())??;
        let mut client = connection.client.lease_client();
        // It reads the first answer. The stream ends here.
        let error = match timeout_at(end, client.keep_alive(lease)).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => error,
            Err(_) => {
                self.cluster.discard(member, &connection).await;
                return Err(late());
            }
        };
        if is_gone(&error) {
            let words = format!("etcd at {address}: {error}");
            return Err(Failure::new(Kind::Refused, words));
        }
        let failure = Failure::of(&error, address);
        if failure.kind == Kind::StaleToken {
            self.cluster.discard(member, &connection).await;
        }
        // Whatever it was, the lease may live.
        Err(Failure::new(Kind::Unknown, failure.words))
    }
}

/// Whether an error says that the lease has ended.
fn is_gone(error: &etcd_client::Error) -> bool {
    match error {
        // The answer has no time to live.
        etcd_client::Error::LeaseKeepAliveError(_) => true,
        etcd_client::Error::GRpcStatus(status) => status.message() == LEASE_NOT_FOUND,
        _ => false,
    }
}

async fn stop_of(stopped: &mut watch::Receiver<Stop>) -> Stop {
    match stopped.wait_for(|stop| *stop != Stop::No).await {
        Ok(stop) => *stop,
        // The handle dropped its side, which it does only after one of the others.
        Err(_) => Stop::Released,
    }
}

/// Revokes a lease, and with it its key.
pub(super) async fn revoke(cluster: &Cluster, lease: i64) -> Result<(), CoordinationError> {
    let revoking = cluster.read(|client| {
        let mut leases = client.lease_client();
        async move { leases.revoke(lease).await }
    });
    match revoking.await {
        Ok(_) => Ok(()),
        // It has ended before.
        Err(CoordinationError::Unavailable(words)) if words.contains(LEASE_NOT_FOUND) => Ok(()),
        Err(error) => Err(error),
    }
}

/// A claim, for its handle.
pub(super) struct Claim {
    cluster: Arc<Cluster>,
    lease: i64,
    term: Arc<Term>,
    stop: watch::Sender<Stop>,
}

#[async_trait]
impl Lease for Claim {
    async fn release(&self) -> Result<(), CoordinationError> {
        if self.term.is_over() {
            return Ok(());
        }
        self.term.end();
        revoke(&self.cluster, self.lease).await?;
        self.stop.send_replace(Stop::Released);
        Ok(())
    }

    fn abandon(&self) {
        self.term.end();
        self.stop.send_replace(Stop::Abandoned);
    }

    fn is_over(&self) -> bool {
        self.term.is_over()
    }
}
