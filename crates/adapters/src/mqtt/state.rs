//! What is kept of a session, as bytes.
//!
//! ```text
//! version u8 = 1 | flags u8 | epoch u64 | delivered varint | last packet id varint
//! filters:   count | (text, options u8, id varint, since varint, share u8 [, group])..
//! former:    count | (text, upto varint)..
//! exchanges: count | (packet id varint, offset varint, kind u8)..
//! inbound:   count | (packet id varint, received u8, key)..
//! catch-ups: count | (kind u8, position varint, targets: count | (filter's place, upto + 1, or 0 for none)..)..
//! ```
//!
//! Counts are varints, texts and keys stand behind their length as a varint, numbers are little endian. A version
//! that is not known is a new session: what a newer server wrote is not guessed at.

use bytes::Bytes;
use bytestring::ByteString;
use tidings_ports::SubscriptionKey;
use tidings_types::codec::{Input, put_bytes, put_varint};
use tidings_types::{Cursor, Epoch, Offset, TopicFilter};

use super::codec::{PacketId, Qos, RetainHandling, SubscriptionId, SubscriptionOptions};
use super::filters::{Filter, FilterSerial, Share};
use super::window::{Exchange, Source, Step};

const VERSION: u8 = 1;
/// It was saved when its connection ended, so nothing was sent after it.
const CLOSED: u8 = 1;
/// The position is known.
const PLACED: u8 = 2;

/// What is kept of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    /// It was saved when its connection ended: nothing was sent after it.
    pub(super) is_closed: bool,
    /// Everything up to here was offered to the ordinary subscriptions; `None` if there was none yet.
    pub(super) delivered: Option<Cursor>,
    pub(super) last_id: u16,
    pub(super) filters: Vec<Filter>,
    /// Ended subscriptions some of whose messages are unacknowledged (MQTT-3.10.4-3).
    pub(super) former: Vec<Former>,
    pub(super) exchanges: Vec<Exchange>,
    pub(super) inbound: Vec<Inbound>,
    pub(super) catch_ups: Vec<SavedCatchUp>,
}

/// An ended subscription some of whose messages are unacknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Former {
    pub(super) text: TopicFilter,
    /// The last of them is not after this.
    pub(super) upto: Offset,
}

/// A message of `QoS` 2 from the client that it has not released yet (4.3.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Inbound {
    pub(super) id: PacketId,
    /// Under which it was published, so that it can be published again without being there twice.
    pub(super) key: ByteString,
    /// Whether it is known to be committed.
    pub(super) received: bool,
    /// Whether it came on this connection, and counts for our receive maximum. Not kept.
    pub(super) is_here: bool,
}

/// Older messages that new subscriptions still get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SavedCatchUp {
    pub(super) retained: bool,
    /// Everything up to here was offered.
    pub(super) position: Offset,
    pub(super) targets: Vec<Target>,
}

/// A filter that catches up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) filter: FilterSerial,
    /// Later messages come another way.
    pub(super) upto: Option<Offset>,
}

impl State {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(32);
        let placed = self.delivered.is_some();
        out.push(VERSION);
        let flag = |is_set, flag| if is_set { flag } else { 0 };
        out.push(flag(self.is_closed, CLOSED) | flag(placed, PLACED));
        let delivered = self.delivered.unwrap_or(Cursor {
            epoch: Epoch(0),
            offset: Offset::ZERO,
        });
        out.extend_from_slice(&delivered.epoch.0.to_le_bytes());
        put_varint(&mut out, delivered.offset.0);
        put_varint(&mut out, u64::from(self.last_id));
        list(&mut out, &self.filters, put_filter);
        list(&mut out, &self.former, |out, former| {
            put_bytes(out, former.text.as_str().as_bytes());
            put_varint(out, former.upto.0);
        });
        list(&mut out, &self.exchanges, |out, exchange| {
            put_varint(out, u64::from(exchange.id.get()));
            put_varint(out, exchange.offset.0);
            out.push(exchange_kind(exchange));
        });
        list(&mut out, &self.inbound, |out, inbound| {
            put_varint(out, u64::from(inbound.id.get()));
            out.push(u8::from(inbound.received));
            put_bytes(out, inbound.key.as_bytes());
        });
        list(&mut out, &self.catch_ups, |out, it| {
            out.push(u8::from(it.retained));
            put_varint(out, it.position.0);
            let place = |serial| self.filters.iter().position(|it| it.serial == serial);
            let targets: Vec<_> = it
                .targets
                .iter()
                .filter_map(|target| Some((place(target.filter)?, target.upto)))
                .collect();
            list(out, &targets, |out, (place, upto)| {
                put_varint(out, *place as u64);
                put_varint(out, upto.map_or(0, |upto| upto.0.saturating_add(1)));
            });
        });
        out.into()
    }

    /// `None` if it is of another version, or damaged.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut input = Input::new(bytes);
        if input.u8()? != VERSION {
            return None;
        }
        let flags = input.u8()?;
        let cursor = Cursor {
            epoch: Epoch(input.u64()?),
            offset: Offset(input.varint()?),
        };
        let last_id = u16::try_from(input.varint()?).ok()?;
        let mut serial = 0;
        let filters = read_list(&mut input, |input| {
            serial += 1;
            read_filter(input, FilterSerial(serial))
        })?;
        let state = Self {
            is_closed: flags & CLOSED != 0,
            delivered: (flags & PLACED != 0).then_some(cursor),
            last_id,
            former: read_list(&mut input, |input| {
                Some(Former {
                    text: TopicFilter::new(input.text()?).ok()?,
                    upto: Offset(input.varint()?),
                })
            })?,
            exchanges: read_list(&mut input, read_exchange)?,
            inbound: read_list(&mut input, |input| {
                Some(Inbound {
                    id: packet_id(input)?,
                    received: input.u8()? != 0,
                    key: input.text()?.into(),
                    is_here: false,
                })
            })?,
            catch_ups: read_list(&mut input, |input| {
                Some(SavedCatchUp {
                    retained: input.u8()? != 0,
                    position: Offset(input.varint()?),
                    targets: read_list(input, |input| {
                        let place = usize::try_from(input.varint()?).ok()?;
                        Some(Target {
                            filter: filters.get(place)?.serial,
                            upto: input.varint()?.checked_sub(1).map(Offset),
                        })
                    })?,
                })
            })?,
            filters,
        };
        input.rest.is_empty().then_some(state)
    }
}

fn list<T>(out: &mut Vec<u8>, items: &[T], mut put: impl FnMut(&mut Vec<u8>, &T)) {
    put_varint(out, items.len() as u64);
    for item in items {
        put(out, item);
    }
}

fn read_list<'a, T>(
    input: &mut Input<'a>,
    mut read: impl FnMut(&mut Input<'a>) -> Option<T>,
) -> Option<Vec<T>> {
    let count = input.varint()?;
    // Each item has a byte at least, so a count that was damaged allocates nothing.
    if count > input.rest.len() as u64 {
        return None;
    }
    (0..count).map(|_| read(input)).collect()
}

fn packet_id(input: &mut Input<'_>) -> Option<PacketId> {
    PacketId::new(u16::try_from(input.varint()?).ok()?)
}

fn put_filter(out: &mut Vec<u8>, filter: &Filter) {
    put_bytes(out, filter.text.as_str().as_bytes());
    let options = filter.options;
    out.push(
        options.maximum_qos as u8
            | u8::from(options.no_local) << 2
            | u8::from(options.retain_as_published) << 3,
    );
    put_varint(out, filter.id.map_or(0, |id| u64::from(id.get())));
    put_varint(out, filter.since.0);
    out.push(u8::from(filter.share.is_some()));
    if let Some(share) = &filter.share {
        put_bytes(out, share.group.as_bytes());
    }
}

fn read_filter(input: &mut Input<'_>, serial: FilterSerial) -> Option<Filter> {
    let text = TopicFilter::new(input.text()?).ok()?;
    let options = input.u8()?;
    let id = u32::try_from(input.varint()?).ok()?;
    let since = Offset(input.varint()?);
    let mut share = None;
    if input.u8()? != 0 {
        share = Some(Box::new(Share {
            group: input.text()?.into(),
            key: None,
        }));
    }
    Some(Filter {
        serial,
        text,
        options: SubscriptionOptions {
            maximum_qos: Qos::of(options & 3)?,
            no_local: options & 4 != 0,
            retain_as_published: options & 8 != 0,
            // It counts when the subscription is made, and is not kept.
            retain_handling: RetainHandling::default(),
        },
        id: SubscriptionId::new(id),
        since,
        share,
    })
}

fn exchange_kind(exchange: &Exchange) -> u8 {
    let source = match exchange.source {
        Source::Main => 0,
        Source::Retained => 1,
        Source::Group(_) => 2,
    };
    let released = u8::from(exchange.step == Step::Released) << 2;
    let twice = u8::from(exchange.qos == Qos::ExactlyOnce) << 3;
    source | released | twice
}

fn read_exchange(input: &mut Input<'_>) -> Option<Exchange> {
    let id = packet_id(input)?;
    let offset = Offset(input.varint()?);
    let kind = input.u8()?;
    Some(Exchange {
        id,
        offset,
        source: match kind & 3 {
            0 => Source::Main,
            1 => Source::Retained,
            2 => Source::Group(SubscriptionKey(0)),
            _ => return None,
        },
        qos: if kind & 8 != 0 {
            Qos::ExactlyOnce
        } else {
            Qos::AtLeastOnce
        },
        step: if kind & 4 != 0 {
            Step::Released
        } else {
            Step::Published
        },
        sent: false,
    })
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
