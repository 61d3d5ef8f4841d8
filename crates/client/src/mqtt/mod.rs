//! A small MQTT 5 client (OASIS MQTT Version 5.0): the codec, which does no I/O, a connection, and publishing
//! over it.
//!
//! Made here and not taken from a library (`rumqttc` 0.25 is the one to look at) because this client resumes by
//! cursor and idempotency key and not by the broker's session: it needs to know which message an acknowledgement
//! is for, to resend the others in the order of publishing, and to show the reason string of every refusal.
//! `rumqttc` resends in the order of packet identifiers, drops the reason string of a refused connection, never
//! gives back the place of a refused `QoS` 2 publish in its window, and brings eleven more crates.

mod codec;
mod connection;
mod fields;
mod properties;
mod publishing;
mod reason;

pub use codec::{
    Ack, AckKind, Asked, Connack, Disconnect, Incoming, Publish, Suback, Unsendable, ack_packet,
    connect_packet, publish_packet, split_packet, subscribe_packet,
};
pub use connection::MqttConnection;
pub(crate) use connection::RECEIVE_MAXIMUM;
pub use fields::PacketError;
pub(crate) use fields::{put_text, put_varint, varint};
pub use properties::Properties;
pub use publishing::{Answer, MqttPublishing};
pub(crate) use reason::refused;

#[cfg(test)]
mod codec_tests;
#[cfg(test)]
mod publishing_tests;
