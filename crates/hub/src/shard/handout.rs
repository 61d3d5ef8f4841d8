//! Handing out the messages of work queues: first what came back, then what is new.

use std::sync::Arc;

use tidings_ports::{Page, ReadError, ReadFrom, ReadRequest, ReplyTo};
use tidings_types::{Message, Offset};

use super::Shard;
use super::keeping::{BUSY_RETRY_MS, FULL_RETRY_MS};
use super::pending::Waiter;
use super::queues::SAVE_MS;
use super::subscription::Source;
use crate::queue::{Deliveries, Handed, QueueId, Told};

/// A message that a queue has had out before.
pub(super) enum Fetched {
    Found(Arc<Message>),
    Gone,
    /// Not before a page is read.
    Later,
}

impl Shard {
    /// Hands out what can be: first what came back, then what is new. Does not read the log for the few places
    /// of members that are free while most are taken: more may become free in a moment.
    pub(super) fn pump(&mut self, id: QueueId) {
        self.pump_for(id, false);
    }

    /// The same after a moment: who takes their time does not keep the others waiting.
    pub(super) fn pump_now(&mut self, id: QueueId) {
        self.pump_for(id, true);
    }

    fn pump_for(&mut self, id: QueueId, few: bool) {
        let deliveries_max = self.limits.deliveries_max;
        while let Some(queue) = self.queues.get(id) {
            let Some((offset, returned)) = queue.returned.first_key_value() else {
                break;
            };
            let offset = *offset;
            let is_given_up = deliveries_max > 0 && returned.deliveries.made() >= deliveries_max;
            if queue.room().0 == 0 || queue.graves.are_full() {
                return;
            }
            match self.fetch(id, offset) {
                Fetched::Later => return,
                Fetched::Gone => {
                    self.metrics.queue_missed.add(1);
                    self.forget_returned(id, offset);
                }
                Fetched::Found(message) if message.is_expired(self.clock.now()) => {
                    self.metrics.expired.add(1);
                    self.forget_returned(id, offset);
                }
                Fetched::Found(message) if is_given_up => self.give_up(id, &message),
                Fetched::Found(message) => {
                    if !self.hand_out(id, &message) {
                        return;
                    }
                }
            }
        }
        let floor = self.tail.floor();
        let Some(queue) = self.queues.get(id) else {
            return;
        };
        let Some(subscription) = queue.subscription else {
            return;
        };
        let ((free, all), waits) = (queue.room(), queue.has_unacked());
        let is_full = queue.graves.are_full();
        let from_log = self
            .subscription(subscription)
            .is_some_and(|it| it.cursor < floor);
        if free > 0 && !is_full && (few || !(from_log && waits && free * 2 < all)) {
            self.resume(subscription, Source::Paused);
        }
    }

    pub(super) fn forget_returned(&mut self, id: QueueId, offset: Offset) {
        if let Some(queue) = self.queues.get(id) {
            queue.returned.remove(&offset);
            queue.graves.remove(offset);
        }
        let due = self.clock.tick().plus_ms(SAVE_MS);
        self.queues.set_due(id, due);
        self.queues.drop_ended(id);
    }

    /// Gives a message to the member whose turn it is; `false` if none takes it now.
    fn hand_out(&mut self, id: QueueId, message: &Arc<Message>) -> bool {
        let (bytes_max, now) = (self.limits.inbox_bytes_max, self.clock.tick());
        let Some(queue) = self.queues.get(id) else {
            return false;
        };
        let returned = queue.returned.get_mut(&message.offset);
        let suspect = u32::from(message.offset <= queue.suspect_to);
        let (deliveries, last) = returned
            .as_ref()
            .map_or((Deliveries::new(suspect), None), |it| {
                (it.deliveries, it.last)
            });
        if let Some(returned) = returned {
            returned.message = Some(Arc::clone(message));
        }
        let Some(member) = queue.pick(message.size(), bytes_max, last) else {
            return false;
        };
        let deadline = queue.assign(member, message, deliveries, now);
        if deliveries.told > 0 {
            self.metrics.redelivered.add(1);
        }
        let handed = Handed {
            home: self.index,
            queue: id,
            message: Arc::clone(message),
            redelivered: deliveries.told,
        };
        self.tell_member(member, Told::Message(handed));
        self.queues.set_due(id, now.plus_ms(SAVE_MS).min(deadline));
        true
    }

    /// Offers a new message to a queue; `false` if it takes none now.
    pub(super) fn offer_to_queue(&mut self, id: QueueId, message: &Message) -> bool {
        let Some(queue) = self.queues.get(id) else {
            return false;
        };
        // What came back goes first.
        if !queue.returned.is_empty() || queue.room().0 == 0 || queue.graves.are_full() {
            return false;
        }
        self.hand_out(id, &Arc::new(message.copy()))
    }

    /// Finds a returned message, or one that was given up: with the queue, in the tail, or in the log.
    pub(super) fn fetch(&mut self, id: QueueId, offset: Offset) -> Fetched {
        let Some(queue) = self.queues.get(id) else {
            return Fetched::Later;
        };
        if let Some(message) = queue.message(offset) {
            return Fetched::Found(Arc::clone(message));
        }
        if offset > self.tail.floor()
            && let Some(batch) = self.tail.batch_after(Offset(offset.0 - 1))
            && let Some(message) = batch.messages.iter().find(|it| it.offset == offset)
        {
            return Fetched::Found(Arc::new(message.copy()));
        }
        if offset.0 == 0 {
            return Fetched::Gone;
        }
        self.start_fetch(id, offset);
        Fetched::Later
    }

    fn start_fetch(&mut self, id: QueueId, first: Offset) {
        let limits = Arc::clone(&self.limits);
        let Some(queue) = self.queues.get(id).filter(|queue| !queue.is_fetching) else {
            return;
        };
        let request = ReadRequest {
            filters: queue.filters.clone().into(),
            from: ReadFrom::After {
                offset: Offset(first.0 - 1),
                resume: false,
            },
            messages_max: limits.page_messages_max,
            bytes_max: limits.page_bytes_max.min(limits.outbox_bytes_max),
        };
        queue.is_fetching = true;
        let reply = ReplyTo {
            shard: self.index,
            token: self.pending.add(Waiter::Fetch(id, first)),
        };
        if self.engine.read(request, reply).is_err() {
            self.pending.take(reply.token);
            self.fetched(id, first, Err(ReadError::Busy));
        }
    }

    /// A page of returned messages, from this one on, is read, or could not be.
    pub(super) fn fetched(&mut self, id: QueueId, first: Offset, result: Result<Page, ReadError>) {
        let Some(queue) = self.queues.get(id) else {
            return;
        };
        queue.is_fetching = false;
        let page = match result {
            Ok(page) => page,
            Err(error) => {
                let retry_ms = match error {
                    ReadError::Busy => BUSY_RETRY_MS,
                    ReadError::Storage => FULL_RETRY_MS,
                };
                self.metrics.read_errors.add(1);
                let due = self.clock.tick().plus_ms(retry_ms);
                return self.queues.set_due(id, due);
            }
        };
        for message in page.messages {
            queue.put_message(message);
        }
        // What the page would have and does not have is in no log any more.
        for offset in queue.missing(first, page.scanned_to.max(first)) {
            self.metrics.queue_missed.add(1);
            self.forget_returned(id, offset);
        }
        self.bury(id);
        self.pump(id);
    }
}
