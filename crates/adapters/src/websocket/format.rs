//! The wire formats of messages out: raw payloads, and the JSON of `tidings.v1`; each plain, and deflated for
//! every window size. A frame depends on the message and the format alone, and so is made once.

use std::cell::RefCell;

use bytes::Bytes;
use tidings_types::{FormatId, FrameFormat, Message, PayloadFormat};

use super::deflate::{DEFLATE_BYTES_MIN, deflated};
use super::extension::Deflate;
use super::frame::{Opcode, deflated_frame, frame};
use crate::envelope;

/// Messages as they were published: text as text, bytes as binary.
pub(super) fn raw(deflate: Option<Deflate>) -> &'static dyn FrameFormat {
    static FORMATS: [Raw; FORMAT_COUNT] = [
        Raw(Variant::plain("ws/raw")),
        Raw(Variant::deflated("ws/raw+deflate9", 9)),
        Raw(Variant::deflated("ws/raw+deflate10", 10)),
        Raw(Variant::deflated("ws/raw+deflate11", 11)),
        Raw(Variant::deflated("ws/raw+deflate12", 12)),
        Raw(Variant::deflated("ws/raw+deflate13", 13)),
        Raw(Variant::deflated("ws/raw+deflate14", 14)),
        Raw(Variant::deflated("ws/raw+deflate15", 15)),
    ];
    &FORMATS[variant_index(deflate)]
}

/// Messages as `{"op":"message",..}`.
pub(super) fn json(deflate: Option<Deflate>) -> &'static dyn FrameFormat {
    json_format(deflate)
}

fn json_format(deflate: Option<Deflate>) -> &'static Json {
    static FORMATS: [Json; FORMAT_COUNT] = [
        Json(Variant::plain("tidings/json")),
        Json(Variant::deflated("tidings/json+deflate9", 9)),
        Json(Variant::deflated("tidings/json+deflate10", 10)),
        Json(Variant::deflated("tidings/json+deflate11", 11)),
        Json(Variant::deflated("tidings/json+deflate12", 12)),
        Json(Variant::deflated("tidings/json+deflate13", 13)),
        Json(Variant::deflated("tidings/json+deflate14", 14)),
        Json(Variant::deflated("tidings/json+deflate15", 15)),
    ];
    &FORMATS[variant_index(deflate)]
}

const FORMAT_COUNT: usize = 8;

fn variant_index(deflate: Option<Deflate>) -> usize {
    deflate.map_or(0, |deflate| {
        usize::from(deflate.window_bits() - Deflate::WINDOW_BITS_MIN) + 1
    })
}

struct Variant {
    id: FormatId,
    /// 0 is plain.
    window_bits: u8,
}

impl Variant {
    const fn plain(id: FormatId) -> Self {
        Self { id, window_bits: 0 }
    }

    const fn deflated(id: FormatId, window_bits: u8) -> Self {
        Self { id, window_bits }
    }

    fn encode(&self, opcode: Opcode, payload: &[u8]) -> Bytes {
        Deflate::with_window_bits(self.window_bits)
            .filter(|_| payload.len() >= DEFLATE_BYTES_MIN)
            .and_then(|deflate| deflated(payload, deflate, |out| deflated_frame(opcode, out)))
            .unwrap_or_else(|| frame(opcode, payload))
    }
}

struct Raw(Variant);

impl FrameFormat for Raw {
    fn id(&self) -> FormatId {
        self.0.id
    }

    fn encode(&self, message: &Message) -> Bytes {
        let opcode = match message.format {
            PayloadFormat::Text => Opcode::Text,
            PayloadFormat::Binary => Opcode::Binary,
        };
        self.0.encode(opcode, &message.payload)
    }
}

struct Json(Variant);

thread_local! {
    /// The JSON of one message, before its length, and so its header, is known.
    static JSON: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The JSON buffer is given back to the allocator when a message made it larger than this.
const JSON_BYTES_KEPT: usize = 256 << 10;

/// Where a message of a work queue came by.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueuePlace {
    /// The member's subscription.
    pub(super) sub: u32,
    /// How often it was delivered, this time included.
    pub(super) deliveries: u32,
}

/// A message of a work queue as `{"op":"message","sub":..,"deliveries":..,..}`: the frame of one member alone.
pub(super) fn queued_json(deflate: Option<Deflate>, message: &Message, place: QueuePlace) -> Bytes {
    let Json(variant) = json_format(deflate);
    let QueuePlace { sub, deliveries } = place;
    let own = format!(r#""sub":{sub},"deliveries":{deliveries},"#);
    encode_json(variant, &own, message)
}

/// The frame of a message's object, with these members in front.
fn encode_json(variant: &Variant, own: &str, message: &Message) -> Bytes {
    JSON.with_borrow_mut(|json| {
        json.clear();
        json.extend_from_slice(br#"{"op":"message","#);
        json.extend_from_slice(own.as_bytes());
        envelope::write_members(message, json);
        json.push(b'}');
        let frame = variant.encode(Opcode::Text, json);
        if json.capacity() > JSON_BYTES_KEPT {
            *json = Vec::new();
        }
        frame
    })
}

impl FrameFormat for Json {
    fn id(&self) -> FormatId {
        self.0.id
    }

    fn encode(&self, message: &Message) -> Bytes {
        encode_json(&self.0, "", message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::websocket::deflate::inflate;
    use crate::websocket::testing::{message, parts};

    fn all() -> impl Iterator<Item = Option<Deflate>> {
        std::iter::once(None).chain((9..=15).map(Deflate::with_window_bits))
    }

    #[test]
    fn every_window_has_its_own_format_id() {
        for deflate in all() {
            let suffix =
                deflate.map_or(String::new(), |it| format!("+deflate{}", it.window_bits()));
            assert_eq!(raw(deflate).id(), format!("ws/raw{suffix}"));
            assert_eq!(json(deflate).id(), format!("tidings/json{suffix}"));
        }
    }

    #[test]
    fn text_stays_text_and_bytes_stay_binary() {
        for (payload, expect) in [
            (&b"hi"[..], &b"\x81\x02hi"[..]),
            (b"", b"\x81\x00"),
            (b"\xff\x00", b"\x82\x02\xff\x00"),
        ] {
            for deflate in all() {
                assert_eq!(raw(deflate).encode(&message("t", payload)), expect);
            }
        }
    }

    #[test]
    fn a_long_message_is_deflated_and_a_short_one_is_not() {
        let payload = b"0123456789".repeat(40);
        for deflate in all().skip(1) {
            let out = raw(deflate).encode(&message("t", &payload));
            assert_eq!(out[0], 0xc1);
            assert_eq!(inflate(&out[2..], 1000).unwrap(), payload);
            let out = raw(deflate).encode(&message("t", &payload[..95]));
            assert_eq!(out[0], 0x81);
        }
    }

    #[test]
    fn a_json_message_is_one_object_in_one_text_frame() {
        let out = json(None).encode(&message("a/b", b"hi \"you\""));
        let (first, text) = parts(&out);
        assert_eq!(first, 0x81);
        let value: serde_json::Value = serde_json::from_slice(text).unwrap();
        assert_eq!(value["op"], "message");
        assert_eq!(value["topic"], "a/b");
        assert_eq!(value["data"], "hi \"you\"");
        assert_eq!(value["time"], 1234);
        let out = json(Deflate::with_window_bits(12)).encode(&message("a/b", &[b'x'; 300]));
        assert_eq!(out[0], 0xc1);
        let text = inflate(parts(&out).1, 1000).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(value["data"], "x".repeat(300));
    }
}
