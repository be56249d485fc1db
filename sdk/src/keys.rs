//! Reads and writes of keys.

use std::time::Duration;

use bytes::Bytes;
use futures::future::try_join_all;
use tierkv_rpc::proto::{
    convert,
    v1::{
        self, BatchGetRequest, DeleteRequest, GetRequest, IncrementRequest, PutRequest,
        TouchRequest, session_answer::Answer, session_operation::Operation,
    },
};
use tierkv_types::{Code, Error as Refusal, ItemKey};
use tokio::time::Instant;

use crate::{
    answer::{Changed, Deleted, Found, Incremented, Written},
    attempts::Attempts,
    batch::Write,
    client::{Client, checked},
    error::Error,
    options::{Consistency, DeleteOptions, PutOptions, ReadOptions, TouchOptions, ttl_ms},
    own_writes::{Floor, OwnWrites},
};

impl Client {
    /// Reads a key.
    ///
    /// # Errors
    /// The operation's [`Error`]; an absent key is not an error.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Found, Error> {
        self.get_with(key, ReadOptions::default()).await
    }

    /// Reads a key, as fresh as `options` ask.
    ///
    /// # Errors
    /// The operation's [`Error`]; an absent key is not an error.
    pub async fn get_with(
        &self,
        key: impl AsRef<[u8]>,
        options: ReadOptions,
    ) -> Result<Found, Error> {
        let key = checked(key.as_ref())?;
        let Some(own) = &self.own_writes else {
            return self.get_once(key, options).await;
        };
        let floor = self.floor(own, key, options)?;
        let asked = Instant::now();
        let found = self.get_once(key, raised(options, floor)).await?;
        match floor.is_met(asked, found.age) {
            true => Ok(found),
            false => self.get_once(key, latest(options)).await,
        }
    }

    async fn get_once(&self, key: &[u8], options: ReadOptions) -> Result<Found, Error> {
        let get = || {
            Operation::Get(GetRequest {
                namespace: self.namespace.as_ref().to_owned(),
                key: Bytes::copy_from_slice(key),
                options: options.to_wire(),
            })
        };
        match self.read(get).await? {
            Answer::Get(found) => Ok(found.into()),
            _ => Err(mismatched()),
        }
    }

    /// Reads at most 1,000 keys; the answers are in the order of the keys.
    ///
    /// # Errors
    /// The operation's [`Error`]; absent keys are not errors.
    pub async fn batch_get(&self, keys: &[impl AsRef<[u8]>]) -> Result<Vec<Found>, Error> {
        self.batch_get_with(keys, ReadOptions::default()).await
    }

    /// Reads many keys, each as fresh as `options` ask.
    ///
    /// # Errors
    /// The operation's [`Error`]; absent keys are not errors.
    pub async fn batch_get_with(
        &self,
        keys: &[impl AsRef<[u8]>],
        options: ReadOptions,
    ) -> Result<Vec<Found>, Error> {
        convert::check_operations(keys.len())?;
        for key in keys {
            checked(key.as_ref())?;
        }
        let Some(own) = &self.own_writes else {
            return self.batch_get_once(keys, options).await;
        };
        let mut floors = Vec::with_capacity(keys.len());
        for key in keys {
            floors.push(self.floor(own, key.as_ref(), options)?);
        }
        self.batch_get_above(keys, &floors, options).await
    }

    /// Reads keys, each at least as new as its floor. A batch has one least version for all its
    /// keys, and versions of different clusters can't be compared. So keys with a floor version are
    /// read one by one; these reads travel in the same frame.
    async fn batch_get_above(
        &self,
        keys: &[impl AsRef<[u8]>],
        floors: &[Floor],
        options: ReadOptions,
    ) -> Result<Vec<Found>, Error> {
        let asked = Instant::now();
        let is_single = |place: &usize| matches!(floors[*place], Floor::Version(_));
        let (single, together): (Vec<usize>, Vec<usize>) = (0..keys.len()).partition(is_single);
        let singles = single.iter().map(|place| {
            let options = raised(options, floors[*place]);
            self.get_once(keys[*place].as_ref(), options)
        });
        let batch: Vec<&[u8]> = together.iter().map(|at| keys[*at].as_ref()).collect();
        let (singles, batch) = tokio::try_join!(try_join_all(singles), async {
            match batch.is_empty() {
                true => Ok(Vec::new()),
                false => self.batch_get_once(&batch, options).await,
            }
        })?;
        let mut found: Vec<(usize, Found)> = single.into_iter().zip(singles).collect();
        found.extend(together.into_iter().zip(batch));
        found.sort_unstable_by_key(|(place, _)| *place);

        let old: Vec<usize> = (found.iter())
            .filter(|(place, found)| !floors[*place].is_met(asked, found.age))
            .map(|(place, _)| *place)
            .collect();
        let mut found: Vec<Found> = found.into_iter().map(|(_, found)| found).collect();
        if !old.is_empty() {
            let again: Vec<&[u8]> = old.iter().map(|place| keys[*place].as_ref()).collect();
            let newest = self.batch_get_once(&again, latest(options)).await?;
            for (place, newest) in old.into_iter().zip(newest) {
                found[place] = newest;
            }
        }
        Ok(found)
    }

    async fn batch_get_once(
        &self,
        keys: &[impl AsRef<[u8]>],
        options: ReadOptions,
    ) -> Result<Vec<Found>, Error> {
        let batch = || {
            Operation::BatchGet(BatchGetRequest {
                namespace: self.namespace.as_ref().to_owned(),
                keys: keys
                    .iter()
                    .map(|key| Bytes::copy_from_slice(key.as_ref()))
                    .collect(),
                options: options.to_wire(),
            })
        };
        match self.read(batch).await? {
            Answer::BatchGet(batch) if batch.answers.len() == keys.len() => {
                Ok(batch.answers.into_iter().map(Found::from).collect())
            }
            _ => Err(mismatched()),
        }
    }

    /// Sets a key; returns the new version.
    ///
    /// # Errors
    /// The operation's [`Error`]; with [`Code::OutcomeUnknown`] it may have happened.
    pub async fn put(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Result<u64, Error> {
        self.put_with(key, value, PutOptions::default()).await
    }

    /// Sets a key with options; returns the new version.
    ///
    /// # Errors
    /// The operation's [`Error`]; with [`Code::ConditionFailed`] nothing was changed, with
    /// [`Code::OutcomeUnknown`] it may have happened.
    pub async fn put_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Bytes>,
        options: PutOptions,
    ) -> Result<u64, Error> {
        let (key, value) = (checked(key.as_ref())?, value.into());
        if let Some(condition) = options.condition {
            let write = Write::new().only_if(key, condition);
            let write = write.put_for(key, value, options.ttl);
            return Ok(self.write(write).await?.version);
        }
        let ttl_ms = ttl_ms(options.ttl)?;
        convert::check_value(&value)?;
        let put = |request_id| {
            Operation::Put(PutRequest {
                namespace: self.namespace.as_ref().to_owned(),
                key: Bytes::copy_from_slice(key),
                value: value.clone(),
                ttl_ms,
                request_id: Some(request_id),
            })
        };
        match self.change(key, put).await? {
            (Answer::Put(put), _) => {
                self.wrote(key, put.version)?;
                Ok(put.version)
            }
            (_, id) => Err(Attempts::mismatched(id)),
        }
    }

    /// Removes a key.
    ///
    /// # Errors
    /// The operation's [`Error`]; with [`Code::OutcomeUnknown`] it may have happened.
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<Deleted, Error> {
        self.delete_with(key, DeleteOptions::default()).await
    }

    /// Removes a key with options.
    ///
    /// # Errors
    /// The operation's [`Error`]; with [`Code::ConditionFailed`] nothing was changed, with
    /// [`Code::OutcomeUnknown`] it may have happened.
    pub async fn delete_with(
        &self,
        key: impl AsRef<[u8]>,
        options: DeleteOptions,
    ) -> Result<Deleted, Error> {
        let key = checked(key.as_ref())?;
        if let Some(condition) = options.condition {
            let write = Write::new().only_if(key, condition).delete(key);
            let written = self.write(write).await?;
            return Ok(Deleted {
                existed: written.changes.first().is_some_and(|change| change.existed),
                version: written.version,
            });
        }
        let delete = |request_id| {
            Operation::Delete(DeleteRequest {
                namespace: self.namespace.as_ref().to_owned(),
                key: Bytes::copy_from_slice(key),
                request_id: Some(request_id),
            })
        };
        match self.change(key, delete).await? {
            (Answer::Delete(delete), _) => {
                self.wrote(key, delete.version)?;
                Ok(Deleted {
                    existed: delete.existed,
                    version: delete.version,
                })
            }
            (_, id) => Err(Attempts::mismatched(id)),
        }
    }

    /// Adds to a number: a 64-bit integer in ASCII decimal, as in Redis. An absent key counts as 0;
    /// the time to live is kept.
    ///
    /// # Errors
    /// The operation's [`Error`]; `InvalidArgument` if the value is not a number or the sum does
    /// not fit; with [`Code::OutcomeUnknown`] it may have happened.
    pub async fn increment(&self, key: impl AsRef<[u8]>, delta: i64) -> Result<Incremented, Error> {
        let key = checked(key.as_ref())?;
        let increment = |request_id| {
            Operation::Increment(IncrementRequest {
                namespace: self.namespace.as_ref().to_owned(),
                key: Bytes::copy_from_slice(key),
                delta,
                request_id: Some(request_id),
            })
        };
        match self.change(key, increment).await? {
            (Answer::Increment(increment), _) => {
                self.wrote(key, increment.version)?;
                Ok(Incremented {
                    value: increment.value,
                    version: increment.version,
                })
            }
            (_, id) => Err(Attempts::mismatched(id)),
        }
    }

    /// Sets how long a key lives, without sending its value; with `None`, until it is removed.
    /// Returns the new version.
    ///
    /// # Errors
    /// The operation's [`Error`]; [`Code::NotFound`] if the key is absent; with
    /// [`Code::OutcomeUnknown`] it may have happened.
    pub async fn touch(
        &self,
        key: impl AsRef<[u8]>,
        ttl: impl Into<Option<Duration>>,
    ) -> Result<u64, Error> {
        let ttl = ttl.into();
        let options = TouchOptions {
            ttl,
            ..TouchOptions::default()
        };
        self.touch_with(key, options).await
    }

    /// Sets how long a key lives, with options; returns the new version.
    ///
    /// # Errors
    /// The operation's [`Error`]; [`Code::NotFound`] if the key is absent; with
    /// [`Code::ConditionFailed`] nothing was changed, with [`Code::OutcomeUnknown`] it may have
    /// happened.
    pub async fn touch_with(
        &self,
        key: impl AsRef<[u8]>,
        options: TouchOptions,
    ) -> Result<u64, Error> {
        let key = checked(key.as_ref())?;
        if let Some(condition) = options.condition {
            let write = Write::new().only_if(key, condition);
            return Ok(self.write(write.touch(key, options.ttl)).await?.version);
        }
        let ttl_ms = ttl_ms(options.ttl)?;
        let touch = |request_id| {
            Operation::Touch(TouchRequest {
                namespace: self.namespace.as_ref().to_owned(),
                key: Bytes::copy_from_slice(key),
                ttl_ms,
                request_id: Some(request_id),
            })
        };
        match self.change(key, touch).await? {
            (Answer::Touch(touch), _) => {
                self.wrote(key, touch.version)?;
                Ok(touch.version)
            }
            (_, id) => Err(Attempts::mismatched(id)),
        }
    }

    /// Applies a batch of changes, all or none, if all its conditions hold.
    ///
    /// # Errors
    /// The operation's [`Error`]; with [`Code::ConditionFailed`] nothing was changed, with
    /// [`Code::OutcomeUnknown`] either all of it happened or nothing.
    pub async fn write(&self, write: Write) -> Result<Written, Error> {
        write.check()?;
        let key = write.changed_keys().next().map_or(&b""[..], |key| &key[..]);
        let operation = |request_id| {
            Operation::Write(v1::WriteRequest {
                namespace: self.namespace.as_ref().to_owned(),
                conditions: write.conditions.clone(),
                operations: write.operations.clone(),
                request_id: Some(request_id),
                return_previous: write.return_previous,
            })
        };
        let answer = match self.change(key, operation).await? {
            (Answer::Write(answer), _) if answer.results.len() == write.operations.len() => answer,
            (_, id) => return Err(Attempts::mismatched(id)),
        };
        for key in write.changed_keys() {
            self.wrote(key, answer.version)?;
        }
        let changes = (answer.results.into_iter().enumerate())
            .map(|(place, result)| Changed::new(result, write.is_increment(place)))
            .collect();
        Ok(Written {
            version: answer.version,
            changes,
            replayed: answer.replayed,
        })
    }

    /// Records an acknowledged write of a key.
    fn wrote(&self, key: &[u8], version: u64) -> Result<(), Error> {
        if let Some(own) = &self.own_writes {
            own.wrote(&ItemKey::new(&self.namespace, key)?, version);
        }
        Ok(())
    }

    /// What a read must see for the session; nothing if it reads the newest anyway.
    fn floor(&self, own: &OwnWrites, key: &[u8], options: ReadOptions) -> Result<Floor, Error> {
        match options.consistency {
            Consistency::Latest => Ok(Floor::None),
            Consistency::Cached | Consistency::Session(_) => {
                Ok(own.floor(&ItemKey::new(&self.namespace, key)?))
            }
        }
    }

    /// The options of a scan or count, which can't have a least version per key: once the session
    /// has written, they read the newest.
    pub(crate) fn session_wide(&self, options: ReadOptions) -> ReadOptions {
        match &self.own_writes {
            Some(own) if own.any() => latest(options),
            _ => options,
        }
    }
}

/// The options of a read, raised to the floor's version.
const fn raised(options: ReadOptions, floor: Floor) -> ReadOptions {
    let consistency = match (floor, options.consistency) {
        (Floor::Version(floor), Consistency::Cached) => Consistency::Session(floor),
        (Floor::Version(floor), Consistency::Session(asked)) if floor > asked => {
            Consistency::Session(floor)
        }
        (_, asked) => asked,
    };
    ReadOptions {
        consistency,
        ..options
    }
}

/// Reads the newest, which satisfies every staleness bound.
const fn latest(options: ReadOptions) -> ReadOptions {
    ReadOptions {
        consistency: Consistency::Latest,
        max_staleness: None,
        ..options
    }
}

/// The error of a read that got the answer of another operation.
fn mismatched() -> Error {
    Refusal::new(
        Code::Internal,
        "the answer belongs to another operation than the request; this is a bug, report it",
    )
    .into()
}
