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

pub(super) fn first_packet(input: &[u8], transport: Transport) -> FirstPacket {
    match transport {
        Transport::Tcp => first_of(input),
        Transport::WebSocket => match unwrapped(input) {
            Some(packets) => match first_of(&packets) {
                // What is no message yet counts too, so that waiting for the rest is bounded.
                FirstPacket::Incomplete if input.len() > WRAPPED_BYTES_MAX => FirstPacket::Refused,
                first => first,
            },
            None => FirstPacket::Refused,
        },
    }
}

/// What the WebSocket messages at the front of the input carry; `None` if they break a rule, or carry text.
fn unwrapped(input: &[u8]) -> Option<BytesMut> {
    let rules = websocket::Rules {
        message_bytes_max: CONNECT_BYTES_MAX,
        deflate: false,
    };
    let mut input = BytesMut::from(input);
    let mut decoder = websocket::Decoder::default();
    let mut packets = BytesMut::new();
    loop {
        match decoder.next(&mut input, rules) {
            Ok(Some(websocket::Incoming::Binary(payload))) => packets.extend_from_slice(&payload),
            Ok(Some(websocket::Incoming::Ping(_) | websocket::Incoming::Pong)) => {}
            Ok(None) => return Some(packets),
            Ok(Some(websocket::Incoming::Text(_) | websocket::Incoming::Close(_))) | Err(_) => {
                // What came before may be a whole CONNECT; what broke the rule is answered after it.
                return (!packets.is_empty()).then_some(packets);
            }
        }
    }
}

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
