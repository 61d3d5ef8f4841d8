//! Subscribing: a stream of items that comes back by itself after the last message that was given out; or taking
//! part in a work queue, which has its own position.

mod feed;
mod mqtt;
mod place;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tidings_types::TopicFilter;
use tokio::time::Sleep;

use crate::backoff::Backoff;
use crate::client::{Client, Speaks};
use crate::error::{Lost, Refused, TryError};
use crate::message::{Gap, Message, Start, Verdict, WorkQueue};

use feed::{Feed, FeedItem};
use place::{Arrival, Place};

/// What a subscription to an HTTP server travels over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wire {
    /// The `tidings.v1` WebSocket.
    #[default]
    Tidings,
    /// Server-Sent Events.
    Sse,
}

/// What happens in a subscription.
#[derive(Debug)]
pub enum Item {
    /// The subscription is there, for the first time or again.
    Connected,
    /// A message.
    Message(Message),
    /// Messages that matched may be missing here.
    Gap(Gap),
    /// The connection is lost; the subscription goes on after the last message by itself. What a work queue
    /// delivered and was not settled goes to another member, or comes again.
    Disconnected {
        /// Why.
        reason: Lost,
        /// The wait before the next try.
        retry_in: Duration,
    },
}

type Connecting = Pin<Box<dyn Future<Output = Result<Feed, TryError>> + Send>>;

enum State {
    Idle,
    Connecting(Connecting),
    Open(Feed),
    Waiting(Pin<Box<Sleep>>),
}

/// What is subscribed to.
#[derive(Clone)]
struct Wanted {
    wire: Wire,
    /// At least one; one alone with a membership.
    filters: Vec<TopicFilter>,
    /// Where to start, or to resume; of a work queue, where a new one starts.
    start: Start,
    /// Set to take part in a work queue.
    membership: Option<Membership>,
}

#[derive(Clone)]
struct Membership {
    group: String,
    prefetch: Option<u32>,
}

/// For the end of a subscription.
const GOODBYE_MAX: Duration = Duration::from_secs(2);

/// A subscription. Nothing happens but in [`Subscription::next`]; the server keeps what is not read.
pub struct Subscription {
    client: Client,
    wanted: Wanted,
    state: State,
    /// How the open feed ended, found while looking for what is ready; `next` tells it.
    ended: Option<TryError>,
    backoff: Backoff,
    /// Over MQTT: what was given out.
    place: Option<Place>,
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription")
            .field("filters", &self.wanted.filters)
            .field("start", &self.wanted.start)
            .finish_non_exhaustive()
    }
}

impl Subscription {
    pub(crate) fn new(client: Client, wire: Wire, filters: Vec<TopicFilter>, start: Start) -> Self {
        let wanted = Wanted {
            wire,
            filters,
            start,
            membership: None,
        };
        Self::to(client, wanted)
    }

    /// Takes part in a work queue.
    pub(crate) fn working(client: Client, queue: WorkQueue) -> Self {
        let wanted = Wanted {
            wire: Wire::Tidings,
            filters: vec![queue.filter],
            start: queue.start,
            membership: Some(Membership {
                group: queue.group,
                prefetch: queue.prefetch,
            }),
        };
        Self::to(client, wanted)
    }

    fn to(client: Client, wanted: Wanted) -> Self {
        let backoff = client.backoff();
        let mut place = matches!(client.speaks, Speaks::Mqtt(_)).then(Place::default);
        if let (Some(place), Start::After(cursor)) = (&mut place, &wanted.start) {
            place.start_after(cursor);
        }
        Self {
            client,
            wanted,
            state: State::Idle,
            ended: None,
            backoff,
            place,
        }
    }

    /// Where the subscription would resume: after the last message that [`Subscription::next`] gave out, or
    /// where the server said that it starts. None in a work queue, whose position is the server's.
    pub fn cursor(&self) -> Option<&str> {
        match &self.wanted.start {
            Start::After(cursor) if self.wanted.membership.is_none() => Some(cursor),
            _ => None,
        }
    }

    /// Says of a message of a work queue, by its id, what became of it. Travels while [`Subscription::next`] or
    /// [`Subscription::close`] is awaited. `false` if the message is not this member's to settle: it is settled,
    /// or it came by a connection that is lost, and is another member's or comes again.
    pub fn settle(&mut self, id: &str, verdict: Verdict) -> bool {
        match &mut self.state {
            State::Open(feed) => feed.settle(id, verdict),
            _ => false,
        }
    }

    /// The next item. Ends only when the server refuses the subscription for good. May be cancelled and called
    /// again without losing anything.
    pub async fn next(&mut self) -> Result<Item, Refused> {
        loop {
            if let Some(item) = self.step().await? {
                return Ok(item);
            }
        }
    }

    /// The next item that is already here, without waiting for the server.
    pub fn next_ready(&mut self) -> Option<Item> {
        while self.ended.is_none()
            && let State::Open(feed) = &mut self.state
        {
            match feed.ready() {
                Ok(None) => return None,
                Ok(Some(item)) => {
                    if let Some(item) = self.given(item) {
                        return Some(item);
                    }
                }
                Err(error) => self.ended = Some(error),
            }
        }
        None
    }

    /// Ends the subscription: acknowledges what was given out, and says goodbye, as far as its protocol knows
    /// either. In a work queue what was not settled goes to another member.
    pub async fn close(self) {
        if let State::Open(feed) = self.state {
            // A server that does not answer is left without a goodbye.
            tokio::time::timeout(GOODBYE_MAX, feed.close()).await.ok();
        }
    }

    async fn step(&mut self) -> Result<Option<Item>, Refused> {
        match &mut self.state {
            State::Idle => {
                let feed = Feed::open(self.client.clone(), self.wanted.clone());
                self.state = State::Connecting(Box::pin(feed));
                Ok(None)
            }
            State::Waiting(sleep) => {
                sleep.as_mut().await;
                self.state = State::Idle;
                Ok(None)
            }
            State::Connecting(connecting) => match connecting.await {
                Ok(feed) => {
                    self.started(feed.cursor().map(str::to_owned));
                    self.state = State::Open(feed);
                    Ok(Some(Item::Connected))
                }
                Err(error) => self.failed(error, None).map(Some),
            },
            State::Open(feed) => {
                let next = match self.ended.take() {
                    Some(error) => Err(error),
                    None => feed.next(self.client.silence).await,
                };
                match next {
                    Ok(item) => Ok(self.given(item)),
                    Err(error) => {
                        let told = feed.told_wait();
                        self.failed(error, told).map(Some)
                    }
                }
            }
        }
    }

    /// The server said where the subscription starts. Over MQTT that counts only where nothing better is known:
    /// what is to be caught up on may still be on its way.
    fn started(&mut self, cursor: Option<String>) {
        let Some(cursor) = cursor else { return };
        if self.wanted.membership.is_some() {
            return;
        }
        if let Some(place) = &mut self.place {
            let is_now = match &self.wanted.start {
                Start::Latest => true,
                Start::After(after) => after == "retained",
                Start::Earliest | Start::Last(_) => false,
            };
            if !is_now {
                return;
            }
            place.start_after(&cursor);
        }
        self.wanted.start = Start::After(cursor);
    }

    /// Notes the position of what is given out.
    fn given(&mut self, item: FeedItem) -> Option<Item> {
        self.backoff.succeeded();
        match item {
            FeedItem::Message(message) => {
                let place = self.place.as_mut();
                let arrival = place.map_or(Arrival::Newest, |place| place.arrived(&message.id));
                if arrival == Arrival::Repeated {
                    return None;
                }
                if arrival == Arrival::Newest && !message.id.is_empty() {
                    self.moved_to(&message.id);
                }
                Some(Item::Message(message))
            }
            FeedItem::Gap(gap) => {
                if let Some(cursor) = &gap.cursor {
                    self.moved_to(cursor);
                }
                Some(Item::Gap(gap))
            }
            FeedItem::Position(cursor) => {
                self.moved_to(&cursor);
                None
            }
        }
    }

    /// A work queue keeps its position itself.
    fn moved_to(&mut self, cursor: &str) {
        if self.wanted.membership.is_none() {
            self.wanted.start = Start::After(cursor.to_owned());
        }
    }

    fn failed(&mut self, error: TryError, told: Option<Duration>) -> Result<Item, Refused> {
        match error {
            TryError::Refused(refused) => {
                self.state = State::Idle;
                Err(refused)
            }
            TryError::Lost(reason) => {
                let retry_in = self.backoff.failed(told.or_else(|| reason.told_wait()));
                self.state = State::Waiting(Box::pin(tokio::time::sleep(retry_in)));
                Ok(Item::Disconnected { reason, retry_in })
            }
        }
    }
}

#[cfg(test)]
#[path = "subscription/mqtt_tests.rs"]
mod mqtt_tests;
#[cfg(test)]
#[path = "subscription/queue_tests.rs"]
mod queue_tests;
#[cfg(test)]
#[path = "subscription/tests.rs"]
mod tests;
