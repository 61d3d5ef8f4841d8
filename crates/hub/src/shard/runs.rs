//! Runs: neighbours of one topic in a batch, given to a subscriber at once.
//!
//! Under load a batch holds many messages of few topics. What a subscriber is given of a run is the same for all
//! that share a format, so its frames are joined once, and a subscriber costs one entry in its outbox and one
//! slice of its write instead of one for each message. Who needs more care than that (several subscriptions,
//! little room, frames of its own) is offered the messages one by one, as if there were no runs.

use bytes::{Bytes, BytesMut};
use tidings_types::{Message, Timestamp};

use super::Shard;
use super::connection::Ended;
use super::subscription::{Formats, SlotFraming, Source};
use crate::trie::Entry;

/// With fewer subscribers, joining costs more than it saves.
const SUBSCRIBERS_MIN: usize = 2;
/// The bytes of one joined frame: well below what sockets and outboxes hold.
const RUN_BYTES_MAX: usize = 32 << 10;

/// The messages of a batch in runs.
pub(super) fn of(messages: &[Message]) -> impl Iterator<Item = &[Message]> {
    messages.chunk_by(|a, b| a.topic == b.topic)
}

impl Shard {
    /// Offers a run to everybody who can take it at once; leaves the others in `matched`.
    pub(super) fn offer_run(&mut self, run: &[Message], matched: &mut Vec<Entry>, now: Timestamp) {
        if run.len() == 1 || matched.len() < SUBSCRIBERS_MIN {
            return;
        }
        self.formats.next_run();
        if run.iter().any(|message| message.is_expired(now)) {
            return;
        }
        matched.retain(|entry| !self.take_run(entry.subscription as usize, run));
    }

    /// Whether the subscription needs nothing more of the run.
    fn take_run(&mut self, index: usize, run: &[Message]) -> bool {
        let (Some(first), Some(last)) = (run.first(), run.last()) else {
            return true;
        };
        let subscription = &self.subscriptions[index];
        let SlotFraming::Shared(slot) = subscription.framing else {
            return false;
        };
        if subscription.queue.is_some() {
            return false;
        }
        let connection = &mut self.connections[subscription.connection.index as usize];
        if connection.offered == Some(last.offset) || connection.ended != Ended::No {
            return true;
        }
        let own = |message: &Message| message.origin == connection.origin;
        let is_plain = subscription.source == Source::Live
            && connection.subscriptions.len() == 1
            && subscription.cursor < first.offset
            && (subscription.echo || !run.iter().any(own));
        if !is_plain {
            return false;
        }
        let Some(frame) = self.formats.run_frame(slot as usize, run) else {
            return false;
        };
        if connection.outbox.cost() + frame.len() >= self.limits.outbox_bytes_max {
            return false;
        }
        connection.offered = connection.offered.map(|_| last.offset);
        connection.outbox.push(frame.clone());
        let counts = &self.metrics.protocols[connection.protocol.index()];
        counts.delivered.add(run.len() as u64);
        counts.delivered_bytes.add(frame.len() as u64);
        if !connection.dirty {
            connection.dirty = true;
            self.dirty.push(connection.id);
        }
        true
    }
}

/// The frames of a run in one format.
pub(super) enum Joined {
    /// Nobody has asked yet.
    Unknown,
    /// They are too many bytes for one, or some are not the same for everybody.
    Apart,
    /// Behind one another.
    Together(Bytes),
}

impl Formats {
    /// Forgets the frames of the last run.
    pub fn next_run(&mut self) {
        self.runs.clear();
        self.runs.resize_with(self.known.len(), || Joined::Unknown);
    }

    /// The run's frames as one.
    fn run_frame(&mut self, slot: usize, run: &[Message]) -> Option<&Bytes> {
        if matches!(self.runs[slot], Joined::Unknown) {
            self.runs[slot] = join(self.known[slot], run);
        }
        match &self.runs[slot] {
            Joined::Together(frame) => Some(frame),
            Joined::Unknown | Joined::Apart => None,
        }
    }
}

fn join(format: &dyn tidings_types::FrameFormat, run: &[Message]) -> Joined {
    let mut joined = BytesMut::new();
    for message in run {
        if !format.is_shared(message) {
            return Joined::Apart;
        }
        let frame = message.frame(format);
        if joined.len() + frame.len() > RUN_BYTES_MAX {
            return Joined::Apart;
        }
        joined.extend_from_slice(&frame);
    }
    Joined::Together(joined.freeze())
}
