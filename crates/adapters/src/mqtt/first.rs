//! Where a connection belongs, by its first packet.

use bytes::BytesMut;
use bytestring::ByteString;

use super::codec::{Decoder, Packet, PacketLimits};
use super::{FirstPacket, ITEMS_MAX, Transport, session_name};
use crate::websocket;

/// A CONNECT of more bytes is refused.
pub(super) const CONNECT_BYTES_MAX: usize = 256 << 10;
/// What its WebSocket messages may add: headers of fragments, and pings.
const WRAPPED_BYTES_MAX: usize = 2 * CONNECT_BYTES_MAX;

/// Looks for the first packet as its bytes come. Each is looked at once, however few come at a time: over WebSocket,
/// where nobody has said yet who it is, looking again from the start would cost the square of them.
pub struct FirstReader {
    transport: Transport,
    decoder: websocket::Decoder,
    /// How much of the input the decoder was given.
    given: usize,
    /// What the decoder has not taken of that.
    pending: BytesMut,
    /// What the messages carry.
    packets: BytesMut,
}

impl FirstReader {
    /// Before the first byte.
    #[must_use]
    pub fn new(transport: Transport) -> Self {
        Self {
            transport,
            decoder: websocket::Decoder::default(),
            given: 0,
            pending: BytesMut::new(),
            packets: BytesMut::new(),
        }
    }

    /// Looks at everything that has come, which is what had come before with more behind it.
    pub fn look(&mut self, input: &[u8]) -> FirstPacket {
        if self.transport == Transport::Tcp {
            return first_of(input);
        }
        let new = input.get(self.given..).unwrap_or_default();
        self.pending.extend_from_slice(new);
        self.given = input.len();
        match (self.unwrap_messages(), first_of(&self.packets)) {
            // What is no message yet counts too, so that waiting for the rest is bounded.
            (Ok(()), FirstPacket::Incomplete) if input.len() > WRAPPED_BYTES_MAX => {
                FirstPacket::Refused
            }
            // What came before may be a whole CONNECT; what broke the rule is answered after it.
            (Err(BrokenRule), FirstPacket::Incomplete) => FirstPacket::Refused,
            (_, first) => first,
        }
    }

    /// Adds what whole messages carry; an error if they break a rule, or carry text.
    fn unwrap_messages(&mut self) -> Result<(), BrokenRule> {
        let rules = websocket::Rules {
            message_bytes_max: CONNECT_BYTES_MAX,
            deflate: false,
        };
        loop {
            match self.decoder.next(&mut self.pending, rules) {
                Ok(Some(websocket::Incoming::Binary(payload))) => {
                    self.packets.extend_from_slice(&payload);
                }
                Ok(Some(websocket::Incoming::Ping(_) | websocket::Incoming::Pong)) => {}
                Ok(None) => return Ok(()),
                Ok(Some(websocket::Incoming::Text(_) | websocket::Incoming::Close(_))) | Err(_) => {
                    return Err(BrokenRule);
                }
            }
        }
    }
}

/// The messages are none, or none of MQTT.
struct BrokenRule;

fn first_of(input: &[u8]) -> FirstPacket {
    let limits = PacketLimits {
        packet_bytes_max: CONNECT_BYTES_MAX,
        items_max: ITEMS_MAX,
    };
    let mut copy = match whole_packet(input) {
        Some(packet) => BytesMut::from(packet),
        // The decoder judges the fixed header alone.
        None => BytesMut::from(&input[..input.len().min(5)]),
    };
    match Decoder::new(limits).decode(&mut copy) {
        Ok(Some(Packet::Connect(connect))) if connect.client_id.is_empty() => {
            FirstPacket::Anonymous
        }
        Ok(Some(Packet::Connect(connect))) => FirstPacket::Session(name(&connect.client_id)),
        Ok(Some(_)) | Err(_) => FirstPacket::Refused,
        Ok(None) => FirstPacket::Incomplete,
    }
}

/// The first packet's bytes, if they are all there.
fn whole_packet(input: &[u8]) -> Option<&[u8]> {
    let mut len = 0usize;
    for (at, byte) in input.iter().skip(1).take(4).enumerate() {
        len |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return input.get(..2 + at + len);
        }
    }
    None
}

fn name(client_id: &str) -> ByteString {
    session_name(client_id)
}
