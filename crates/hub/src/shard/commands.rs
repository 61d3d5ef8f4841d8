//! Talking with conversations, and carrying out what they ask.

use std::sync::Arc;

use tidings_ports::{
    Answer, Command, Conversation, Event, Framing, Gap, GapReason, Page, PublishError, ReadFrom,
    ReadRequest, ReplyTo, Start, Submission, SubscriptionKey, Tag, Turn,
};
use tidings_types::{
    Cursor, Draft, Offset, Principal, Protocol, Receipt, Refusal, RefusalCode, Storage, TopicFilter,
};

use super::Shard;
use super::connection::{ConnectionId, Ended};
use super::pending::{PublishReply, ReadReply, Waiter};
use super::subscription::{Source, Subscription, SubscriptionId, first_of};
use crate::gate::{self, Wanted};
use crate::trie::Entry;

/// A subscription that a conversation asks for.
struct Ask {
    tag: Tag,
    key: SubscriptionKey,
    framing: Framing,
    echo: bool,
}

impl Shard {
    /// Calls a conversation and takes what it gives. Its commands wait for [`Shard::settle`].
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

    /// Carries out commands until none is left.
    pub(super) fn settle(&mut self) {
        while let Some((id, command)) = self.commands.pop_front() {
            match command {
                Command::Publish { tag, drafts } => self.publish_for(id, tag, drafts),
                Command::Subscribe {
                    tag,
                    key,
                    filters,
                    start,
                    framing,
                    echo,
                } => {
                    let ask = Ask {
                        tag,
                        key,
                        framing,
                        echo,
                    };
                    if let Err(refusal) = self.subscribe_for(id, &ask, filters, start) {
                        self.refuse(id, tag, refusal);
                    }
                }
                Command::Unsubscribe { tag, key } => self.unsubscribe_for(id, tag, key),
                Command::Refused(code) => self.refused(code),
            }
        }
    }

    /// Publishes for a peer without a conversation (an HTTP request). The reply is called once, later or now.
    pub fn publish(&mut self, principal: &Principal, drafts: Vec<Draft>, reply: PublishReply) {
        let drafts = match gate::publish(principal, drafts, &self.limits) {
            Ok(drafts) => drafts,
            Err(refusal) => {
                self.refused(refusal.code);
                return reply(Err(refusal));
            }
        };
        self.count_published(Protocol::Http, &drafts);
        let token = self.pending.add(Waiter::LocalPublish(reply));
        if let Err(refusal) = self.submit(drafts, token)
            && let Waiter::LocalPublish(reply) = self.pending.take(token)
        {
            reply(Err(refusal));
        }
    }

    /// Reads one page for a peer without a conversation. The reply is called once, later or now.
    pub fn read(
        &mut self,
        principal: &Principal,
        wanted: Wanted,
        messages_max: usize,
        reply: ReadReply,
    ) {
        let wanted = match gate::subscribe(principal, wanted, &self.limits) {
            Ok(wanted) => wanted.into_inner(),
            Err(refusal) => {
                self.refused(refusal.code);
                return reply(Err(refusal));
            }
        };
        let (offset, unknown) = self.locate(&wanted.start);
        let from = match wanted.start {
            Start::Last(n) => ReadFrom::Last(n),
            Start::Retained => ReadFrom::Retained {
                after: Offset::ZERO,
            },
            Start::After(_) if !unknown => ReadFrom::After {
                offset,
                resume: true,
            },
            _ => ReadFrom::After {
                offset,
                resume: false,
            },
        };
        let request = ReadRequest {
            filters: wanted.filters.into(),
            from,
            messages_max: messages_max.clamp(1, self.limits.page_messages_max),
            bytes_max: self.limits.page_bytes_max,
        };
        let claimed = match wanted.start {
            Start::After(cursor) => Some(cursor),
            _ => None,
        };
        let epoch = self.engine.epoch();
        let reply: super::pending::PageReply = Box::new(move |result| {
            reply(result.map(|page| {
                let gap = if unknown {
                    let resume = Cursor {
                        epoch,
                        offset: Offset::ZERO,
                    };
                    Some(Gap {
                        reason: GapReason::UnknownCursor,
                        after: claimed,
                        resume,
                    })
                } else {
                    gap_of(&page, claimed, epoch)
                };
                (page, gap)
            }));
        });
        let token = self.pending.add(Waiter::LocalRead(reply));
        let reply_to = ReplyTo {
            shard: self.index,
            token,
        };
        if self.engine.read(request, reply_to).is_err()
            && let Waiter::LocalRead(reply) = self.pending.take(token)
        {
            self.refused(RefusalCode::Busy);
            reply(Err(busy_reads()));
        }
    }

    /// Takes an answer of the engine.
    pub(super) fn answered(&mut self, token: u64, answer: Answer) {
        match (self.pending.take(token), answer) {
            (Waiter::Publish(id, tag), Answer::Published(result)) => {
                self.published(id, tag, result);
            }
            (Waiter::LocalPublish(reply), Answer::Published(result)) => {
                reply(result.map_err(|error| {
                    let refusal = Refusal::from(error);
                    self.refused(refusal.code);
                    refusal
                }));
            }
            (Waiter::Page(id), Answer::Read(result)) => self.page_read(id, result),
            (Waiter::LocalRead(reply), Answer::Read(result)) => {
                reply(result.map_err(|error| {
                    let refusal = self.read_refusal(error);
                    self.refused(refusal.code);
                    refusal
                }));
            }
            (Waiter::Publish(..) | Waiter::LocalPublish(_), Answer::Read(_))
            | (Waiter::Page(_) | Waiter::LocalRead(_), Answer::Published(_)) => {
                unreachable!("the engine answered a publish with a page, or a read with receipts")
            }
        }
    }

    fn published(
        &mut self,
        id: ConnectionId,
        tag: Tag,
        result: Result<Vec<Receipt>, PublishError>,
    ) {
        let in_flight_max = self.limits.publishes_in_flight_max;
        let Some(connection) = self.connection(id) else {
            return;
        };
        let was_held = connection.publishes_in_flight >= in_flight_max;
        connection.publishes_in_flight -= 1;
        if was_held {
            self.mark_dirty(id);
        }
        match result {
            Ok(receipts) => self.tell(id, Event::Published { tag, receipts }),
            Err(error) => self.refuse(id, tag, error.into()),
        }
    }

    fn refuse(&mut self, id: ConnectionId, tag: Tag, refusal: Refusal) {
        self.refused(refusal.code);
        self.tell(id, Event::Refused { tag, refusal });
    }

    fn publish_for(&mut self, id: ConnectionId, tag: Tag, mut drafts: Vec<Draft>) {
        let limits = Arc::clone(&self.limits);
        let Some(connection) = self.connection(id) else {
            return;
        };
        let (principal, origin) = (Arc::clone(&connection.principal), connection.origin);
        let protocol = connection.conversation.protocol();
        for draft in &mut drafts {
            draft.origin = origin;
        }
        let drafts = match gate::publish(&principal, drafts, &limits) {
            Ok(drafts) => drafts,
            Err(refusal) => return self.refuse(id, tag, refusal),
        };
        self.count_published(protocol, &drafts);
        let token = self.pending.add(Waiter::Publish(id, tag));
        match self.submit(drafts, token) {
            Ok(()) => {
                if let Some(connection) = self.connection(id) {
                    connection.publishes_in_flight += 1;
                }
            }
            Err(refusal) => {
                self.pending.take(token);
                self.tell(id, Event::Refused { tag, refusal });
            }
        }
    }

    fn count_published(&self, protocol: Protocol, drafts: &gate::Admitted<Vec<Draft>>) {
        self.metrics.protocols[protocol.index()]
            .published
            .add(drafts.get().len() as u64);
    }

    fn submit(&mut self, drafts: gate::Admitted<Vec<Draft>>, token: u64) -> Result<(), Refusal> {
        let reply = ReplyTo {
            shard: self.index,
            token,
        };
        self.engine
            .submit(Submission {
                drafts: drafts.into_inner(),
                reply,
            })
            .map_err(|error| {
                let refusal = Refusal::from(error);
                self.refused(refusal.code);
                refusal
            })
    }

    fn subscribe_for(
        &mut self,
        id: ConnectionId,
        ask: &Ask,
        filters: Vec<TopicFilter>,
        start: Start,
    ) -> Result<(), Refusal> {
        let limits = Arc::clone(&self.limits);
        let Some(connection) = self
            .connections
            .get(id.index as usize)
            .filter(|it| it.id == id)
        else {
            return Ok(());
        };
        let max = limits.subscriptions_per_connection_max;
        if connection.subscriptions.len() >= max {
            let detail = format!(
                "this connection has {max} subscriptions, the most that are permitted (limits.subscriptions_per_connection_max): end one, or use a wildcard"
            );
            return Err(Refusal::new(RefusalCode::TooManySubscriptions, detail));
        }
        let in_use = |subscription: &SubscriptionId| {
            self.subscriptions[subscription.index as usize].key == ask.key
        };
        if connection.subscriptions.iter().any(in_use) {
            let detail = "the subscription's id is in use on this connection: end that one first";
            return Err(Refusal::new(RefusalCode::BadRequest, detail));
        }
        let principal = Arc::clone(&connection.principal);
        let mut wanted =
            gate::subscribe(&principal, Wanted { filters, start }, &limits)?.into_inner();
        // Each filter once: the trie tells the places of one subscription apart by their nodes.
        wanted.filters.sort_unstable();
        wanted.filters.dedup();
        let (offset, unknown) = self.locate(&wanted.start);
        // What an unknown position missed is told once, below.
        let start = if unknown {
            Start::Earliest
        } else {
            wanted.start.clone()
        };
        let subscription = self.add_subscription(id, ask, wanted.filters, &start, offset);
        let epoch = self.engine.epoch();
        let cursor = Cursor { epoch, offset };
        if !matches!(wanted.start, Start::Last(_)) {
            self.tell(
                id,
                Event::Subscribed {
                    tag: ask.tag,
                    key: ask.key,
                    cursor,
                },
            );
        }
        if unknown {
            let after = match wanted.start {
                Start::After(cursor) => Some(cursor),
                _ => None,
            };
            self.metrics.gap(GapReason::UnknownCursor);
            let gap = Gap {
                reason: GapReason::UnknownCursor,
                after,
                resume: cursor,
            };
            self.tell(id, Event::Gap { key: ask.key, gap });
        }
        self.advance(subscription);
        Ok(())
    }

    fn add_subscription(
        &mut self,
        connection: ConnectionId,
        ask: &Ask,
        filters: Vec<TopicFilter>,
        start: &Start,
        offset: Offset,
    ) -> SubscriptionId {
        self.serial = self.serial.wrapping_add(1);
        let entry = self.subscriptions.vacant_entry();
        let id = SubscriptionId {
            index: entry.key() as u32,
            serial: self.serial,
        };
        let places = (0u32..)
            .zip(&filters)
            .map(|(filter, text)| {
                self.trie.insert(
                    text,
                    Entry {
                        subscription: id.index,
                        filter,
                    },
                )
            })
            .collect();
        let retained = matches!(start, Start::Retained);
        entry.insert(Subscription {
            id,
            connection,
            key: ask.key,
            filters: filters.into(),
            places,
            framing: self.formats.slot(ask.framing),
            echo: ask.echo,
            source: Source::Queued,
            first: first_of(start, ask.tag),
            start: offset,
            cursor: if retained { Offset::ZERO } else { offset },
            live_only: None,
        });
        self.metrics.subscriptions.add(1);
        self.metrics.catching_up.add(1);
        if let Some(connection) = self.connection(connection) {
            connection.subscriptions.push(id);
        }
        id
    }

    fn unsubscribe_for(&mut self, id: ConnectionId, tag: Tag, key: SubscriptionKey) {
        let Some(connection) = self
            .connections
            .get(id.index as usize)
            .filter(|it| it.id == id)
        else {
            return;
        };
        let found = connection
            .subscriptions
            .iter()
            .copied()
            .find(|subscription| self.subscriptions[subscription.index as usize].key == key);
        match found {
            Some(subscription) => {
                self.end_subscription(id, subscription);
                self.tell(id, Event::Unsubscribed { tag, key });
            }
            None => self.refuse(
                id,
                tag,
                Refusal::new(
                    RefusalCode::BadRequest,
                    "there is no such subscription on this connection",
                ),
            ),
        }
    }

    /// Ends one subscription of a connection that goes on.
    pub(super) fn end_subscription(&mut self, id: ConnectionId, subscription: SubscriptionId) {
        let blocked = self
            .subscription(subscription)
            .is_some_and(|subscription| subscription.source == Source::Blocked);
        if let Some(connection) = self.connection(id) {
            connection
                .subscriptions
                .retain(|other| *other != subscription);
            connection.blocked -= u32::from(blocked);
        }
        self.remove_subscription(subscription);
    }

    pub(super) fn remove_subscription(&mut self, id: SubscriptionId) {
        let subscription = self.subscriptions.remove(id.index as usize);
        debug_assert_eq!(subscription.id, id);
        self.metrics.subscriptions.sub(1);
        if subscription.source != Source::Live {
            self.metrics.catching_up.sub(1);
        }
        for place in subscription.places {
            let Some(moved) = self.trie.remove(place) else {
                continue;
            };
            // One of this subscription's own filters may be what moved; it is removed in its turn, from the
            // place that it has by then.
            if moved.subscription == id.index {
                unreachable!("a subscription has each filter once");
            }
            self.subscriptions[moved.subscription as usize].places[moved.filter as usize] = place;
        }
    }

    pub(super) fn read_refusal(&self, error: tidings_ports::ReadError) -> Refusal {
        self.metrics.read_errors.add(1);
        match error {
            tidings_ports::ReadError::Busy => busy_reads(),
            tidings_ports::ReadError::Storage => Refusal::new(
                RefusalCode::StorageFailed,
                "messages could not be read from the log; the server's own log names the file: try again, or start at `latest`",
            ),
        }
    }
}

fn busy_reads() -> Refusal {
    Refusal::new(
        RefusalCode::Busy,
        "too many reads wait for the log: try again in a moment",
    )
}

/// The gap that a page tells of, for a reader that claimed to be at `after`.
pub(super) fn gap_of(
    page: &Page,
    after: Option<Cursor>,
    epoch: tidings_types::Epoch,
) -> Option<Gap> {
    let first = page.gap?;
    let reason = match page.gap_storage {
        Storage::Durable => GapReason::Retention,
        Storage::Memory => GapReason::Restart,
        Storage::None => GapReason::LiveOnly,
    };
    let offset = Offset(first.0.saturating_sub(1));
    Some(Gap {
        reason,
        after,
        resume: Cursor { epoch, offset },
    })
}
