//! Reads from the store what the keys of writes hold, when memory lacks some of them.

use std::collections::HashMap;

use tierkv_storage::{Item, Storage, StorageError};
use tierkv_types::{Error, ItemKey};

use crate::{
    judgement::{Need, PriorValue, Priors, needed},
    proposal::{Proposal, Rows},
};

/// Keys in one read of the store.
pub(crate) const KEYS_PER_LOAD: usize = 50;

/// Most bytes of previous values that are held for the writes of one frame, to judge them or to
/// answer them with. Writes that need more are refused.
const PRIOR_BYTES: usize = 64 << 20;

/// Reads what the keys that `proposals` depend on hold, a few keys at a time, so that many
/// large values are never held together. Keys in memory are read too, because memory may evict
/// them before the write is judged. A damaged row counts as present: it may be deleted, and it
/// fails no write to other keys.
///
/// # Errors
/// Failures of the store.
pub(crate) async fn load(storage: &Storage, proposals: &[Proposal]) -> Result<Rows, Error> {
    // Before the reads: a key changed from here on stays in memory until the generation changes.
    let generation = storage.generation();
    let priors = load_priors(storage, &needs(proposals)).await?;
    Ok(Rows { generation, priors })
}

/// What the proposals need to know of each key, in the order of the keys.
fn needs(proposals: &[Proposal]) -> Vec<(&ItemKey, Need)> {
    let mut needs = HashMap::new();
    for (key, need) in proposals
        .iter()
        .flat_map(|proposal| needed(&proposal.write))
    {
        let most = needs.entry(key).or_insert(need);
        *most = need.max(*most);
    }
    let mut needs: Vec<(&ItemKey, Need)> = needs.into_iter().collect();
    needs.sort_unstable_by_key(|(key, _)| *key);
    needs
}

async fn load_priors(storage: &Storage, needs: &[(&ItemKey, Need)]) -> Result<Priors, Error> {
    let mut priors = Priors::with_capacity(needs.len());
    let mut bytes = 0;
    for needs in needs.chunks(KEYS_PER_LOAD) {
        let keys: Vec<ItemKey> = needs.iter().map(|(key, _)| (*key).clone()).collect();
        let loaded = load_some(storage, &keys).await?;
        for ((key, need), prior) in needs.iter().zip(loaded) {
            let mut prior = prior.reduced_to(*need);
            bytes += prior.bytes();
            if bytes > PRIOR_BYTES {
                bytes -= prior.bytes();
                prior = prior.unread(Error::exhausted(format!(
                    "writes that arrived together ask for over {PRIOR_BYTES} bytes of previous \
                     values, which is the limit prior_bytes; nothing was done, try again"
                )));
            }
            priors.insert((*key).clone(), prior);
        }
    }
    Ok(priors)
}

async fn load_some(storage: &Storage, keys: &[ItemKey]) -> Result<Vec<PriorValue>, Error> {
    let prior = |item: Option<Item>| item.map_or(PriorValue::Absent, PriorValue::Held);
    if let Ok(items) = storage.load(keys).await {
        return Ok(items.into_iter().map(prior).collect());
    }
    let mut priors = Vec::with_capacity(keys.len());
    for key in keys {
        let item = storage.load(std::slice::from_ref(key)).await;
        priors.push(match item {
            Ok(mut item) => prior(item.pop().flatten()),
            Err(error @ StorageError::Damaged { .. }) => PriorValue::Unreadable(error.to_error()),
            Err(error) => return Err(error.to_error()),
        });
    }
    Ok(priors)
}
