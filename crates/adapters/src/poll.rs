//! Long-polling: waiting for a first message, the `wait` of a history request.
//!
//! How the server uses it: it reads the history page first and answers with that, if it holds a message or a gap
//! (such pages may be cached, so that a crowd that comes back is served by a cache). Only an empty page waits:
//! the server opens a [`PollConversation`] after that page's `next` and lets the hub drive it like any other. It
//! takes frames from the outbox once there is one, at most as many as the request's limit, or none if the
//! conversation ended; it ends the connection and gives the frames to [`polled`]. Whatever was not taken is after
//! the response's `next`, and so is not lost.
//!
//! The frames are the shared `json/envelope` frames of messages, and between them what the conversation has to
//! say in frames of its own, which begin with another member: only this file knows them.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode};
use serde::Deserialize;
use tidings_ports::{
    Command, Conversation, Delivery, Ending, Event, Framed, Framing, Gap, GapReason, Start,
    SubscriptionKey, Tag, Tick, Turn, Until,
};
use tidings_types::{Cursor, Protocol, Refusal, RefusalCode, TopicFilter};

use crate::envelope::{JsonEnvelope, write_json_string};
use crate::http::{json_response, page_body, page_signals, problem, write_gap};

const TAG: Tag = Tag(0);
const KEY: SubscriptionKey = SubscriptionKey(0);

/// How a frame that tells of a gap begins. A message's begins with `{"topic":`.
const GAP: &[u8] = b"{\"gap\":";
/// How a frame that tells of a refusal begins.
const REFUSED: &[u8] = b"{\"refused\":";

/// One waiting request.
pub struct PollConversation {
    filters: Vec<TopicFilter>,
    after: Cursor,
    wait: Duration,
    deadline: Option<Tick>,
}

impl PollConversation {
    /// Waits this long for a first message after a position.
    #[must_use]
    pub fn new(filters: Vec<TopicFilter>, after: Cursor, wait: Duration) -> Self {
        Self {
            filters,
            after,
            wait,
            deadline: None,
        }
    }
}

impl Conversation for PollConversation {
    fn protocol(&self) -> Protocol {
        Protocol::Poll
    }

    fn opened(&mut self, turn: &mut Turn<'_>) {
        let wait_ms = u64::try_from(self.wait.as_millis()).unwrap_or(u64::MAX);
        let deadline = turn.now.plus_ms(wait_ms);
        self.deadline = Some(deadline);
        turn.wake = Some(deadline);
        turn.commands.push(Command::Subscribe {
            tag: TAG,
            key: KEY,
            filters: std::mem::take(&mut self.filters),
            start: Start::After(self.after),
            framing: Framing::Shared(&JsonEnvelope),
            echo: true,
            until: Until::Ended,
            group: None,
        });
    }

    fn receive(&mut self, input: &mut BytesMut, _turn: &mut Turn<'_>) {
        input.clear();
    }

    fn event(&mut self, event: Event, turn: &mut Turn<'_>) {
        match event {
            // A gap is an answer: what comes after it is there for the next request.
            Event::Gap { gap, .. } => {
                let mut frame = GAP.to_vec();
                write_gap(&gap, &mut frame);
                frame.push(b'}');
                turn.frames.push(Bytes::from(frame));
                turn.ending = Some(Ending::AfterFlush);
            }
            Event::Refused { refusal, .. }
            | Event::Lost { refusal, .. }
            | Event::Drain { refusal, .. } => {
                let mut frame = REFUSED.to_vec();
                write_json_string(refusal.code.slug(), &mut frame);
                frame.extend_from_slice(b",\"detail\":");
                write_json_string(&refusal.detail, &mut frame);
                frame.push(b'}');
                turn.frames.push(Bytes::from(frame));
                turn.ending = Some(Ending::AfterFlush);
            }
            Event::PeerFinished => turn.ending = Some(Ending::AtOnce),
            _ => {}
        }
    }

    fn tick(&mut self, turn: &mut Turn<'_>) {
        match self.deadline {
            Some(deadline) if turn.now < deadline => turn.wake = Some(deadline),
            _ => turn.ending = Some(Ending::AfterFlush),
        }
    }

    /// Never called, as the framing is shared; right all the same.
    fn frame(&mut self, delivery: Delivery<'_>, frames: &mut Vec<Bytes>) -> Framed {
        frames.push(delivery.message.frame(&JsonEnvelope));
        Framed::Put
    }
}

/// The response with the frames that a [`PollConversation`] after this position put into its outbox:
/// `{"messages":[..],"next":"<cursor>"}`, with `"gap":{..}` if something is missing. No message is no error: the
/// time passed. A refusal is a problem, unless there are messages to tell of first.
#[must_use]
pub fn polled(frames: &[Bytes], after: Cursor) -> Response<Bytes> {
    let own = |frame: &Bytes| frame.starts_with(GAP) || frame.starts_with(REFUSED);
    let count = frames.iter().position(own).unwrap_or(frames.len());
    let (messages, rest) = frames.split_at(count);
    // What was said after a message is said again to who asks from there.
    let said = rest.first().filter(|_| messages.is_empty());
    if let Some(refusal) = said.and_then(|frame| read_refusal(frame)) {
        return problem(&refusal);
    }
    let gap = said.and_then(|frame| read_gap(frame));
    let last = messages.last().and_then(|frame| read_id(frame));
    debug_assert_eq!(
        last.is_some(),
        !messages.is_empty(),
        "every envelope has an id"
    );
    let next = last.or(gap.map(|gap| gap.resume)).unwrap_or(after);
    let body = page_body(messages, next, gap.as_ref(), None);
    let mut response = json_response(StatusCode::OK, body);
    page_signals(response.headers_mut(), next, gap.as_ref());
    response
}

fn read_id(frame: &[u8]) -> Option<Cursor> {
    #[derive(Deserialize)]
    struct Id<'a> {
        id: &'a str,
    }
    let read: Id<'_> = serde_json::from_slice(frame).ok()?;
    read.id.parse().ok()
}

fn read_gap(frame: &[u8]) -> Option<Gap> {
    #[derive(Deserialize)]
    struct Own<'a> {
        #[serde(borrow)]
        gap: Fields<'a>,
    }
    #[derive(Deserialize)]
    struct Fields<'a> {
        reason: &'a str,
        after: Option<&'a str>,
        resume: &'a str,
    }
    const REASONS: [GapReason; 4] = [
        GapReason::Retention,
        GapReason::UnknownCursor,
        GapReason::LiveOnly,
        GapReason::Restart,
    ];
    let Own { gap } = serde_json::from_slice(frame).ok()?;
    Some(Gap {
        reason: REASONS
            .into_iter()
            .find(|reason| reason.name() == gap.reason)?,
        after: gap.after.and_then(|after| after.parse().ok()),
        resume: gap.resume.parse().ok()?,
    })
}

fn read_refusal(frame: &[u8]) -> Option<Refusal> {
    #[derive(Deserialize)]
    struct Own {
        refused: String,
        detail: String,
    }
    let own: Own = serde_json::from_slice(frame).ok()?;
    let code = RefusalCode::ALL
        .iter()
        .find(|code| code.slug() == own.refused)?;
    Some(Refusal::new(*code, own.detail))
}

#[cfg(test)]
#[path = "poll_tests.rs"]
mod tests;
