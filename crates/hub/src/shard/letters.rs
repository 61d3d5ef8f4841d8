//! What work queues give up goes to the dead-letter topic.

use std::sync::Arc;

use tidings_ports::{PublishError, SubmitError};
use tidings_types::{Message, Offset};

use super::Shard;
use super::handout::Fetched;
use super::keeping::{BUSY_RETRY_MS, FULL_RETRY_MS};
use super::pending::Waiter;
use crate::gate;
use crate::queue::{Dead, DeadReason, QueueId, letter};

impl Shard {
    /// Gives up a returned message.
    pub(super) fn give_up(&mut self, id: QueueId, message: &Arc<Message>) {
        let Some(queue) = self.queues.get(id) else {
            return;
        };
        let offset = message.offset;
        if let Some(returned) = queue.returned.remove(&offset) {
            let message = Some(Arc::clone(message));
            let dead = Dead::new(returned.deliveries, DeadReason::Deliveries, message);
            queue.graves.add(offset, dead);
        }
        self.bury(id);
    }

    /// Publishes what a queue gave up, a few at a time.
    pub(super) fn bury(&mut self, id: QueueId) {
        while let Some(offset) = self.queues.get(id).and_then(|queue| queue.graves.next()) {
            match self.fetch(id, offset) {
                Fetched::Later => return,
                Fetched::Gone => {
                    self.metrics.queue_missed.add(1);
                    self.forget_returned(id, offset);
                }
                Fetched::Found(message) => {
                    if !self.send_letter(id, &message) {
                        return;
                    }
                }
            }
        }
    }

    /// Publishes one; `false` if the log takes nothing now.
    fn send_letter(&mut self, id: QueueId, message: &Message) -> bool {
        let offset = message.offset;
        let prefix = self.dead_letter.as_ref();
        let Some((queue, dead)) = self.queues.get(id).and_then(|queue| {
            let dead = queue.graves.get(offset)?;
            Some((queue.key.clone(), (dead.deliveries.made(), dead.reason)))
        }) else {
            return true;
        };
        let draft = prefix.and_then(|prefix| letter(prefix, &queue, message, dead.0, dead.1));
        let Some(draft) = draft else {
            self.metrics.dead_dropped.add(1);
            self.forget_returned(id, offset);
            return true;
        };
        let drafts = Some(gate::dead_letter(draft));
        let retry_ms = match self.submit(drafts, Vec::new(), Waiter::Letter(id, offset)) {
            Ok(()) => {
                if let Some(queue) = self.queues.get(id) {
                    queue.graves.submitted(offset);
                }
                return true;
            }
            Err((SubmitError::Busy, _)) => BUSY_RETRY_MS,
            Err((SubmitError::Failed, _)) => FULL_RETRY_MS,
        };
        let due = self.clock.tick().plus_ms(retry_ms);
        self.queues.set_due(id, due);
        false
    }

    /// The log has a message that a queue gave up, or could not take it.
    pub(super) fn letter_published(
        &mut self,
        id: QueueId,
        offset: Offset,
        error: Option<PublishError>,
    ) {
        if error.is_none() {
            self.metrics.dead_letters.add(1);
            self.forget_returned(id, offset);
            self.bury(id);
            return self.pump(id);
        }
        let due = self.clock.tick().plus_ms(FULL_RETRY_MS);
        let queue = self.queues.get(id);
        if queue.is_some_and(|queue| queue.graves.failed(offset)) {
            self.queues.set_due(id, due);
        }
    }
}
