//! The small words of every packet: protocol version, packet kind, quality of service, identifiers.

use std::fmt;
use std::num::{NonZeroU16, NonZeroU32};

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// 3.1: protocol name `MQIsdp`, level 3.
    V3,
    /// 3.1.1: protocol name `MQTT`, level 4.
    V4,
    /// 5.0: protocol name `MQTT`, level 5.
    V5,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V3 => "3.1",
            Self::V4 => "3.1.1",
            Self::V5 => "5.0",
        })
    }
}

/// Names a PUBLISH, SUBSCRIBE or UNSUBSCRIBE until it is acknowledged; never zero (MQTT-2.2.1-3).
pub type PacketId = NonZeroU16;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident $number:literal $text:literal,)*) => {
        /// The kind of a packet; its number is the upper half of the first byte (2.1.2).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum PacketKind {
            $($(#[$doc])* $name = $number,)*
        }

        impl PacketKind {
            /// The kind with this number; `None` for 0, which is reserved.
            #[must_use]
            pub const fn of(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The name in the specification, for labels.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

kinds! {
    /// Asks for a connection; the first packet of a client.
    Connect 1 "CONNECT",
    /// Grants or refuses it.
    Connack 2 "CONNACK",
    /// A message.
    Publish 3 "PUBLISH",
    /// Acknowledges a message of `QoS` 1.
    Puback 4 "PUBACK",
    /// First acknowledgement of a message of `QoS` 2.
    Pubrec 5 "PUBREC",
    /// Releases a message of `QoS` 2.
    Pubrel 6 "PUBREL",
    /// Last acknowledgement of a message of `QoS` 2.
    Pubcomp 7 "PUBCOMP",
    /// Asks for subscriptions.
    Subscribe 8 "SUBSCRIBE",
    /// Grants or refuses them.
    Suback 9 "SUBACK",
    /// Ends subscriptions.
    Unsubscribe 10 "UNSUBSCRIBE",
    /// Says that they ended.
    Unsuback 11 "UNSUBACK",
    /// A sign of life.
    Pingreq 12 "PINGREQ",
    /// Its answer.
    Pingresp 13 "PINGRESP",
    /// The goodbye.
    Disconnect 14 "DISCONNECT",
    /// A step of enhanced authentication (5.0).
    Auth 15 "AUTH",
}

impl PacketKind {
    /// Its first byte without flags.
    pub(super) const fn first_byte(self) -> u8 {
        (self as u8) << 4
    }
}

/// How surely a message is delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Qos {
    /// Sent once, never acknowledged.
    #[default]
    AtMostOnce = 0,
    /// Acknowledged; may arrive twice.
    AtLeastOnce = 1,
    /// Acknowledged twice; arrives once.
    ExactlyOnce = 2,
}

impl Qos {
    /// The level with this number; `None` for 3 and more.
    #[must_use]
    pub const fn of(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

/// The largest variable byte integer: four groups of seven bits (1.5.5).
pub(super) const VARINT_MAX: u32 = 268_435_455;

/// A number that a client gave a subscription and gets back with each of its messages (5.0, 3.8.2.1.2):
/// 1 to 268,435,455.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriptionId(NonZeroU32);

impl SubscriptionId {
    /// Takes a number in the range; `None` outside it.
    #[must_use]
    pub const fn new(number: u32) -> Option<Self> {
        match NonZeroU32::new(number) {
            Some(number) if number.get() <= VARINT_MAX => Some(Self(number)),
            _ => None,
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}
