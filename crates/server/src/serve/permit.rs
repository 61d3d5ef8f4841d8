//! What requests may do where no grant decides: asked for them before the hub is.

use std::sync::Arc;

use tidings_hub::{Peer, gate};
use tidings_ports::{Action, Permitter as _, Petition};
use tidings_types::{Protocol, Refusal, RefusalCode, Topic, TopicFilter};
use tokio::sync::oneshot;

use super::Shared;

type Want = (Action, TopicFilter);

impl Shared {
    /// The sender with what it is permitted of these publishes besides its grants.
    pub async fn permit_publish<'a>(
        &self,
        sender: &Peer,
        topics: impl ExactSizeIterator<Item = &'a Topic>,
    ) -> Result<Peer, Refusal> {
        // What is over the limit is refused for that.
        if !self.remote.is_asked() || topics.len() > self.limits.batch_messages_max {
            return Ok(sender.clone());
        }
        let wants = topics
            .filter_map(|topic| gate::undecided_publish(&sender.principal, topic))
            .collect();
        self.permit(sender, wants).await
    }

    /// The reader with what it is permitted of these filters besides its grants.
    pub async fn permit_read(
        &self,
        reader: &Peer,
        filters: &[TopicFilter],
    ) -> Result<Peer, Refusal> {
        let max = self.limits.filters_per_subscription_max;
        if !self.remote.is_asked() || filters.len() > max {
            return Ok(reader.clone());
        }
        let wants = filters
            .iter()
            .filter_map(|it| gate::undecided_subscribe(&reader.principal, it));
        self.permit(reader, wants.collect()).await
    }

    async fn permit(&self, peer: &Peer, mut wants: Vec<Want>) -> Result<Peer, Refusal> {
        if wants.is_empty() {
            return Ok(peer.clone());
        }
        wants.sort_unstable_by(|(_, one), (_, two)| one.cmp(two));
        wants.dedup();
        let petition = Petition {
            principal: Arc::clone(&peer.principal),
            protocol: Protocol::Http,
            address: peer.address,
            wants,
        };
        let grants = if let Some(permission) = self.remote.recall(&petition) {
            permission?
        } else {
            let (sender, receiver) = oneshot::channel();
            // The requester may be gone by then.
            let granted = move |permission| drop(sender.send(permission));
            self.remote.ask(petition, Box::new(granted));
            receiver.await.unwrap_or_else(|_| Err(lost()))?
        };
        let mut wider = peer.clone();
        Arc::make_mut(&mut wider.principal).grants.extend(grants);
        Ok(wider)
    }
}

fn lost() -> Refusal {
    let detail = "whether that is permitted could not be found out: try again";
    Refusal::new(RefusalCode::Busy, detail)
}
