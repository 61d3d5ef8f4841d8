//! Packets out, over TCP or in binary WebSocket messages.
//!
//! While the hub has to answer first (the session is being opened, a subscription is being made), or too many
//! publishes wait, what came after is held in the stream and taken later, so that packets take effect in their order.

use bytes::{BufMut, Bytes, BytesMut};
use tidings_ports::Turn;
use tidings_types::Limits;

use super::Transport;
use super::codec::{
    Ack, AckKind, Connack, Decoder, Farewell, PINGRESP, PacketKind, PacketLimits, PacketTooLarge,
    ReasonCode, Version, Wire,
};
use crate::transport::{NORMAL_CLOSURE, PROTOCOL_ERROR, Payloads, Stream};

/// One connection's packets, in and out.
pub(super) struct Link {
    pub(super) stream: Stream,
    pub(super) decoder: Decoder,
    /// What the client takes.
    pub(super) wire: Wire,
    /// The CONNACK is sent.
    pub(super) is_welcome: bool,
}

impl Link {
    pub(super) fn new(transport: Transport, limits: &std::sync::Arc<Limits>) -> Self {
        let stream = match transport {
            Transport::Tcp => Stream::plain(),
            Transport::WebSocket => {
                let bytes_max = super::packet_bytes_max(limits);
                // MQTT-6.0.0-1.
                let payloads = Payloads::Binary("MQTT packets travel in binary messages");
                Stream::wrapped(limits, bytes_max, payloads)
            }
        };
        let packets = PacketLimits {
            packet_bytes_max: super::packet_bytes_max(limits),
            items_max: super::ITEMS_MAX,
        };
        Self {
            stream,
            decoder: Decoder::new(packets),
            wire: Wire::new(Version::V4),
            is_welcome: false,
        }
    }

    /// Appends a packet, if the client takes it; ends the connection if it is too small for what must be said.
    pub(super) fn send(
        &mut self,
        turn: &mut Turn<'_>,
        encode: impl FnOnce(Wire, &mut BytesMut) -> Result<(), PacketTooLarge>,
    ) {
        if self.stream.has_ended() {
            return;
        }
        if encode(self.wire, &mut self.stream.out).is_err() {
            self.end(turn);
        }
    }

    pub(super) fn ack(&mut self, turn: &mut Turn<'_>, kind: AckKind, ack: &Ack) {
        self.send(turn, |wire, out| ack.encode(kind, wire, out));
    }

    pub(super) fn pong(&mut self) {
        if !self.stream.has_ended() {
            self.stream.out.put_slice(&PINGRESP);
        }
    }

    /// Says why, and ends the connection: with a DISCONNECT (5.0), or with the CONNACK if there was none yet
    /// (MQTT-3.14.0-1).
    pub(super) fn disconnect(&mut self, turn: &mut Turn<'_>, farewell: Farewell) {
        self.say(turn, farewell);
        self.end(turn);
    }

    /// Says why, as the last packet.
    pub(super) fn say(&mut self, turn: &mut Turn<'_>, farewell: Farewell) {
        // One that is too large is left away: the connection ends anyway.
        if self.is_welcome {
            self.send(turn, |wire, out| farewell.encode(wire, out).or(Ok(())));
        } else {
            let permitted = farewell.reason.server_may_send(PacketKind::Connack);
            let reason = if permitted {
                farewell.reason
            } else {
                ReasonCode::UnspecifiedError
            };
            let connack = Connack {
                server_reference: farewell.server_reference,
                diagnostics: farewell.diagnostics,
                ..Connack::refused(reason)
            };
            self.send(turn, |wire, out| connack.encode(wire, out).or(Ok(())));
        }
    }

    /// Sends these last bytes, if any, and ends the connection.
    pub(super) fn dismiss(&mut self, turn: &mut Turn<'_>, last: Option<Bytes>) {
        if let (Some(last), false) = (last, self.stream.has_ended()) {
            self.stream.out.put_slice(&last);
        }
        self.stream.close(PROTOCOL_ERROR, "", turn);
    }

    /// Ends the connection once everything is written.
    pub(super) fn end(&mut self, turn: &mut Turn<'_>) {
        self.stream.close(NORMAL_CLOSURE, "", turn);
    }
}

/// Just a reason, with a sentence.
pub(super) fn farewell(reason: ReasonCode, text: impl Into<bytestring::ByteString>) -> Farewell {
    Farewell {
        diagnostics: super::codec::Diagnostics::text(text),
        ..Farewell::new(reason)
    }
}
