//! etcd as a peer.

use std::time::Duration;

use bytes::Bytes;
use etcd_client::{Client, ConnectOptions, GetOptions, KvClient, ResponseHeader, Txn, TxnOp};
use tierkv_workload::{Answer, Failure, Plan, Target};
use tokio::task::JoinSet;

/// Puts in one transaction of a load: etcd's default limit.
const LOAD_OPERATIONS: usize = 128;
/// Transactions of a load in flight.
const LOAD_TASKS: usize = 16;
/// Timeout for connecting.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// One connection to an etcd member.
#[derive(Clone)]
pub(crate) struct EtcdClient {
    kv: KvClient,
}

impl EtcdClient {
    pub(crate) async fn connect(address: &str) -> Result<Self, Failure> {
        let options = ConnectOptions::new().with_connect_timeout(CONNECT_LIMIT);
        let client = Client::connect([address], Some(options))
            .await
            .map_err(Failure::of)?;
        Ok(Self {
            kv: client.kv_client(),
        })
    }

    /// The address of the leader among the members at these addresses.
    ///
    /// # Errors
    /// If none of them is the leader: they are electing one.
    pub(crate) async fn leader(addresses: &[String]) -> Result<String, Failure> {
        for address in addresses {
            let options = ConnectOptions::new().with_connect_timeout(CONNECT_LIMIT);
            let client = Client::connect([address], Some(options)).await;
            let mut client = client.map_err(Failure::of)?;
            let status = client.status().await.map_err(Failure::of)?;
            let own = status.header().map(ResponseHeader::member_id);
            if own == Some(status.leader()) {
                return Ok(address.clone());
            }
        }
        Err(Failure(format!("etcd has no leader among {addresses:?}")))
    }

    /// Writes every record of `plan` once, many per transaction.
    pub(crate) async fn load(&self, plan: &Plan) -> Result<(), Failure> {
        let mut tasks = JoinSet::new();
        for number in 0..LOAD_TASKS {
            let (mut kv, plan) = (self.kv.clone(), plan.clone());
            tasks.spawn(async move {
                let starts = (0..plan.keys).step_by(LOAD_OPERATIONS);
                for start in starts.skip(number).step_by(LOAD_TASKS) {
                    let end = plan.keys.min(start + LOAD_OPERATIONS as u64);
                    let puts: Vec<TxnOp> = (start..end)
                        .map(|index| {
                            let value = plan.shape.value(index, plan.seed);
                            TxnOp::put(plan.shape.key(index).as_ref(), value, None)
                        })
                        .collect();
                    kv.txn(Txn::new().and_then(puts))
                        .await
                        .map_err(Failure::of)?;
                }
                Ok(())
            });
        }
        while let Some(end) = tasks.join_next().await {
            end.map_err(Failure::of)??;
        }
        Ok(())
    }
}

impl Target for EtcdClient {
    async fn get(&mut self, key: &[u8]) -> Result<Answer, Failure> {
        let options = GetOptions::new().with_serializable();
        let mut answer = self.kv.get(key, Some(options)).await.map_err(Failure::of)?;
        let value = answer
            .take_kvs()
            .pop()
            .map(|record| record.into_key_value().1.into());
        Ok(Answer {
            value,
            cached: false,
        })
    }

    async fn put(&mut self, key: &[u8], value: Bytes) -> Result<(), Failure> {
        self.kv
            .put(key, value, None)
            .await
            .map(drop)
            .map_err(Failure::of)
    }
}

#[cfg(test)]
mod tests {
    use tierkv_harness::Etcd;
    use tierkv_workload::{Check, Distribution, Operations, Shape, drive};

    use super::*;

    #[tokio::test]
    async fn the_leader_of_three_is_found() {
        let server = Etcd::start(3).await.unwrap();
        let leader = EtcdClient::leader(&server.addresses()).await.unwrap();
        assert!(server.addresses().contains(&leader));
        let others = server.addresses().into_iter().filter(|it| *it != leader);
        let others: Vec<String> = others.collect();
        let error = EtcdClient::leader(&others).await.unwrap_err();
        assert!(error.0.starts_with("etcd has no leader among"), "{error}");
    }

    #[tokio::test]
    async fn loaded_records_are_read_and_overwritten() {
        let plan = Plan {
            shape: Shape::Trace,
            keys: 1_000,
            distribution: Distribution::Uniform,
            operations: Operations::Mixed { writes: 0.5 },
            check: Check::Content,
            tasks: 8,
            duration: Duration::from_millis(200),
            seed: 1,
        };
        let server = Etcd::start(1).await.unwrap();
        let client = EtcdClient::connect(&server.addresses()[0]).await.unwrap();
        client.load(&plan).await.unwrap();
        let outcome = drive(&[client], &plan).await.unwrap();
        assert_eq!((outcome.failures, outcome.first_failure), (0, None));
        // Each task does at least one operation, even on a slow machine.
        assert!(outcome.operations >= plan.tasks as u64);
    }
}
