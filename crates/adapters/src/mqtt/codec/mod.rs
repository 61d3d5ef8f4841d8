//! MQTT packets from and to bytes, for the server's side of 3.1, 3.1.1 and 5.0.
//!
//! Pure: no session, no hub, no clock. What a client sends comes out of [`Decoder`] as a [`Packet`] whose fields
//! hold every rule that one packet alone can break; a broken rule is a [`Violation`] that knows its statement in
//! the specification and what the server has to answer. What a server sends is written by [`Connack`],
//! [`Ack`], [`Suback`], [`Unsuback`], [`Farewell`], [`Auth`] and, on the hot path, by [`PublishTemplate`].
//!
//! Rules that need more than one packet (packet identifiers in use, topic aliases over the maximum, receive
//! maximum, who may send AUTH when) belong to the conversation.

mod acknowledge;
mod connect;
mod decoder;
mod ending;
mod filter;
mod packet;
mod property;
mod publish;
mod reader;
mod reason;
mod response;
mod rule;
mod subscribe;
mod template;
mod version;
mod writer;

pub use acknowledge::{Ack, AckKind};
pub use connect::{Authentication, Connect, ConnectProperties, Will};
pub use decoder::{Decoder, PacketLimits};
pub use ending::{Auth, Disconnect, Farewell};
pub use filter::{FilterName, RequestedFilter, TopicName, Unfit};
pub use packet::{Delivery, Diagnostics, MessageProperties, Packet, UserProperties};
pub use publish::{Publish, PublishTopic};
pub use reason::ReasonCode;
pub use response::{Connack, PINGRESP, PacketTooLarge, Suback, Unsuback, Wire};
pub use rule::{Answer, Rule, Violation};
pub use subscribe::{
    RequestedSubscription, RetainHandling, Subscribe, SubscriptionOptions, Unsubscribe,
};
pub use template::{Addressing, OutboundPublish, PublishTemplate, TopicAlias};
pub use version::{PacketId, PacketKind, Qos, SubscriptionId, Version};

#[cfg(test)]
mod testing;
