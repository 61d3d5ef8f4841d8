//! One MQTT connection of a subscription.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use tidings_types::{Qos, TopicFilter};

use super::feed::FeedItem;
use crate::client::Client;
use crate::error::{Lost, Refused, TryError};
use crate::message::{Message, PayloadForm, Start};
use crate::mqtt::{
    Ack, AckKind, Asked, Incoming, MqttConnection, PacketError, Publish, RECEIVE_MAXIMUM, Suback,
    ack_packet, refused, subscribe_packet,
};

/// Messages that may come before the subscription is acknowledged and are held until then.
const EARLY_MAX: usize = 1_000;
/// What a filter of a shared subscription begins with (MQTT 5, 4.8.2).
const SHARED: &str = "$share/";
/// The packet identifier of the one SUBSCRIBE.
const SUBSCRIBE_ID: u16 = 1;

pub(super) struct MqttFeed {
    connection: MqttConnection,
    /// What was subscribed to, until it is acknowledged; one SUBSCRIBE, so that one start and one cursor stand
    /// for all filters.
    awaited: Option<Vec<TopicFilter>>,
    /// Where the server said that the subscription starts.
    cursor: Option<String>,
    /// Came, and was not given out: before the subscription was acknowledged, or in one packet.
    items: VecDeque<FeedItem>,
    /// `QoS` 2: given out and not released. At most [`RECEIVE_MAXIMUM`].
    unreleased: HashSet<u16>,
}

impl MqttFeed {
    pub(super) async fn open(
        client: &Client,
        qos: Qos,
        filters: &[TopicFilter],
        start: &Start,
    ) -> Result<Self, TryError> {
        let mut feed = Self {
            connection: client.mqtt_connection().await?,
            awaited: None,
            cursor: None,
            items: VecDeque::new(),
            unreleased: HashSet::new(),
        };
        feed.subscribe(qos, filters, start)?;
        let acknowledged = async {
            while feed.awaited.is_some() && feed.items.len() < EARLY_MAX {
                let incoming = feed.connection.receive().await?;
                feed.take(incoming)?;
            }
            Ok::<_, TryError>(())
        };
        client.in_time(acknowledged).await?;
        Ok(feed)
    }

    fn subscribe(
        &mut self,
        qos: Qos,
        filters: &[TopicFilter],
        start: &Start,
    ) -> Result<(), Refused> {
        let is_shared = |filter: &&TopicFilter| filter.as_str().starts_with(SHARED);
        let shared = filters.iter().filter(is_shared).count();
        if shared > 0 && shared < filters.len() {
            // The positions of a group and of a subscriber of its own are two.
            let detail = "a shared subscription stands alone: subscribe to the other filters apart";
            return Err(Refused::from_code("bad-filter", detail, None));
        }
        let after = after(start).filter(|_| shared == 0);
        let asked = Asked {
            filters,
            qos,
            after: after.as_deref(),
            retained: is_retained(start),
        };
        let packet = subscribe_packet(SUBSCRIBE_ID, asked)?;
        self.connection.takes(packet.len())?;
        self.connection.queue(&packet);
        self.awaited = Some(filters.to_vec());
        Ok(())
    }

    /// Where the server said that the subscription starts.
    pub(super) fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }

    /// When the server wants this client back.
    pub(super) fn told_wait(&self) -> Option<Duration> {
        self.connection.reconnect()
    }

    pub(super) async fn next(&mut self, silence: Duration) -> Result<FeedItem, TryError> {
        loop {
            if let Some(item) = self.ready()? {
                return Ok(item);
            }
            let received = tokio::time::timeout(silence, self.connection.receive()).await;
            let received = received.map_err(|_| Lost::Silent(silence))?;
            self.take(received?)?;
        }
    }

    /// What is here already.
    pub(super) fn ready(&mut self) -> Result<Option<FeedItem>, TryError> {
        while self.items.is_empty()
            && let Some(incoming) = self.connection.receive_ready()?
        {
            self.take(incoming)?;
        }
        Ok(self.items.pop_front())
    }

    /// Acknowledges what was given out, and ends the connection.
    pub(super) async fn close(self) {
        self.connection.close().await;
    }

    fn take(&mut self, incoming: Incoming) -> Result<(), TryError> {
        match incoming {
            Incoming::Publish(publish) => self.publish(publish)?,
            Incoming::Ack(Ack {
                kind: AckKind::Pubrel,
                packet_id,
                ..
            }) => {
                self.unreleased.remove(&packet_id);
                self.connection
                    .queue(&ack_packet(AckKind::Pubcomp, packet_id));
            }
            Incoming::Suback(suback) => self.subscribed(suback)?,
            _ => {}
        }
        Ok(())
    }

    /// A message, acknowledged because it is given out now, unless it was already; behind the gap that it tells of.
    fn publish(&mut self, publish: Publish) -> Result<(), Lost> {
        let packet_id = publish.packet_id;
        match publish.qos {
            Qos::AtMostOnce => {}
            Qos::AtLeastOnce => self
                .connection
                .queue(&ack_packet(AckKind::Puback, packet_id)),
            Qos::ExactlyOnce => {
                let is_new = self.unreleased.insert(packet_id);
                if self.unreleased.len() > RECEIVE_MAXIMUM.into() {
                    return Err(Lost::Packet(PacketError::Window));
                }
                self.connection
                    .queue(&ack_packet(AckKind::Pubrec, packet_id));
                if !is_new {
                    return Ok(());
                }
            }
        }
        self.items
            .extend(publish.properties.gap().map(FeedItem::Gap));
        self.items.push_back(FeedItem::Message(message(publish)));
        Ok(())
    }

    fn subscribed(&mut self, suback: Suback) -> Result<(), TryError> {
        let Suback {
            packet_id,
            reasons,
            properties,
        } = suback;
        let awaited = self.awaited.take().filter(|_| packet_id == SUBSCRIBE_ID);
        let Some(filters) = awaited else {
            return Err(Lost::Answer("a SUBACK to no SUBSCRIBE").into());
        };
        if reasons.len() != filters.len() {
            return Err(Lost::Answer("a SUBACK for other filters").into());
        }
        let mut judged = filters.iter().zip(&reasons);
        if let Some((filter, reason)) = judged.find(|(_, reason)| **reason >= 0x80) {
            let mut refused = refused(*reason, &properties);
            refused.detail = format!("`{}`: {}", filter.as_str(), refused.detail);
            return Err(refused.into());
        }
        if let Some(cursor) = properties.cursor() {
            self.cursor = Some(cursor.to_owned());
        }
        Ok(())
    }
}

/// Retained messages are asked for by a subscription option, and are no position.
fn is_retained(start: &Start) -> bool {
    start.after() == Some("retained")
}

/// The user property `tidings-after`; none begins with what is published from now on.
fn after(start: &Start) -> Option<String> {
    match start {
        Start::Latest => None,
        Start::Last(count) => Some(format!("last:{count}")),
        _ if is_retained(start) => None,
        other => other.after().map(str::to_owned),
    }
}

fn message(publish: Publish) -> Message {
    let Publish {
        topic,
        retain,
        payload,
        mut properties,
        ..
    } = publish;
    let content_type = properties.content_type.take();
    // A Tidings server says so of all text. A foreign one passes on what the publisher said, which is nothing as
    // a rule.
    let is_text = properties.is_text || properties.cursor().is_none();
    Message {
        topic,
        id: properties.cursor().unwrap_or_default().to_owned(),
        time_ms: 0,
        form: form(&payload, content_type.as_deref(), is_text),
        payload,
        event: properties.event().map(str::to_owned),
        content_type,
        headers: properties.headers(),
        retain,
        deliveries: None,
    }
}

/// As in the JSON envelope of the other protocols: JSON if it is said to be and is, text if it can be.
fn form(payload: &[u8], content_type: Option<&str>, is_text: bool) -> PayloadForm {
    if !is_text || str::from_utf8(payload).is_err() {
        return PayloadForm::Binary;
    }
    let essence = content_type.and_then(|text| text.split(';').next());
    let essence = essence.unwrap_or_default().trim().to_ascii_lowercase();
    let is_said = essence == "application/json" || essence.ends_with("+json");
    let is_json = || serde_json::from_slice::<serde::de::IgnoredAny>(payload).is_ok();
    if is_said && is_json() {
        PayloadForm::Json
    } else {
        PayloadForm::Text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_have_the_form_that_other_protocols_show() {
        let json = Some("application/json; charset=utf-8");
        for (payload, content_type, is_text, expect) in [
            (&b"{}"[..], json, true, PayloadForm::Json),
            (b"{}", Some("a/b+JSON"), true, PayloadForm::Json),
            (b"{", json, true, PayloadForm::Text),
            (b"{}", Some("text/plain"), true, PayloadForm::Text),
            (b"{}", None, true, PayloadForm::Text),
            (b"{}", json, false, PayloadForm::Binary),
            (b"\xff", None, true, PayloadForm::Binary),
        ] {
            assert_eq!(form(payload, content_type, is_text), expect, "{payload:?}");
        }
    }
}
