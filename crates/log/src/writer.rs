//! The single-threaded heart: submissions in, one batch written, one commit out.
//!
//! Order within an append: places are handed out, states are written and synced, then records are, and only then
//! do map and table show them and do answers go out (E2). If a write fails, what was handed out is taken back. States
//! say which records they were written with, so that a crash in between leaves neither.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use tidings_ports::{Answer, Commit, PublishError, ReplyTo, StateChange, Submission};
use tidings_types::message::Place;
use tidings_types::{
    Batch, Cursor, Draft, Message, Offset, Receipt, Storage as Class, Timestamp, Topic,
};

use crate::appender::{Appender, WriteError};
use crate::keys::Keys;
use crate::record::TopicPlace;
use crate::segment::{KeyMark, NewPosting, Posting, RetainMark};
use crate::state::{Chain, Shared, State, count};
use crate::states::Journal;

/// So many offsets are reserved at once for messages that are not logged durably.
pub(crate) const RESERVE: u64 = 65_536;

/// Appends.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) durable: Appender,
    pub(crate) memory: Appender,
    pub(crate) journal: Journal,
    pub(crate) keys: Keys,
    /// The next offset.
    pub(crate) next: u64,
}

/// A message that has its place but is not committed.
struct Pending {
    topic: u32,
    message: Message,
    in_topic: TopicPlace,
    /// Start and length in the chain's buffer.
    record: (u32, u32),
    key: Option<u128>,
}

struct Prepared {
    answers: Vec<Due>,
    pending: Vec<Pending>,
    /// As submitted, each with the fate of its submission.
    states: Vec<(StateChange, Fate)>,
    time: u64,
    /// The RESERVE before this batch.
    ceiling: u64,
}

/// An answer, if one is wanted.
struct Due {
    reply: Option<ReplyTo>,
    result: Result<Vec<Receipt>, PublishError>,
    fate: Fate,
}

impl Due {
    fn answer(self) -> Option<(ReplyTo, Answer)> {
        Some((self.reply?, Answer::Published(self.result)))
    }
}

/// What an answer hangs on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Settled,
    /// Nothing is appended, but states are kept.
    WithStates,
    WithBatch,
}

impl Writer {
    /// Appends what was submitted as one batch.
    pub(crate) fn append(&mut self, submissions: Vec<Submission>) -> Commit {
        if self.shared.is_failed() {
            return self.refuse_all(&submissions);
        }
        let shared = Arc::clone(&self.shared);
        let prepared = self.prepare(submissions);
        let changes = self.newest(&prepared.states, |_| true);
        let started = Instant::now();
        // States first: they can tell whether the messages of their submission followed, not the reverse.
        let with = self.durable.uncommitted();
        let written = self.journal.commit(&shared, &changes, with);
        let written = written.and_then(|()| self.write());
        count(
            &shared.counters.commit_us,
            started.elapsed().as_micros() as u64,
        );
        match written {
            Ok(places) => self.apply(prepared, changes, places),
            Err(error) => self.take_back(prepared, error),
        }
    }

    fn refuse_all(&self, submissions: &[Submission]) -> Commit {
        count(&self.shared.counters.failed, submissions.len() as u64);
        let failed = || Answer::Published(Err(PublishError::Failed));
        Commit {
            batch: None,
            answers: submissions
                .iter()
                .filter_map(|submission| Some((submission.reply?, failed())))
                .collect(),
        }
    }

    fn prepare(&mut self, submissions: Vec<Submission>) -> Prepared {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.state_mut();
        let time = shared.now().max(state.last_time);
        let evicted = self.keys.trim(time);
        count(&shared.counters.keys_evicted, evicted);
        let mut prepared = Prepared {
            answers: Vec::with_capacity(submissions.len()),
            pending: Vec::with_capacity(submissions.len()),
            states: Vec::new(),
            time,
            ceiling: self.durable.ceiling,
        };
        for submission in submissions {
            let reply = submission.reply;
            if self.too_many_topics(&state, &submission.drafts) {
                prepared.answers.push(Due {
                    reply,
                    result: Err(PublishError::TooManyTopics),
                    fate: Fate::Settled,
                });
                continue;
            }
            let mut fate = if submission.states.is_empty() {
                Fate::Settled
            } else {
                Fate::WithStates
            };
            let mut receipts = Vec::with_capacity(submission.drafts.len());
            for draft in submission.drafts {
                let receipt = self.place(&mut state, draft, &mut prepared);
                if receipt.cursor.offset.0 > state.head {
                    fate = Fate::WithBatch;
                }
                receipts.push(receipt);
            }
            let states = submission.states.into_iter();
            prepared.states.extend(states.map(|change| (change, fate)));
            prepared.answers.push(Due {
                reply,
                result: Ok(receipts),
                fate,
            });
        }
        self.reserve(&prepared);
        prepared
    }

    /// The last change of each name, in order; without those that forget what is not known.
    fn newest(
        &self,
        states: &[(StateChange, Fate)],
        counts: impl Fn(Fate) -> bool,
    ) -> Vec<StateChange> {
        if states.is_empty() {
            return Vec::new();
        }
        let kept = self.shared.states();
        let mut seen = HashSet::new();
        let states = states.iter().rev().filter(|(_, fate)| counts(*fate));
        let newest = states.filter(|(change, _)| seen.insert(&change.name));
        let newest = newest.filter(|(c, _)| c.value.is_some() || kept.map.get(&c.name).is_some());
        let mut newest: Vec<_> = newest.map(|(change, _)| change.clone()).collect();
        newest.reverse();
        newest
    }

    fn too_many_topics(&self, state: &State, drafts: &[Draft]) -> bool {
        let room = self.shared.config.limits.topics_max;
        let room = room.saturating_sub(state.table.len());
        if drafts.len() <= room {
            return false;
        }
        let unknown = drafts.iter().map(|draft| &draft.topic);
        let unknown: HashSet<&Topic> = unknown
            .filter(|topic| state.table.id(topic).is_none())
            .collect();
        unknown.len() > room
    }

    fn receipt(&self, offset: u64, time: u64, replayed: bool) -> Receipt {
        Receipt {
            cursor: Cursor {
                epoch: self.shared.epoch,
                offset: Offset(offset),
            },
            time: Timestamp(time),
            replayed,
        }
    }

    fn place(&mut self, state: &mut State, draft: Draft, prepared: &mut Prepared) -> Receipt {
        let time = prepared.time;
        let mut hash = None;
        if let Some(key) = &draft.key {
            let key = self.keys.hash(draft.topic.as_str(), key);
            if let Some((offset, time)) = self.keys.get(key, time) {
                count(&self.shared.counters.replays, 1);
                return self.receipt(offset, time, true);
            }
            hash = Some(key);
        }
        let offset = self.next;
        self.next += 1;
        let topic = state.table.id(&draft.topic);
        let topic = topic.unwrap_or_else(|| state.table.add(&draft.topic, offset));
        let slot = state
            .table
            .slot_mut(topic)
            .expect("an id from the table has a slot while the table is locked");
        let in_topic = TopicPlace {
            ordinal: slot.tip_ordinal,
            prev: slot.tip_offset,
        };
        (slot.tip_ordinal, slot.tip_offset) = (slot.tip_ordinal + 1, offset);
        let place = Place {
            offset: Offset(offset),
            epoch: self.shared.epoch,
            time: Timestamp(time),
            storage: slot.storage,
        };
        let record = match slot.storage {
            Class::Durable => self.durable.push(&draft, place, in_topic),
            Class::Memory => self.memory.push(&draft, place, in_topic),
            Class::None => (0, 0),
        };
        if let Some(hash) = hash {
            self.keys.insert(KeyMark { hash, offset, time });
        }
        prepared.pending.push(Pending {
            topic,
            message: Message::commit(draft, place),
            in_topic,
            record,
            key: hash,
        });
        self.receipt(offset, time, false)
    }

    /// An offset of a message that is not logged durably must be below a ceiling that is, or else below a
    /// durable message's, so that it is not handed out again after a restart.
    fn reserve(&mut self, prepared: &Prepared) {
        let unlogged = prepared.pending.iter().rev();
        let mut unlogged = unlogged.filter(|new| new.message.storage != Class::Durable);
        let Some(last) = unlogged.next().map(|new| new.message.offset.0) else {
            return;
        };
        if last >= self.durable.ceiling && last > self.durable.buffered() {
            self.durable.reserve(last + RESERVE);
        }
    }

    fn write(&mut self) -> Result<[Option<(u32, u64)>; 2], WriteError> {
        let mut places = [None, None];
        if !self.durable.is_empty() {
            places[0] = Some(self.durable.commit(&self.shared)?);
        }
        if !self.memory.is_empty() {
            let place = self.memory.commit(&self.shared);
            // The durable part is on the disk already: it cannot be taken back, so this ends the writing.
            places[1] = Some(place.map_err(|error| match error {
                WriteError::Full => WriteError::Failed("the memory for messages is full".into()),
                failed @ WriteError::Failed(_) => failed,
            })?);
        }
        Ok(places)
    }

    fn apply(
        &mut self,
        prepared: Prepared,
        changes: Vec<StateChange>,
        places: [Option<(u32, u64)>; 2],
    ) -> Commit {
        let shared = Arc::clone(&self.shared);
        let wrote = places[0].is_some() || !changes.is_empty();
        Journal::apply(&shared, changes);
        let messages = {
            let mut state = shared.state_mut();
            let state = &mut *state;
            state.last_time = prepared.time;
            state.head = self.next - 1;
            let time = prepared.time;
            for (chain, place) in [&mut state.durable, &mut state.memory]
                .into_iter()
                .zip(places)
            {
                if let (Some(active), Some((position, first))) = (&mut chain.active, place) {
                    active.index.mark(first, position, time);
                }
            }
            let positions = places.map(|place| place.map_or(0, |(position, _)| position));
            let pending = prepared.pending.into_iter();
            let messages: Vec<Message> = pending
                .map(|pending| show(state, pending, positions))
                .collect();
            for (chain, appender) in [
                (&mut state.durable, &self.durable),
                (&mut state.memory, &self.memory),
            ] {
                if let Some(active) = &mut chain.active {
                    active.len = appender.end().1;
                }
            }
            messages
        };
        let counters = &shared.counters;
        if wrote {
            shared.set_full(false);
        }
        count(&counters.messages, messages.len() as u64);
        count(&counters.batches, u64::from(!messages.is_empty()));
        let keys = self.keys.len() as u64;
        counters
            .keys
            .store(keys, std::sync::atomic::Ordering::Relaxed);
        let answers = prepared.answers.into_iter();
        Commit {
            batch: Batch::new(messages).map(Arc::new),
            answers: answers.filter_map(Due::answer).collect(),
        }
    }

    /// When the messages of a batch find no room: takes their states back, and keeps those of submissions that
    /// append nothing. Whether these are kept, and why the others are not.
    fn keep_lone_states(
        &mut self,
        states: &[(StateChange, Fate)],
        error: WriteError,
    ) -> (bool, WriteError) {
        if !matches!(error, WriteError::Full) {
            return (false, error);
        }
        let shared = Arc::clone(&self.shared);
        match self.journal.undo(&shared) {
            Ok(true) => {}
            // It was the states that found no room.
            Ok(false) => return (false, error),
            Err(failed) => return (false, failed),
        }
        let lone = self.newest(states, |fate| fate == Fate::WithStates);
        match self.journal.commit(&shared, &lone, None) {
            Ok(()) => {
                Journal::apply(&shared, lone);
                (true, error)
            }
            Err(error) => (false, error),
        }
    }

    fn take_back(&mut self, prepared: Prepared, error: WriteError) -> Commit {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.state_mut();
        for pending in &prepared.pending {
            let Some(slot) = state.table.slot_mut(pending.topic) else {
                continue;
            };
            slot.tip_ordinal = slot.next_ordinal;
            slot.tip_offset = slot.last_offset.max(slot.removed_to);
            if slot.last_offset == 0 {
                state.table.forget(&pending.message.topic);
            }
        }
        self.next = state.head + 1;
        self.keys.undo_after(state.head);
        drop(state);
        self.durable.discard(prepared.ceiling);
        self.memory.discard(0);
        let (kept, error) = self.keep_lone_states(&prepared.states, error);
        let (answer, counter) = match error {
            WriteError::Full => {
                shared.set_full(true);
                (PublishError::StorageFull, &shared.counters.full)
            }
            WriteError::Failed(reason) => {
                shared.fail(reason);
                (PublishError::Failed, &shared.counters.failed)
            }
        };
        let answers = prepared.answers.into_iter();
        let answers = answers.filter_map(|mut due| {
            let stands = match due.fate {
                Fate::Settled => true,
                Fate::WithStates => kept,
                Fate::WithBatch => false,
            };
            if !stands {
                count(counter, 1);
                due.result = Err(answer);
            }
            due.answer()
        });
        Commit {
            batch: None,
            answers: answers.collect(),
        }
    }
}

/// Makes a committed message visible to readers.
fn show(state: &mut State, pending: Pending, positions: [u32; 2]) -> Message {
    let Pending {
        topic,
        message,
        in_topic,
        record,
        key,
    } = pending;
    let State {
        table,
        durable,
        memory,
        ..
    } = state;
    let (offset, time) = (message.offset.0, message.time.0);
    let Some(slot) = table.slot_mut(topic) else {
        return message;
    };
    slot.next_ordinal = in_topic.ordinal + 1;
    slot.last_offset = offset;
    slot.last_time = time;
    let (chain, position): (&mut Chain, u32) = match message.storage {
        Class::Durable => (durable, positions[0]),
        Class::Memory => (memory, positions[1]),
        Class::None => {
            slot.removed_to = offset;
            slot.first_ordinal = slot.next_ordinal;
            return message;
        }
    };
    let retain = message.retain.then(|| RetainMark {
        offset,
        clears: message.payload.is_empty(),
    });
    if retain.is_some() {
        slot.retained = retain;
    }
    let Some(active) = &mut chain.active else {
        return message;
    };
    if slot.local.0 != active.id {
        slot.local = (active.id, active.index.intern(&message.topic));
    }
    let (number, class) = (slot.local.1, slot.class);
    let posting = Posting {
        offset,
        ordinal: in_topic.ordinal,
        position: position + record.0,
        len: record.1,
    };
    active.index.add(
        number,
        NewPosting {
            posting,
            prev: in_topic.prev,
            time,
            retain,
            expires: message.expires.is_some(),
        },
    );
    if let Some(hash) = key {
        active.index.keys.push(KeyMark { hash, offset, time });
    }
    (active.last, active.last_time) = (offset, time);
    active.live[class] += u64::from(record.1);
    table.classes[class].bytes += u64::from(record.1);
    message
}
