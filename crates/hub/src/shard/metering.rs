//! What peers take, charged to their identities.

use std::sync::Arc;
use std::time::Duration;

use tidings_ports::Event;
use tidings_types::{Draft, Principal, Refusal, TopicFilter};

use super::Shard;
use super::connection::ConnectionId;
use super::subscription::SubscriptionId;
use crate::gate::Admitted;
use crate::meter::Seat;

impl Shard {
    /// Gives a new connection its seat. One for which there is none is told so in the words of its protocol, and ends.
    pub(super) fn take_seat(&mut self, id: ConnectionId, seat: Result<Option<Seat>, Refusal>) {
        match seat {
            Ok(seat) => {
                if let Some(connection) = self.connection(id) {
                    connection.seat = seat;
                }
            }
            Err(refusal) => {
                // What it asked for already is not carried out.
                self.commands.retain(|(whose, _)| *whose != id);
                self.refused(refusal.code);
                let wait = refusal.retry_after().unwrap_or_default();
                // From one time to two, so that not everybody comes back at once.
                let spread = self.next_random() % (wait.as_millis() as u64).max(1);
                let reconnect_after = wait + Duration::from_millis(spread);
                self.tell(
                    id,
                    Event::Drain {
                        reconnect_after,
                        refusal,
                    },
                );
            }
        }
    }

    /// Gives a connection the seat of who its peer turned out to be.
    pub(super) fn seat_for(
        &mut self,
        id: ConnectionId,
        principal: Arc<Principal>,
    ) -> Result<Arc<Principal>, Refusal> {
        let now = self.clock.tick();
        let meters = Arc::clone(&self.meters);
        let Some(connection) = self.connection(id) else {
            return Ok(principal);
        };
        let old = &connection.principal;
        if connection.seat.is_some() && old.name == principal.name && old.source == principal.source
        {
            return Ok(principal);
        }
        connection.seat = meters.sit(&principal, connection.address, now)?;
        Ok(principal)
    }

    /// Charges a connection for what it publishes.
    pub(super) fn charge_publish(
        &self,
        id: ConnectionId,
        drafts: &Admitted<Vec<Draft>>,
    ) -> Result<(), Refusal> {
        match self.seat(id) {
            Some(seat) => self.meters.publish(seat, drafts.get(), self.clock.tick()),
            None => Ok(()),
        }
    }

    /// Charges a connection for a subscription.
    pub(super) fn charge_request(&self, id: ConnectionId) -> Result<(), Refusal> {
        match self.seat(id) {
            Some(seat) => self.meters.request(seat, self.clock.tick()),
            None => Ok(()),
        }
    }

    /// Charges a connection for what a subscription is to have that it does not have yet. Conversations also alter
    /// subscriptions to give something up, or for their own sake.
    pub(super) fn charge_alteration(
        &self,
        id: ConnectionId,
        subscription: SubscriptionId,
        filters: &[TopicFilter],
    ) -> Result<(), Refusal> {
        // They are in order: see `each_once`.
        let known = &self.subscriptions[subscription.index as usize].filters;
        let is_more = || filters.iter().any(|it| known.binary_search(it).is_err());
        if self.seat(id).is_some() && is_more() {
            return self.charge_request(id);
        }
        Ok(())
    }

    fn seat(&self, id: ConnectionId) -> Option<&Seat> {
        let connection = self.connections.get(id.index as usize)?;
        connection.seat.as_ref().filter(|_| connection.id == id)
    }
}
