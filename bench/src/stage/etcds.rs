//! etcd as a peer, with one member or several.
//!
//! All connections lead to the leader of several members: it then forwards nothing, which is the
//! fastest way to write with as few tasks as here.

use tierkv_harness::Etcd;
use tierkv_workload::{Failure, Operations};

use super::{CONNECTIONS, Stage, harness};
use crate::{cost::Meter, etcd::EtcdClient, note, rounds::Side};

impl Stage {
    /// Reads or writes of an etcd with so many members.
    pub(crate) async fn etcd(
        &mut self,
        members: usize,
        operations: Operations,
    ) -> Result<Side<EtcdClient>, Failure> {
        let (address, meter) = self.loaded_etcd(members).await?;
        let mut targets = Vec::new();
        for _ in 0..CONNECTIONS {
            targets.push(EtcdClient::connect(&address).await?);
        }
        Ok(Side {
            targets,
            meter,
            plan: self.settings.plan(operations),
            least_cached: 0.0,
        })
    }

    async fn loaded_etcd(&mut self, members: usize) -> Result<(String, Meter), Failure> {
        let etcd = match self.etcds.remove(&members) {
            Some(etcd) => etcd,
            None => {
                let mut etcd = Etcd::start(members).await.map_err(harness)?;
                note(format_args!("loading etcd of {members} members"));
                let leader = EtcdClient::leader(&etcd.addresses()).await?;
                EtcdClient::connect(&leader)
                    .await?
                    .load(&self.settings.loading())
                    .await?;
                // Its reads copy the buffer of recent writes, which keeps the length of the largest
                // batch as long as the process lives: users of etcd don't read right after such
                // a load, in the same process.
                etcd.restart().await.map_err(harness)?;
                etcd
            }
        };
        let etcd = self.etcds.entry(members).or_insert(etcd);
        let leader = EtcdClient::leader(&etcd.addresses()).await?;
        let pids = etcd.pids();
        let data = etcd
            .processes()
            .next()
            .map(|process| process.folder().data().to_owned())
            .unwrap_or_default();
        Ok((leader, Meter::new(pids, &data)))
    }
}
