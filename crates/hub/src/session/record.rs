//! A session's record as bytes.

use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use tidings_ports::Expiry;
use tidings_types::codec::{Input, put_bytes, put_varint};
use tidings_types::{Draft, PayloadFormat, Qos, Timestamp, Topic};

use super::{KeptWill, Saved};
use crate::gate::Admitted;
use crate::lifetime::{self, millis};

const VERSION: u8 = 2;
/// Without an owner.
const VERSION_OWNERLESS: u8 = 1;

const TEXT: u8 = 1;
const RETAIN: u8 = 1 << 1;
const TTL: u8 = 1 << 2;
const CONTENT_TYPE: u8 = 1 << 3;
const EVENT: u8 = 1 << 4;
const RESPONSE_TOPIC: u8 = 1 << 5;
const CORRELATION: u8 = 1 << 6;

/// What a record says.
#[derive(Debug)]
pub(crate) struct Record {
    /// When the session lost its connection; `None` if it had one.
    pub since: Option<Timestamp>,
    /// Whose it is.
    pub owner: Option<ByteString>,
    pub saved: Saved,
}

/// The record of a session that lost its connection then, or has one.
pub(super) fn encode(saved: &Saved, since: Option<Timestamp>, owner: Option<&str>) -> Bytes {
    let mut out = Vec::with_capacity(32 + saved.state.len());
    out.push(VERSION);
    lifetime::put(&mut out, saved.expiry, since);
    out.push(u8::from(saved.will.is_some()));
    if let Some(will) = &saved.will {
        out.extend_from_slice(&will.id.to_le_bytes());
        put_varint(&mut out, millis(will.delay));
        put_draft(&mut out, will.draft.get());
    }
    put_bytes(&mut out, owner.unwrap_or_default().as_bytes());
    if saved.expiry != Expiry::WithConnection {
        out.extend_from_slice(&saved.state);
    }
    out.into()
}

fn put_draft(out: &mut Vec<u8>, draft: &Draft) {
    let properties = &draft.properties;
    let flag = |bit: u8, set: bool| if set { bit } else { 0 };
    put_bytes(out, draft.topic.as_str().as_bytes());
    put_bytes(out, &draft.payload);
    out.push(
        flag(TEXT, draft.format == PayloadFormat::Text)
            | flag(RETAIN, draft.retain)
            | flag(TTL, draft.ttl.is_some())
            | flag(CONTENT_TYPE, properties.content_type.is_some())
            | flag(EVENT, properties.event.is_some())
            | flag(RESPONSE_TOPIC, properties.response_topic.is_some())
            | flag(CORRELATION, properties.correlation.is_some()),
    );
    out.push(match draft.qos {
        Qos::AtMostOnce => 0,
        Qos::AtLeastOnce => 1,
        Qos::ExactlyOnce => 2,
    });
    if let Some(ttl) = draft.ttl {
        put_varint(out, millis(ttl));
    }
    let texts = [
        &properties.content_type,
        &properties.event,
        &properties.response_topic,
    ];
    for text in texts.into_iter().flatten() {
        put_bytes(out, text.as_bytes());
    }
    if let Some(correlation) = &properties.correlation {
        put_bytes(out, correlation);
    }
    put_varint(out, properties.headers.len() as u64);
    for (name, value) in &properties.headers {
        put_bytes(out, name.as_bytes());
        put_bytes(out, value.as_bytes());
    }
}

impl Record {
    /// Reads a record; `None` if it is not one that this version writes. The state is a part of `bytes`.
    pub fn decode(bytes: &Bytes) -> Option<Self> {
        let mut input = Input::new(bytes);
        let version = input.u8()?;
        if ![VERSION, VERSION_OWNERLESS].contains(&version) {
            return None;
        }
        let (expiry, since) = lifetime::read(&mut input)?;
        let will = match input.u8()? {
            0 => None,
            1 => Some(Box::new(will(&mut input)?)),
            _ => return None,
        };
        let owner = match version {
            VERSION => Some(text(&mut input)?).filter(|owner| !owner.is_empty()),
            _ => None,
        };
        Some(Self {
            since,
            owner,
            saved: Saved {
                state: bytes.slice_ref(input.rest),
                expiry,
                will,
            },
        })
    }
}

fn will(input: &mut Input<'_>) -> Option<KeptWill> {
    Some(KeptWill {
        id: input.u64()?,
        delay: Duration::from_millis(input.varint()?),
        draft: Admitted::kept(draft(input)?),
        is_due: false,
    })
}

fn draft(input: &mut Input<'_>) -> Option<Draft> {
    let topic = Topic::new(input.text()?.to_owned()).ok()?;
    let payload = Bytes::copy_from_slice(input.bytes()?);
    let mut draft = Draft::new(topic, payload);
    let flags = input.u8()?;
    draft.format = if flags & TEXT == 0 {
        PayloadFormat::Binary
    } else {
        PayloadFormat::Text
    };
    draft.retain = flags & RETAIN != 0;
    draft.qos = match input.u8()? {
        0 => Qos::AtMostOnce,
        1 => Qos::AtLeastOnce,
        2 => Qos::ExactlyOnce,
        _ => return None,
    };
    if flags & TTL != 0 {
        draft.ttl = Some(Duration::from_millis(input.varint()?));
    }
    let properties = &mut draft.properties;
    if flags & CONTENT_TYPE != 0 {
        properties.content_type = Some(text(input)?);
    }
    if flags & EVENT != 0 {
        properties.event = Some(text(input)?);
    }
    if flags & RESPONSE_TOPIC != 0 {
        properties.response_topic = Some(text(input)?);
    }
    if flags & CORRELATION != 0 {
        properties.correlation = Some(Bytes::copy_from_slice(input.bytes()?));
    }
    for _ in 0..input.varint()? {
        properties.headers.push((text(input)?, text(input)?));
    }
    Some(draft)
}

fn text(input: &mut Input<'_>) -> Option<ByteString> {
    input.text().map(ByteString::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full_draft() -> Draft {
        let mut draft = Draft::new(Topic::new("a/b").unwrap(), Bytes::from_static(b"\xffgone"));
        draft.ttl = Some(Duration::from_secs(9));
        draft.retain = true;
        draft.qos = Qos::AtLeastOnce;
        let some = |text: &'static str| Some(ByteString::from_static(text));
        draft.properties.content_type = some("text/plain");
        draft.properties.event = some("gone");
        draft.properties.response_topic = some("answers");
        draft.properties.correlation = Some(Bytes::from_static(&[0, 1]));
        draft.properties.headers = vec![
            (ByteString::from_static("k"), ByteString::from_static("1")),
            (ByteString::from_static("k"), ByteString::from_static("")),
        ];
        draft
    }

    fn saved(expiry: Expiry, draft: Option<Draft>) -> Saved {
        Saved {
            state: Bytes::from_static(b"state"),
            expiry,
            will: draft.map(|draft| {
                Box::new(KeptWill {
                    id: u64::MAX - 1,
                    delay: Duration::from_millis(5),
                    draft: Admitted::kept(draft),
                    is_due: false,
                })
            }),
        }
    }

    #[test]
    fn records_read_back_as_they_were_written() {
        let plain = Draft::new(Topic::new("t").unwrap(), Bytes::new());
        for (expiry, draft, since) in [
            (Expiry::Never, None, None),
            (Expiry::After(Duration::from_mins(1)), Some(plain), None),
            (Expiry::Never, Some(full_draft()), Some(Timestamp(77))),
            (Expiry::WithConnection, Some(full_draft()), None),
        ] {
            let written = saved(expiry, draft);
            let owner = since.map(|_| ByteString::from_static("key/ann"));
            let bytes = encode(&written, since, owner.as_deref());
            let read = Record::decode(&bytes).unwrap();
            assert_eq!((read.since, read.saved.expiry), (since, expiry));
            assert_eq!(read.owner, owner);
            let state: &[u8] = match expiry {
                Expiry::WithConnection => b"",
                _ => b"state",
            };
            assert_eq!(read.saved.state, state);
            let parts = |saved: &Saved| {
                saved
                    .will
                    .as_ref()
                    .map(|will| (will.id, will.delay, will.draft.get().clone()))
            };
            assert_eq!(parts(&read.saved), parts(&written));
        }
    }

    #[test]
    fn what_is_no_record_is_not_read() {
        let whole = encode(
            &saved(Expiry::Never, Some(full_draft())),
            None,
            Some("key/ann"),
        );
        let state = b"state".len();
        for cut in 0..whole.len() - state {
            assert!(Record::decode(&whole.slice(..cut)).is_none(), "{cut}");
        }
        for (at, value) in [(0, 3), (1, 3), (2, 2), (3, 2)] {
            let mut bytes = whole.to_vec();
            bytes[at] = value;
            assert!(Record::decode(&bytes.into()).is_none(), "byte {at}");
        }
    }

    #[test]
    fn a_record_from_before_there_were_owners_is_nobodys() {
        // version | expiry: never | since: none | will: none | state
        let old = Bytes::from_static(b"\x01\x02\x00\x00state");
        let read = Record::decode(&old).unwrap();
        assert_eq!((read.owner, &read.saved.state[..]), (None, &b"state"[..]));
    }
}
