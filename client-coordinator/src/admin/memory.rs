//! The data nodes' memory settings, changed at run time: a record in coordination that every node
//! follows.

use tierkv_cache::Cache;
use tierkv_coordination::{
    Swap, Versioned,
    directory::{self, MEMORY_SETTINGS},
};
use tierkv_rpc::proto::{
    convert,
    v1::{MemoryOverrides, MemorySettings, NodeMemory, SetMemoryRequest, set_memory_request},
};
use tierkv_types::Error;

use super::Admin;

/// Maximum attempts of a change that conflicts with another.
const ATTEMPTS: usize = 16;

impl<C: Cache> Admin<C> {
    /// The current settings, and what is in force on every node.
    ///
    /// # Errors
    /// `Unavailable` if coordination or the server coordinators can't be asked.
    pub(crate) async fn memory(&self) -> Result<MemorySettings, Error> {
        let record = self.coordination.get(MEMORY_SETTINGS).await?;
        let mut settings = to_wire(record.as_ref())?;
        let survey = self.survey().await?;
        settings.nodes = (survey.clusters.into_iter())
            .flat_map(|cluster| {
                let id = cluster.id;
                cluster.members.into_iter().map(move |member| NodeMemory {
                    cluster: id.clone(),
                    node: member.node,
                    in_force: member.memory,
                })
            })
            .collect();
        Ok(settings)
    }

    /// Changes the settings. The change is durable when this returns; the nodes follow by
    /// themselves.
    ///
    /// # Errors
    /// `InvalidArgument` for a value out of bounds, or the errors of coordination.
    pub(crate) async fn set_memory(
        &self,
        request: SetMemoryRequest,
    ) -> Result<MemorySettings, Error> {
        let change = request.change.ok_or_else(|| {
            Error::invalid("the request has neither set nor reset; give one of them")
        })?;
        if let set_memory_request::Change::Set(set) = &change {
            check(set)?;
        }
        for _ in 0..ATTEMPTS {
            let record = self.coordination.get(MEMORY_SETTINGS).await?;
            let swap = match (&change, record) {
                (set_memory_request::Change::Reset(_), None) => {
                    return Ok(MemorySettings::default());
                }
                (set_memory_request::Change::Reset(_), Some(record)) => {
                    let deleting = self.coordination.delete(MEMORY_SETTINGS, record.revision);
                    match deleting.await? {
                        Swap::Won(_) => return Ok(MemorySettings::default()),
                        Swap::Lost => continue,
                    }
                }
                (set_memory_request::Change::Set(set), record) => {
                    let before = record.as_ref().map(decode).transpose()?;
                    let value = merged(before.unwrap_or_default(), set)?.encode();
                    let swap = match &record {
                        None => (self.coordination).put_if_absent(MEMORY_SETTINGS, value.clone()),
                        Some(record) => self.coordination.compare_and_swap(
                            MEMORY_SETTINGS,
                            record.revision,
                            value.clone(),
                        ),
                    };
                    (swap.await?, value)
                }
            };
            if let (Swap::Won(revision), value) = swap {
                return to_wire(Some(&Versioned { value, revision }));
            }
        }
        Err(Error::unavailable(
            "the memory settings are being changed by others; nothing was changed, retry",
        ))
    }
}

/// Refuses settings that no node could apply.
fn check(set: &MemoryOverrides) -> Result<(), Error> {
    if let Some(policy) = set.policy {
        convert::policy_name(policy)?;
    }
    if set.max_bytes == Some(0) {
        return Err(Error::invalid(
            "max_bytes: at least 1; it limits the memory for entries that the store has too",
        ));
    }
    if *set == MemoryOverrides::default() {
        return Err(Error::invalid(
            "nothing is set; give policy, max_records or max_bytes",
        ));
    }
    Ok(())
}

/// `before`, overridden by `set`.
fn merged(
    before: directory::MemorySettings,
    set: &MemoryOverrides,
) -> Result<directory::MemorySettings, Error> {
    let policy = set.policy.map(convert::policy_name).transpose()?;
    Ok(directory::MemorySettings {
        policy: policy.map(str::to_owned).or(before.policy),
        max_records: set.max_records.or(before.max_records),
        max_bytes: set.max_bytes.or(before.max_bytes),
    })
}

fn decode(record: &Versioned) -> Result<directory::MemorySettings, Error> {
    directory::MemorySettings::decode(&record.value).map_err(|why| {
        Error::invalid(format!(
            "the settings can't be read ({why}); reset them, or use the release that set them"
        ))
    })
}

/// The record in wire form.
fn to_wire(record: Option<&Versioned>) -> Result<MemorySettings, Error> {
    let Some(record) = record else {
        return Ok(MemorySettings::default());
    };
    let set = decode(record)?;
    let policy = set.policy.as_deref().map(convert::policy).transpose()?;
    Ok(MemorySettings {
        set: Some(MemoryOverrides {
            policy: policy.map(i32::from),
            max_records: set.max_records,
            max_bytes: set.max_bytes,
        }),
        revision: record.revision.0,
        nodes: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use tierkv_rpc::proto::v1::EvictionPolicy;
    use tierkv_types::Code;

    use super::*;

    #[test]
    fn a_change_keeps_what_it_leaves_out() {
        let before = directory::MemorySettings {
            policy: Some("lru".to_owned()),
            max_records: Some(7),
            max_bytes: None,
        };
        let set = MemoryOverrides {
            policy: Some(EvictionPolicy::Fifo.into()),
            max_records: None,
            max_bytes: Some(9),
        };
        let after = directory::MemorySettings {
            policy: Some("fifo".to_owned()),
            max_records: Some(7),
            max_bytes: Some(9),
        };
        assert_eq!(merged(before, &set), Ok(after));
    }

    #[test]
    fn invalid_settings_are_refused() {
        for (set, word) in [
            (MemoryOverrides::default(), "nothing is set"),
            (
                MemoryOverrides {
                    policy: Some(99),
                    ..MemoryOverrides::default()
                },
                "99",
            ),
            (
                MemoryOverrides {
                    policy: Some(EvictionPolicy::Unspecified.into()),
                    ..MemoryOverrides::default()
                },
                "unknown",
            ),
            (
                MemoryOverrides {
                    max_bytes: Some(0),
                    ..MemoryOverrides::default()
                },
                "max_bytes",
            ),
        ] {
            let error = check(&set).unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument);
            assert!(error.message.contains(word), "{error}");
        }
        let no_bound = MemoryOverrides {
            max_records: Some(0),
            ..MemoryOverrides::default()
        };
        assert_eq!(check(&no_bound), Ok(()));
    }
}
