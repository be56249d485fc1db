//! The model of a write's effects, with which the node's own judgement is compared.

use tierkv_storage::Item;
use tierkv_types::{
    Change, ChangeKind, Code, Condition, ConditionKind, ItemKey, Operation, OperationKind, Version,
    WriteRequest,
};

use crate::judgement::Effect;

/// A write that is applied, and its effects.
#[derive(Debug)]
pub(super) struct Applied {
    pub(super) changes: Vec<Change>,
    /// The client's answer.
    pub(super) effects: Vec<Effect>,
}

/// Applies `write` at `version` to the state that `prior` returns for each key, at `now` of the
/// cluster clock.
///
/// # Errors
/// The code with which it must be refused.
pub(super) fn apply<'a>(
    write: &WriteRequest,
    version: Version,
    now: Version,
    prior: impl Fn(&ItemKey) -> Option<&'a Item>,
) -> Result<Applied, Code> {
    let live = |key: &ItemKey| {
        let held = prior(key);
        held.filter(|item| item.expires.is_none_or(|expires| expires > now))
    };
    let holds = |condition: &Condition| {
        let held = live(&condition.key).map(|item| item.version);
        match condition.kind {
            ConditionKind::Absent => held.is_none(),
            ConditionKind::Present => held.is_some(),
            ConditionKind::Version(wanted) => held == Some(wanted),
        }
    };
    if !write.conditions.iter().all(holds) {
        return Err(Code::ConditionFailed);
    }
    let mut applied = Applied {
        changes: Vec::new(),
        effects: Vec::new(),
    };
    for operation in &write.operations {
        let held = live(&operation.key);
        let (kind, mut effect) = operate(operation, held, version)?;
        if write.return_previous {
            effect.existed = held.is_some();
            effect.previous = held.map(|item| (item.value.clone(), item.version));
        }
        applied.effects.push(effect);
        applied.changes.push(Change {
            key: operation.key.clone(),
            kind,
        });
    }
    Ok(applied)
}

fn operate(
    operation: &Operation,
    held: Option<&Item>,
    version: Version,
) -> Result<(ChangeKind, Effect), Code> {
    let mut effect = Effect::default();
    let kind = match &operation.kind {
        OperationKind::Put { value, ttl } => ChangeKind::Put {
            value: value.clone(),
            expires: ttl.map(|ttl| version.after(ttl)),
        },
        OperationKind::Delete => {
            effect.existed = held.is_some();
            ChangeKind::Delete {
                existed: held.is_some(),
            }
        }
        OperationKind::Touch { ttl } => ChangeKind::Put {
            value: held.ok_or(Code::NotFound)?.value.clone(),
            expires: ttl.map(|ttl| version.after(ttl)),
        },
        OperationKind::Increment { delta } => {
            let before = held.map_or(Some(0), number).ok_or(Code::InvalidArgument)?;
            let number = before.checked_add(*delta).ok_or(Code::InvalidArgument)?;
            effect.number = Some(number);
            ChangeKind::Increment {
                number,
                expires: held.and_then(|item| item.expires),
            }
        }
    };
    Ok((kind, effect))
}

fn number(item: &Item) -> Option<i64> {
    let text = std::str::from_utf8(&item.value).ok()?;
    let number: i64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// The answer for a write that was applied before: without previous values.
pub(super) fn remembered(changes: &[Change]) -> Vec<Effect> {
    let effects = changes.iter().map(|change| Effect {
        existed: change.kind == ChangeKind::Delete { existed: true },
        previous: None,
        number: match change.kind {
            ChangeKind::Increment { number, .. } => Some(number),
            ChangeKind::Put { .. } | ChangeKind::Delete { .. } => None,
        },
    });
    effects.collect()
}

/// A key's state after a change of this version.
pub(super) fn left_by(change: &Change, version: Version) -> Option<Item> {
    let (expires, value) = match &change.kind {
        ChangeKind::Put { value, expires } => (*expires, value.clone()),
        ChangeKind::Increment { number, expires } => (*expires, number.to_string().into()),
        ChangeKind::Delete { .. } => return None,
    };
    Some(Item {
        version,
        expires,
        value,
    })
}
