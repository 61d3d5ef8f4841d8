//! Opening, saving and ending sessions, and publishing their wills.

use std::time::Duration;

use bytes::Bytes;
use bytestring::ByteString;
use tidings_ports::{Event, Expiry, SessionSave, Tag, Tick};
use tidings_types::{Principal, Refusal, RefusalCode};

use super::Shard;
use super::connection::{ConnectionId, Ended};
use super::pending::DueWill;
use crate::gate;
use crate::session::{KeptWill, Record, Saved, SessionId, home_shard, key_of, origin_of};

/// The longest name of a session.
const NAME_BYTES_MAX: usize = 1024;
impl Shard {
    /// Opens a session for a connection.
    pub(super) fn open_session(
        &mut self,
        id: ConnectionId,
        tag: Tag,
        name: &str,
        fresh: bool,
    ) -> Result<(), Refusal> {
        let Some(connection) = self.connection(id) else {
            return Ok(());
        };
        let has_one = connection.session.is_some();
        let owner = owner_of(&connection.principal);
        self.check_open(name, has_one)?;
        let key = key_of(name);
        self.check_owner(&key, owner.as_ref())?;
        let state = match self.sessions.find(&key).map(|session| session.id) {
            Some(session) => self.resume_session(session, id, fresh),
            None => None,
        };
        let session = match self.sessions.find(&key) {
            Some(session) => session.id,
            None => self.new_session(key.clone(), id)?,
        };
        if let Some(session) = self.sessions.get(session) {
            session.owner = owner;
        }
        let origin = origin_of(&key, self.engine.epoch());
        if let Some(connection) = self.connection(id) {
            connection.session = Some(session);
            connection.origin = origin;
        }
        self.metrics.sessions_connected.add(1);
        self.tell(id, Event::Session { tag, state });
        Ok(())
    }

    fn check_open(&self, name: &str, has_one: bool) -> Result<(), Refusal> {
        if has_one {
            return Err(Refusal::new(
                RefusalCode::BadRequest,
                "this connection has opened a session already",
            ));
        }
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            let detail = format!("a session's name has 1 to {NAME_BYTES_MAX} bytes");
            return Err(Refusal::new(RefusalCode::BadParameter, detail));
        }
        if home_shard(name, self.inboxes.len()) != self.index {
            debug_assert!(false, "a session is opened on its home shard");
            return Err(Refusal::new(
                RefusalCode::Internal,
                "the connection is on another shard than its session",
            ));
        }
        Ok(())
    }

    /// A session is that of the principal that made it. What an anonymous peer made is whoever's that comes.
    fn check_owner(&mut self, key: &ByteString, owner: Option<&ByteString>) -> Result<(), Refusal> {
        let kept = self.sessions.find(key).and_then(|it| it.owner.as_ref());
        if kept.is_none() || kept == owner {
            return Ok(());
        }
        Err(Refusal::new(
            RefusalCode::Forbidden,
            "the session of this name belongs to somebody else: choose another name (the client identifier)",
        ))
    }

    fn new_session(
        &mut self,
        key: ByteString,
        connection: ConnectionId,
    ) -> Result<SessionId, Refusal> {
        let max = self.limits.sessions_max;
        if !self.shared.sessions.add_one(max) {
            let detail = format!(
                "the server keeps {max} sessions, the most that are permitted (limits.sessions_max): let some expire"
            );
            return Err(Refusal::new(RefusalCode::TooManySessions, detail));
        }
        Ok(self.sessions.add(key, connection))
    }

    /// Gives a session to a connection, and takes it from the one that has it. Gives its state, or ends it.
    fn resume_session(
        &mut self,
        session: SessionId,
        id: ConnectionId,
        fresh: bool,
    ) -> Option<Bytes> {
        let before = self.sessions.get(session)?.connection;
        match before {
            Some(before) => self.take_over(session, before),
            None => self.metrics.sessions_offline.sub(1),
        }
        let away = self.away(session);
        let it = self.sessions.get(session)?;
        if fresh || it.is_over(away) {
            self.end_session(session);
            return None;
        }
        // Who comes after its delay is too late for a will, though no timer may have fired since; who takes over
        // is too late for one without a delay: it was due when the connection closed.
        let will = it.saved.as_mut().and_then(|saved| saved.will.take());
        let due = will.filter(|will| will.delay <= away && !will.is_due);
        let key = it.key.clone();
        it.connection = Some(id);
        it.since = None;
        let state = it.saved.as_ref().map(|saved| saved.state.clone());
        self.sessions.set_due(session, None);
        if let Some(will) = due {
            self.will_is_due(key, &will);
        }
        // From now on it is gone only if this connection is.
        self.session_changed(session);
        state
    }

    /// How long a session has been without a connection.
    fn away(&mut self, session: SessionId) -> Duration {
        let now = self.clock.now();
        let since = self.sessions.get(session).and_then(|it| it.since);
        now.since(since.unwrap_or(now))
    }

    /// Ends a connection whose session another one opens. What it still wants to save is saved first.
    fn take_over(&mut self, session: SessionId, before: ConnectionId) {
        self.metrics.sessions_taken_over.add(1);
        self.metrics.sessions_connected.sub(1);
        if self.ended(before) == Ended::No {
            self.tell(before, Event::TakenOver);
        } else {
            // It has said goodbye already, and its socket will be found closed.
            self.tell_closed(before);
        }
        self.settle_one(before);
        if let Some(connection) = self.connection(before) {
            connection.session = None;
            if connection.ended == Ended::No {
                connection.ended = Ended::AfterFlush;
            }
        }
        if let Some(session) = self.sessions.get(session) {
            session.connection = None;
        }
        self.mark_dirty(before);
    }

    /// A connection is gone: its session waits for the next one, or ends.
    pub(super) fn leave_session(&mut self, session: SessionId) {
        let now = self.clock.now();
        self.metrics.sessions_connected.sub(1);
        let Some(it) = self.sessions.get(session) else {
            return;
        };
        it.connection = None;
        it.since = Some(now);
        if it.is_over(Duration::ZERO) {
            return self.end_session(session);
        }
        self.metrics.sessions_offline.add(1);
        self.session_changed(session);
        self.session_is_due(session);
    }

    /// A session's record is to be written soon, if it has or had one.
    fn session_changed(&mut self, session: SessionId) {
        if let Some(it) = self.sessions.get(session)
            && (it.is_stored || it.is_kept())
        {
            self.states.changed(it.key.clone());
        }
    }

    /// Looks at a session without a connection: whether its will is due, or its end, and when to look again.
    fn session_is_due(&mut self, session: SessionId) {
        let away = self.away(session);
        let Some(it) = self.sessions.get(session) else {
            return;
        };
        if it.is_over(away) {
            self.metrics.sessions_offline.sub(1);
            self.metrics.sessions_expired.add(1);
            return self.end_session(session);
        }
        let key = it.key.clone();
        let will = it.saved.as_mut().and_then(|saved| saved.will.as_mut());
        if let Some(will) = will.filter(|will| !will.is_due && will.delay <= away) {
            will.is_due = true;
            let due = DueWill::of(key, will);
            self.due_wills.push_back(due);
        }
        let Some(waits) = self.sessions.get(session).and_then(|it| it.waits()) else {
            return;
        };
        let left = waits.saturating_sub(away).as_millis();
        let due = self
            .clock
            .tick()
            .plus_ms(u64::try_from(left).unwrap_or(u64::MAX));
        self.sessions.set_due(session, Some(due));
    }

    /// Forgets a session, and publishes its will.
    fn end_session(&mut self, session: SessionId) {
        let Some(it) = self.sessions.remove(session) else {
            return;
        };
        self.shared.sessions.remove_one();
        let will = it.saved.and_then(|saved| saved.will);
        match will {
            // Its record goes when it is published.
            Some(will) if will.is_due => {}
            Some(will) => self.will_is_due(it.key, &will),
            None if it.is_stored => self.states.changed(it.key),
            None => {}
        }
    }

    /// Keeps what a connection wants kept of its session.
    pub(super) fn save_session(
        &mut self,
        id: ConnectionId,
        tag: Option<Tag>,
        save: SessionSave,
    ) -> Result<(), Refusal> {
        let with_connection = save.expiry == Expiry::WithConnection;
        let (session, saved) = self.admit_save(id, save)?;
        let will = saved.will.as_ref().map(|will| will.id);
        let Some((_, before)) = self.replace_saved(session, saved) else {
            return Ok(());
        };
        let Some(session) = self.sessions.get(session) else {
            return Ok(());
        };
        // A state that ends with the connection is not kept, but its will is, for when the server dies.
        let before = before.map_or((Expiry::WithConnection, None), |before| {
            (before.expiry, before.will.map(|will| will.id))
        });
        let same = before == (Expiry::WithConnection, will);
        let nothing_to_write = with_connection && same && (will.is_some() || !session.is_stored);
        match tag {
            Some(tag) if nothing_to_write => self.tell(id, Event::Saved { tag }),
            Some(tag) => {
                self.states.awaited(session.key.clone(), id, tag);
                if let Some(connection) = self.connection(id) {
                    connection.in_flight += 1;
                }
            }
            None if nothing_to_write => {}
            None => self.states.changed(session.key.clone()),
        }
        Ok(())
    }

    /// Checks what a connection wants kept of its session.
    pub(super) fn admit_save(
        &mut self,
        id: ConnectionId,
        save: SessionSave,
    ) -> Result<(SessionId, Saved), Refusal> {
        let max = self.limits.session_bytes_max;
        if save.state.len() > max {
            let detail = format!(
                "the session's state has {} bytes, at most {max} are kept (limits.session_bytes_max): subscribe to less, or acknowledge more",
                save.state.len()
            );
            return Err(Refusal::new(RefusalCode::SessionTooLarge, detail));
        }
        let random = self.next_random();
        let Some(connection) = self.connections.get(id.index as usize) else {
            return Err(no_session());
        };
        let session = connection.session.ok_or_else(no_session)?;
        let kept = self.sessions.get(session).and_then(|it| it.saved.as_ref());
        let will = match save.will {
            Some(will) => {
                let draft = gate::will(&connection.principal, will.draft, &self.limits)?;
                let kept = kept.and_then(|kept| kept.will.as_ref());
                let same =
                    kept.filter(|kept| kept.delay == will.delay && kept.draft.get() == draft.get());
                Some(Box::new(KeptWill {
                    id: same.map_or(random, |kept| kept.id),
                    delay: will.delay,
                    draft,
                    is_due: false,
                }))
            }
            None => None,
        };
        let saved = Saved {
            state: save.state,
            expiry: save.expiry,
            will,
        };
        Ok((session, saved))
    }

    /// Sets what is kept of a session; gives what was.
    pub(super) fn replace_saved(
        &mut self,
        session: SessionId,
        saved: Saved,
    ) -> Option<(SessionId, Option<Box<Saved>>)> {
        let kept = &mut self.sessions.get(session)?.saved;
        let before = kept.replace(Box::new(saved));
        Some((session, before))
    }

    /// Takes back what the engine kept of the sessions whose home this is.
    pub(super) fn restore_session(&mut self, key: ByteString, record: &Bytes) {
        let now = self.clock.now();
        let Some(record) = Record::decode(record) else {
            self.metrics.sessions_unread.add(1);
            return;
        };
        let was_connected = record.since.is_none();
        let session = self.sessions.restore(key.clone(), record, now);
        // Over the limit there are no new ones until some have ended.
        self.shared.sessions.add_one(usize::MAX);
        self.metrics.sessions_offline.add(1);
        if was_connected {
            // Its time runs from here on, also over the next start.
            self.states.changed(key);
        }
        self.sessions.set_due(session, Some(self.clock.tick()));
    }

    /// Looks at the sessions whose time has come.
    pub(super) fn tick_sessions(&mut self, now: Tick) {
        self.states.tick(now);
        self.wills_retry_at = self.wills_retry_at.filter(|retry_at| *retry_at > now);
        while let Some(session) = self.sessions.take_due(now) {
            self.session_is_due(session);
        }
    }

    /// When [`Shard::tick_sessions`] is needed next.
    pub(super) fn sessions_next_tick(&self) -> Option<Tick> {
        let ticks = [
            self.sessions.next_due(),
            self.states.retry_at,
            self.wills_retry_at,
        ];
        ticks.into_iter().flatten().min()
    }
}

/// Whose the sessions of a principal are.
fn owner_of(principal: &Principal) -> Option<ByteString> {
    let named = principal.source != Principal::ANONYMOUS && !principal.is_nobody();
    named.then(|| format!("{}/{}", principal.source, principal.name).into())
}

fn no_session() -> Refusal {
    Refusal::new(
        RefusalCode::BadRequest,
        "this connection has opened no session, or another one has it now",
    )
}
