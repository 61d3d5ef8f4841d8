//! Messages of `QoS` 1 and 2 that the client has not acknowledged (4.4, 4.9).

use std::collections::VecDeque;

use tidings_ports::SubscriptionKey;
use tidings_types::Offset;

use super::codec::{PacketId, Qos};
use super::on_demand::{Empty, OnDemand};

/// How far an exchange is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// PUBLISH is, or is to be, sent.
    Published,
    /// PUBREC came, PUBREL is, or is to be, sent (`QoS` 2 only).
    Released,
}

/// What a message came by, and so where it is found again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The session's ordinary subscriptions.
    Main,
    /// It was a retained one at the start of a subscription.
    Retained,
    /// A shared subscription; the key is that of this connection.
    Group(SubscriptionKey),
}

impl Source {
    /// Whether both are found again in the same way.
    pub(super) fn is_like(self, other: Self) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }
}

/// One exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exchange {
    pub(super) id: PacketId,
    pub(super) offset: Offset,
    pub(super) source: Source,
    /// Not 0.
    pub(super) qos: Qos,
    pub(super) step: Step,
    /// Whether its packet was sent on this connection, and counts for the client's receive maximum.
    pub(super) sent: bool,
}

impl Empty for VecDeque<Exchange> {
    const EMPTY: &'static Self = &VecDeque::new();
}

/// The exchanges of a session, in the order in which they began.
#[derive(Clone, Debug, Default)]
pub(super) struct Window {
    exchanges: OnDemand<VecDeque<Exchange>>,
    /// The last packet identifier that was given out.
    last_id: u16,
    /// How many of them were sent on this connection.
    in_flight: u32,
}

impl Window {
    /// Takes up a session's window on a new connection: nothing is sent yet.
    pub(super) fn restore(exchanges: Vec<Exchange>, last_id: u16) -> Self {
        Self {
            exchanges: VecDeque::from(exchanges).into(),
            last_id,
            in_flight: 0,
        }
    }

    /// Gives memory back if there is no exchange.
    pub(super) fn give_back(&mut self) {
        self.exchanges.give_back_if(VecDeque::is_empty);
    }

    #[cfg(test)]
    pub(super) fn is_allocated(&self) -> bool {
        self.exchanges.is_allocated()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Exchange> {
        self.exchanges.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.exchanges.len()
    }

    pub(super) fn last_id(&self) -> u16 {
        self.last_id
    }

    /// How many messages the client has to acknowledge.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight as usize
    }

    /// A packet identifier that is not in use; `None` if all are.
    fn free_id(&mut self) -> Option<PacketId> {
        for _ in 0..u16::MAX {
            self.last_id = self.last_id.wrapping_add(1);
            let Some(id) = PacketId::new(self.last_id) else {
                continue;
            };
            if self.find(id).is_none() {
                return Some(id);
            }
        }
        None
    }

    /// Begins an exchange whose PUBLISH is sent now.
    pub(super) fn begin(&mut self, offset: Offset, source: Source, qos: Qos) -> Option<PacketId> {
        let id = self.free_id()?;
        self.exchanges.push_back(Exchange {
            id,
            offset,
            source,
            qos,
            step: Step::Published,
            sent: true,
        });
        self.in_flight += 1;
        Some(id)
    }

    /// Takes back the exchange that was begun last: its packet cannot be sent.
    pub(super) fn undo(&mut self) {
        if let Some(exchange) = self.exchanges.pop_back() {
            self.in_flight -= 1;
            self.last_id = exchange.id.get() - 1;
        }
    }

    pub(super) fn find(&self, id: PacketId) -> Option<&Exchange> {
        self.exchanges.iter().find(|exchange| exchange.id == id)
    }

    /// Ends an exchange.
    pub(super) fn end(&mut self, id: PacketId) -> Option<Exchange> {
        let at = self.exchanges.iter().position(|it| it.id == id)?;
        let exchange = self.exchanges.remove(at)?;
        if exchange.sent {
            self.in_flight -= 1;
        }
        Some(exchange)
    }

    /// Moves an exchange on to PUBREL.
    pub(super) fn release(&mut self, id: PacketId) {
        if let Some(exchange) = self.exchanges.iter_mut().find(|it| it.id == id) {
            exchange.step = Step::Released;
        }
    }

    /// Whether something is to be sent again.
    pub(super) fn has_unsent(&self) -> bool {
        self.in_flight() < self.exchanges.len()
    }

    /// The next exchange of this message that is to be sent again.
    pub(super) fn unsent(&mut self, offset: Offset, source: Source) -> Option<&mut Exchange> {
        self.exchanges.iter_mut().find(|it| {
            it.offset == offset
                && it.source.is_like(source)
                && !it.sent
                && it.step == Step::Published
        })
    }

    /// Marks an exchange's packet as sent on this connection.
    pub(super) fn mark_sent(&mut self, id: PacketId) {
        if let Some(exchange) = self.exchanges.iter_mut().find(|it| it.id == id && !it.sent) {
            exchange.sent = true;
            self.in_flight += 1;
        }
    }

    /// Gives up on messages that were to be sent again: they are gone from the log. What the client may have seen
    /// of them is ended with the PUBREL that stands for it: else the client could take the next message with
    /// the same packet identifier for a repetition.
    pub(super) fn give_up(&mut self, is_gone: impl Fn(Source) -> bool) -> Vec<PacketId> {
        let gone = |it: &Exchange| !it.sent && it.step == Step::Published && is_gone(it.source);
        self.exchanges
            .retain(|it| !(gone(it) && it.qos == Qos::AtLeastOnce));
        let mut released = Vec::new();
        for exchange in self.exchanges.iter_mut() {
            if gone(exchange) {
                exchange.step = Step::Released;
                exchange.sent = true;
                self.in_flight += 1;
                released.push(exchange.id);
            }
        }
        released
    }

    /// The exchanges whose PUBREL is to be sent again, in their order (MQTT-4.4.0-1); they count as sent.
    pub(super) fn resume_released(&mut self) -> Vec<PacketId> {
        let mut ids = Vec::new();
        for exchange in self.exchanges.iter_mut() {
            if exchange.step == Step::Released && !exchange.sent {
                exchange.sent = true;
                self.in_flight += 1;
                ids.push(exchange.id);
            }
        }
        ids
    }

    /// Forgets what a shared subscription gave and was not acknowledged: another member gets it.
    pub(super) fn forget_shared(&mut self) {
        let shared = |it: &Exchange| {
            matches!(it.source, Source::Group(_))
                && it.qos == Qos::AtLeastOnce
                && it.step == Step::Published
        };
        self.in_flight -= self
            .exchanges
            .iter()
            .filter(|it| shared(it) && it.sent)
            .count() as u32;
        self.exchanges.retain(|it| !shared(it));
    }

    /// The first message that is to be sent again and found in this way.
    pub(super) fn first_unsent(&self, is_wanted: impl Fn(Source) -> bool) -> Option<Offset> {
        let unsent = self
            .exchanges
            .iter()
            .filter(|it| !it.sent && it.step == Step::Published && is_wanted(it.source));
        unsent.map(|it| it.offset).min()
    }
}
