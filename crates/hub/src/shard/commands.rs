//! Talking with conversations, and carrying out what they ask.

use tidings_ports::{Answer, Command, Conversation, Event, Tag, Turn};
use tidings_types::{Refusal, RefusalCode};

use super::Shard;
use super::connection::{ConnectionId, Ended, Input};
use super::pending::Waiter;
use super::subscribe::Ask;

impl Shard {
    /// Calls a conversation that goes on and takes what it gives. Its commands wait for [`Shard::settle`].
    pub(super) fn converse(
        &mut self,
        id: ConnectionId,
        step: impl FnOnce(&mut dyn Conversation, &mut Turn<'_>),
    ) {
        let now = self.clock.tick();
        let random = self.next_random();
        let mut frames = std::mem::take(&mut self.own_frames);
        let mut commands = Vec::new();
        let Some(connection) = self.connection(id).filter(|it| it.ended == Ended::No) else {
            self.own_frames = frames;
            return;
        };
        let mut turn = Turn {
            now,
            is_slow: connection.input == Input::Slow,
            random,
            commands: &mut commands,
            frames: &mut frames,
            ending: None,
            wake: None,
        };
        step(&mut *connection.conversation, &mut turn);
        let (ending, wake) = (turn.ending, turn.wake);
        let changed = ending.is_some() || !frames.is_empty();
        for frame in frames.drain(..) {
            connection.outbox.push(frame);
        }
        if let Some(ending) = ending {
            connection.ended = ending.into();
        }
        if let Some(wake) = wake {
            connection.wake = Some(wake);
            // A later deadline needs no entry of its own: the earlier one finds it when it fires.
            if connection
                .scheduled
                .is_none_or(|scheduled| wake < scheduled)
            {
                connection.scheduled = Some(wake);
                self.wheel.set(wake, id);
            }
        }
        self.commands
            .extend(commands.into_iter().map(|command| (id, command)));
        self.own_frames = frames;
        if changed {
            self.mark_dirty(id);
        }
    }

    /// Tells a conversation what happened.
    pub(super) fn tell(&mut self, id: ConnectionId, event: Event) {
        self.converse(id, |conversation, turn| conversation.event(event, turn));
    }

    /// Tells a conversation, as the last thing and once, that its socket is gone, or as good as gone. Only what
    /// it asks for counts: nothing follows its farewell.
    pub(super) fn tell_closed(&mut self, id: ConnectionId) {
        let now = self.clock.tick();
        let random = self.next_random();
        let mut commands = Vec::new();
        let Some(connection) = self.connection(id).filter(|it| !it.knows_closed) else {
            return;
        };
        let mut turn = Turn {
            now,
            is_slow: connection.input == Input::Slow,
            random,
            commands: &mut commands,
            frames: &mut Vec::new(),
            ending: None,
            wake: None,
        };
        connection.conversation.event(Event::Closed, &mut turn);
        connection.knows_closed = true;
        if connection.ended == Ended::No {
            connection.ended = Ended::AtOnce;
        }
        self.commands
            .extend(commands.into_iter().map(|command| (id, command)));
    }

    /// Carries out commands until none is left, and writes what has to be kept.
    pub(super) fn settle(&mut self) {
        loop {
            while let Some((id, command)) = self.commands.pop_front() {
                self.carry_out(id, command);
            }
            if let Some(note) = self.own_notes.pop_front() {
                self.take_note(note);
                continue;
            }
            if let Some(id) = self.held.pop() {
                if let Some(connection) = self.connection(id) {
                    connection.held = false;
                }
                self.tell(id, Event::Held);
                continue;
            }
            // Wills first: a session's next state replaces the record that keeps its will until it is published.
            self.publish_wills();
            self.write_states();
            if self.commands.is_empty() && self.held.is_empty() && self.own_notes.is_empty() {
                return;
            }
        }
    }

    /// Carries out what one conversation has asked for so far, ahead of the others.
    pub(super) fn settle_one(&mut self, id: ConnectionId) {
        while let Some(at) = self.commands.iter().position(|(whose, _)| *whose == id) {
            if let Some((_, command)) = self.commands.remove(at) {
                self.carry_out(id, command);
            }
        }
    }

    fn carry_out(&mut self, id: ConnectionId, command: Command) {
        match command {
            Command::Publish { tag, drafts, save } => self.publish_for(id, tag, drafts, save),
            Command::Subscribe {
                tag,
                key,
                filters,
                start,
                framing,
                echo,
                until,
                group,
            } => {
                let ask = Ask {
                    tag,
                    key,
                    framing,
                    echo,
                    until,
                };
                let done = match group {
                    Some(group) => self.join_queue(id, &ask, filters, start, &group),
                    None => self.subscribe_for(id, &ask, filters, start),
                };
                self.or_refuse(id, tag, done);
            }
            Command::Ack { key, offset } => self.ack_for(id, key, offset),
            Command::Nack { key, offset } => self.nack_for(id, key, offset),
            Command::Alter {
                tag,
                key,
                filters,
                framing,
            } => {
                let done = self.alter_for(id, (tag, key), filters, framing);
                self.or_refuse(id, tag, done);
            }
            Command::Unblock(key) => self.unblock_for(id, key),
            Command::Unsubscribe { tag, key } => self.unsubscribe_for(id, tag, key),
            Command::OpenSession { tag, name, fresh } => {
                let done = self.open_session(id, tag, &name, fresh);
                self.or_refuse(id, tag, done);
            }
            Command::SaveSession { tag, save } => {
                if let Err(refusal) = self.save_session(id, tag, save) {
                    match tag {
                        Some(tag) => self.refuse(id, tag, refusal),
                        None => self.refused(refusal.code),
                    }
                }
            }
            Command::Refused(code) => self.refused(code),
        }
    }

    fn or_refuse(&mut self, id: ConnectionId, tag: Tag, done: Result<(), Refusal>) {
        if let Err(refusal) = done {
            self.refuse(id, tag, refusal);
        }
    }

    /// Takes an answer of the engine.
    pub(super) fn answered(&mut self, token: u64, answer: Answer) {
        match (self.pending.take(token), answer) {
            (Waiter::Publish { id, tag, state }, Answer::Published(result)) => {
                if result.is_err()
                    && let Some(name) = state
                {
                    self.states.changed(name);
                }
                self.published(id, tag, result);
            }
            (Waiter::LocalPublish(reply), Answer::Published(result)) => {
                reply(result.map_err(|error| {
                    let refusal = Refusal::from(error);
                    self.refused(refusal.code);
                    refusal
                }));
            }
            (Waiter::States(written), Answer::Published(result)) => {
                self.states_written(written, &result);
            }
            (Waiter::Will(will), Answer::Published(result)) => self.will_published(will, &result),
            (Waiter::Page(id), Answer::Read(result)) => self.page_read(id, result),
            (Waiter::Fetch(queue, first), Answer::Read(result)) => {
                self.fetched(queue, first, result);
            }
            (Waiter::LocalRead(reply), Answer::Read(result)) => {
                reply(result.map_err(|error| {
                    let refusal = self.read_refusal(error);
                    self.refused(refusal.code);
                    refusal
                }));
            }
            (_, Answer::Read(_)) => unreachable!("the engine answered a publish with a page"),
            (_, Answer::Published(_)) => unreachable!("the engine answered a read with receipts"),
        }
    }

    pub(super) fn refuse(&mut self, id: ConnectionId, tag: Tag, refusal: Refusal) {
        self.refused(refusal.code);
        self.tell(id, Event::Refused { tag, refusal });
    }
}

/// The refusal of a command that names a subscription which is not there.
pub(super) fn no_such_subscription() -> Refusal {
    Refusal::new(
        RefusalCode::BadRequest,
        "there is no such subscription on this connection",
    )
}
