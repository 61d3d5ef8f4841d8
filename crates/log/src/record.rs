//! What stands in a segment file behind its header. Numbers are little endian, `varint` is unsigned LEB128,
//! `text` and `bytes` are a varint length and that many bytes.
//!
//! ```text
//! record   = len u32 (of type and body) | crc32c u32 (over type and body) | type u8 | body
//! segment  = header | batch*  and, behind an active segment's last batch, zeros or nothing
//! batch    = BATCH record | its records          written at once; valid as a whole or not at all
//! BATCH    = magic u64 | records u32 | bytes u32 (of its records) | synced_to u32 | first offset u64
//! MESSAGE  = flags u8 | offset varint | time varint | ordinal varint | prev varint
//!            | expires varint [1] | origin varint | topic text | key text [2] | content type text [3]
//!            | event text [4] | response topic text [5] | correlation bytes [6]
//!            | header count varint, (name text, value text)* [7] | payload (the rest)
//!            `[n]` is there only if its flag is set; `ordinal` counts the topic's messages, `prev` is the
//!            offset of the message before it on the topic, 0 if there was none
//! QOS_MESSAGE = qos u8 (0, 1 or 2) | the body of a MESSAGE    MESSAGE itself stands for qos 2, the default
//! RESERVE  = ceiling u64    offsets below it may have been handed out to messages that are not logged
//! SEAL     = last offset u64    the last record of a sealed segment
//! STATE    = name text | value (the rest)    these three are in files of states only (see `states`)
//! FORGET   = name text
//! WITH     = last offset u64    its batch of states counts only where the segments' messages reach this offset
//! ```
//!
//! `synced_to` says how much of the file was on the disk when the batch was written: a valid batch that says
//! so behind a broken one proves that the broken one was whole once.

use bytes::Bytes;
use bytestring::ByteString;
use tidings_types::message::Place;
use tidings_types::{
    Draft, Epoch, Message, Offset, Origin, PayloadFormat, Properties, Qos, Storage, Timestamp,
    Topic,
};

use tidings_types::codec::{Input, put_bytes, put_varint};

/// The bytes before a record's type.
pub(crate) const FRAME_LEN: usize = 8;
/// A whole BATCH record.
pub(crate) const BATCH_LEN: usize = FRAME_LEN + 1 + 8 + 4 + 4 + 4 + 8;
/// A sealing batch: its header and a SEAL record.
pub(crate) const SEAL_LEN: usize = BATCH_LEN + FRAME_LEN + 1 + 8;
/// No record is larger; a length beyond it is damage.
const RECORD_BYTES_MAX: u32 = 1 << 30;

/// The types of records.
pub(crate) mod kind {
    pub(crate) const BATCH: u8 = 1;
    pub(crate) const MESSAGE: u8 = 2;
    pub(crate) const RESERVE: u8 = 3;
    pub(crate) const SEAL: u8 = 4;
    pub(crate) const QOS_MESSAGE: u8 = 5;
    pub(crate) const STATE: u8 = 6;
    pub(crate) const FORGET: u8 = 7;
    pub(crate) const WITH: u8 = 8;
}

mod flag {
    pub(super) const RETAIN: u8 = 1;
    pub(super) const TEXT: u8 = 1 << 1;
    pub(super) const EXPIRES: u8 = 1 << 2;
    pub(super) const KEY: u8 = 1 << 3;
    pub(super) const CONTENT_TYPE: u8 = 1 << 4;
    pub(super) const EVENT: u8 = 1 << 5;
    pub(super) const REPLY: u8 = 1 << 6;
    pub(super) const HEADERS: u8 = 1 << 7;
}

/// Where a message stands in its topic.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TopicPlace {
    /// One more than the message before it on the topic.
    pub(crate) ordinal: u64,
    /// The offset of that message; 0 if there was none.
    pub(crate) prev: u64,
}

fn frame(out: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_LEN]);
    out.push(kind);
    body(out);
    let len = (out.len() - start - FRAME_LEN) as u32;
    let crc = crc32c::crc32c(&out[start + FRAME_LEN..]);
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
    out[start + 4..start + FRAME_LEN].copy_from_slice(&crc.to_le_bytes());
}

/// Whether a record of this type holds a message.
pub(crate) fn is_message(kind: u8) -> bool {
    matches!(kind, kind::MESSAGE | kind::QOS_MESSAGE)
}

/// The byte before the body, if the message needs one.
fn qos_byte(qos: Qos) -> Option<u8> {
    match qos {
        Qos::AtMostOnce => Some(0),
        Qos::AtLeastOnce => Some(1),
        Qos::ExactlyOnce => None,
    }
}

/// Takes that byte off the content of a record that holds a message.
fn open_qos(kind: u8, content: &[u8]) -> Option<(Qos, &[u8])> {
    if kind == kind::MESSAGE {
        return Some((Qos::ExactlyOnce, content));
    }
    let (qos, body) = content.split_first()?;
    let qos = match qos {
        0 => Qos::AtMostOnce,
        1 => Qos::AtLeastOnce,
        2 => Qos::ExactlyOnce,
        _ => return None,
    };
    (kind == kind::QOS_MESSAGE).then_some((qos, body))
}

/// Appends a MESSAGE or `QOS_MESSAGE` record for a draft at its place.
pub(crate) fn put_message(out: &mut Vec<u8>, draft: &Draft, place: Place, in_topic: TopicPlace) {
    let properties = &draft.properties;
    let reply = properties.response_topic.is_some() || properties.correlation.is_some();
    let mut flags = 0;
    for (set, bit) in [
        (draft.retain, flag::RETAIN),
        (draft.format == PayloadFormat::Text, flag::TEXT),
        (draft.ttl.is_some(), flag::EXPIRES),
        (draft.key.is_some(), flag::KEY),
        (properties.content_type.is_some(), flag::CONTENT_TYPE),
        (properties.event.is_some(), flag::EVENT),
        (reply, flag::REPLY),
        (!properties.headers.is_empty(), flag::HEADERS),
    ] {
        if set {
            flags |= bit;
        }
    }
    let qos = qos_byte(draft.qos);
    let kind = qos.map_or(kind::MESSAGE, |_| kind::QOS_MESSAGE);
    frame(out, kind, |out| {
        out.extend(qos);
        out.push(flags);
        put_varint(out, place.offset.0);
        put_varint(out, place.time.0);
        put_varint(out, in_topic.ordinal);
        put_varint(out, in_topic.prev);
        if let Some(ttl) = draft.ttl {
            put_varint(out, place.time.plus(ttl).0);
        }
        put_varint(out, draft.origin.0);
        put_bytes(out, draft.topic.as_str().as_bytes());
        for text in [&draft.key, &properties.content_type, &properties.event]
            .into_iter()
            .flatten()
        {
            put_bytes(out, text.as_bytes());
        }
        if reply {
            put_reply(out, properties);
        }
        if !properties.headers.is_empty() {
            put_varint(out, properties.headers.len() as u64);
            for (name, value) in &properties.headers {
                put_bytes(out, name.as_bytes());
                put_bytes(out, value.as_bytes());
            }
        }
        out.extend_from_slice(&draft.payload);
    });
}

/// Response topic and correlation share a flag: each is a presence byte, and the bytes if it is 1.
fn put_reply(out: &mut Vec<u8>, properties: &Properties) {
    let topic = properties.response_topic.as_ref();
    let parts: [Option<&[u8]>; 2] = [
        topic.map(|text| text.as_bytes().as_ref()),
        properties.correlation.as_deref(),
    ];
    for part in parts {
        out.push(u8::from(part.is_some()));
        if let Some(bytes) = part {
            put_bytes(out, bytes);
        }
    }
}

/// Appends a RESERVE record.
pub(crate) fn put_reserve(out: &mut Vec<u8>, ceiling: u64) {
    frame(out, kind::RESERVE, |out| {
        out.extend_from_slice(&ceiling.to_le_bytes());
    });
}

/// Appends a SEAL record.
pub(crate) fn put_seal(out: &mut Vec<u8>, last: u64) {
    frame(out, kind::SEAL, |out| {
        out.extend_from_slice(&last.to_le_bytes());
    });
}

/// Appends a WITH record.
pub(crate) fn put_with(out: &mut Vec<u8>, last: u64) {
    frame(out, kind::WITH, |out| {
        out.extend_from_slice(&last.to_le_bytes());
    });
}

/// Appends a STATE record, or without a value a FORGET record.
pub(crate) fn put_state(out: &mut Vec<u8>, name: &str, value: Option<&[u8]>) {
    let kind = value.map_or(kind::FORGET, |_| kind::STATE);
    frame(out, kind, |out| {
        put_bytes(out, name.as_bytes());
        out.extend_from_slice(value.unwrap_or_default());
    });
}

/// The name and value in the content of a STATE or FORGET record.
pub(crate) fn open_state(kind: u8, content: &[u8]) -> Result<(&str, Option<&[u8]>), Invalid> {
    let mut input = Input::new(content);
    let name = input.text().ok_or(Invalid("a state has no name"))?;
    match kind {
        kind::STATE => Ok((name, Some(input.rest))),
        kind::FORGET => Ok((name, None)),
        _ => Err(Invalid("a record has an unknown type")),
    }
}

/// The head of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchHead {
    pub(crate) records: u32,
    pub(crate) bytes: u32,
    pub(crate) synced_to: u32,
    pub(crate) first: u64,
}

/// Fills the first [`BATCH_LEN`] bytes of a buffer that has the batch's records behind them.
pub(crate) fn finish_batch(buffer: &mut [u8], magic: u64, batch: BatchHead) {
    let BatchHead {
        records,
        bytes,
        synced_to,
        first,
    } = batch;
    let mut head = Vec::with_capacity(BATCH_LEN);
    frame(&mut head, kind::BATCH, |out| {
        out.extend_from_slice(&magic.to_le_bytes());
        for number in [records, bytes, synced_to] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&first.to_le_bytes());
    });
    buffer[..BATCH_LEN].copy_from_slice(&head);
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Invalid(pub(crate) &'static str);

/// The type and body of the record at the front, and its whole length.
pub(crate) fn open_record(bytes: &[u8]) -> Result<(u8, &[u8], usize), Invalid> {
    let mut input = Input::new(bytes);
    let cut = Invalid("the record is cut off");
    let (len, crc) = (input.u32().ok_or(cut)?, input.u32().ok_or(cut)?);
    if len == 0 || len > RECORD_BYTES_MAX {
        return Err(Invalid("the record has no sensible length"));
    }
    let content = input.take(len as usize).ok_or(cut)?;
    if crc32c::crc32c(content) != crc {
        return Err(Invalid("the checksum of a record is wrong"));
    }
    Ok((content[0], &content[1..], FRAME_LEN + len as usize))
}

/// The batch head at the front, if a valid one is there.
pub(crate) fn open_batch(bytes: &[u8], magic: u64) -> Result<BatchHead, Invalid> {
    let head = bytes
        .get(..BATCH_LEN)
        .ok_or(Invalid("a batch's head is cut off"))?;
    let (kind, body, _) = open_record(head)?;
    let no_batch = Invalid("there is no batch's head");
    let mut input = Input::new(body);
    if kind != kind::BATCH || input.u64() != Some(magic) {
        return Err(no_batch);
    }
    let head = (|| {
        Some(BatchHead {
            records: input.u32()?,
            bytes: input.u32()?,
            synced_to: input.u32()?,
            first: input.u64()?,
        })
    })();
    head.ok_or(no_batch)
}

/// The number in the body of a RESERVE, SEAL or WITH record.
pub(crate) fn open_number(body: &[u8]) -> Result<u64, Invalid> {
    Input::new(body)
        .u64()
        .ok_or(Invalid("a record is too short"))
}

/// What indexes need of a message's record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MessageHead<'a> {
    pub(crate) offset: u64,
    pub(crate) time: u64,
    pub(crate) in_topic: TopicPlace,
    pub(crate) expires: Option<u64>,
    pub(crate) retain: bool,
    pub(crate) topic: &'a str,
    pub(crate) key: Option<&'a str>,
    pub(crate) clears: bool,
}

struct Parts<'a> {
    head: MessageHead<'a>,
    flags: u8,
    origin: u64,
    content_type: Option<&'a str>,
    event: Option<&'a str>,
    response_topic: Option<&'a str>,
    correlation: Option<&'a [u8]>,
    headers: Vec<(&'a str, &'a str)>,
    payload: &'a [u8],
}

fn parse_message(body: &[u8]) -> Option<Parts<'_>> {
    let mut input = Input::new(body);
    let flags = input.u8()?;
    let has = |bit: u8| flags & bit != 0;
    let offset = input.varint()?;
    let time = input.varint()?;
    let in_topic = TopicPlace {
        ordinal: input.varint()?,
        prev: input.varint()?,
    };
    let mut expires = None;
    if has(flag::EXPIRES) {
        expires = Some(input.varint()?);
    }
    let origin = input.varint()?;
    let topic = input.text()?;
    let mut texts = [None; 3];
    for (text, bit) in texts
        .iter_mut()
        .zip([flag::KEY, flag::CONTENT_TYPE, flag::EVENT])
    {
        if has(bit) {
            *text = Some(input.text()?);
        }
    }
    let [key, content_type, event] = texts;
    let (mut response_topic, mut correlation) = (None, None);
    if has(flag::REPLY) {
        if input.u8()? == 1 {
            response_topic = Some(input.text()?);
        }
        if input.u8()? == 1 {
            correlation = Some(input.bytes()?);
        }
    }
    let mut headers = Vec::new();
    if has(flag::HEADERS) {
        for _ in 0..input.varint()? {
            headers.push((input.text()?, input.text()?));
        }
    }
    let retain = has(flag::RETAIN);
    let head = MessageHead {
        offset,
        time,
        in_topic,
        expires,
        retain,
        topic,
        key,
        clears: retain && input.rest.is_empty(),
    };
    Some(Parts {
        head,
        flags,
        origin,
        content_type,
        event,
        response_topic,
        correlation,
        headers,
        payload: input.rest,
    })
}

const MALFORMED: Invalid = Invalid("a message record does not parse");

/// Parses the content of a record that holds a message, as far as indexes need it.
pub(crate) fn open_head(kind: u8, content: &[u8]) -> Result<MessageHead<'_>, Invalid> {
    let (_, body) = open_qos(kind, content).ok_or(MALFORMED)?;
    parse_message(body).map(|parts| parts.head).ok_or(MALFORMED)
}

/// Decodes the record of a message that these bytes are. Payload and texts share the buffer.
pub(crate) fn open_message(
    record: &Bytes,
    epoch: Epoch,
    storage: Storage,
) -> Result<Message, Invalid> {
    let (kind, content, _) = open_record(record)?;
    if !is_message(kind) {
        return Err(Invalid("there is no message record where the index says"));
    }
    let (qos, body) = open_qos(kind, content).ok_or(MALFORMED)?;
    let parts = parse_message(body).ok_or(MALFORMED)?;
    let share =
        |text: &str| ByteString::try_from(record.slice_ref(text.as_bytes())).map_err(|_| MALFORMED);
    let optional = |text: Option<&str>| text.map(share).transpose();
    let mut headers = Vec::with_capacity(parts.headers.len());
    for (name, value) in &parts.headers {
        headers.push((share(name)?, share(value)?));
    }
    let head = parts.head;
    let draft = Draft {
        topic: Topic::new(share(head.topic)?).map_err(|_| MALFORMED)?,
        payload: record.slice_ref(parts.payload),
        format: match parts.flags & flag::TEXT {
            0 => PayloadFormat::Binary,
            _ => PayloadFormat::Text,
        },
        ttl: None,
        retain: head.retain,
        qos,
        key: None,
        origin: Origin(parts.origin),
        properties: Properties {
            content_type: optional(parts.content_type)?,
            event: optional(parts.event)?,
            headers,
            response_topic: optional(parts.response_topic)?,
            correlation: parts.correlation.map(|bytes| record.slice_ref(bytes)),
        },
    };
    let place = Place {
        offset: Offset(head.offset),
        epoch,
        time: Timestamp(head.time),
        storage,
    };
    let mut message = Message::commit(draft, place);
    message.expires = head.expires.map(Timestamp);
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn full_draft() -> Draft {
        let mut draft = Draft::new(Topic::new("a/b").unwrap(), Bytes::from_static(b"payload"));
        draft.ttl = Some(Duration::from_secs(5));
        draft.retain = true;
        draft.qos = Qos::AtLeastOnce;
        draft.key = Some("key".into());
        draft.origin = Origin(u64::MAX);
        draft.properties = Properties {
            content_type: Some("text/plain".into()),
            event: Some("greeting".into()),
            headers: vec![("n".into(), "v".into()), ("n".into(), "".into())],
            response_topic: Some("re".into()),
            correlation: Some(Bytes::from_static(&[0, 255])),
        };
        draft
    }

    fn place() -> Place {
        Place {
            offset: Offset(70_000),
            epoch: Epoch(9),
            time: Timestamp(1_000),
            storage: Storage::Durable,
        }
    }

    fn encoded(draft: &Draft) -> Bytes {
        let mut out = Vec::new();
        let in_topic = TopicPlace {
            ordinal: 3,
            prev: 69_000,
        };
        put_message(&mut out, draft, place(), in_topic);
        out.into()
    }

    #[test]
    fn a_message_reads_back_with_everything() {
        for draft in [
            full_draft(),
            Draft::new(Topic::new("t").unwrap(), Bytes::from_static(&[0xff])),
        ] {
            let record = encoded(&draft);
            let message = open_message(&record, Epoch(9), Storage::Durable).unwrap();
            let expect = Message::commit(draft, place());
            assert_eq!(message.properties, expect.properties);
            assert_eq!(message.payload, expect.payload);
            assert_eq!(message.expires, expect.expires);
            assert_eq!(message.cursor(), expect.cursor());
            assert_eq!(
                (&message.topic, message.format),
                (&expect.topic, expect.format)
            );
            assert_eq!(
                (message.origin, message.retain, message.qos),
                (expect.origin, expect.retain, expect.qos)
            );
        }
    }

    #[test]
    fn every_qos_reads_back_and_the_default_is_written_as_it_always_was() {
        for (qos, kind) in [
            (Qos::AtMostOnce, kind::QOS_MESSAGE),
            (Qos::AtLeastOnce, kind::QOS_MESSAGE),
            (Qos::ExactlyOnce, kind::MESSAGE),
        ] {
            let record = encoded(&Draft {
                qos,
                ..full_draft()
            });
            let (found, content, _) = open_record(&record).unwrap();
            assert_eq!(found, kind);
            assert_eq!(open_head(found, content).unwrap().key, Some("key"));
            let message = open_message(&record, Epoch(9), Storage::Durable).unwrap();
            assert_eq!(message.qos, qos);
        }
        for content in [&[][..], &[3, 0]] {
            assert_eq!(
                open_head(kind::QOS_MESSAGE, content).unwrap_err(),
                MALFORMED
            );
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed() {
        let record = encoded(&full_draft());
        for at in 0..record.len() {
            let mut broken = record.to_vec();
            broken[at] ^= 0x10;
            let read = open_message(&broken.into(), Epoch(9), Storage::Durable);
            assert!(read.is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_batch_head_reads_back_and_zeros_are_none() {
        let mut buffer = vec![0; BATCH_LEN + 5];
        let head = BatchHead {
            records: 2,
            bytes: 5,
            synced_to: 64,
            first: 7,
        };
        finish_batch(&mut buffer, 9, head);
        assert_eq!(open_batch(&buffer, 9), Ok(head));
        assert!(open_batch(&buffer, 8).is_err(), "another log's magic");
        assert!(open_batch(&[0; BATCH_LEN], 0).is_err());
    }
}
