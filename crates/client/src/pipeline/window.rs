//! The unacknowledged messages of a pipeline, oldest first. No I/O.

use std::collections::VecDeque;

use tokio::sync::oneshot;

use super::Order;
use crate::envelope::publish_request;
use crate::error::Refused;
use crate::message::Receipt;

/// Requests that are held, in bytes, so that large messages do not fill a window of many.
const HELD_BYTES_MAX: usize = 16 << 20;

/// One message without its answer.
struct Unanswered {
    /// Its request's id, ascending.
    id: u64,
    request: Vec<u8>,
    /// Whether it was sent over the current connection and may be answered there.
    sent: bool,
    ticket: oneshot::Sender<Result<Receipt, Refused>>,
}

/// The window.
pub(super) struct Window {
    unanswered: VecDeque<Unanswered>,
    held_bytes: usize,
    /// Those with `sent`.
    sent: usize,
    last_id: u64,
    /// How many may be unanswered; at least 1.
    size: usize,
    /// How many may be sent at a time: `1 <= allowed <= size`; smaller after the server was busy.
    allowed: usize,
}

impl Window {
    pub(super) fn new(size: usize) -> Self {
        let size = size.max(1);
        Self {
            unanswered: VecDeque::new(),
            held_bytes: 0,
            sent: 0,
            last_id: 0,
            size,
            allowed: size,
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.unanswered.len() < self.size && self.held_bytes < HELD_BYTES_MAX
    }

    pub(super) fn is_empty(&self) -> bool {
        self.unanswered.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.unanswered.len()
    }

    /// How many are sent and not answered.
    pub(super) fn sent(&self) -> usize {
        self.sent
    }

    pub(super) fn accept(&mut self, order: Order) {
        self.last_id += 1;
        let request = publish_request(self.last_id, &order.outgoing, &order.key);
        self.held_bytes += request.len();
        self.unanswered.push_back(Unanswered {
            id: self.last_id,
            request,
            sent: false,
            ticket: order.ticket,
        });
    }

    /// The oldest request that is not sent, marked as sent; none if as many as allowed are.
    pub(super) fn next_to_send(&mut self) -> Option<&[u8]> {
        if self.sent >= self.allowed {
            return None;
        }
        // All sent ones are in front but after a refusal, when nothing is sent until the rest is answered.
        let at = self.unanswered.partition_point(|it| it.sent);
        let next = self.unanswered.get_mut(at)?;
        debug_assert!(!next.sent);
        next.sent = true;
        self.sent += 1;
        Some(&next.request)
    }

    /// The connection is gone: all begin again, in order.
    pub(super) fn connection_lost(&mut self) {
        for it in &mut self.unanswered {
            it.sent = false;
        }
        self.sent = 0;
    }

    /// A final answer; false if nothing was asked under this id.
    pub(super) fn answered(&mut self, id: u64, answer: Result<Receipt, Refused>) -> bool {
        let Ok(at) = self.unanswered.binary_search_by_key(&id, |it| it.id) else {
            return false;
        };
        let Some(it) = self.unanswered.remove(at) else {
            return false;
        };
        self.held_bytes -= it.request.len();
        self.sent -= usize::from(it.sent);
        self.allowed = (self.allowed + 1).min(self.size);
        // Nobody waits for a ticket that was dropped.
        it.ticket.send(answer).ok();
        true
    }

    /// The server could not take it now: it is to be sent again, and fewer at a time.
    pub(super) fn put_off(&mut self, id: u64) -> bool {
        let Ok(at) = self.unanswered.binary_search_by_key(&id, |it| it.id) else {
            return false;
        };
        let it = &mut self.unanswered[at];
        self.sent -= usize::from(std::mem::take(&mut it.sent));
        self.allowed = (self.allowed / 2).max(1);
        true
    }

    /// Gives up on all of them.
    pub(super) fn fail(&mut self, refused: &Refused) {
        for it in self.unanswered.drain(..) {
            it.ticket.send(Err(refused.clone())).ok();
        }
        self.held_bytes = 0;
        self.sent = 0;
    }
}
