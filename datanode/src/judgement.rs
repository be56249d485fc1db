//! Judges a write at the master: whether its conditions hold, and what each operation does to
//! its key.
//!
//! A write is judged against the appended state, so its answer is valid once everything
//! appended is committed (REP-APPLY).

use std::collections::HashMap;

use bytes::Bytes;
use tierkv_storage::{Item, Outcome};
use tierkv_types::{
    Change, ChangeKind, Code, Condition, ConditionKind, Error, ItemKey, OperationKind, Version,
    WriteRequest,
    limits::{MAX_ANSWER_BYTES, MAX_REQUEST_BYTES},
};

/// What a key holds, expired or not.
#[derive(Clone, Debug)]
pub(crate) enum PriorValue {
    Held(Item),
    Absent,
    /// The key is present, but its item can't be read.
    Unreadable(Error),
    /// The key is present, but its value was not read, for this reason.
    ValueUnread(Item, Error),
}

/// How much of a key's item a write needs, from less to more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// Its version and expiry.
    Version,
    /// Also its value, if that is a number.
    Number,
    /// Also its whole value.
    Value,
}

/// A decimal i64 has at most 20 characters; one more is enough to reject a value.
const NO_NUMBER_BYTES: usize = 21;

impl PriorValue {
    /// Drops what `need` does not include, so that a large value is not held for its version.
    pub(crate) fn reduced_to(self, need: Need) -> Self {
        let Self::Held(item) = self else {
            return self;
        };
        let kept = match need {
            Need::Version => 0,
            Need::Number => NO_NUMBER_BYTES.min(item.value.len()),
            Need::Value => return Self::Held(item),
        };
        Self::Held(Item {
            value: Bytes::copy_from_slice(&item.value[..kept]),
            ..item
        })
    }

    /// The key's item, with what `need` includes.
    ///
    /// # Errors
    /// The reason why that was not, or could not be, read.
    pub(crate) fn item(&self, need: Need) -> Result<Option<&Item>, &Error> {
        match self {
            Self::Held(item) => Ok(Some(item)),
            Self::ValueUnread(item, _) if need == Need::Version => Ok(Some(item)),
            Self::Absent => Ok(None),
            Self::Unreadable(error) | Self::ValueUnread(_, error) => Err(error),
        }
    }

    /// Drops the value; `why` is returned to a write that needs it.
    pub(crate) fn unread(self, why: Error) -> Self {
        match self.reduced_to(Need::Version) {
            Self::Held(item) => Self::ValueUnread(item, why),
            other => other,
        }
    }

    /// Bytes of the value it holds.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Held(item) => item.value.len(),
            Self::Absent | Self::Unreadable(_) | Self::ValueUnread(..) => 0,
        }
    }
}

/// What those keys of a write hold before it that it depends on.
pub(crate) type Priors = HashMap<ItemKey, PriorValue>;

/// What an operation did, for the client's answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Effect {
    /// Of a deletion, or if previous values were asked for: whether the key was there.
    pub(crate) existed: bool,
    /// If previous values were asked for and the key was there: value and version.
    pub(crate) previous: Option<(Bytes, Version)>,
    /// Of an increment: the number after it.
    pub(crate) number: Option<i64>,
}

/// The keys of a write whose prior state it is judged by or returns. A key may come several
/// times.
pub(crate) fn needed(write: &WriteRequest) -> impl Iterator<Item = (&ItemKey, Need)> {
    let operations = (write.operations.iter()).filter_map(|operation| {
        let need = match operation.kind {
            _ if write.return_previous => Need::Value,
            OperationKind::Put { .. } => return None,
            OperationKind::Delete => Need::Version,
            OperationKind::Increment { .. } => Need::Number,
            // The value is logged again with its new expiry.
            OperationKind::Touch { .. } => Need::Value,
        };
        Some((&operation.key, need))
    });
    let conditions = write.conditions.iter();
    operations.chain(conditions.map(|condition| (&condition.key, Need::Version)))
}

/// A write that was judged and will be applied; it has no version yet.
pub(crate) struct Judged {
    write: WriteRequest,
    effects: Vec<Effect>,
    /// The expiries that the keys of increments keep, in the order of the operations.
    expiries: Vec<Option<Version>>,
    /// The values of the keys of touches, in the order of the operations.
    values: Vec<Bytes>,
}

/// Judges a write at `now` of the cluster clock. `prior` returns what a key holds; it is
/// called for the keys and the needs of [`needed`].
///
/// # Errors
/// `ConditionFailed`, `InvalidArgument` for an increment of no number or with an overflow,
/// `NotFound` for a touch of an absent key, `ResourceExhausted` if the previous values don't
/// fit one answer or the values of touched keys are over the limit of a request, and the errors of
/// `prior`.
pub(crate) fn judge<'a>(
    write: WriteRequest,
    now: Version,
    prior: impl Fn(&ItemKey, Need) -> Result<Option<&'a Item>, &'a Error>,
) -> Result<Judged, Error> {
    let live = |key: &ItemKey, need| -> Result<Option<&Item>, Error> {
        let held = prior(key, need).map_err(Error::clone)?;
        Ok(held.filter(|item| item.is_live(now)))
    };
    let is_only = write.conditions.len() == 1;
    for (nth, condition) in write.conditions.iter().enumerate() {
        let version = live(&condition.key, Need::Version)?.map(|item| item.version);
        check_condition((!is_only).then_some(nth + 1), condition, version)?;
    }
    let mut effects = Vec::with_capacity(write.operations.len());
    let mut expiries = Vec::new();
    let mut values = Vec::new();
    let (mut previous_bytes, mut touched_bytes) = (0, 0);
    for operation in &write.operations {
        let mut effect = Effect::default();
        if write.return_previous {
            let held = live(&operation.key, Need::Value)?;
            effect.existed = held.is_some();
            effect.previous = held.map(|item| (item.value.clone(), item.version));
            previous_bytes += held.map_or(0, |item| item.value.len());
            check_previous(previous_bytes)?;
        }
        match operation.kind {
            OperationKind::Put { .. } => {}
            // A damaged item counts as present, and may be deleted.
            OperationKind::Delete => {
                let held = live(&operation.key, Need::Version);
                effect.existed = held.map_or(true, |held| held.is_some());
            }
            OperationKind::Increment { delta } => {
                let held = live(&operation.key, Need::Number)?;
                effect.number = Some(sum(&operation.key, held, delta)?);
                expiries.push(held.and_then(|item| item.expires));
            }
            OperationKind::Touch { .. } => {
                let held = live(&operation.key, Need::Value)?;
                let held = held.ok_or_else(|| absent(&operation.key))?;
                touched_bytes += held.value.len();
                check_touched(touched_bytes)?;
                values.push(held.value.clone());
            }
        }
        effects.push(effect);
    }
    Ok(Judged {
        write,
        effects,
        expiries,
        values,
    })
}

impl Judged {
    /// The changes to log and the effects to answer, at the write's version.
    pub(crate) fn at(self, version: Version) -> (Vec<Change>, Vec<Effect>) {
        let mut expiries = self.expiries.into_iter();
        let mut values = self.values.into_iter();
        let operations = self.write.operations.into_iter().zip(&self.effects);
        let changes = operations.map(|(operation, effect)| {
            let kind = match operation.kind {
                OperationKind::Put { value, ttl } => ChangeKind::Put {
                    value,
                    expires: ttl.map(|ttl| version.after(ttl)),
                },
                OperationKind::Delete => ChangeKind::Delete {
                    existed: effect.existed,
                },
                OperationKind::Increment { .. } => ChangeKind::Increment {
                    number: effect.number.unwrap_or(0),
                    expires: expiries.next().flatten(),
                },
                OperationKind::Touch { ttl } => ChangeKind::Put {
                    // `values` has one for each touch.
                    value: values.next().unwrap_or_default(),
                    expires: ttl.map(|ttl| version.after(ttl)),
                },
            };
            Change {
                key: operation.key,
                kind,
            }
        });
        (changes.collect(), self.effects)
    }
}

/// The remembered effects of a write that was applied before.
pub(crate) fn remembered(write: &WriteRequest, outcome: &Outcome) -> Vec<Effect> {
    let mut numbers = outcome.numbers.iter().copied();
    (write.operations.iter().enumerate())
        .map(|(place, operation)| Effect {
            existed: outcome.existed.contains(place),
            previous: None,
            number: match operation.kind {
                OperationKind::Increment { .. } => numbers.next(),
                OperationKind::Put { .. } | OperationKind::Delete | OperationKind::Touch { .. } => {
                    None
                }
            },
        })
        .collect()
}

/// Most characters of a key in an error message: messages are sent in headers.
const SHOWN_CHARACTERS: usize = 64;

/// A key as error messages show it.
fn shown(key: &ItemKey) -> String {
    let letters = key.key().escape_ascii().to_string();
    match letters.get(..SHOWN_CHARACTERS) {
        Some(first) if letters.len() > SHOWN_CHARACTERS => format!("{first}..."),
        _ => letters,
    }
}

/// Checks that the previous values of a write fit one answer.
fn check_previous(bytes: usize) -> Result<(), Error> {
    if bytes <= MAX_ANSWER_BYTES {
        return Ok(());
    }
    Err(Error::exhausted(format!(
        "the previous values have more than {MAX_ANSWER_BYTES} bytes together, the limit \
         max_answer_bytes; nothing was changed: write fewer keys at once, or without \
         return_previous"
    )))
}

/// Checks the bytes of the values that a write's touches log again: not more than a request could
/// put.
fn check_touched(bytes: usize) -> Result<(), Error> {
    if bytes <= MAX_REQUEST_BYTES {
        return Ok(());
    }
    Err(Error::exhausted(format!(
        "a touch writes its key's value again, and the values of the touched keys have more than \
         {MAX_REQUEST_BYTES} bytes together, the limit max_request_bytes; nothing was changed: \
         touch fewer keys at once"
    )))
}

/// The error of a touch of an absent key.
fn absent(key: &ItemKey) -> Error {
    Error::new(
        Code::NotFound,
        format!(
            "'{}' is absent, so it can't be touched; nothing was changed",
            shown(key)
        ),
    )
}

/// Checks a condition against the key's version `held`. `number` is its place in the write,
/// counted from 1; `None` if it is the only one.
fn check_condition(
    number: Option<usize>,
    condition: &Condition,
    held: Option<Version>,
) -> Result<(), Error> {
    let failed = |why: String| {
        let key = shown(&condition.key);
        let which = match number {
            Some(number) => format!("condition {number}, on '{key}',"),
            None => format!("the condition on '{key}'"),
        };
        Err(Error::new(
            Code::ConditionFailed,
            format!("{which} does not hold: {why}; nothing was changed"),
        ))
    };
    match (condition.kind, held) {
        (ConditionKind::Absent, None) | (ConditionKind::Present, Some(_)) => Ok(()),
        (ConditionKind::Version(wanted), Some(version)) if wanted == version => Ok(()),
        (ConditionKind::Absent | ConditionKind::Version(_), Some(version)) => {
            failed(format!("the key has version {version}"))
        }
        (ConditionKind::Present | ConditionKind::Version(_), None) => {
            failed("the key is absent".to_owned())
        }
    }
}

/// A key's number plus `delta`. As in redis, the value is decimal text without a plus sign,
/// leading zeros or blanks.
fn sum(key: &ItemKey, held: Option<&Item>, delta: i64) -> Result<i64, Error> {
    let before = match held {
        None => 0,
        Some(item) => number(&item.value).ok_or_else(|| {
            let newline = match item.value.ends_with(b"\n") {
                true => " (its value ends in a newline)",
                false => "",
            };
            Error::invalid(format!(
                "'{}' does not hold a decimal 64-bit number{newline}, so it can't be incremented; \
                 put one first",
                shown(key)
            ))
        })?,
    };
    before.checked_add(delta).ok_or_else(|| {
        Error::invalid(format!(
            "the sum of '{}' would not fit a signed 64-bit number; nothing was changed",
            shown(key)
        ))
    })
}

fn number(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    let number: i64 = text.parse().ok()?;
    // Each number has one valid text: "+1" and "01" are refused.
    (number.to_string() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tierkv_types::{Operation, RequestId, RequestName};

    use super::*;

    fn key(name: &str) -> ItemKey {
        ItemKey::new("n", name.as_bytes()).unwrap()
    }

    fn held(value: &'static str, version: u64, expires: Option<u64>) -> PriorValue {
        PriorValue::Held(Item {
            version: Version::from_bits(version),
            expires: expires.map(Version::from_bits),
            value: value.into(),
        })
    }

    fn write(
        conditions: &[(&str, ConditionKind)],
        operations: Vec<(&str, OperationKind)>,
    ) -> WriteRequest {
        WriteRequest {
            name: RequestName::Id(RequestId {
                birth_millis: 1,
                random: [1; 16],
            }),
            conditions: (conditions.iter())
                .map(|(name, kind)| Condition {
                    key: key(name),
                    kind: *kind,
                })
                .collect(),
            operations: (operations.into_iter())
                .map(|(name, kind)| Operation {
                    key: key(name),
                    kind,
                })
                .collect(),
            return_previous: false,
        }
    }

    fn put() -> OperationKind {
        OperationKind::Put {
            value: "v".into(),
            ttl: Some(Duration::from_millis(1)),
        }
    }

    fn increment(delta: i64) -> OperationKind {
        OperationKind::Increment { delta }
    }

    /// The state that the tests judge against, at time 10.
    fn state() -> Priors {
        HashMap::from([
            (key("there"), held("x", 5, None)),
            (key("over"), held("1", 6, Some(10))),
            (key("seven"), held("7", 7, Some(99))),
            (key("absent"), PriorValue::Absent),
            (
                key("rotten"),
                PriorValue::Unreadable(Error::new(Code::DataLoss, "damaged")),
            ),
        ])
    }

    fn judged(write: WriteRequest) -> Result<(Vec<Change>, Vec<Effect>), Error> {
        let state = state();
        let prior = |key: &ItemKey, need| state.get(key).map_or(Ok(None), |it| it.item(need));
        let judged = judge(write, Version::from_bits(10), prior)?;
        Ok(judged.at(Version::from_bits(20)))
    }

    #[test]
    fn conditions_hold_of_what_is_there_now() {
        let version = |bits| ConditionKind::Version(Version::from_bits(bits));
        let (absent, present) = (ConditionKind::Absent, ConditionKind::Present);
        let holds = |name, kind| match judged(write(&[(name, kind)], vec![("k", put())])) {
            Ok(_) => true,
            Err(error) => {
                assert_eq!(error.code, Code::ConditionFailed);
                assert!(error.message.starts_with("the condition on '"), "{error}");
                false
            }
        };
        for (name, wanted) in [
            ("there", [false, true, true]),
            ("over", [true, false, false]),
        ] {
            let kinds = [absent, present, version(5)];
            assert_eq!(kinds.map(|kind| holds(name, kind)), wanted, "{name}");
        }
        assert!(holds("absent", absent) && !holds("absent", present));
        assert!(!holds("there", version(4)) && !holds("absent", version(0)));
        let second = [("there", present), ("absent", present)];
        let error = judged(write(&second, vec![("k", put())])).err().unwrap();
        assert!(error.message.contains("condition 2"), "{error}");
        let rotten = write(&[("rotten", present)], vec![("k", put())]);
        assert_eq!(judged(rotten).err().unwrap().code, Code::DataLoss);
    }

    #[test]
    fn increments_count_as_redis_does_and_keep_the_expiry() {
        let ask = |name, delta| judged(write(&[], vec![(name, increment(delta))]));
        let (changes, effects) = ask("seven", -9).unwrap();
        let expires = Some(Version::from_bits(99));
        let number = -2;
        assert_eq!(changes[0].kind, ChangeKind::Increment { number, expires });
        assert_eq!(effects[0].number, Some(-2));
        // An expired key counts as absent, and its expiry is dropped.
        let (changes, _) = ask("over", 3).unwrap();
        let (number, expires) = (3, None);
        assert_eq!(changes[0].kind, ChangeKind::Increment { number, expires });
        let invalid = |name, delta| ask(name, delta).err().unwrap().code;
        assert_eq!(invalid("there", 1), Code::InvalidArgument);
        assert_eq!(invalid("seven", i64::MAX), Code::InvalidArgument);
        assert_eq!(invalid("rotten", 1), Code::DataLoss);
        for text in [
            "",
            " 1",
            "+1",
            "01",
            "-0",
            "1.0",
            "9223372036854775808",
            "١",
        ] {
            assert_eq!(number_of(text), None, "{text:?}");
        }
        for value in [0, -1, i64::MIN, i64::MAX] {
            assert_eq!(number_of(&value.to_string()), Some(value));
        }
    }

    #[test]
    fn touches_keep_the_value_of_what_is_there() {
        let touch = |name, ttl| judged(write(&[], vec![(name, OperationKind::Touch { ttl })]));
        let (changes, effects) = touch("seven", None).unwrap();
        let kind = |value: &'static str, expires| ChangeKind::Put {
            value: value.into(),
            expires,
        };
        assert_eq!(changes[0].kind, kind("7", None));
        assert_eq!(effects, [Effect::default()]);
        let second = Duration::from_secs(1);
        let (changes, _) = touch("there", Some(second)).unwrap();
        let expires = Version::from_bits(20).after(second);
        assert_eq!(changes[0].kind, kind("x", Some(expires)));
        for (name, code) in [
            ("absent", Code::NotFound),
            ("over", Code::NotFound),
            ("rotten", Code::DataLoss),
        ] {
            assert_eq!(touch(name, None).err().unwrap().code, code, "{name}");
        }
        // Each gets its own value.
        let touch = OperationKind::Touch { ttl: None };
        let both = vec![("seven", touch.clone()), ("k", put()), ("there", touch)];
        let (changes, _) = judged(write(&[], both)).unwrap();
        assert_eq!(changes[0].kind, kind("7", None));
        assert_eq!(changes[2].kind, kind("x", None));
    }

    fn number_of(text: &str) -> Option<i64> {
        super::number(text.as_bytes())
    }

    #[test]
    fn previous_values_fit_one_answer() {
        let large = PriorValue::Held(Item {
            version: Version::from_bits(1),
            expires: None,
            value: vec![7; 1 << 20].into(),
        });
        let ask = |keys: usize| {
            let names: Vec<String> = (0..keys).map(|nth| format!("k{nth}")).collect();
            let operations = names.iter().map(|name| (name.as_str(), put())).collect();
            let mut asking = write(&[], operations);
            asking.return_previous = true;
            judge(asking, Version::from_bits(10), |_, need| large.item(need)).map(|_| ())
        };
        assert_eq!(ask(16), Ok(()));
        assert_eq!(ask(17).unwrap_err().code, Code::ResourceExhausted);
    }

    #[test]
    fn touched_values_are_at_most_what_a_request_can_put() {
        let large = PriorValue::Held(Item {
            version: Version::from_bits(1),
            expires: None,
            value: vec![7; 1 << 20].into(),
        });
        let touch = || OperationKind::Touch { ttl: None };
        let ask = |keys: usize, other: OperationKind| {
            let names: Vec<String> = (0..keys).map(|nth| format!("k{nth}")).collect();
            let operations = names.iter().map(|name| (name.as_str(), touch()));
            let operations = operations.chain([("other", other)]).collect();
            let asking = write(&[], operations);
            judge(asking, Version::from_bits(10), |_, need| large.item(need)).map(|_| ())
        };
        assert_eq!(ask(4, put()), Ok(()));
        assert_eq!(ask(3, touch()), Ok(()));
        for refused in [ask(5, put()), ask(4, touch())] {
            let error = refused.unwrap_err();
            assert_eq!(error.code, Code::ResourceExhausted);
            assert!(error.message.contains("max_request_bytes"), "{error}");
        }
    }

    #[test]
    fn a_value_that_is_not_read_keeps_nothing_back_that_needs_none() {
        let why = || Error::new(Code::ResourceExhausted, "too much");
        let at = |expires| held("7", 5, expires).unread(why());
        let judged = |write, prior: &PriorValue| {
            let judged = judge(write, Version::from_bits(10), |_, need| prior.item(need))?;
            Ok::<_, Error>(judged.at(Version::from_bits(20)).1)
        };
        let delete = || write(&[], vec![("k", OperationKind::Delete)]);
        assert!(judged(delete(), &at(None)).unwrap()[0].existed);
        assert!(!judged(delete(), &at(Some(9))).unwrap()[0].existed);
        let held = ConditionKind::Version(Version::from_bits(5));
        assert!(judged(write(&[("k", held)], vec![("k", put())]), &at(None)).is_ok());
        let refused = |write| judged(write, &at(None)).unwrap_err().code;
        let number = write(&[], vec![("k", increment(1))]);
        assert_eq!(refused(number), Code::ResourceExhausted);
        let mut asking = delete();
        asking.return_previous = true;
        assert_eq!(refused(asking), Code::ResourceExhausted);
        let absent = PriorValue::Absent.unread(why());
        assert!(!judged(delete(), &absent).unwrap()[0].existed);
    }

    #[test]
    fn no_more_is_kept_than_is_needed() {
        let long = || held("123456789012345678901234567890", 5, Some(9));
        for (need, kept) in [(Need::Version, 0), (Need::Number, 21), (Need::Value, 30)] {
            let reduced = long().reduced_to(need);
            assert_eq!(reduced.bytes(), kept);
            let PriorValue::Held(item) = reduced else {
                panic!()
            };
            assert_eq!(item.version, Version::from_bits(5));
            // A value that is no number is none after the cut either.
            assert_eq!(number(&item.value), None);
        }
        let PriorValue::Held(item) = held("-9223372036854775808", 1, None).reduced_to(Need::Number)
        else {
            panic!()
        };
        assert_eq!(number(&item.value), Some(i64::MIN));
    }

    #[test]
    fn previous_values_are_returned_only_if_requested() {
        let operations = || {
            vec![
                ("there", put()),
                ("absent", put()),
                ("over", OperationKind::Delete),
                ("seven", OperationKind::Delete),
                ("rotten", OperationKind::Delete),
            ]
        };
        let (changes, effects) = judged(write(&[], operations())).unwrap();
        let existed: Vec<bool> = effects.iter().map(|effect| effect.existed).collect();
        assert_eq!(existed, [false, false, false, true, true]);
        assert!(effects.iter().all(|effect| effect.previous.is_none()));
        assert_eq!(changes[3].kind, ChangeKind::Delete { existed: true });

        let mut asking = write(&[], operations());
        asking.return_previous = true;
        assert_eq!(judged(asking.clone()).err().unwrap().code, Code::DataLoss);
        asking.operations.pop();
        let (_, effects) = judged(asking).unwrap();
        let previous = (Bytes::from("x"), Version::from_bits(5));
        assert_eq!(effects[0].previous, Some(previous));
        let existed: Vec<bool> = effects.iter().map(|effect| effect.existed).collect();
        assert_eq!(existed, [true, false, false, true]);
    }
}
