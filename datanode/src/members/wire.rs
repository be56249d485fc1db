//! Messages between members as wire messages, and back.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tierkv_protocol::{
    platform_time::members::MemberTime,
    replication::{Acknowledge, Append, Ask, Confirm, Echo, Message, Offer, Process},
};
use tierkv_rpc::proto::internal::{self as wire, member_message::Kind};
use tierkv_types::{
    BootTime, Epoch, Error, Incarnation, Index, LogId, NodeId, Position, Record, Round, Version,
    record::{self, DecodeError, RecordHeader},
};

use super::Received;

/// The message of a wire message.
///
/// # Errors
/// `InvalidArgument` if a part is missing or a record is not sound.
fn decode(message: wire::MemberMessage) -> Result<Message, Error> {
    let kind = message.kind.ok_or_else(|| missing("kind"))?;
    Ok(match kind {
        Kind::Append(append) => Message::Append(Append {
            epoch: Epoch(append.epoch),
            prev: position(append.prev)?,
            records: records(&append.records)?,
            commit: Index(append.commit),
            round: Round(append.round),
            clock: Version::from_bits(append.clock),
            acknowledged_clock: Version::from_bits(append.acknowledged_clock),
            echo: append.echo.map(|echo| Echo {
                probe: boot_time(echo.probe_nanos),
                commit: Index(echo.commit),
            }),
            lacking: (append.lacking != 0).then_some(LogId(append.lacking)),
        }),
        Kind::Acknowledge(it) => Message::Acknowledge(Acknowledge {
            epoch: Epoch(it.epoch),
            log_id: LogId(it.log_id),
            round: Round(it.round),
            last: position(it.last)?,
            matched: Index(it.matched),
            durable: Index(it.durable),
            probe: boot_time(it.probe_nanos),
            differing: it.differing.map(|differing| {
                let epochs = differing.epochs.iter();
                let epochs = epochs.map(|it| (Epoch(it.epoch), Index(it.index)));
                epochs.collect()
            }),
        }),
        Kind::Ask(ask) => Message::Ask(Ask {
            number: ask.number,
            last: position(ask.last)?,
            seen: (Epoch(ask.seen_epoch), ask.seen_revision),
        }),
        Kind::Confirm(confirm) => Message::Confirm(Confirm {
            number: confirm.number,
            is_granted: confirm.is_granted,
            log_id: LogId(confirm.log_id),
            last: position(confirm.last)?,
            promised: Epoch(confirm.promised),
            seen: (Epoch(confirm.seen_epoch), confirm.seen_revision),
        }),
        Kind::Offer(offer) => Message::Offer(offer_of(&offer)),
        Kind::Ready(offer) => Message::Ready(offer_of(&offer)),
        Kind::Decline(it) => Message::Decline(Epoch(it.epoch)),
        Kind::Declined(it) => Message::Declined(Epoch(it.epoch)),
    })
}

/// The wire message of a message.
pub(super) fn encode(message: &Message) -> wire::MemberMessage {
    let kind = match message {
        Message::Append(append) => Kind::Append(wire::Append {
            epoch: append.epoch.0,
            prev: Some(log_position(append.prev)),
            records: encode_records(&append.records),
            commit: append.commit.0,
            round: append.round.0,
            clock: append.clock.to_bits(),
            echo: append.echo.map(|echo| wire::Echo {
                probe_nanos: nanos(echo.probe),
                commit: echo.commit.0,
            }),
            lacking: append.lacking.map_or(0, |log| log.0),
            acknowledged_clock: append.acknowledged_clock.to_bits(),
        }),
        Message::Acknowledge(it) => Kind::Acknowledge(wire::Acknowledge {
            epoch: it.epoch.0,
            log_id: it.log_id.0,
            round: it.round.0,
            last: Some(log_position(it.last)),
            matched: it.matched.0,
            durable: it.durable.0,
            probe_nanos: nanos(it.probe),
            differing: it.differing.as_ref().map(|epochs| wire::Differing {
                epochs: (epochs.iter())
                    .map(|(epoch, index)| wire::LogPosition {
                        epoch: epoch.0,
                        index: index.0,
                    })
                    .collect(),
            }),
        }),
        Message::Ask(ask) => Kind::Ask(wire::Ask {
            number: ask.number,
            last: Some(log_position(ask.last)),
            seen_epoch: ask.seen.0.0,
            seen_revision: ask.seen.1,
        }),
        Message::Confirm(confirm) => Kind::Confirm(wire::Confirm {
            number: confirm.number,
            is_granted: confirm.is_granted,
            log_id: confirm.log_id.0,
            last: Some(log_position(confirm.last)),
            promised: confirm.promised.0,
            seen_epoch: confirm.seen.0.0,
            seen_revision: confirm.seen.1,
        }),
        Message::Offer(offer) => Kind::Offer(wire_offer(offer)),
        Message::Ready(offer) => Kind::Ready(wire_offer(offer)),
        Message::Decline(epoch) => Kind::Decline(wire::Epoch { epoch: epoch.0 }),
        Message::Declined(epoch) => Kind::Declined(wire::Epoch { epoch: epoch.0 }),
    };
    wire::MemberMessage { kind: Some(kind) }
}

/// What a frame has.
///
/// # Errors
/// `InvalidArgument` if a part is missing or a record is not sound.
pub(super) fn decode_frame(frame: wire::MemberFrame) -> Result<Received, Error> {
    let node = NodeId::new(&frame.node).map_err(|error| Error::invalid(error.to_string()))?;
    let messages = frame.messages.into_iter().map(decode);
    Ok(Received {
        from: Process {
            node,
            incarnation: Incarnation(frame.incarnation),
        },
        time: MemberTime {
            platform_micros: frame.platform_time_us.cast_signed(),
            wall_millis: frame.wall_clock_ms,
            is_founding: frame.founding,
        },
        messages: messages.collect::<Result<_, _>>()?,
    })
}

/// A frame from `from`, whose clocks are `time`.
pub(super) fn frame(
    from: &Process,
    time: &MemberTime,
    messages: Vec<wire::MemberMessage>,
) -> wire::MemberFrame {
    wire::MemberFrame {
        node: from.node.to_string(),
        incarnation: from.incarnation.0,
        messages,
        platform_time_us: time.platform_micros.cast_unsigned(),
        wall_clock_ms: time.wall_millis,
        founding: time.is_founding,
    }
}

/// Each record is copied: what the memory tier keeps of it must not keep the whole frame in memory.
fn records(bytes: &Bytes) -> Result<Vec<Arc<Record>>, Error> {
    let mut records = Vec::new();
    let mut rest = bytes.clone();
    while !rest.is_empty() {
        let unsound =
            |error: DecodeError| Error::invalid(format!("a record of a message: {error}"));
        let length = RecordHeader::stated_len(&rest).map_err(unsound)?;
        let own = Bytes::copy_from_slice(&rest.split_to(length));
        let (record, _) = record::decode(&own, 0).map_err(unsound)?;
        records.push(Arc::new(record));
    }
    Ok(records)
}

fn encode_records(records: &[Arc<Record>]) -> Bytes {
    let lengths = records.iter().map(|record| record::encoded_len(record));
    let mut bytes = Vec::with_capacity(lengths.sum());
    for record in records {
        record::encode(record, &mut bytes);
    }
    bytes.into()
}

fn position(position: Option<wire::LogPosition>) -> Result<Position, Error> {
    let position = position.ok_or_else(|| missing("position"))?;
    Ok(Position {
        epoch: Epoch(position.epoch),
        index: Index(position.index),
    })
}

const fn log_position(position: Position) -> wire::LogPosition {
    wire::LogPosition {
        epoch: position.epoch.0,
        index: position.index.0,
    }
}

const fn offer_of(offer: &wire::Offer) -> Offer {
    Offer {
        epoch: Epoch(offer.epoch),
        number: offer.number,
    }
}

const fn wire_offer(offer: &Offer) -> wire::Offer {
    wire::Offer {
        epoch: offer.epoch.0,
        number: offer.number,
    }
}

const fn boot_time(nanos: u64) -> BootTime {
    BootTime::from_boot(Duration::from_nanos(nanos))
}

fn nanos(at: BootTime) -> u64 {
    u64::try_from(at.since_boot().as_nanos()).unwrap_or(u64::MAX)
}

fn missing(what: &str) -> Error {
    Error::invalid(format!("a member's message has no {what}"))
}
