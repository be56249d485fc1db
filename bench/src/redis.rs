//! redis as a peer.

use ::redis::{AsyncConnectionConfig, Client, aio::MultiplexedConnection, cmd};
use bytes::Bytes;
use tierkv_workload::{Answer, Failure, Plan, Target};

/// Records in one `MSET` of a load.
const LOAD_OPERATIONS: usize = 1_000;

/// One multiplexed connection; clones share it.
#[derive(Clone)]
pub(crate) struct RedisClient {
    connection: MultiplexedConnection,
}

impl RedisClient {
    pub(crate) async fn connect(address: &str) -> Result<Self, Failure> {
        let client = Client::open(format!("redis://{address}/")).map_err(Failure::of)?;
        // Without a timeout the crate sets no timer per command, which is fastest.
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(Failure::of)?;
        Ok(Self { connection })
    }

    /// Writes every record of `plan` once, many per command.
    pub(crate) async fn load(&mut self, plan: &Plan) -> Result<(), Failure> {
        for start in (0..plan.keys).step_by(LOAD_OPERATIONS) {
            let end = plan.keys.min(start + LOAD_OPERATIONS as u64);
            let mut command = cmd("MSET");
            for index in start..end {
                command
                    .arg(plan.shape.key(index).as_ref())
                    .arg(&plan.shape.value(index, plan.seed)[..]);
            }
            command
                .query_async::<()>(&mut self.connection)
                .await
                .map_err(Failure::of)?;
        }
        Ok(())
    }

    /// The allocated bytes that redis reports.
    pub(crate) async fn used_memory(&mut self) -> Result<u64, Failure> {
        let info: String = cmd("INFO")
            .arg("memory")
            .query_async(&mut self.connection)
            .await
            .map_err(Failure::of)?;
        info.lines()
            .find_map(|line| line.strip_prefix("used_memory:"))
            .and_then(|bytes| bytes.trim().parse().ok())
            .ok_or_else(|| Failure("redis reports no used_memory".to_owned()))
    }
}

impl Target for RedisClient {
    async fn get(&mut self, key: &[u8]) -> Result<Answer, Failure> {
        let value: Option<Vec<u8>> = cmd("GET")
            .arg(key)
            .query_async(&mut self.connection)
            .await
            .map_err(Failure::of)?;
        Ok(Answer {
            value: value.map(Bytes::from),
            cached: false,
        })
    }

    async fn put(&mut self, key: &[u8], value: Bytes) -> Result<(), Failure> {
        cmd("SET")
            .arg(key)
            .arg(&value[..])
            .query_async::<()>(&mut self.connection)
            .await
            .map_err(Failure::of)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tierkv_harness::Redis;
    use tierkv_workload::{Check, Distribution, Operations, Shape, drive};

    use super::*;

    #[tokio::test]
    async fn loaded_records_are_read_and_overwritten() {
        let plan = Plan {
            shape: Shape::Trace,
            keys: 2_500,
            distribution: Distribution::Uniform,
            operations: Operations::Mixed { writes: 0.5 },
            check: Check::Content,
            tasks: 8,
            duration: Duration::from_millis(200),
            seed: 1,
        };
        let server = Redis::start(&[]).await.unwrap();
        let mut client = RedisClient::connect(&server.address()).await.unwrap();
        client.load(&plan).await.unwrap();
        let outcome = drive(&[client], &plan).await.unwrap();
        assert_eq!((outcome.failures, outcome.first_failure), (0, None));
        // Each task does at least one operation, even on a slow machine.
        assert!(outcome.operations >= plan.tasks as u64);
    }
}
