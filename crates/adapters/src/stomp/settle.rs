//! ACK and NACK.
//!
//! What a client has to acknowledge is noted for each subscription in the order of delivery. A message that was
//! taken away from the client because its time had passed stays in the list until that is full; it may be
//! acknowledged, which has no effect.

use std::collections::BTreeMap;

use bytestring::ByteString;
use tidings_ports::{Command, Settle, SubscriptionKey, Turn, Verdict};
use tidings_types::{Cursor, Offset, Refusal, RefusalCode};

use super::answers::What;
use super::codec::{Headers, Version};
use super::subscribe::{AckMode, Subscription};
use super::{StompConversation, missing, transactions};
use crate::query::parse_flag;

/// Subscriptions that have ended, of which it is known what they were given.
const ENDED_MAX: usize = 16;

#[derive(Clone, Copy, Debug)]
struct Entry {
    offset: Offset,
    /// A transaction has a verdict on it.
    is_claimed: bool,
}

/// What a client has not acknowledged. What is done for one message costs no more when there are many.
#[derive(Debug)]
pub(super) struct Unacked {
    /// By their places in the order of delivery.
    entries: BTreeMap<u64, Entry>,
    /// Invariant: the place of each entry, and nothing else.
    places: BTreeMap<Offset, u64>,
    last_place: u64,
    /// How many there are at most.
    max: usize,
    /// The newest message that was forgotten, or was covered by a verdict on a later one: older ones that are not
    /// here may have been, too.
    past: Offset,
}

impl Unacked {
    pub(super) fn new(max: usize) -> Self {
        Self {
            entries: BTreeMap::new(),
            places: BTreeMap::new(),
            last_place: 0,
            max,
            past: Offset::ZERO,
        }
    }

    /// Notes a delivery. One that comes again takes a new place.
    pub(super) fn note(&mut self, offset: Offset) {
        self.remove(offset);
        // The queue gives no more than that: it has taken away those that were here the longest.
        if self.entries.len() >= self.max
            && let Some((_, oldest)) = self.entries.pop_first()
        {
            self.places.remove(&oldest.offset);
            self.past = self.past.max(oldest.offset);
        }
        self.last_place += 1;
        self.places.insert(offset, self.last_place);
        let is_claimed = false;
        self.entries
            .insert(self.last_place, Entry { offset, is_claimed });
    }

    fn remove(&mut self, offset: Offset) {
        if let Some(place) = self.places.remove(&offset) {
            self.entries.remove(&place);
        }
    }

    /// The places of the messages that a verdict on the one at this place is about.
    fn covered(&self, place: u64, ack: AckMode) -> Vec<u64> {
        let covered = self.entries.range(first(place, ack)..=place);
        let free = covered.filter(|(_, entry)| !entry.is_claimed);
        free.map(|(place, _)| *place).collect()
    }

    /// Takes them out of the list.
    fn take(&mut self, place: u64, ack: AckMode) -> Vec<Offset> {
        let taken = self.covered(place, ack).into_iter();
        let taken: Vec<Entry> = taken
            .filter_map(|place| self.entries.remove(&place))
            .collect();
        let offsets = taken.iter().map(|entry| entry.offset);
        offsets
            .inspect(|offset| self.settled(*offset, ack))
            .collect()
    }

    /// Notes that a transaction has a verdict on them.
    fn claim(&mut self, place: u64, ack: AckMode) -> Vec<Offset> {
        let covered = self.entries.range_mut(first(place, ack)..=place);
        let free = covered.filter(|(_, entry)| !entry.is_claimed);
        free.map(|(_, entry)| {
            entry.is_claimed = true;
            entry.offset
        })
        .collect()
    }

    /// A verdict on it counts.
    fn settled(&mut self, offset: Offset, ack: AckMode) {
        self.remove(offset);
        if ack == AckMode::Client {
            self.past = self.past.max(offset);
        }
    }

    /// A transaction's verdict on it does not count.
    fn unclaim(&mut self, offset: Offset) {
        let place = self.places.get(&offset);
        if let Some(entry) = place.and_then(|place| self.entries.get_mut(place)) {
            entry.is_claimed = false;
        }
    }
}

/// A subscription that has ended, whose messages were to be acknowledged.
#[derive(Debug)]
pub(super) struct Ended {
    name: Box<str>,
    /// The newest message that it was given.
    given: Offset,
}

/// Where what a verdict on the one at this place is about begins.
fn first(place: u64, ack: AckMode) -> u64 {
    if ack == AckMode::Client { 0 } else { place }
}

/// What an ACK or NACK is about.
#[derive(Clone, Copy)]
enum Target {
    /// A delivery in a subscription's list.
    Found { subscription: usize, place: u64 },
    /// One that a transaction has a verdict on.
    Claimed {
        key: SubscriptionKey,
        offset: Offset,
    },
    /// One that is not this client's any more.
    Past,
    /// One that counted as acknowledged when it was sent.
    Needless,
}

impl StompConversation {
    pub(super) fn acknowledge(
        &mut self,
        headers: &Headers,
        verdict: Verdict,
        receipt: Option<ByteString>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Refusal> {
        let verdict = match headers.get("requeue") {
            Some(text) if verdict == Verdict::Nack && !parse_flag("requeue", text)? => {
                Verdict::Reject
            }
            _ => verdict,
        };
        let transaction = headers.get("transaction");
        if let Some(name) = transaction {
            self.transaction(name)?;
        }
        match (self.target(headers)?, transaction) {
            (
                Target::Found {
                    subscription,
                    place,
                },
                None,
            ) => {
                self.settle((subscription, place), verdict, receipt, turn);
                return Ok(());
            }
            (
                Target::Found {
                    subscription,
                    place,
                },
                Some(name),
            ) => self.claim((subscription, place), verdict, name)?,
            (Target::Claimed { key, offset }, Some(name)) => {
                // It may be among those that a verdict of the same transaction is about already.
                let settle = Settle {
                    key,
                    offset,
                    verdict,
                };
                if !self.transaction(name)?.has(&settle) {
                    return Err(unknown());
                }
            }
            (Target::Claimed { .. }, None) => return Err(unknown()),
            (Target::Past, Some(_)) => return Err(transactions::not_committed(not_any_more())),
            (Target::Past, None) | (Target::Needless, _) => {}
        }
        self.receipt(receipt);
        Ok(())
    }

    /// Settles a delivery at a place of a subscription, and those that the verdict covers.
    fn settle(
        &mut self,
        (subscription, place): (usize, u64),
        verdict: Verdict,
        receipt: Option<ByteString>,
        turn: &mut Turn<'_>,
    ) {
        let key = self.subscriptions[subscription].key;
        let Some((unacked, ack)) = self.list_of(key) else {
            return;
        };
        let settled = unacked.take(place, ack).into_iter();
        let settled = settled.map(|offset| Settle {
            key,
            offset,
            verdict,
        });
        let commands = settled.map(|settle| Command::Settle { tag: None, settle });
        turn.commands.extend(commands);
        if receipt.is_some() {
            // The last of them answers for all.
            let asked = self.ask(What::Plain, receipt);
            if let Some(Command::Settle { tag, .. }) = turn.commands.last_mut() {
                *tag = Some(asked);
            }
        }
    }

    /// Notes the same in a transaction.
    fn claim(
        &mut self,
        (subscription, place): (usize, u64),
        verdict: Verdict,
        name: &str,
    ) -> Result<(), Refusal> {
        let key = self.subscriptions[subscription].key;
        let covered = self
            .list_of(key)
            .map(|(unacked, ack)| unacked.covered(place, ack).len());
        self.check_room(name, covered.unwrap_or_default())?;
        let Some((unacked, ack)) = self.list_of(key) else {
            return Ok(());
        };
        let claimed = unacked.claim(place, ack).into_iter();
        let verdicts = claimed.map(|offset| Settle {
            key,
            offset,
            verdict,
        });
        self.stage_verdicts(name, verdicts)
    }

    /// Which delivery is meant: since 1.2 by the header `ack` that it had, before by its `message-id`.
    fn target(&self, headers: &Headers) -> Result<Target, Refusal> {
        if self.version() == Version::V12 {
            let id = headers.get("id").ok_or_else(|| missing("id", "ACK"))?;
            return self.by_ack(id);
        }
        let id = headers
            .get("message-id")
            .ok_or_else(|| missing("message-id", "ACK"))?;
        let name = headers.get("subscription");
        if name.is_none() && self.version() == Version::V11 {
            return Err(missing("subscription", "ACK"));
        }
        let cursor: Cursor = id.parse().map_err(|_| unknown())?;
        if cursor.epoch != self.epoch {
            return Err(unknown());
        }
        self.by_message(cursor.offset, name.map(|name| &**name))
    }

    fn by_ack(&self, id: &str) -> Result<Target, Refusal> {
        let (key, offset) = id.split_once('-').ok_or_else(unknown)?;
        let (Ok(key), Ok(offset)) = (key.parse::<u32>(), offset.parse()) else {
            return Err(unknown());
        };
        let key = SubscriptionKey(key);
        match self.subscriptions.binary_search_by_key(&key, |it| it.key) {
            Ok(at) => self.in_subscription(at, Offset(offset)),
            // It has ended, and its messages are others' now.
            Err(_) if (1..=self.last_key).contains(&key.0) => Ok(Target::Past),
            Err(_) => Err(unknown()),
        }
    }

    /// A message of the subscription of that name, or in 1.0 of any: there it is not said.
    fn by_message(&self, offset: Offset, name: Option<&str>) -> Result<Target, Refusal> {
        let is_meant = |of: &str| name.is_none_or(|name| name == of);
        let mut best = None;
        for (at, subscription) in self.subscriptions.iter().enumerate() {
            if !is_meant(subscription.name()) {
                continue;
            }
            match self.in_subscription(at, offset) {
                Ok(found @ Target::Found { .. }) => return Ok(found),
                Ok(Target::Needless) => best = best.or(Some(Target::Needless)),
                Ok(other) => best = Some(other),
                Err(_) => {}
            }
        }
        // It may have ended meanwhile.
        let ended = self.work.iter().flat_map(|work| &work.ended);
        let mut ended = ended.filter(|ended| is_meant(&ended.name) && offset <= ended.given);
        let best = best.or_else(|| ended.next().map(|_| Target::Past));
        best.ok_or_else(unknown)
    }

    fn in_subscription(&self, at: usize, offset: Offset) -> Result<Target, Refusal> {
        let subscription = &self.subscriptions[at];
        if offset > subscription.given || offset == Offset::ZERO {
            return Err(unknown());
        }
        let Some(unacked) = subscription
            .unacked
            .as_ref()
            .filter(|_| subscription.acks())
        else {
            return Ok(Target::Needless);
        };
        let place = unacked.places.get(&offset);
        let found = place.and_then(|place| Some((*place, unacked.entries.get(place)?)));
        match found {
            Some((_, entry)) if entry.is_claimed => Ok(Target::Claimed {
                key: subscription.key,
                offset,
            }),
            Some((place, _)) => Ok(Target::Found {
                subscription: at,
                place,
            }),
            None if offset <= unacked.past => Ok(Target::Past),
            None => Err(unknown()),
        }
    }

    /// Remembers what a subscription that ends was given.
    pub(super) fn note_ended(&mut self, subscription: &Subscription) {
        if !subscription.acks() {
            return;
        }
        let ended = &mut self.work().ended;
        if ended.len() >= ENDED_MAX {
            ended.pop_front();
        }
        ended.push_back(Ended {
            name: subscription.name().into(),
            given: subscription.given,
        });
    }

    /// Whether the subscription of each verdict is still there.
    pub(super) fn check_held(&self, verdicts: &[Settle]) -> Result<(), Refusal> {
        let is_there = |settle: &Settle| {
            let keys = &self.subscriptions;
            keys.binary_search_by_key(&settle.key, |it| it.key).is_ok()
        };
        if verdicts.iter().all(is_there) {
            return Ok(());
        }
        Err(not_any_more())
    }

    /// A transaction's verdict counts.
    pub(super) fn forget_claimed(&mut self, settle: &Settle) {
        if let Some((unacked, ack)) = self.list_of(settle.key) {
            unacked.settled(settle.offset, ack);
        }
    }

    /// A transaction's verdict does not count.
    pub(super) fn unclaim(&mut self, settle: &Settle) {
        if let Some((unacked, _)) = self.list_of(settle.key) {
            unacked.unclaim(settle.offset);
        }
    }

    fn list_of(&mut self, key: SubscriptionKey) -> Option<(&mut Unacked, AckMode)> {
        let at = self.subscriptions.binary_search_by_key(&key, |it| it.key);
        let subscription = &mut self.subscriptions[at.ok()?];
        Some((subscription.unacked.as_deref_mut()?, subscription.ack))
    }
}

fn unknown() -> Refusal {
    let detail = "there is no such message to acknowledge: pass the header `ack` of its MESSAGE as `id` (1.2), or its `message-id` with its `subscription` (1.1)";
    Refusal::new(RefusalCode::NotYours, detail)
}

fn not_any_more() -> Refusal {
    let detail = "the message is not this client's any more: it was acknowledged before, its time has passed, or its subscription has ended";
    Refusal::new(RefusalCode::NotYours, detail)
}
