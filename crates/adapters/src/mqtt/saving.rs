//! When a session is saved.
//!
//! What must not be forgotten before the client is told something (a release, a subscription) is saved with a tag,
//! and told on `Saved`; one such save is under way at a time, and what comes meanwhile goes into the next. The
//! rest (acknowledgements, the position) is saved a moment later, and when the connection ends: what that
//! forgets in a crash is delivered again.

use bytes::Bytes;
use tidings_ports::{Command, SessionSave, Tag, Tick, Turn};

use super::catch_up::CatchUp;
use super::codec::{Ack, AckKind, PacketId, ReasonCode};
use super::link::Link;
use super::session::{Class, Recovered, Session, Stage, give_back};
use super::state::State;

/// How long a change that only saves a repetition may wait to be saved.
const LAZY_SAVE_MS: u64 = 250;

/// What to do once the session is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// Take up the subscriptions, and answer the CONNECT.
    Resume,
    /// Answer the SUBSCRIBE or UNSUBSCRIBE.
    Operation,
    /// Send so many of the held messages.
    Release(usize),
    /// Release a message of `QoS` 2.
    Pubrel(PacketId),
    /// Confirm that a message of `QoS` 2 is released.
    Pubcomp(PacketId),
}

/// What is to be saved without anybody's waiting for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Saving {
    /// Nothing changed since the last save.
    Nothing,
    /// Something changed.
    Changed,
    /// The same, and it is saved at this time at the latest.
    Due(Tick),
}

/// A frame that is sent on `Saved`, or in the hub's own time.
pub(super) struct Held {
    pub(super) frames: [Bytes; 2],
    /// It must be in a saved window first.
    pub(super) needs_save: bool,
    /// Of its exchange.
    pub(super) id: Option<PacketId>,
    /// To be acknowledged to its work queue as it is sent.
    pub(super) acknowledge: Option<Command>,
}

impl Held {
    pub(super) fn bytes(&self) -> usize {
        self.frames.iter().map(Bytes::len).sum()
    }
}

impl Session {
    fn state(&self, is_closed: bool) -> State {
        State {
            is_closed: is_closed && self.recovered == Recovered::No,
            delivered: self.delivered,
            last_id: self.window.last_id(),
            filters: self.filters.clone(),
            former: self.unfinished.former.clone(),
            exchanges: self.window.iter().copied().collect(),
            inbound: self.unfinished.inbound.clone(),
            catch_ups: self
                .unfinished
                .catch_ups
                .iter()
                .filter_map(CatchUp::save)
                .collect(),
        }
    }

    /// What there is to save, which then counts as saved.
    pub(super) fn save(&mut self, is_closed: bool) -> SessionSave {
        self.saving = Saving::Nothing;
        let will = self.client.will.as_deref().cloned();
        let will = will.filter(|_| !self.said_goodbye);
        self.was_saved = true;
        SessionSave {
            state: if self.is_persistent() {
                self.state(is_closed).encode()
            } else {
                Bytes::new()
            },
            expiry: self.client.expiry,
            will,
        }
    }

    /// What a message that is published now has to save; `None` if the session ends with its connection.
    pub(super) fn save_with_publish(&mut self) -> Option<SessionSave> {
        self.is_persistent().then(|| self.save(false))
    }

    /// Something changed that may be saved a moment later.
    pub(super) fn touch(&mut self) {
        if self.saving == Saving::Nothing {
            self.saving = Saving::Changed;
        }
    }

    /// Does something once the session, as it is now, is saved; at once if it is not kept.
    pub(super) fn after_save(&mut self, link: &mut Link, turn: &mut Turn<'_>, after: After) {
        let is_kept = self.client.will.is_some() || self.was_saved;
        if self.is_persistent() || (after == After::Resume && is_kept) {
            self.unfinished.next.push(after);
        } else {
            self.carry_out(link, turn, after);
        }
    }

    /// The session is saved.
    pub(super) fn saved(&mut self, link: &mut Link, turn: &mut Turn<'_>, tag: Tag) {
        let Some((_, afters)) = self.unfinished.under_way.take_if(|it| it.0 == tag) else {
            return;
        };
        for after in afters {
            self.carry_out(link, turn, after);
        }
    }

    fn carry_out(&mut self, link: &mut Link, turn: &mut Turn<'_>, after: After) {
        match after {
            After::Resume => self.resume(link, turn),
            After::Operation => self.answer_operation(link, turn),
            After::Release(count) => {
                self.unfinished.held_for_save -= count;
                self.release_held(link, turn, count);
            }
            After::Pubrel(id) => {
                let ack = Ack::new(id, ReasonCode::Success);
                link.ack(turn, AckKind::Pubrel, &ack);
            }
            After::Pubcomp(id) => {
                let ack = Ack::new(id, ReasonCode::Success);
                link.ack(turn, AckKind::Pubcomp, &ack);
            }
        }
    }

    /// The hub said that what it offered is through: sends what was held, in order.
    pub(super) fn held(&mut self, link: &mut Link, turn: &mut Turn<'_>) {
        let count = self.unfinished.held.len() - self.unfinished.held_for_save;
        if count == 0 {
            return;
        }
        let fresh = self.unfinished.held.range(self.unfinished.held_for_save..);
        let needs_save = self.is_persistent() && fresh.into_iter().any(|held| held.needs_save);
        if needs_save || self.unfinished.held_for_save > 0 {
            self.unfinished.held_for_save += count;
            self.after_save(link, turn, After::Release(count));
        } else {
            self.release_held(link, turn, count);
        }
    }

    fn release_held(&mut self, link: &mut Link, turn: &mut Turn<'_>, count: usize) {
        let held: Vec<Held> = self.unfinished.held.drain(..count).collect();
        for held in held {
            self.unfinished.held_bytes -= held.bytes();
            turn.commands.extend(held.acknowledge);
            let frames = held.frames.into_iter().filter(|frame| !frame.is_empty());
            link.stream.put(turn, frames);
        }
        give_back(&mut self.unfinished.held);
        self.unblock(turn, true);
    }

    pub(super) fn save_if_due(&mut self, turn: &mut Turn<'_>) {
        if self.unfinished.under_way.is_none() && !self.unfinished.next.is_empty() {
            let tag = self.tag(Class::Save);
            let save = self.save(false);
            let afters = std::mem::take(&mut self.unfinished.next);
            self.unfinished.under_way = Some((tag, afters));
            turn.commands.push(Command::SaveSession {
                tag: Some(tag),
                save,
            });
        }
        if !self.is_persistent() {
            return;
        }
        match self.saving {
            Saving::Changed => self.saving = Saving::Due(turn.now.plus_ms(LAZY_SAVE_MS)),
            Saving::Due(due) if turn.now >= due => {
                let save = self.save(false);
                turn.commands.push(Command::SaveSession { tag: None, save });
            }
            Saving::Nothing | Saving::Due(_) => {}
        }
    }

    /// Saves for the last time: the connection is gone, or another one takes over.
    pub(super) fn last_save(&mut self, turn: &mut Turn<'_>) {
        let is_open = matches!(self.stage, Stage::Resuming | Stage::Open);
        if !is_open || self.is_taken_over {
            return;
        }
        // What a work queue gave and was not sent goes to another member.
        for held in std::mem::take(&mut self.unfinished.held) {
            if let (Some(id), true) = (held.id, held.acknowledge.is_some()) {
                self.window.end(id);
            }
        }
        if self.is_persistent() || self.was_saved {
            let save = self.save(true);
            turn.commands.push(Command::SaveSession { tag: None, save });
        }
    }
}
