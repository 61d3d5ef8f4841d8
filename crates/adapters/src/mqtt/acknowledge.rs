//! What the client acknowledges (4.3), its goodbye (3.14), and what could not be taken up.

use tidings_ports::{Command, Settle, Tag, Turn, Verdict};

use super::codec::{Ack, AckKind, Disconnect, PacketId, Qos, ReasonCode};
use super::filters::Share;
use super::link::Link;
use super::saving::After;
use super::session::Session;
use super::window::{Source, Step};
use super::{connect, misbehaved};

impl Session {
    /// The client acknowledges a message, or takes a step of `QoS` 2 (4.3).
    pub(super) fn acknowledged(
        &mut self,
        link: &mut Link,
        turn: &mut Turn<'_>,
        kind: AckKind,
        ack: &Ack,
    ) {
        let id = ack.packet_id;
        let found = self.window.find(id).copied();
        match (kind, found) {
            (AckKind::Pubrel, _) => self.pubrel(link, turn, id),
            (AckKind::Puback, Some(exchange)) if exchange.qos == Qos::AtLeastOnce => {
                self.complete(turn, id);
            }
            (AckKind::Pubrec, Some(exchange)) if exchange.qos == Qos::ExactlyOnce => {
                if ack.reason.is_failure() {
                    // The client does not take it, and will not: it is done with (4.3.3).
                    self.complete(turn, id);
                } else {
                    // Also if it was released before: that may not be saved yet.
                    self.window.release(id);
                    self.after_save(link, turn, After::Pubrel(id));
                }
            }
            (AckKind::Pubrec, None) => {
                let unknown = Ack::new(id, ReasonCode::PacketIdNotFound);
                link.ack(turn, AckKind::Pubrel, &unknown);
            }
            (AckKind::Pubcomp, Some(exchange)) if exchange.step == Step::Released => {
                self.complete(turn, id);
            }
            // Of an exchange that is over: nothing is to be said.
            (AckKind::Puback | AckKind::Pubcomp, None) => {}
            (_, Some(_)) => {
                let text = "the acknowledgement does not belong to the message's QoS";
                misbehaved(link, turn, ReasonCode::ProtocolError, text);
            }
        }
    }

    /// A delivery is done with.
    fn complete(&mut self, turn: &mut Turn<'_>, id: PacketId) {
        let Some(exchange) = self.window.end(id) else {
            return;
        };
        if let (Source::Group(key), Qos::AtLeastOnce) = (exchange.source, exchange.qos) {
            let offset = exchange.offset;
            turn.commands.push(Command::Settle {
                tag: None,
                settle: Settle {
                    key,
                    offset,
                    verdict: Verdict::Ack,
                },
            });
        }
        self.forget_former();
        self.touch();
        self.unblock(turn, false);
    }

    /// The client says goodbye (3.14).
    pub(super) fn goodbye(
        &mut self,
        link: &mut Link,
        turn: &mut Turn<'_>,
        disconnect: &Disconnect,
    ) {
        if let Some(seconds) = disconnect.session_expiry_s {
            if !self.is_persistent() && seconds > 0 {
                let text = "a session that ends with its connection cannot be kept at its end";
                return misbehaved(link, turn, ReasonCode::ProtocolError, text);
            }
            self.client.expiry = connect::changed_expiry(seconds, &self.limits);
        }
        // MQTT-3.1.2-10, MQTT-3.14.4-3.
        self.said_goodbye = disconnect.reason == ReasonCode::Success;
        link.end(turn);
    }

    /// A catch-up, or a shared subscription, could not be taken up.
    pub(super) fn extra_refused(&mut self, turn: &mut Turn<'_>, tag: Tag) {
        let Some(at) = self
            .unfinished
            .extras
            .iter()
            .position(|extra| extra.0 == tag)
        else {
            return;
        };
        let (_, key) = self.unfinished.extras.swap_remove(at);
        if !self.end_catch_up(turn, key) {
            let is_it = |share: &Share| share.key == Some(key);
            self.filters
                .retain(|filter| !filter.share.as_deref().is_some_and(is_it));
            self.touch();
        }
    }
}
