//! Talking with conversations, and carrying out what they ask.

use tidings_ports::{Answer, Command, Conversation, Event, Tag, Tick, Turn};
use tidings_types::{Refusal, RefusalCode};

use super::Shard;
use super::connection::{ConnectionId, Ended, Input};
use super::pending::Waiter;
use super::subscribe::Ask;
use crate::session::name_of;

/// For how long no other dropped message is logged.
const DROPPED_LOG_MS: u64 = 1_000;

/// What the log says of dropped messages.
#[derive(Default)]
pub(super) struct DroppedLog {
    silent_until: Tick,
    /// Messages that were dropped and not logged since the last that was.
    left_out: u64,
}

/// A connection, as the log tells of it.
struct Who {
    protocol: &'static str,
    principal: String,
    /// Of the session that it opened, as in `mqtt/sensor-7`.
    session: Option<String>,
    /// Its shard and its slot there, as where the server logs its address.
    connection: String,
}

/// Commands, and the like, that are carried out before the shard's other work gets its turn.
const STEPS_A_TURN: usize = 1_024;

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
            is_slow: connection.input == Input::Paused,
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
            is_slow: connection.input == Input::Paused,
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

    /// Carries out commands until none is left, and writes what has to be kept. Conversations that always have
    /// one more do not keep the shard's other work from its turn.
    pub(super) fn settle(&mut self) {
        for _ in 0..STEPS_A_TURN {
            if let Some((id, command)) = self.commands.pop_front() {
                self.carry_out(id, command);
                continue;
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
        self.inbox.call();
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
        let Some(command) = self.hold_unidentified(id, command) else {
            return;
        };
        if self.permitter.is_asked() {
            self.carry_out_if_permitted(id, command);
        } else {
            self.carry_out_permitted(id, command);
        }
    }

    pub(super) fn carry_out_permitted(&mut self, id: ConnectionId, command: Command) {
        match command {
            Command::Authenticate { tag, credential } => self.authenticate_for(id, tag, credential),
            Command::Publish {
                tag,
                drafts,
                save,
                settle,
            } => {
                let done = self.publish_for(id, tag, drafts, save, &settle);
                self.or_refuse(id, tag, done);
            }
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
            Command::Settle { tag, settle } => {
                let done = self.settle_for(id, tag, settle);
                self.or_refuse_if_asked(id, tag, done);
            }
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
            Command::Unsubscribe { tag, key, forget } => {
                let done = self.unsubscribe_for(id, tag, key, forget);
                self.or_refuse(id, tag, done);
            }
            Command::OpenSession { tag, name, fresh } => {
                let done = self.open_session(id, tag, &name, fresh);
                self.or_refuse(id, tag, done);
            }
            Command::SaveSession { tag, save } => {
                let done = self.save_session(id, tag, save);
                self.or_refuse_if_asked(id, tag, done);
            }
            Command::Refused(refusal) => {
                self.refused(refusal.code);
                self.log_refusal(id, &refusal);
            }
            Command::Dropped(refusal) => self.log_dropped(id, &refusal),
        }
    }

    fn or_refuse(&mut self, id: ConnectionId, tag: Tag, done: Result<(), Refusal>) {
        if let Err(refusal) = done {
            self.refuse(id, tag, refusal);
        }
    }

    pub(super) fn or_refuse_if_asked(
        &mut self,
        id: ConnectionId,
        tag: Option<Tag>,
        done: Result<(), Refusal>,
    ) {
        match (tag, done) {
            (Some(tag), done) => self.or_refuse(id, tag, done),
            (None, Err(refusal)) => {
                self.refused(refusal.code);
                self.log_refusal(id, &refusal);
            }
            (None, Ok(())) => {}
        }
    }

    /// Takes an answer of the engine.
    pub(super) fn answered(&mut self, token: u64, answer: Answer) {
        match (self.pending.take(token), answer) {
            (Waiter::Publish { whose, state }, Answer::Published(result)) => {
                if result.is_err()
                    && let Some(name) = state
                {
                    self.states.changed(name);
                }
                self.published(whose, result);
            }
            (Waiter::Letter(queue, offset), Answer::Published(result)) => {
                self.letter_published(queue, offset, result.err());
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
        self.log_refusal(id, &refusal);
        self.tell(id, Event::Refused { tag, refusal });
    }

    /// Says on one line who was refused and why.
    fn log_refusal(&mut self, id: ConnectionId, refusal: &Refusal) {
        if !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        let Some(who) = self.who(id) else { return };
        tracing::debug!(
            protocol = who.protocol,
            principal = who.principal,
            session = who.session.as_deref(),
            connection = who.connection,
            code = refusal.code.slug(),
            detail = refusal.detail,
            "refused"
        );
    }

    /// Warns of a message that was dropped without its publisher's knowing; at most once a second, as a client that
    /// does not learn of it may go on.
    fn log_dropped(&mut self, id: ConnectionId, refusal: &Refusal) {
        let now = self.clock.tick();
        if now < self.dropped.silent_until {
            self.dropped.left_out += 1;
            return;
        }
        let Some(who) = self.who(id) else { return };
        self.dropped.silent_until = now.plus_ms(DROPPED_LOG_MS);
        tracing::warn!(
            protocol = who.protocol,
            principal = who.principal,
            session = who.session.as_deref(),
            connection = who.connection,
            code = refusal.code.slug(),
            detail = refusal.detail,
            left_out = std::mem::take(&mut self.dropped.left_out),
            "a message was refused, acknowledged and dropped, as its protocol has no word for a refusal"
        );
    }

    fn who(&mut self, id: ConnectionId) -> Option<Who> {
        let shard = self.index;
        let connection = self.connection(id)?;
        let (protocol, session) = (connection.protocol.name(), connection.session);
        let principal = connection.principal.name.clone();
        let session = session.and_then(|session| self.sessions.get(session));
        Some(Who {
            protocol,
            principal,
            session: session.map(|session| name_of(&session.key).to_owned()),
            connection: format!("{shard}-{}", id.slot()),
        })
    }
}

/// The refusal of a command that names a subscription which is not there.
pub(super) fn no_such_subscription() -> Refusal {
    Refusal::new(
        RefusalCode::BadRequest,
        "there is no such subscription on this connection",
    )
}
