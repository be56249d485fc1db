//! Atomic batches: several changes of several keys, all or none.

use std::time::Duration;

use bytes::Bytes;
use tierkv_rpc::proto::{
    convert,
    v1::{
        self, DeleteOperation, IncrementOperation, PutOperation, TouchOperation, WriteOperation,
        write_operation,
    },
};
use tierkv_types::Error as Refusal;

use crate::{
    error::Error,
    options::{Condition, ttl_ms},
};

/// An atomic batch of changes, and the conditions for applying it.
///
/// ```no_run
/// # async fn example(client: tierkv::Client) -> Result<(), tierkv::Error> {
/// use tierkv::Write;
///
/// let moved = Write::new()
///     .if_present("account/1")
///     .increment("account/1", -5)
///     .increment("account/2", 5);
/// let written = client.write(moved).await?;
/// println!("account/1 holds {:?}", written.changes[0].number);
/// # Ok(()) }
/// ```
///
/// At most 1,000 changes and conditions together; a key may be changed only once. A failure never
/// applies half of a batch, but a reader of several keys may see one half applied.
#[derive(Clone, Debug, Default)]
pub struct Write {
    pub(crate) conditions: Vec<v1::Condition>,
    pub(crate) operations: Vec<WriteOperation>,
    pub(crate) return_previous: bool,
    /// The first error of the builder, returned when the batch is sent.
    wrong: Option<Error>,
}

impl Write {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Apply only if the key is absent.
    #[must_use]
    pub fn if_absent(self, key: impl AsRef<[u8]>) -> Self {
        self.only_if(key, Condition::Absent)
    }

    /// Apply only if the key is present.
    #[must_use]
    pub fn if_present(self, key: impl AsRef<[u8]>) -> Self {
        self.only_if(key, Condition::Present)
    }

    /// Apply only if the key is present with this version.
    #[must_use]
    pub fn if_version(self, key: impl AsRef<[u8]>, version: u64) -> Self {
        self.only_if(key, Condition::Version(version))
    }

    /// Apply only if the key meets the condition. The key need not be among the changed ones.
    #[must_use]
    pub fn only_if(mut self, key: impl AsRef<[u8]>, condition: Condition) -> Self {
        self.conditions.push(v1::Condition {
            key: Bytes::copy_from_slice(key.as_ref()),
            kind: Some(condition.to_wire()),
        });
        self
    }

    /// Sets a key that does not expire.
    #[must_use]
    pub fn put(self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Self {
        self.put_for(key, value, None)
    }

    /// Sets a key that lives for `ttl` from when the platform accepts the write; with `None`, until
    /// it is removed. Rounded up to whole milliseconds.
    #[must_use]
    pub fn put_for(
        mut self,
        key: impl AsRef<[u8]>,
        value: impl Into<Bytes>,
        ttl: impl Into<Option<Duration>>,
    ) -> Self {
        let ttl_ms = self.ttl_ms(ttl.into());
        self.change(write_operation::Kind::Put(PutOperation {
            key: Bytes::copy_from_slice(key.as_ref()),
            value: value.into(),
            ttl_ms,
        }))
    }

    /// Removes a key.
    #[must_use]
    pub fn delete(self, key: impl AsRef<[u8]>) -> Self {
        let key = Bytes::copy_from_slice(key.as_ref());
        self.change(write_operation::Kind::Delete(DeleteOperation { key }))
    }

    /// Adds to a decimal number; an absent key counts as 0.
    #[must_use]
    pub fn increment(self, key: impl AsRef<[u8]>, delta: i64) -> Self {
        let key = Bytes::copy_from_slice(key.as_ref());
        self.change(write_operation::Kind::Increment(IncrementOperation {
            key,
            delta,
        }))
    }

    /// Sets how long a key lives, from when the platform accepts the write, and keeps its value;
    /// with `None`, until it is removed. An absent key refuses the whole batch with
    /// [`Code::NotFound`](crate::Code::NotFound). Rounded up to whole milliseconds.
    #[must_use]
    pub fn touch(mut self, key: impl AsRef<[u8]>, ttl: impl Into<Option<Duration>>) -> Self {
        let ttl_ms = self.ttl_ms(ttl.into());
        self.change(write_operation::Kind::Touch(TouchOperation {
            key: Bytes::copy_from_slice(key.as_ref()),
            ttl_ms,
        }))
    }

    /// Asks for what each key held before.
    #[must_use]
    pub const fn return_previous(mut self) -> Self {
        self.return_previous = true;
        self
    }

    /// A time to live in the wire's unit; an invalid one is an error when the batch is sent.
    fn ttl_ms(&mut self, ttl: Option<Duration>) -> u64 {
        ttl_ms(ttl).unwrap_or_else(|error| {
            self.wrong.get_or_insert(error);
            0
        })
    }

    fn change(mut self, kind: write_operation::Kind) -> Self {
        let kind = Some(kind);
        self.operations.push(WriteOperation { kind });
        self
    }

    /// The keys that are changed.
    pub(crate) fn changed_keys(&self) -> impl Iterator<Item = &Bytes> {
        self.operations.iter().filter_map(|operation| {
            Some(match operation.kind.as_ref()? {
                write_operation::Kind::Put(put) => &put.key,
                write_operation::Kind::Delete(delete) => &delete.key,
                write_operation::Kind::Increment(increment) => &increment.key,
                write_operation::Kind::Touch(touch) => &touch.key,
            })
        })
    }

    /// Whether the change at a place is an increment.
    pub(crate) fn is_increment(&self, place: usize) -> bool {
        let kind = self.operations.get(place).and_then(|at| at.kind.as_ref());
        matches!(kind, Some(write_operation::Kind::Increment(_)))
    }

    /// Checks what needs no server: an invalid batch is not sent.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if let Some(wrong) = &self.wrong {
            return Err(wrong.clone());
        }
        if self.operations.is_empty() {
            return Err(Refusal::invalid("a write has at least one change").into());
        }
        convert::check_operations(self.operations.len() + self.conditions.len())?;
        let keys = self.conditions.iter().map(|condition| &condition.key);
        for key in keys.chain(self.changed_keys()) {
            crate::client::checked(key)?;
        }
        for operation in &self.operations {
            if let Some(write_operation::Kind::Put(put)) = &operation.kind {
                convert::check_value(&put.value)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tierkv_types::Code;

    use super::*;

    #[test]
    fn an_invalid_batch_is_refused_before_it_is_sent() {
        let code = |write: Write| write.check().map_err(|error| error.code());
        let refused = Err(Code::InvalidArgument);
        assert_eq!(code(Write::new().put("a", "1").delete("b")), Ok(()));
        assert_eq!(code(Write::new()), refused);
        assert_eq!(code(Write::new().if_absent("a")), refused);
        assert_eq!(code(Write::new().put("", "1")), refused);
        assert_eq!(code(Write::new().if_absent("").put("a", "1")), refused);
        assert_eq!(code(Write::new().put("a", vec![0; (1 << 20) + 1])), refused);
        let over = Write::new().put_for("a", "1", Duration::ZERO);
        assert_eq!(code(over), refused);
        assert_eq!(code(Write::new().touch("a", Duration::ZERO)), refused);
        assert_eq!(code(Write::new().touch("", None)), refused);
        assert_eq!(code(Write::new().touch("a", None)), Ok(()));
        let many = (0..1_000).fold(Write::new(), |write, n| write.delete(format!("{n}")));
        assert_eq!(code(many.clone()), Ok(()));
        assert_eq!(code(many.if_absent("a")), refused);
    }
}
