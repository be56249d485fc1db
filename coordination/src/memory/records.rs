//! The visible records and their listeners.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::watch;

use super::image::Image;
use crate::{
    config::{Revision, Versioned},
    watch::Watched,
};

/// The records in their visible state.
pub(super) struct Records {
    image: Image,
    /// One channel per watched key; removed after its last listener.
    keys: BTreeMap<String, watch::Sender<Arc<Option<Versioned>>>>,
    /// One channel per watched prefix; removed after its last listener.
    prefixes: BTreeMap<String, watch::Sender<Arc<BTreeMap<String, Versioned>>>>,
}

impl Records {
    pub(super) fn new(image: Image) -> Self {
        Self {
            image,
            keys: BTreeMap::new(),
            prefixes: BTreeMap::new(),
        }
    }

    pub(super) fn image(&self) -> &Image {
        &self.image
    }

    /// Makes `image` visible; it differs from the current one only in the record `key`.
    pub(super) fn install(&mut self, image: Image, key: &str) {
        debug_assert!(image.revision > self.image.revision, "revisions only grow");
        self.image = image;
        self.forget_unheard();
        if let Some(sender) = self.keys.get(key) {
            sender.send_replace(Arc::new(self.image.get(key)));
        }
        for (prefix, sender) in &self.prefixes {
            if key.starts_with(prefix.as_str()) {
                sender.send_replace(Arc::new(under(&self.image, prefix)));
            }
        }
    }

    /// Records a change of the store that changed no record.
    pub(super) fn advance(&mut self, revision: Revision) {
        debug_assert!(revision > self.image.revision, "revisions only grow");
        self.image.revision = revision;
    }

    pub(super) fn watch(&mut self, key: &str) -> Watched<Option<Versioned>> {
        self.forget_unheard();
        let image = &self.image;
        let sender = self
            .keys
            .entry(key.to_owned())
            .or_insert_with(|| watch::Sender::new(Arc::new(image.get(key))));
        Watched::new(sender.subscribe())
    }

    pub(super) fn watch_prefix(&mut self, prefix: &str) -> Watched<BTreeMap<String, Versioned>> {
        self.forget_unheard();
        let image = &self.image;
        let sender = self
            .prefixes
            .entry(prefix.to_owned())
            .or_insert_with(|| watch::Sender::new(Arc::new(under(image, prefix))));
        Watched::new(sender.subscribe())
    }

    /// The number of keys and prefixes with a channel.
    #[cfg(test)]
    pub(super) fn listened_to(&self) -> usize {
        self.keys.len() + self.prefixes.len()
    }

    /// Drops channels without listeners, so that they don't accumulate.
    fn forget_unheard(&mut self) {
        self.keys.retain(|_, sender| sender.receiver_count() > 0);
        self.prefixes
            .retain(|_, sender| sender.receiver_count() > 0);
    }
}

fn under(image: &Image, prefix: &str) -> BTreeMap<String, Versioned> {
    image
        .records
        .range(prefix.to_owned()..)
        .take_while(|(key, _)| key.starts_with(prefix))
        .map(|(key, record)| (key.clone(), record.clone()))
        .collect()
}
