//! The rules that one packet can break, in one table, and what a server answers to it.

use std::fmt;

use bytes::{Bytes, BytesMut};

use super::ending::Farewell;
use super::reason::ReasonCode;
use super::response::{Connack, Wire};
use super::version::{PacketKind, Version};

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident $reason:ident $old:literal $new:literal $text:literal,)*) => {
        /// A rule of the specification, or a limit of the server.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Rule {
            $($(#[$doc])* $name,)*
        }

        impl Rule {
            /// Every rule.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The reason code of 5.0.
            #[must_use]
            pub const fn reason(self) -> ReasonCode {
                match self { $(Self::$name => ReasonCode::$reason,)* }
            }

            /// Where the version's specification says it: a statement's number, as in `MQTT-3.1.2-3`, or a
            /// section where it has none. 3.1 has no numbers; its rules are named by those of 3.1.1.
            #[must_use]
            pub const fn statement(self, version: Version) -> &'static str {
                match version {
                    Version::V3 | Version::V4 => match self { $(Self::$name => $old,)* },
                    Version::V5 => match self { $(Self::$name => $new,)* },
                }
            }

            /// What is wrong, for people: the reason string, the log.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

rules! {
    // name, reason, statement in 3.1.1, statement in 5.0, text; "section 2.2" in the first is where 5.0 begins
    // what 3.1.1 does not have, so that nothing can break it there
    /// Packet type 0, and 15 before 5.0.
    ReservedType MalformedPacket "section 2.2.1" "section 2.1.2" "the packet type is reserved",
    /// CONNACK, SUBACK, UNSUBACK or PINGRESP from a client.
    ServerPacket ProtocolError "section 2.2.1" "section 2.1.2" "only a server sends this type of packet",
    /// The lower half of the first byte.
    ReservedFlags MalformedPacket "MQTT-2.2.2-2" "MQTT-2.1.3-1" "a reserved flag of the fixed header is not what it must be",
    /// The lower half of the first byte of PUBREL is 2.
    PubrelFlags MalformedPacket "MQTT-3.6.1-1" "MQTT-3.6.1-1" "the flags of a PUBREL must be 2",
    /// The lower half of the first byte of SUBSCRIBE is 2.
    SubscribeFlags MalformedPacket "MQTT-3.8.1-1" "MQTT-3.8.1-1" "the flags of a SUBSCRIBE must be 2",
    /// The lower half of the first byte of UNSUBSCRIBE is 2.
    UnsubscribeFlags MalformedPacket "MQTT-3.10.1-1" "MQTT-3.10.1-1" "the flags of an UNSUBSCRIBE must be 2",
    /// The lower half of the first byte of DISCONNECT is 0.
    DisconnectFlags MalformedPacket "MQTT-3.14.1-1" "MQTT-3.14.1-1" "the flags of a DISCONNECT must be 0",
    /// The lower half of the first byte of AUTH is 0.
    AuthFlags MalformedPacket "section 2.2.1" "MQTT-3.15.1-1" "the flags of an AUTH must be 0",
    /// More than four bytes of remaining length.
    LongRemainingLength MalformedPacket "section 2.2.3" "section 1.5.5" "the remaining length has more than four bytes",
    /// A remaining length that is spelt with a leading zero.
    PaddedRemainingLength MalformedPacket "section 2.2.3" "MQTT-1.5.5-1" "the remaining length is not in its shortest form",
    /// Over the limit of the server.
    PacketTooLarge PacketTooLarge "section 2.2.3" "MQTT-3.2.2-15" "the packet is larger than the server's maximum packet size: send less at once",
    /// Something before CONNECT.
    FirstNotConnect ProtocolError "MQTT-3.1.0-1" "MQTT-3.1.0-1" "the first packet must be a CONNECT",
    /// CONNECT again.
    SecondConnect ProtocolError "MQTT-3.1.0-2" "MQTT-3.1.0-2" "a client sends one CONNECT only",
    /// A field runs over the end of the packet, or of its properties.
    Truncated MalformedPacket "MQTT-4.8.0-1" "MQTT-4.13.1-1" "the packet ends within a field",
    /// Bytes after the last field.
    TrailingBytes MalformedPacket "MQTT-4.8.0-1" "MQTT-4.13.1-1" "there are bytes after the last field of the packet",
    /// Text that is not UTF-8.
    IllFormedText MalformedPacket "MQTT-1.5.3-1" "MQTT-1.5.4-1" "a text is not well-formed UTF-8",
    /// U+0000 in a text.
    NulInText MalformedPacket "MQTT-1.5.3-2" "MQTT-1.5.4-2" "a text holds U+0000",
    /// A packet identifier of 0.
    ZeroPacketId ProtocolError "MQTT-2.3.1-1" "MQTT-2.2.1-3" "a packet identifier is zero",
    /// Neither `MQTT` nor `MQIsdp`.
    ProtocolName UnsupportedProtocolVersion "MQTT-3.1.2-1" "MQTT-3.1.2-1" "the protocol is not MQTT",
    /// None of 3.1, 3.1.1 and 5.0.
    ProtocolLevel UnsupportedProtocolVersion "MQTT-3.1.2-2" "MQTT-3.1.2-2" "the protocol version is not supported: use 3.1, 3.1.1 or 5.0",
    /// Bit 0 of the connect flags.
    ConnectReservedFlag MalformedPacket "MQTT-3.1.2-3" "MQTT-3.1.2-3" "the reserved connect flag is set",
    /// Will `QoS` without a will.
    WillQosWithoutWill MalformedPacket "MQTT-3.1.2-13" "MQTT-3.1.2-11" "the connect flags give a will QoS but no will",
    /// Will retain without a will.
    WillRetainWithoutWill MalformedPacket "MQTT-3.1.2-15" "MQTT-3.1.2-13" "the connect flags retain a will but there is none",
    /// Will `QoS` 3.
    WillQos MalformedPacket "MQTT-3.1.2-14" "MQTT-3.1.2-12" "the will's QoS is 3",
    /// A password alone, before 5.0.
    PasswordWithoutUserName MalformedPacket "MQTT-3.1.2-22" "section 3.1.2.9" "there is a password but no user name",
    /// No client identifier where one is needed.
    EmptyClientId ClientIdentifierNotValid "MQTT-3.1.3-8" "MQTT-3.1.3-8" "the client identifier is empty: give one, or ask for a clean session",
    /// A wildcard in a will's topic.
    WildcardInWillTopic MalformedPacket "MQTT-4.7.1-1" "MQTT-4.7.0-1" "the will's topic holds a wildcard: name one topic in full",
    /// A topic or filter without a character.
    EmptyTopic MalformedPacket "MQTT-4.7.3-1" "MQTT-4.7.3-1" "a topic or filter is empty: name at least one level",
    /// Receive maximum 0.
    ZeroReceiveMaximum ProtocolError "section 2.2" "section 3.1.2.11.3" "the receive maximum is zero",
    /// Maximum packet size 0.
    ZeroMaximumPacketSize ProtocolError "section 2.2" "section 3.1.2.11.4" "the maximum packet size is zero",
    /// A flag that is neither 0 nor 1.
    FlagProperty ProtocolError "section 2.2" "section 3.1.2.11.6" "a property that must be 0 or 1 is neither",
    /// Authentication data alone.
    DataWithoutMethod ProtocolError "section 2.2" "section 3.1.2.11.10" "there is authentication data but no authentication method",
    /// A property identifier that is not in the table.
    UnknownProperty MalformedPacket "section 2.2" "section 2.2.2.2" "a property is unknown",
    /// A property of another packet.
    MisplacedProperty MalformedPacket "section 2.2" "section 2.2.2.2" "a property does not belong in this packet",
    /// A property twice.
    RepeatedProperty ProtocolError "section 2.2" "section 2.2.2.2" "a property stands there twice",
    /// A variable byte integer with a leading zero.
    PaddedInteger MalformedPacket "section 2.2" "MQTT-1.5.5-1" "a variable byte integer is not in its shortest form",
    /// A variable byte integer of more than four bytes.
    LongInteger MalformedPacket "section 2.2" "section 1.5.5" "a variable byte integer has more than four bytes",
    /// More filters or user properties than the server takes.
    TooManyItems QuotaExceeded "section 3.8.3" "section 4.13.2" "the packet holds more filters or user properties than the server takes: use several packets",
    /// PUBLISH of `QoS` 3.
    PublishQos MalformedPacket "MQTT-3.3.1-4" "MQTT-3.3.1-4" "the message's QoS is 3: use 0, 1 or 2",
    /// DUP with `QoS` 0.
    DuplicateAtMostOnce MalformedPacket "MQTT-3.3.1-2" "MQTT-3.3.1-2" "a message of QoS 0 is marked as a duplicate",
    /// A wildcard in a topic that is published to.
    WildcardInTopic MalformedPacket "MQTT-3.3.2-2" "MQTT-3.3.2-2" "the topic holds a wildcard: publish to one topic by its full name",
    /// Neither topic nor alias.
    NoTopic ProtocolError "MQTT-4.7.3-1" "section 3.3.2.1" "there is neither a topic nor a topic alias: name the topic to publish to",
    /// Topic alias 0.
    ZeroTopicAlias TopicAliasInvalid "section 2.2" "MQTT-3.3.2-8" "the topic alias is zero",
    /// A subscription identifier in a client's PUBLISH.
    SubscriptionIdInPublish ProtocolError "section 2.2" "MQTT-3.3.4-6" "a client's PUBLISH holds a subscription identifier",
    /// A payload format that is neither 0 nor 1.
    PayloadFormat ProtocolError "section 2.2" "section 3.3.2.3.2" "the payload format indicator is neither 0 nor 1",
    /// A wildcard in a response topic.
    WildcardInResponseTopic ProtocolError "section 2.2" "MQTT-3.3.2-14" "the response topic holds a wildcard: name one topic in full",
    /// A reason code that no client sends in PUBACK.
    PubackReason ProtocolError "section 2.2" "MQTT-3.4.2-1" "the reason code may not stand in a client's PUBACK",
    /// A reason code that no client sends in PUBREC.
    PubrecReason ProtocolError "section 2.2" "MQTT-3.5.2-1" "the reason code may not stand in a client's PUBREC",
    /// A reason code that no client sends in PUBREL.
    PubrelReason ProtocolError "section 2.2" "MQTT-3.6.2-1" "the reason code may not stand in a client's PUBREL",
    /// A reason code that no client sends in PUBCOMP.
    PubcompReason ProtocolError "section 2.2" "MQTT-3.7.2-1" "the reason code may not stand in a client's PUBCOMP",
    /// A reason code that no client sends in DISCONNECT.
    DisconnectReason ProtocolError "section 2.2" "MQTT-3.14.2-1" "the reason code may not stand in a client's DISCONNECT",
    /// A reason code that no client sends in AUTH.
    AuthReason ProtocolError "section 2.2" "MQTT-3.15.2-1" "the reason code may not stand in a client's AUTH",
    /// AUTH without a method.
    AuthWithoutMethod ProtocolError "section 2.2" "section 3.15.2.2.2" "an AUTH must name its authentication method",
    /// SUBSCRIBE without a filter.
    NothingToSubscribe ProtocolError "MQTT-3.8.3-3" "MQTT-3.8.3-2" "a SUBSCRIBE must hold a topic filter",
    /// UNSUBSCRIBE without a filter.
    NothingToUnsubscribe ProtocolError "MQTT-3.10.3-2" "MQTT-3.10.3-2" "an UNSUBSCRIBE must hold a topic filter",
    /// Reserved bits of the subscription options.
    SubscriptionReservedBits MalformedPacket "MQTT-3-8.3-4" "MQTT-3.8.3-5" "a reserved bit of the subscription options is set",
    /// A subscription with `QoS` 3.
    SubscriptionQos ProtocolError "MQTT-3-8.3-4" "section 3.8.3.1" "the subscription's QoS is 3: use 0, 1 or 2",
    /// Retain handling 3.
    RetainHandling ProtocolError "section 2.2" "section 3.8.3.1" "the retain handling is 3",
    /// No local with a shared subscription.
    SharedNoLocal ProtocolError "section 2.2" "MQTT-3.8.3-4" "a shared subscription cannot be no-local: leave that option out",
    /// Subscription identifier 0.
    ZeroSubscriptionId ProtocolError "section 2.2" "section 3.8.2.1.2" "the subscription identifier is zero",
    /// `#` that is not alone in the last level.
    MisplacedHash MalformedPacket "MQTT-4.7.1-2" "MQTT-4.7.1-1" "`#` must stand alone as the last level of a filter, as in `a/#`",
    /// `+` that is not alone in its level.
    MisplacedPlus MalformedPacket "MQTT-4.7.1-3" "MQTT-4.7.1-2" "`+` must stand alone in its level of a filter, as in `a/+/b`",
    /// A share name that is empty or holds a wildcard.
    ShareName MalformedPacket "section 4.7.2" "MQTT-4.8.2-1" "the share name is empty or holds a wildcard: write `$share/name/filter`",
    /// A share name without a filter.
    ShareFilter MalformedPacket "section 4.7.2" "MQTT-4.8.2-2" "a shared subscription must name a filter after its share name: write `$share/name/filter`",
}

/// What a server sends before it closes the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing: before 5.0 a server has no word for it (MQTT-3.1.4-1, MQTT-4.8.0-1), and of a peer that said
    /// nothing of MQTT it is not known what it would understand.
    Close,
    /// A CONNACK in the form of this version.
    Connack(Version),
    /// A DISCONNECT (5.0, 4.13.1).
    Disconnect,
}

/// A client broke a rule. The connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// The client's version, if it had said it.
    pub version: Option<Version>,
    /// What to send before closing.
    pub answer: Answer,
}

impl Violation {
    /// A rule broken in the CONNECT, or before it.
    pub(super) fn at_connect(rule: Rule, version: Option<Version>) -> Self {
        let answer = match version {
            // 4.13.1 lets the server say why with a CONNACK.
            Some(Version::V5) if rule.reason().server_may_send(PacketKind::Connack) => {
                Answer::Connack(Version::V5)
            }
            // 3.1.1 has a return code for this one only (MQTT-3.1.3-8).
            Some(version) if rule == Rule::EmptyClientId => Answer::Connack(version),
            _ => Answer::Close,
        };
        Self {
            rule,
            version,
            answer,
        }
    }

    /// A protocol level that is not spoken here, answered in the form of `nearest` (MQTT-3.1.2-2).
    pub(super) fn unsupported_level(nearest: Version) -> Self {
        Self {
            rule: Rule::ProtocolLevel,
            version: None,
            answer: Answer::Connack(nearest),
        }
    }

    /// A rule broken after the CONNECT.
    pub(super) fn connected(rule: Rule, version: Version) -> Self {
        Self {
            rule,
            version: Some(version),
            answer: match version {
                Version::V5 => Answer::Disconnect,
                Version::V3 | Version::V4 => Answer::Close,
            },
        }
    }

    /// The reason code of 5.0, also where it cannot be sent.
    #[must_use]
    pub const fn reason(&self) -> ReasonCode {
        self.rule.reason()
    }

    /// Where the specification says it.
    #[must_use]
    pub fn statement(&self) -> &'static str {
        self.rule.statement(self.version.unwrap_or(Version::V4))
    }

    /// What is wrong, for people.
    #[must_use]
    pub const fn text(&self) -> &'static str {
        self.rule.text()
    }

    /// The packet to send before closing, if there is one, to a client that has not said yet how large a packet it
    /// takes: without a reason string.
    #[must_use]
    pub fn farewell(&self) -> Option<Bytes> {
        let mut out = BytesMut::new();
        let written = match self.answer {
            Answer::Close => return None,
            Answer::Connack(version) => {
                Connack::refused(self.reason()).encode(Wire::new(version), &mut out)
            }
            Answer::Disconnect => {
                Farewell::new(self.reason()).encode(Wire::new(Version::V5), &mut out)
            }
        };
        (written.is_ok() && !out.is_empty()).then(|| out.freeze())
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.text(), self.statement())
    }
}

impl std::error::Error for Violation {}
