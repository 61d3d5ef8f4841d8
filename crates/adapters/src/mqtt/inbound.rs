//! Messages from the client (3.3, 4.3), and their acknowledgements.
//!
//! PUBACK and PUBREC go out in the order of the PUBLISH packets (MQTT-4.6.0-2, MQTT-4.6.0-3), so an early refusal
//! waits for the receipts before it. A message of `QoS` 2 is published under a key of its own, which is saved with its
//! packet identifier no later than the message is committed: a PUBLISH that comes again, also after a crash, is
//! published again under that key, which the log answers with the first receipt.

use tidings_ports::{Command, Tag, Turn};
use tidings_types::{Draft, Refusal, RefusalCode};

use super::codec::{
    Ack, AckKind, Delivery, Diagnostics, PacketId, PacketKind, Publish, PublishTopic, ReasonCode,
    TopicName, Version,
};
use super::draft::{Parts, draft, may_succeed_later};
use super::link::Link;
use super::saving::After;
use super::session::{Class, Session, give_back};
use super::state::Inbound;
use super::{misbehaved, refuse};

/// Messages of `QoS` 2 that a client of 3.1 or 3.1.1 has not released.
const UNRELEASED_MAX: usize = 1_024;

/// A PUBACK or PUBREC to come.
pub(super) struct PendingAck {
    /// Of the publish; `None` if none was needed.
    tag: Option<Tag>,
    kind: AckKind,
    id: PacketId,
    /// Set once it can be sent.
    outcome: Option<Ack>,
}

impl Session {
    pub(super) fn publish(&mut self, link: &mut Link, turn: &mut Turn<'_>, publish: Publish) {
        let delivery = publish.delivery;
        let known = self.inbound_place(delivery);
        let counted = known.is_some_and(|at| self.unfinished.inbound[at].is_here);
        if delivery != Delivery::AtMostOnce && !counted && !self.receive_one(link, turn) {
            return;
        }
        let topic = match self.topic(publish.topic) {
            Ok(topic) => topic,
            Err(reason) => {
                let text = "the topic alias is over the maximum, or was never assigned";
                return misbehaved(link, turn, reason, text);
            }
        };
        if let Some(at) = known {
            self.unfinished.inbound[at].is_here = true;
            if self.unfinished.inbound[at].received {
                // MQTT-4.3.3-10: acknowledged again, not published again.
                let ack = Ack::new(self.unfinished.inbound[at].id, ReasonCode::Success);
                return self.push_ack(link, turn, AckKind::Pubrec, ack);
            }
        }
        let parts = Parts {
            topic,
            payload: publish.payload,
            qos: delivery.qos(),
            retain: publish.retain,
            properties: publish.properties,
        };
        match draft(parts, &self.limits) {
            Ok(draft) => self.submit(turn, delivery, draft),
            Err(refusal) => {
                turn.commands.push(Command::Refused(refusal.clone()));
                self.refuse_publish(link, turn, delivery, None, &refusal);
            }
        }
    }

    /// Counts a message against our receive maximum (3.3.4, 4.9). Before 5.0 there is none, but what is not released
    /// has to be kept, and so has a bound too.
    fn receive_one(&mut self, link: &mut Link, turn: &mut Turn<'_>) -> bool {
        let max = match self.client.version {
            Version::V3 | Version::V4 => UNRELEASED_MAX.max(self.receive_maximum()),
            Version::V5 => self.receive_maximum(),
        };
        if self.receiving as usize >= max {
            let text = "more messages wait for their acknowledgement than the receive maximum";
            let refusal = Refusal::new(RefusalCode::RateLimited, text);
            refuse(link, turn, ReasonCode::ReceiveMaximumExceeded, refusal);
            return false;
        }
        self.receiving += 1;
        true
    }

    /// How many messages of `QoS` 1 and 2 are taken at once.
    pub(super) fn receive_maximum(&self) -> usize {
        let max = self.limits.publishes_in_flight_max;
        max.clamp(1, usize::from(u16::MAX))
    }

    fn topic(&mut self, topic: PublishTopic) -> Result<TopicName, ReasonCode> {
        let max = u16::try_from(self.limits.mqtt_topic_alias_max).unwrap_or(u16::MAX);
        match topic {
            PublishTopic::Name(topic) => Ok(topic),
            PublishTopic::Assign(alias, topic) => {
                let aliases = self.inbound_aliases.get_or_insert_default();
                aliases.assign(alias, &topic, max)?;
                Ok(topic)
            }
            PublishTopic::Alias(alias) => {
                let aliases = self.inbound_aliases.get_or_insert_default();
                aliases.topic(alias, max)
            }
        }
    }

    fn inbound_place(&self, delivery: Delivery) -> Option<usize> {
        let Delivery::ExactlyOnce(id) = delivery else {
            return None;
        };
        self.unfinished
            .inbound
            .iter()
            .position(|inbound| inbound.id == id)
    }

    fn submit(&mut self, turn: &mut Turn<'_>, delivery: Delivery, mut draft: Draft) {
        let mut save = None;
        let tag = match delivery {
            Delivery::AtMostOnce => {
                self.publishing0 += 1;
                self.tag(Class::Publish0)
            }
            Delivery::AtLeastOnce(id) => self.await_receipt(AckKind::Puback, id),
            Delivery::ExactlyOnce(id) => {
                let at = self.begin_inbound(id, &draft);
                draft.key = Some(self.unfinished.inbound[at].key.clone());
                save = self.save_with_publish();
                self.await_receipt(AckKind::Pubrec, id)
            }
        };
        turn.commands.push(Command::Publish {
            tag,
            drafts: vec![draft],
            save,
            settle: Vec::new(),
        });
    }

    fn begin_inbound(&mut self, id: PacketId, draft: &Draft) -> usize {
        if let Some(at) = self
            .unfinished
            .inbound
            .iter()
            .position(|inbound| inbound.id == id)
        {
            return at;
        }
        self.keyed += 1;
        let ours = || format!("mqtt-{:016x}-{:x}", self.nonce, self.keyed).into();
        self.unfinished.inbound.push(Inbound {
            id,
            key: draft.key.clone().unwrap_or_else(ours),
            received: false,
            is_here: true,
        });
        self.unfinished.inbound.len() - 1
    }

    fn await_receipt(&mut self, kind: AckKind, id: PacketId) -> Tag {
        let tag = self.tag(Class::Publish);
        self.unfinished.acks.push_back(PendingAck {
            tag: Some(tag),
            kind,
            id,
            outcome: None,
        });
        tag
    }

    /// Puts an acknowledgement behind those that are still to come.
    fn push_ack(&mut self, link: &mut Link, turn: &mut Turn<'_>, kind: AckKind, ack: Ack) {
        self.unfinished.acks.push_back(PendingAck {
            tag: None,
            kind,
            id: ack.packet_id,
            outcome: Some(ack),
        });
        self.flush_acks(link, turn);
    }

    /// A message is committed.
    pub(super) fn published(&mut self, link: &mut Link, turn: &mut Turn<'_>, tag: Tag) {
        if Class::of(tag) == Some(Class::Publish0) {
            self.publishing0 = self.publishing0.saturating_sub(1);
            return;
        }
        let Some(pending) = self
            .unfinished
            .acks
            .iter_mut()
            .find(|it| it.tag == Some(tag))
        else {
            return;
        };
        let id = pending.id;
        pending.outcome = Some(Ack::new(id, ReasonCode::Success));
        if pending.kind == AckKind::Pubrec
            && let Some(inbound) = self.unfinished.inbound.iter_mut().find(|it| it.id == id)
        {
            inbound.received = true;
            self.touch();
        }
        self.flush_acks(link, turn);
    }

    /// A message is refused by the hub.
    pub(super) fn publish_refused(
        &mut self,
        link: &mut Link,
        turn: &mut Turn<'_>,
        tag: Tag,
        refusal: &Refusal,
    ) {
        if Class::of(tag) == Some(Class::Publish0) {
            self.publishing0 = self.publishing0.saturating_sub(1);
            return;
        }
        let Some(pending) = self.unfinished.acks.iter().find(|it| it.tag == Some(tag)) else {
            return;
        };
        let delivery = match pending.kind {
            AckKind::Puback => Delivery::AtLeastOnce(pending.id),
            _ => Delivery::ExactlyOnce(pending.id),
        };
        self.refuse_publish(link, turn, delivery, Some(tag), refusal);
    }

    /// Says no to a message: with a reason in 5.0; before, as [`may_succeed_later`] says. Of `QoS` 0 nothing is said.
    fn refuse_publish(
        &mut self,
        link: &mut Link,
        turn: &mut Turn<'_>,
        delivery: Delivery,
        tag: Option<Tag>,
        refusal: &Refusal,
    ) {
        let (kind, id) = match delivery {
            Delivery::AtMostOnce => return,
            Delivery::AtLeastOnce(id) => (AckKind::Puback, id),
            Delivery::ExactlyOnce(id) => (AckKind::Pubrec, id),
        };
        let mut ack = Ack::new(id, ReasonCode::Success);
        if self.client.version == Version::V5 {
            let packet: PacketKind = kind.packet_kind();
            ack.reason = ReasonCode::of_refusal(refusal.code, packet);
            ack.diagnostics = Diagnostics::text(refusal.detail.clone());
        } else if may_succeed_later(refusal.code) {
            return link.end(turn);
        } else {
            turn.commands.push(Command::Dropped(refusal.clone()));
            if kind == AckKind::Pubrec {
                self.drop_exactly_once(id);
            }
        }
        match self
            .unfinished
            .acks
            .iter_mut()
            .find(|it| tag.is_some() && it.tag == tag)
        {
            Some(pending) => {
                pending.outcome = Some(ack);
                self.flush_acks(link, turn);
            }
            None => self.push_ack(link, turn, kind, ack),
        }
    }

    /// Before 5.0 a refused message of `QoS` 2 goes through its steps like any other.
    fn drop_exactly_once(&mut self, id: PacketId) {
        match self.unfinished.inbound.iter_mut().find(|it| it.id == id) {
            Some(inbound) => inbound.received = true,
            None => self.unfinished.inbound.push(Inbound {
                id,
                key: bytestring::ByteString::from_static("-"),
                received: true,
                is_here: true,
            }),
        }
        self.touch();
    }

    /// Sends the acknowledgements whose turn it is.
    fn flush_acks(&mut self, link: &mut Link, turn: &mut Turn<'_>) {
        while let Some(pending) = self
            .unfinished
            .acks
            .pop_front_if(|pending| pending.outcome.is_some())
        {
            let Some(ack) = pending.outcome else {
                continue;
            };
            let failed = ack.reason.is_failure();
            if pending.kind == AckKind::Puback || failed {
                self.receiving = self.receiving.saturating_sub(1);
            }
            if pending.kind == AckKind::Pubrec && failed {
                // MQTT-4.3.3-9: with an error the exchange is over, and the identifier is free.
                self.unfinished
                    .inbound
                    .retain(|inbound| inbound.id != pending.id);
                self.touch();
            }
            link.ack(turn, pending.kind, &ack);
        }
        give_back(&mut self.unfinished.acks);
    }

    /// The client releases a message of `QoS` 2.
    pub(super) fn pubrel(&mut self, link: &mut Link, turn: &mut Turn<'_>, id: PacketId) {
        let Some(at) = self
            .unfinished
            .inbound
            .iter()
            .position(|inbound| inbound.id == id)
        else {
            let ack = Ack::new(id, ReasonCode::PacketIdNotFound);
            return link.ack(turn, AckKind::Pubcomp, &ack);
        };
        if self.unfinished.inbound.swap_remove(at).is_here {
            self.receiving = self.receiving.saturating_sub(1);
        }
        // The identifier must be known to be free before the client uses it again: else its next message would
        // be taken for this one after a crash.
        self.after_save(link, turn, After::Pubcomp(id));
    }
}
