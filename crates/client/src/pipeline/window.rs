//! The unacknowledged messages of a pipeline, oldest first. No I/O.

use std::collections::VecDeque;

use tidings_types::Qos;
use tokio::sync::oneshot;

use super::Order;
use crate::envelope::publish_request;
use crate::error::Refused;
use crate::message::{Outgoing, Receipt};
use crate::mqtt::{Unsendable, publish_packet};

/// Requests that are held, in bytes, so that large messages do not fill a window of many.
const HELD_BYTES_MAX: usize = 16 << 20;

/// Packet identifiers that MQTT has (2.2.1): 1 to 65,535.
const PACKET_IDS: u64 = 65_535;

/// How requests are written. Requests and answers are known by a wire id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// As `tidings.v1`; the wire id is the number of the message.
    Tidings,
    /// As MQTT's PUBLISH; the wire id is a packet identifier.
    Mqtt(Qos),
}

impl Encoding {
    /// The wire id of the message of this number, which begins with 1.
    pub(crate) fn wire_id(self, number: u64) -> u64 {
        match self {
            Self::Tidings => number,
            Self::Mqtt(_) => (number - 1) % PACKET_IDS + 1,
        }
    }

    /// The request; without a key, the server makes no promise about repetitions.
    pub(crate) fn request(
        self,
        number: u64,
        outgoing: &Outgoing,
        key: &str,
    ) -> Result<Vec<u8>, Unsendable> {
        let id = self.wire_id(number);
        match self {
            Self::Tidings => Ok(publish_request(id, outgoing, key)),
            Self::Mqtt(qos) => {
                let key = Some(key).filter(|key| !key.is_empty());
                publish_packet(outgoing, qos, id as u16, key)
            }
        }
    }
}

/// One message without its answer.
struct Unanswered {
    /// Its number, ascending.
    number: u64,
    request: Vec<u8>,
    /// Whether it was sent over the current connection and may be answered there.
    sent: bool,
    ticket: oneshot::Sender<Result<Receipt, Refused>>,
}

/// The window.
pub(super) struct Window {
    encoding: Encoding,
    /// The numbers of all are less than [`PACKET_IDS`] apart, so that their packet identifiers differ.
    unanswered: VecDeque<Unanswered>,
    held_bytes: usize,
    /// Those with `sent`.
    sent: usize,
    last_number: u64,
    /// How many may be unanswered; at least 1.
    size: usize,
    /// How many may be sent at a time: `1 <= allowed <= size`; smaller after the server was busy.
    allowed: usize,
    /// How many the connection permits to be sent at a time; at least 1.
    permitted: usize,
}

impl Window {
    pub(super) fn new(size: usize, encoding: Encoding) -> Self {
        let size = size.max(1);
        Self {
            encoding,
            unanswered: VecDeque::new(),
            held_bytes: 0,
            sent: 0,
            last_number: 0,
            size,
            allowed: size,
            permitted: usize::MAX,
        }
    }

    pub(super) fn has_room(&self) -> bool {
        let oldest = self.unanswered.front();
        let is_apart = oldest.is_some_and(|it| self.last_number - it.number >= PACKET_IDS - 1);
        self.unanswered.len() < self.size && self.held_bytes < HELD_BYTES_MAX && !is_apart
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

    /// Takes a message in; one that cannot be encoded is refused at once.
    pub(super) fn accept(&mut self, order: Order) -> Result<(), Refused> {
        let Order {
            outgoing,
            key,
            ticket,
        } = order;
        let number = self.last_number + 1;
        let request = match self.encoding.request(number, &outgoing, &key) {
            Ok(request) => request,
            Err(unsendable) => {
                let refused = Refused::from(unsendable);
                // Nobody waits for a ticket that was dropped.
                ticket.send(Err(refused.clone())).ok();
                return Err(refused);
            }
        };
        self.last_number = number;
        self.held_bytes += request.len();
        self.unanswered.push_back(Unanswered {
            number,
            request,
            sent: false,
            ticket,
        });
        Ok(())
    }

    /// A connection is open that permits so many to be sent at a time.
    pub(super) fn connected(&mut self, permitted: usize) {
        self.permitted = permitted.max(1);
    }

    /// The oldest request that is not sent, with its wire id, marked as sent; none if as many as allowed are.
    pub(super) fn next_to_send(&mut self) -> Option<(u64, &[u8])> {
        if self.sent >= self.allowed.min(self.permitted) {
            return None;
        }
        // All sent ones are in front but after a refusal, when nothing is sent until the rest is answered.
        let at = self.unanswered.partition_point(|it| it.sent);
        let next = self.unanswered.get_mut(at)?;
        debug_assert!(!next.sent);
        next.sent = true;
        self.sent += 1;
        Some((self.encoding.wire_id(next.number), &next.request))
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
        let at = self.position(id);
        let Some(it) = at.and_then(|at| self.unanswered.remove(at)) else {
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
        let Some(at) = self.position(id) else {
            return false;
        };
        let it = &mut self.unanswered[at];
        self.sent -= usize::from(std::mem::take(&mut it.sent));
        self.allowed = (self.allowed / 2).max(1);
        true
    }

    /// Where the message of a wire id is.
    fn position(&self, id: u64) -> Option<usize> {
        let number = match self.encoding {
            Encoding::Tidings => id,
            Encoding::Mqtt(_) => {
                let oldest = self.unanswered.front()?.number;
                // The one number from the oldest on that has this packet identifier.
                let first = self.encoding.wire_id(oldest);
                oldest + (id + PACKET_IDS - first) % PACKET_IDS
            }
        };
        let found = self
            .unanswered
            .binary_search_by_key(&number, |it| it.number);
        found.ok()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::outgoing;

    fn order(payload: &str) -> Order {
        let (ticket, _) = oneshot::channel();
        Order {
            outgoing: outgoing(payload),
            key: "k".into(),
            ticket,
        }
    }

    fn receipt() -> Receipt {
        Receipt {
            id: String::new(),
            time_ms: 0,
            replayed: false,
        }
    }

    #[test]
    fn packet_identifiers_stay_apart_over_the_wrap() {
        let mut window = Window::new(100_000, Encoding::Mqtt(Qos::AtLeastOnce));
        window.accept(order("first")).unwrap();
        let mut ids = vec![window.next_to_send().unwrap().0];
        while window.has_room() {
            window.accept(order("x")).unwrap();
            ids.push(window.next_to_send().unwrap().0);
        }
        assert_eq!(ids, (1..=PACKET_IDS).collect::<Vec<_>>());
        // All but the first are answered: there is room in the window, but no identifier.
        for id in 2..=PACKET_IDS {
            assert!(window.answered(id, Ok(receipt())));
        }
        assert!(!window.has_room());
        assert!(window.answered(1, Ok(receipt())) && window.has_room());
        window.accept(order("x")).unwrap();
        assert_eq!(window.next_to_send().unwrap().0, 1);
        assert!(!window.answered(2, Ok(receipt())));
    }

    #[test]
    fn no_more_than_the_connection_permits_is_sent() {
        let mut window = Window::new(10, Encoding::Mqtt(Qos::ExactlyOnce));
        for _ in 0..3 {
            window.accept(order("x")).unwrap();
        }
        window.connected(2);
        assert!(window.next_to_send().is_some() && window.next_to_send().is_some());
        assert!(window.next_to_send().is_none());
        window.answered(2, Ok(receipt()));
        assert_eq!(window.next_to_send().unwrap().0, 3);
    }

    #[test]
    fn what_cannot_be_encoded_is_refused_and_takes_no_place() {
        let mut window = Window::new(10, Encoding::Mqtt(Qos::AtLeastOnce));
        let mut bad = order("x");
        bad.outgoing.event = Some("e".repeat(70_000));
        assert_eq!(window.accept(bad).unwrap_err().code, "bad-parameter");
        assert!(window.is_empty());
    }
}
