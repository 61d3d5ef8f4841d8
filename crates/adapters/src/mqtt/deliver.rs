//! Messages to the client (3.3, 4.3 to 4.6, 4.9).
//!
//! A message's body is encoded once for all subscribers; what is made here is the short head in front of it. A
//! message of `QoS` 2 to a session that is kept is sent only when its exchange is saved: what was sent and forgotten
//! would be sent twice. While one waits for that, everything behind it waits too, so that the order stays.

use std::cell::RefCell;

use bytes::{Bytes, BytesMut};
use tidings_ports::{Command, Delivery as Offer, Framed, Settle, SubscriptionKey, Turn, Verdict};
use tidings_types::{Message, Offset};

use super::catch_up::Kind;
use super::codec::{Addressing, Delivery, PacketId, Qos, TopicAlias, Version};
use super::filters::{Filter, Wanted, effective};
use super::format;
use super::link::Link;
use super::saving::Held;
use super::session::{MAIN, Recovered, Session, Stage};
use super::window::Source;
use crate::transport::{first_byte, message_head_len, put_message_head};
use crate::websocket::Opcode;

/// What a WebSocket message with a packet begins with.
const BINARY: u8 = first_byte(Opcode::Binary);
/// A shorter body is copied behind its head: a piece more for the socket costs more than that.
const COPY_BYTES_MAX: usize = 512;
/// After so many acknowledgements a subscription that stopped goes on, if its window is large.
const UNBLOCK_AFTER: usize = 16;
/// When a stopped subscription goes on though fewer were acknowledged.
const NUDGE_MS: u64 = 250;

/// One packet to be made.
struct Packet<'a> {
    source: Source,
    qos: Qos,
    retain: bool,
    duplicate: bool,
    wanted: &'a Wanted,
    /// Of the exchange that goes on with it; a new one begins if there is none.
    id: Option<PacketId>,
    /// To be acknowledged to its work queue as it is sent.
    acknowledge: Option<Command>,
}

impl Session {
    /// Judges a message, and makes its packet.
    pub(super) fn frame(
        &mut self,
        link: &Link,
        offer: Offer<'_>,
        frames: &mut Vec<Bytes>,
    ) -> Framed {
        if link.stream.has_ended() || self.stage != Stage::Open {
            return self.block(offer.key);
        }
        if offer.key == MAIN {
            return self.offer_main(link, offer, frames);
        }
        if let Some(at) = self
            .unfinished
            .catch_ups
            .iter()
            .position(|it| it.key == offer.key)
        {
            return self.offer_older(link, at, offer, frames);
        }
        let key = Some(offer.key);
        let is_it = |it: &Filter| it.share.as_ref().is_some_and(|share| share.key == key);
        match self.filters.iter().position(is_it) {
            Some(at) => self.offer_shared(link, at, offer, frames),
            None => Framed::Unwanted,
        }
    }

    fn offer_main(&mut self, link: &Link, offer: Offer<'_>, frames: &mut Vec<Bytes>) -> Framed {
        let message = offer.message;
        if let Some(delivered) = self.delivered
            && message.offset <= delivered.offset
        {
            return self.send_again(link, Source::Main, offer, frames);
        }
        if self.is_held_back(message) {
            return self.block(MAIN);
        }
        if self.window.has_unsent() {
            // Everything that was offered before is through.
            self.give_up(|source| source == Source::Main);
        }
        let filters = self
            .filters
            .iter()
            .filter(|it| it.is_plain() && it.since < message.offset);
        let wanted = Wanted::by(filters, message, offer.own);
        let doubtful = self.is_doubtful(message);
        let framed = match &wanted {
            None => Framed::Unwanted,
            Some(wanted) => {
                let qos = effective(message.qos, wanted.qos);
                let packet = Packet {
                    source: Source::Main,
                    qos,
                    retain: wanted.retain_as_published && message.retain,
                    duplicate: doubtful && qos == Qos::AtLeastOnce,
                    wanted,
                    id: None,
                    acknowledge: None,
                };
                // At most once: it may have been sent before the server stopped.
                if doubtful && qos == Qos::AtMostOnce {
                    Framed::Unwanted
                } else {
                    self.put(link, packet, offer, frames)
                }
            }
        };
        if framed != Framed::Full {
            self.delivered = Some(message.cursor());
            self.touch();
        }
        framed
    }

    /// Whether a message may have been sent by a server that stopped before it saved that. A message of `QoS` 1 is
    /// then marked as a duplicate, which says that it may be one (3.3.1.1).
    fn is_doubtful(&mut self, message: &Message) -> bool {
        match self.recovered {
            Recovered::No => false,
            Recovered::Yes => true,
            Recovered::Until(until) => {
                let doubtful = message.offset <= until;
                if !doubtful {
                    self.recovered = Recovered::No;
                }
                doubtful
            }
        }
    }

    fn offer_older(
        &mut self,
        link: &Link,
        at: usize,
        offer: Offer<'_>,
        frames: &mut Vec<Bytes>,
    ) -> Framed {
        let message = offer.message;
        let catch_up = &self.unfinished.catch_ups[at];
        let (kind, source) = (catch_up.kind, catch_up.source());
        let sources: &[Source] = match kind {
            Kind::Resend => &[Source::Group(MAIN), Source::Main],
            Kind::Retained => &[Source::Retained],
            Kind::History => &[],
        };
        for source in sources {
            if self.window.unsent(message.offset, *source).is_some() {
                return self.send_again(link, *source, offer, frames);
            }
        }
        let catch_up = &self.unfinished.catch_ups[at];
        if message.offset <= catch_up.position {
            return Framed::Unwanted;
        }
        let filters = catch_up.filters(&self.filters, Some(message.offset));
        let Some(wanted) = Wanted::by(filters, message, offer.own) else {
            self.unfinished.catch_ups[at].position = message.offset;
            return Framed::Unwanted;
        };
        let doubtful = kind == Kind::History && self.is_doubtful(message);
        let qos = effective(message.qos, wanted.qos);
        let packet = Packet {
            source,
            qos,
            // MQTT-3.3.1-8.
            retain: match kind {
                Kind::Retained => true,
                _ => wanted.retain_as_published && message.retain,
            },
            duplicate: doubtful && qos == Qos::AtLeastOnce,
            wanted: &wanted,
            id: None,
            acknowledge: None,
        };
        let framed = if doubtful && qos == Qos::AtMostOnce {
            Framed::Unwanted
        } else {
            self.put(link, packet, offer, frames)
        };
        if framed != Framed::Full {
            self.unfinished.catch_ups[at].position = message.offset;
            self.touch();
        }
        framed
    }

    /// A message of a shared subscription. What the queue must not give to another member is acknowledged as it
    /// is sent: `QoS` 0, and `QoS` 2, whose delivery is for this session to complete (MQTT-4.8.2-4, MQTT-4.8.2-5).
    fn offer_shared(
        &mut self,
        link: &Link,
        at: usize,
        offer: Offer<'_>,
        frames: &mut Vec<Bytes>,
    ) -> Framed {
        let filter = &self.filters[at];
        let message = offer.message;
        let Some(wanted) = Wanted::by(std::iter::once(filter), message, false) else {
            return Framed::Unwanted;
        };
        let qos = effective(message.qos, wanted.qos);
        let acknowledge = (qos != Qos::AtLeastOnce).then_some(Command::Settle {
            tag: None,
            settle: Settle {
                key: offer.key,
                offset: message.offset,
                verdict: Verdict::Ack,
            },
        });
        let packet = Packet {
            source: Source::Group(offer.key),
            qos,
            retain: wanted.retain_as_published && message.retain,
            duplicate: false,
            wanted: &wanted,
            id: None,
            acknowledge,
        };
        self.put(link, packet, offer, frames)
    }

    /// Sends an unacknowledged message again, under its packet identifier and marked as a duplicate
    /// (MQTT-4.4.0-1, MQTT-3.3.1-1).
    fn send_again(
        &mut self,
        link: &Link,
        source: Source,
        offer: Offer<'_>,
        frames: &mut Vec<Bytes>,
    ) -> Framed {
        let Some(exchange) = self.window.unsent(offer.message.offset, source) else {
            return Framed::Unwanted;
        };
        let (id, qos) = (exchange.id, exchange.qos);
        let matching = self
            .filters
            .iter()
            .filter(|it| it.is_plain() != matches!(source, Source::Group(_)));
        let wanted = Wanted::by(matching, offer.message, false).unwrap_or(Wanted {
            qos,
            retain_as_published: false,
            ids: Vec::new(),
        });
        let retained = source == Source::Retained;
        let packet = Packet {
            source,
            qos,
            retain: retained || (wanted.retain_as_published && offer.message.retain),
            duplicate: true,
            wanted: &wanted,
            id: Some(id),
            acknowledge: None,
        };
        let framed = self.put(link, packet, offer, frames);
        match framed {
            // Too large for this connection: it counts as delivered (MQTT-3.1.2-25).
            Framed::Unfit => {
                self.window.end(id);
            }
            Framed::Put | Framed::Held => self.window.mark_sent(id),
            Framed::Unwanted | Framed::Full => {}
        }
        framed
    }

    fn put(
        &mut self,
        link: &Link,
        packet: Packet<'_>,
        offer: Offer<'_>,
        frames: &mut Vec<Bytes>,
    ) -> Framed {
        let counted = packet.qos != Qos::AtMostOnce;
        let is_new = counted && packet.id.is_none();
        let over = counted && self.window.in_flight() >= usize::from(self.client.quota);
        let crowded = is_new && self.window.len() >= self.limits.mqtt_window_max;
        if over || crowded || self.unfinished.held_bytes >= self.limits.outbox_bytes_max {
            return self.block(offer.key);
        }
        let id = if is_new {
            self.window
                .begin(offer.message.offset, packet.source, packet.qos)
        } else {
            packet.id
        };
        let Some(made) = self.encode(link, &packet, id, offer) else {
            if is_new {
                self.window.undo();
            }
            return Framed::Unfit;
        };
        self.touch();
        let needs_save = is_new && packet.qos == Qos::ExactlyOnce && self.is_persistent();
        if needs_save || !self.unfinished.held.is_empty() || packet.acknowledge.is_some() {
            let held = Held {
                frames: made,
                needs_save,
                id,
                acknowledge: packet.acknowledge,
            };
            self.unfinished.held_bytes += held.bytes();
            self.unfinished.held.push_back(held);
            return Framed::Held;
        }
        frames.extend(made.into_iter().filter(|frame| !frame.is_empty()));
        Framed::Put
    }

    /// Makes a packet; `None` if the client does not take one so large.
    fn encode(
        &mut self,
        link: &Link,
        packet: &Packet<'_>,
        id: Option<PacketId>,
        offer: Offer<'_>,
    ) -> Option<[Bytes; 2]> {
        let message = offer.message;
        let version = self.client.version;
        let template = format::template(version, packet.retain, message)?;
        let delivery = match (packet.qos, id) {
            (Qos::AtLeastOnce, Some(id)) => Delivery::AtLeastOnce(id),
            (Qos::ExactlyOnce, Some(id)) => Delivery::ExactlyOnce(id),
            _ => Delivery::AtMostOnce,
        };
        let gap = self.unfinished.gap.filter(|_| version == Version::V5);
        let gap = gap.map(|gap| (gap.reason.name(), gap.after.map(|it| it.to_string())));
        let mut user_properties = Vec::new();
        if let Some((reason, after)) = &gap {
            user_properties.push((format::GAP_PROPERTY, *reason));
            let after = after.as_deref();
            user_properties.extend(after.map(|after| (format::GAP_AFTER_PROPERTY, after)));
        }
        let aliases = self.outbound_aliases.as_ref();
        let topic_alias = aliases.map_or(TopicAlias::None, |it| it.alias(&message.topic));
        let mut to = Addressing {
            duplicate: packet.duplicate,
            topic_alias,
            subscription_ids: &packet.wanted.ids,
            user_properties: &user_properties,
            expiry_s: (version == Version::V5)
                .then(|| format::expiry_s(message, offer.now))
                .flatten(),
            ..Addressing::new(delivery)
        };
        let frames = HEAD.with_borrow_mut(|head| {
            head.clear();
            let max = link.wire.packet_bytes_max;
            let tail = template.address(&to, max, head).or_else(|_| {
                // No message is left out for what is said of a gap: the next one may have the room.
                to.user_properties = &[];
                template.address(&to, max, head)
            });
            let tail = tail.ok()?;
            Some(join(link.stream.is_websocket(), head, tail))
        })?;
        if !to.user_properties.is_empty() {
            self.unfinished.gap = None;
        }
        if let Some(aliases) = &mut self.outbound_aliases {
            aliases.sent(&message.topic, topic_alias);
        }
        Some(frames)
    }

    /// Notes that a subscription stops.
    fn block(&mut self, key: SubscriptionKey) -> Framed {
        if !self.unfinished.blocked.contains(&key) {
            self.unfinished.blocked.push(key);
        }
        Framed::Full
    }

    /// Lets subscriptions that stopped go on, if there is room: by default only when there is some.
    pub(super) fn unblock(&mut self, turn: &mut Turn<'_>, at_once: bool) {
        let free = self.free();
        let enough = usize::from(self.client.quota / 2).clamp(1, UNBLOCK_AFTER);
        if self.unfinished.blocked.is_empty() || free == 0 || !(at_once || free >= enough) {
            return;
        }
        // The older messages first.
        let mut blocked = std::mem::take(&mut self.unfinished.blocked);
        blocked.sort_unstable_by_key(|key| *key == MAIN);
        turn.commands
            .extend(blocked.into_iter().map(Command::Unblock));
    }

    /// How many messages the client could be sent now.
    fn free(&self) -> usize {
        let room = self
            .limits
            .mqtt_window_max
            .saturating_sub(self.window.len());
        let quota = usize::from(self.client.quota).saturating_sub(self.window.in_flight());
        room.min(quota)
    }

    /// How long from now on a stopped subscription stays so at most.
    pub(super) fn nudge_ms(&self) -> Option<u64> {
        (!self.unfinished.blocked.is_empty() && self.free() > 0).then_some(NUDGE_MS)
    }

    /// Gives up on messages that were to be sent again and are gone.
    pub(super) fn give_up(&mut self, is_gone: impl Fn(Source) -> bool) {
        let released = self.window.give_up(is_gone);
        self.unfinished.pubrels_due.extend(released);
    }

    /// Forgets ended subscriptions whose messages are all acknowledged.
    pub(super) fn forget_former(&mut self) {
        if self.unfinished.former.is_empty() {
            return;
        }
        let main = self.window.iter().filter(|it| it.source == Source::Main);
        let first = main.map(|it| it.offset).min().unwrap_or(Offset(u64::MAX));
        self.unfinished.former.retain(|former| former.upto >= first);
    }
}

thread_local! {
    /// One packet's head, before it is known what it becomes a part of. It is short: a topic and a few numbers.
    static HEAD: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// A packet's bytes as one frame, or two if the body is long enough to be worth sharing.
fn join(websocket: bool, head: &[u8], tail: Bytes) -> [Bytes; 2] {
    if !websocket && head.is_empty() {
        return [tail, Bytes::new()];
    }
    let copied = tail.len() <= COPY_BYTES_MAX;
    let len = head.len() + tail.len();
    // Exactly as much as is needed: a buffer with room left costs another allocation when it is frozen.
    let mut size = head.len() + if copied { tail.len() } else { 0 };
    if websocket {
        size += message_head_len(len);
    }
    let mut first = Vec::with_capacity(size);
    if websocket {
        put_message_head(&mut first, BINARY, len);
    }
    first.extend_from_slice(head);
    if copied {
        first.extend_from_slice(&tail);
        return [first.into(), Bytes::new()];
    }
    [first.into(), tail]
}
