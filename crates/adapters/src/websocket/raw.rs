//! A raw WebSocket on one topic, or on a filter: each message out is a payload, each message in is published.
//!
//! There is no place in it for anything but payloads: a gap is not told (it is counted, and `tidings.v1` and SSE
//! tell it), and a refusal closes the connection with its code and reason.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tidings_ports::{
    Command, Conversation, Delivery, Event, Framed, Framing, Start, SubscriptionKey, Tag, Turn,
    Until,
};
use tidings_types::{
    Draft, Limits, Origin, PayloadFormat, Properties, Protocol, Qos, Refusal, RefusalCode,
    TopicFilter,
};

use super::extension::Deflate;
use super::format;
use super::link::{Link, Received};

/// The name in the handshake, for clients that offer another one with it, which would not connect if none were chosen.
pub const RAW_SUBPROTOCOL: &str = "tidings.raw";

/// The one subscription.
const KEY: SubscriptionKey = SubscriptionKey(0);
/// Of the subscription; publishes count from 1.
const SUBSCRIBE: Tag = Tag(0);

/// What a raw WebSocket was opened with.
#[derive(Clone, Debug)]
pub struct RawOptions {
    /// What it subscribes to. Without a wildcard it is also the topic that it publishes to.
    pub filter: TopicFilter,
    /// Where the subscription starts.
    pub start: Start,
    /// Whether the peer gets its own messages too.
    pub echo: bool,
    /// The compression that the handshake agreed on.
    pub deflate: Option<Deflate>,
}

/// One peer on a raw WebSocket.
pub struct RawConversation {
    link: Link,
    filter: TopicFilter,
    /// Taken when the connection opens.
    start: Option<Start>,
    echo: bool,
    /// The last publish's tag.
    tag: u64,
}

impl RawConversation {
    /// A conversation for a connection whose handshake is done.
    #[must_use]
    pub fn new(options: RawOptions, limits: Arc<Limits>) -> Self {
        let message_bytes_max = limits.message_bytes_max;
        Self {
            link: Link::new(limits, options.deflate, message_bytes_max),
            filter: options.filter,
            start: Some(options.start),
            echo: options.echo,
            tag: SUBSCRIBE.0,
        }
    }

    fn publish(&mut self, payload: Bytes, payload_format: PayloadFormat, turn: &mut Turn<'_>) {
        let Some(topic) = self.filter.as_topic() else {
            let detail = "a wildcard cannot be published to: open a WebSocket on one topic, or use tidings.v1 on /v1/ws";
            self.stop(turn, |link, turn| {
                link.refuse(RefusalCode::BadTopic, detail, turn);
            });
            return;
        };
        self.tag += 1;
        let draft = Draft {
            topic,
            payload,
            format: payload_format,
            ttl: None,
            retain: false,
            qos: Qos::default(),
            key: None,
            origin: Origin::default(),
            properties: Properties::default(),
        };
        turn.commands.push(Command::Publish {
            tag: Tag(self.tag),
            drafts: vec![draft],
            save: None,
            settle: Vec::new(),
        });
    }

    /// Closes, and ends the subscription, so that no message follows the close frame.
    fn stop(&mut self, turn: &mut Turn<'_>, close: impl FnOnce(&mut Link, &mut Turn<'_>)) {
        if self.link.is_open() {
            turn.commands.push(Command::Unsubscribe {
                tag: SUBSCRIBE,
                key: KEY,
                forget: false,
            });
        }
        close(&mut self.link, turn);
    }

    /// Closes for a refusal that the hub spoke, and counted.
    fn refused(&mut self, refusal: &Refusal, turn: &mut Turn<'_>) {
        self.stop(turn, |link, turn| {
            link.close(refusal.code.close_code(), &refusal.detail, turn);
        });
    }
}

impl Conversation for RawConversation {
    fn protocol(&self) -> Protocol {
        Protocol::WebSocket
    }

    fn opened(&mut self, turn: &mut Turn<'_>) {
        self.link.opened(turn);
        turn.commands.push(Command::Subscribe {
            tag: SUBSCRIBE,
            key: KEY,
            filters: vec![self.filter.clone()],
            start: self.start.take().unwrap_or(Start::Latest),
            framing: Framing::Shared(format::raw(self.link.deflate)),
            echo: self.echo,
            until: Until::Ended,
            group: None,
        });
    }

    fn receive(&mut self, input: &mut BytesMut, turn: &mut Turn<'_>) {
        while let Some(received) = self.link.receive(input, turn) {
            match received {
                Received::Text(payload) => self.publish(payload, PayloadFormat::Text, turn),
                Received::Binary(payload) => self.publish(payload, PayloadFormat::Binary, turn),
            }
        }
    }

    fn event(&mut self, event: Event, turn: &mut Turn<'_>) {
        match event {
            Event::Refused { refusal, .. } | Event::Lost { refusal, .. } => {
                self.refused(&refusal, turn);
            }
            Event::Drain {
                reconnect_after,
                refusal,
            } => self.stop(turn, |link, turn| {
                link.drain(reconnect_after, &refusal, turn);
            }),
            Event::PeerFinished => self.link.peer_finished(turn),
            _ => {}
        }
    }

    fn tick(&mut self, turn: &mut Turn<'_>) {
        self.link.tick(turn);
    }

    fn frame(&mut self, _delivery: Delivery<'_>, _frames: &mut Vec<Bytes>) -> Framed {
        debug_assert!(false, "raw messages are shared frames");
        Framed::Unfit
    }
}

#[cfg(test)]
#[path = "raw_tests.rs"]
mod tests;
