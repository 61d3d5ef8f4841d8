//! A message as the bytes of each wire format, which happens once for all subscribers.

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use tidings_adapters::envelope::JsonEnvelope;
use tidings_adapters::sse;
use tidings_adapters::websocket::{Deflate, RawConversation, RawOptions, TidingsConversation};
use tidings_ports::{Command, Conversation, Framing, Start, Tick, Turn};
use tidings_types::message::Place;
use tidings_types::{
    Draft, Epoch, FrameFormat, Limits, Message, Offset, Storage, Timestamp, Topic, TopicFilter,
};

use super::turns::{COLUMNS, Case, Turns};
use crate::Options;
use crate::compress::json_message;
use crate::report::{Failure, Table};

/// The window that browsers offer.
const WINDOW_BITS: u8 = 15;

pub fn measure(options: &Options) -> Result<Table, Failure> {
    let turns = Turns::new(options);
    let text = message(&"0123456789abcdef".repeat(8), None)?;
    let json = message(&json_message(1), Some("application/json"))?;
    let formats = formats()?;
    let mut rows = Vec::new();
    for (name, message) in [("128 B of text", &text), ("2 KiB of JSON", &json)] {
        for format in &formats {
            rows.push(case(name, message, *format).row(turns));
        }
    }
    Ok(Table {
        title: "Encoding a message".to_owned(),
        columns: COLUMNS.to_vec(),
        rows,
        notes: vec![
            "The baseline allocates a buffer and copies the finished frame into it. `tidings/json` and the envelopes check \
             that JSON is JSON before they embed it."
                .to_owned(),
        ],
    })
}

fn message(payload: &str, content_type: Option<&str>) -> Result<Message, Failure> {
    let topic = Topic::new("bench/frames").map_err(|error| Failure::new(error.to_string()))?;
    let mut draft = Draft::new(topic, Bytes::copy_from_slice(payload.as_bytes()));
    draft.properties.content_type = content_type.map(Into::into);
    let place = Place {
        offset: Offset(1_234_567),
        epoch: Epoch(0x0123_4567_89ab_cdef),
        time: Timestamp(1_790_000_000_000),
        storage: Storage::Durable,
    };
    Ok(Message::commit(draft, place))
}

fn formats() -> Result<Vec<&'static dyn FrameFormat>, Failure> {
    let deflate = Deflate::with_window_bits(WINDOW_BITS);
    Ok(vec![
        raw(None)?,
        raw(deflate)?,
        tidings(None)?,
        tidings(deflate)?,
        sse::Format::Raw.frames(false),
        sse::Format::Raw.frames(true),
        sse::Format::Envelope.frames(false),
        sse::Format::Envelope.frames(true),
        &JsonEnvelope,
    ])
}

/// The format that a raw WebSocket subscribes with.
fn raw(deflate: Option<Deflate>) -> Result<&'static dyn FrameFormat, Failure> {
    let options = RawOptions {
        filter: TopicFilter::all(),
        start: Start::Latest,
        echo: true,
        deflate,
    };
    let mut conversation = RawConversation::new(options, Arc::new(Limits::default()));
    subscribed_format(|turn| conversation.opened(turn))
}

/// The format that `tidings.v1` subscribes with.
fn tidings(deflate: Option<Deflate>) -> Result<&'static dyn FrameFormat, Failure> {
    let mut conversation = TidingsConversation::new(deflate, Arc::new(Limits::default()));
    // A masked text frame with a mask of zeros.
    let request = br##"{"op":"subscribe","id":1,"topic":"#"}"##;
    let mut input = vec![0x81, 0x80 | request.len() as u8, 0, 0, 0, 0];
    input.extend_from_slice(request);
    let mut input = input.as_slice().into();
    subscribed_format(|turn| {
        conversation.opened(turn);
        conversation.receive(&mut input, turn);
    })
}

/// Which format a conversation asks for when it subscribes.
fn subscribed_format(
    talk: impl FnOnce(&mut Turn<'_>),
) -> Result<&'static dyn FrameFormat, Failure> {
    let (mut commands, mut frames) = (Vec::new(), Vec::new());
    talk(&mut Turn {
        is_slow: false,
        now: Tick(0),
        random: 0,
        commands: &mut commands,
        frames: &mut frames,
        ending: None,
        wake: None,
    });
    commands
        .into_iter()
        .find_map(|command| match command {
            Command::Subscribe {
                framing: Framing::Shared(format),
                ..
            } => Some(format),
            _ => None,
        })
        .ok_or_else(|| Failure::new("a conversation did not subscribe with shared frames"))
}

fn case<'a>(name: &str, message: &'a Message, format: &'static dyn FrameFormat) -> Case<'a> {
    let finished = format.encode(message);
    Case {
        name: format!("`{}`, {name}", format.id()),
        baseline_name: format!("copy of its {} bytes", finished.len()),
        part: Box::new(move |times| {
            for _ in 0..times {
                black_box(format.encode(black_box(message)));
            }
        }),
        baseline: Box::new(move |times| {
            for _ in 0..times {
                black_box(Bytes::copy_from_slice(black_box(&finished)));
            }
        }),
    }
}
