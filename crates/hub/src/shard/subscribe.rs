//! Beginning, altering and ending subscriptions.

use std::sync::Arc;

use tidings_ports::{Event, Framing, Gap, GapReason, Start, SubscriptionKey, Tag, Until};
use tidings_types::{Cursor, Offset, Principal, Refusal, RefusalCode, TopicFilter};

use super::Shard;
use super::commands::no_such_subscription;
use super::connection::ConnectionId;
use super::subscription::{First, Membership, Source, Subscription, SubscriptionId, first_of};
use crate::gate::{self, Wanted};
use crate::queue::Request;
use crate::trie::{Entry, Place, Trie};

/// A subscription that a conversation asks for.
pub(super) struct Ask {
    pub tag: Tag,
    pub key: SubscriptionKey,
    pub framing: Framing,
    pub echo: bool,
    pub until: Until,
}

impl Shard {
    /// Whether a connection may have one more subscription, with this key; and whose it is. `None` if the
    /// connection is gone.
    pub(super) fn check_subscribe(
        &self,
        id: ConnectionId,
        key: SubscriptionKey,
    ) -> Result<Option<Arc<Principal>>, Refusal> {
        let connection = self.connections.get(id.index as usize);
        let Some(connection) = connection.filter(|it| it.id == id) else {
            return Ok(None);
        };
        self.charge_request(id)?;
        let max = self.limits.subscriptions_per_connection_max;
        if connection.subscriptions.len() >= max {
            let detail = format!(
                "this connection has {max} subscriptions, the most that are permitted (limits.subscriptions_per_connection_max): end one, or use a wildcard"
            );
            return Err(Refusal::new(RefusalCode::TooManySubscriptions, detail));
        }
        if self.subscription_of(id, key).is_some() {
            let detail = "the subscription's id is in use on this connection: end that one first";
            return Err(Refusal::new(RefusalCode::BadRequest, detail));
        }
        Ok(Some(Arc::clone(&connection.principal)))
    }

    pub(super) fn subscribe_for(
        &mut self,
        id: ConnectionId,
        ask: &Ask,
        filters: Vec<TopicFilter>,
        start: Start,
    ) -> Result<(), Refusal> {
        let Some(principal) = self.check_subscribe(id, ask.key)? else {
            return Ok(());
        };
        let wanted = Wanted { filters, start };
        let wanted = gate::subscribe(&principal, wanted, &self.limits)?.into_inner();
        let filters = each_once(wanted.filters);
        let (offset, unknown) = self.locate(&wanted.start);
        // What an unknown position missed is told once, below.
        let start = if unknown {
            Start::Earliest
        } else {
            wanted.start.clone()
        };
        let subscription = self.add_subscription(id, ask, filters, &start, offset);
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

    pub(super) fn add_subscription(
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
        let head = self.engine.head();
        let places = insert_filters(&mut self.trie, id.index, &filters);
        let retained = matches!(start, Start::Retained);
        entry.insert(Subscription {
            id,
            connection,
            queue: None,
            membership: None,
            key: ask.key,
            filters: filters.into(),
            places,
            framing: self.formats.slot(ask.framing),
            echo: ask.echo,
            source: Source::Queued,
            first: first_of(start, ask.tag),
            start: offset,
            cursor: if retained { Offset::ZERO } else { offset },
            covers_after: offset,
            live_only: None,
            ends_at: (ask.until == Until::CaughtUp).then_some(head),
            altered_at: None,
            page_messages: usize::MAX,
        });
        self.metrics.subscriptions.add(1);
        self.metrics.catching_up.add(1);
        if let Some(connection) = self.connection(connection) {
            // Most have one.
            if connection.subscriptions.is_empty() {
                connection.subscriptions.reserve_exact(1);
            }
            connection.subscriptions.push(id);
        }
        id
    }

    /// Adds a subscription whose messages come from a work queue.
    pub(super) fn add_member(
        &mut self,
        connection: ConnectionId,
        ask: &Ask,
        membership: Membership,
    ) -> SubscriptionId {
        let id = self.add_subscription(connection, ask, Vec::new(), &Start::Latest, Offset::ZERO);
        if let Some(subscription) = self.subscription(id) {
            subscription.membership = Some(Box::new(membership));
            subscription.source = Source::Member;
            self.metrics.catching_up.sub(1);
        }
        id
    }

    /// Gives a subscription other filters. What it has not read yet it reads with the new ones; what is being
    /// read counts up to here.
    pub(super) fn alter_for(
        &mut self,
        id: ConnectionId,
        (tag, key): (Tag, SubscriptionKey),
        filters: Vec<TopicFilter>,
        framing: Framing,
    ) -> Result<(), Refusal> {
        let Some(connection) = self.connection(id) else {
            return Ok(());
        };
        let principal = Arc::clone(&connection.principal);
        let found = self
            .subscription_of(id, key)
            .filter(|found| {
                self.subscriptions[found.index as usize]
                    .membership
                    .is_none()
            })
            .ok_or_else(no_such_subscription)?;
        let wanted = Wanted {
            filters,
            start: Start::Latest,
        };
        let wanted = gate::subscribe(&principal, wanted, &self.limits)?.into_inner();
        let filters = each_once(wanted.filters);
        self.charge_alteration(id, found, &filters)?;
        let head = self.engine.head();
        let framing = self.formats.slot(framing);
        self.remove_filters(found);
        let places = insert_filters(&mut self.trie, found.index, &filters);
        let Some(subscription) = self.subscription(found) else {
            return Ok(());
        };
        subscription.places = places;
        subscription.filters = filters.into();
        subscription.framing = framing;
        subscription.covers_after = head;
        if subscription.source == Source::Reading {
            subscription.altered_at.get_or_insert(head);
        }
        // Everything after the head is still to come: live, from the tail, or in a page that is not asked for
        // yet.
        let cursor = Cursor {
            epoch: self.engine.epoch(),
            offset: head,
        };
        self.tell(id, Event::Subscribed { tag, key, cursor });
        Ok(())
    }

    /// Lets a subscription go on that its conversation had enough of.
    pub(super) fn unblock_for(&mut self, id: ConnectionId, key: SubscriptionKey) {
        if let Some(subscription) = self.subscription_of(id, key) {
            self.resume(subscription, Source::Paused);
        }
    }

    /// The subscription of a connection that has this key.
    pub(super) fn subscription_of(
        &self,
        id: ConnectionId,
        key: SubscriptionKey,
    ) -> Option<SubscriptionId> {
        let connection = self.connections.get(id.index as usize)?;
        if connection.id != id {
            return None;
        }
        connection
            .subscriptions
            .iter()
            .copied()
            .find(|subscription| self.subscriptions[subscription.index as usize].key == key)
    }

    pub(super) fn unsubscribe_for(
        &mut self,
        id: ConnectionId,
        tag: Tag,
        key: SubscriptionKey,
        forget: bool,
    ) -> Result<(), Refusal> {
        let found = self.subscription_of(id, key);
        let found = found.ok_or_else(no_such_subscription)?;
        let Some(subscription) = self.subscription(found) else {
            return Ok(());
        };
        if let Some(membership) = &mut subscription.membership {
            if membership.joining.is_none() {
                self.leave_queue(id, found, (tag, key), forget);
                return Ok(());
            }
            // Its queue may have come to be by it, and the answer to that says that it is there for good.
            membership.leaving = Some((tag, forget));
            if let Some(connection) = self.connection(id) {
                connection.subscriptions.retain(|other| *other != found);
                connection.in_flight += 1;
            }
            return Ok(());
        }
        let unanswered = match subscription.first {
            First::Last(_, tag) => Some(tag),
            _ => None,
        };
        self.end_subscription(id, found);
        if let Some(tag) = unanswered {
            // Where the newest N begin is not known, and nobody asks any more.
            let cursor = Cursor {
                epoch: self.engine.epoch(),
                offset: Offset::ZERO,
            };
            self.tell(id, Event::Subscribed { tag, key, cursor });
        }
        self.tell(id, Event::Unsubscribed { tag, key });
        Ok(())
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
        // If it is a member's, the queue gives its messages to others.
        self.request(id, Request::Leave { forget: None });
        self.remove_filters(id);
        let subscription = self.subscriptions.remove(id.index as usize);
        debug_assert_eq!(subscription.id, id);
        self.metrics.subscriptions.sub(1);
        if subscription.source != Source::Live && subscription.membership.is_none() {
            self.metrics.catching_up.sub(1);
        }
    }

    /// Takes a subscription's filters out of the trie.
    fn remove_filters(&mut self, id: SubscriptionId) {
        let places = match self.subscription(id) {
            Some(subscription) => std::mem::take(&mut subscription.places),
            None => return,
        };
        for place in places {
            let Some(moved) = self.trie.remove(place) else {
                continue;
            };
            // Its own filters stand in different places of the trie, so none of them moves to another's.
            assert_ne!(
                moved.subscription, id.index,
                "a subscription has each filter once"
            );
            self.subscriptions[moved.subscription as usize].places[moved.filter as usize] = place;
        }
    }
}

/// Each filter once: the trie tells the places of one subscription apart by their nodes.
pub(super) fn each_once(mut filters: Vec<TopicFilter>) -> Vec<TopicFilter> {
    filters.sort_unstable();
    filters.dedup();
    filters
}

fn insert_filters(trie: &mut Trie, subscription: u32, filters: &[TopicFilter]) -> Box<[Place]> {
    (0u32..)
        .zip(filters)
        .map(|(filter, text)| {
            let entry = Entry {
                subscription,
                filter,
            };
            trie.insert(text, entry)
        })
        .collect()
}
