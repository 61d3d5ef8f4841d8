//! Reason codes of 5.0 (2.4), in one table: number, name, and in which packets who may send them.

use std::fmt;

use tidings_types::RefusalCode;

use super::version::{PacketKind, Qos};

/// A set of packet kinds, a bit each.
const fn kinds(list: &[PacketKind]) -> u16 {
    let mut set = 0;
    let mut at = 0;
    while at < list.len() {
        set |= 1 << list[at] as u8;
        at += 1;
    }
    set
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident $number:literal $text:literal
        server [$($server:ident)*] client [$($client:ident)*],)*) => {
        /// Why, in one byte: what became of a request, or why the connection ends.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum ReasonCode {
            $($(#[$doc])* $name = $number,)*
        }

        impl ReasonCode {
            /// Every code, ascending.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code with this number; `None` if the specification does not list it.
            #[must_use]
            pub const fn of(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The name in the specification.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            const fn server_kinds(self) -> u16 {
                match self { $(Self::$name => const { kinds(&[$(PacketKind::$server,)*]) },)* }
            }

            const fn client_kinds(self) -> u16 {
                match self { $(Self::$name => const { kinds(&[$(PacketKind::$client,)*]) },)* }
            }
        }
    };
}

reasons! {
    /// Also "normal disconnection" and "granted `QoS` 0".
    Success 0x00 "Success"
        server [Connack Puback Pubrec Pubrel Pubcomp Suback Unsuback Auth]
        client [Puback Pubrec Pubrel Pubcomp Disconnect],
    /// The subscription gets messages of at most `QoS` 1.
    GrantedQos1 0x01 "Granted QoS 1" server [Suback] client [],
    /// The subscription gets messages of at most `QoS` 2.
    GrantedQos2 0x02 "Granted QoS 2" server [Suback] client [],
    /// The client goes, and its will is to be published nevertheless.
    DisconnectWithWill 0x04 "Disconnect with Will Message" server [] client [Disconnect],
    /// Accepted, but nobody subscribes to it.
    NoMatchingSubscribers 0x10 "No matching subscribers" server [Puback Pubrec] client [],
    /// There was nothing to unsubscribe.
    NoSubscriptionExisted 0x11 "No subscription existed" server [Unsuback] client [],
    /// One more step of authentication.
    ContinueAuthentication 0x18 "Continue authentication" server [Auth] client [Auth],
    /// The client asks to authenticate anew.
    Reauthenticate 0x19 "Re-authenticate" server [] client [Auth],
    /// None of the others, or not to be told.
    UnspecifiedError 0x80 "Unspecified error"
        server [Connack Puback Pubrec Suback Unsuback Disconnect] client [Puback Pubrec Disconnect],
    /// The packet cannot be parsed.
    MalformedPacket 0x81 "Malformed Packet" server [Connack Disconnect] client [Disconnect],
    /// The packet is not permitted, or not now.
    ProtocolError 0x82 "Protocol Error" server [Connack Disconnect] client [Disconnect],
    /// Valid, but not processed by this receiver.
    ImplementationSpecificError 0x83 "Implementation specific error"
        server [Connack Puback Pubrec Suback Unsuback Disconnect] client [Puback Pubrec Disconnect],
    /// The server does not speak this version.
    UnsupportedProtocolVersion 0x84 "Unsupported Protocol Version" server [Connack] client [],
    /// The client identifier is not permitted.
    ClientIdentifierNotValid 0x85 "Client Identifier not valid" server [Connack] client [],
    /// The credential is not accepted.
    BadUserNameOrPassword 0x86 "Bad User Name or Password" server [Connack] client [],
    /// Not permitted to do this.
    NotAuthorized 0x87 "Not authorized"
        server [Connack Puback Pubrec Suback Unsuback Disconnect] client [Puback Pubrec],
    /// The server is not available.
    ServerUnavailable 0x88 "Server unavailable" server [Connack] client [],
    /// The server is busy; later may help.
    ServerBusy 0x89 "Server busy" server [Connack Disconnect] client [],
    /// An administrator banned the client.
    Banned 0x8a "Banned" server [Connack] client [],
    /// The server goes down.
    ServerShuttingDown 0x8b "Server shutting down" server [Disconnect] client [],
    /// The method of authentication is unknown, or not the one in use.
    BadAuthenticationMethod 0x8c "Bad authentication method" server [Connack Disconnect] client [],
    /// Nothing came for one and a half times the keep alive.
    KeepAliveTimeout 0x8d "Keep Alive timeout" server [Disconnect] client [],
    /// Another connection came with the same client identifier.
    SessionTakenOver 0x8e "Session taken over" server [Disconnect] client [],
    /// Well formed, but not a filter that is accepted here.
    TopicFilterInvalid 0x8f "Topic Filter invalid" server [Suback Unsuback Disconnect] client [],
    /// Well formed, but not a topic that is accepted here.
    TopicNameInvalid 0x90 "Topic Name invalid"
        server [Connack Puback Pubrec Disconnect] client [Puback Pubrec Disconnect],
    /// The packet identifier is in use.
    PacketIdInUse 0x91 "Packet Identifier in use"
        server [Puback Pubrec Suback Unsuback] client [Puback Pubrec],
    /// The packet identifier is not known.
    PacketIdNotFound 0x92 "Packet Identifier not found" server [Pubrel Pubcomp] client [Pubrel Pubcomp],
    /// More unacknowledged messages than the receive maximum.
    ReceiveMaximumExceeded 0x93 "Receive Maximum exceeded" server [Disconnect] client [Disconnect],
    /// A topic alias of 0, over the maximum, or never assigned.
    TopicAliasInvalid 0x94 "Topic Alias invalid" server [Disconnect] client [Disconnect],
    /// Larger than the maximum packet size.
    PacketTooLarge 0x95 "Packet too large" server [Connack Disconnect] client [Disconnect],
    /// Too many messages in a time.
    MessageRateTooHigh 0x96 "Message rate too high" server [Disconnect] client [Disconnect],
    /// Over a limit.
    QuotaExceeded 0x97 "Quota exceeded"
        server [Connack Puback Pubrec Suback Disconnect] client [Puback Pubrec Disconnect],
    /// An administrator ended the connection.
    AdministrativeAction 0x98 "Administrative action" server [Disconnect] client [Disconnect],
    /// The payload is not what its format indicator says.
    PayloadFormatInvalid 0x99 "Payload format invalid"
        server [Connack Puback Pubrec Disconnect] client [Puback Pubrec Disconnect],
    /// Retained messages are not available.
    RetainNotSupported 0x9a "Retain not supported" server [Connack Disconnect] client [],
    /// Over the maximum `QoS`.
    QosNotSupported 0x9b "QoS not supported" server [Connack Disconnect] client [],
    /// Use the server that is named, for now.
    UseAnotherServer 0x9c "Use another server" server [Connack Disconnect] client [],
    /// Use the server that is named, from now on.
    ServerMoved 0x9d "Server moved" server [Connack Disconnect] client [],
    /// Shared subscriptions are not available.
    SharedSubscriptionsNotSupported 0x9e "Shared Subscriptions not supported"
        server [Suback Disconnect] client [],
    /// Too many connections in a time.
    ConnectionRateExceeded 0x9f "Connection rate exceeded" server [Connack Disconnect] client [],
    /// The connection was open for as long as is permitted.
    MaximumConnectTime 0xa0 "Maximum connect time" server [Disconnect] client [],
    /// Subscription identifiers are not available.
    SubscriptionIdsNotSupported 0xa1 "Subscription Identifiers not supported"
        server [Suback Disconnect] client [],
    /// Filters with wildcards are not available.
    WildcardSubscriptionsNotSupported 0xa2 "Wildcard Subscriptions not supported"
        server [Suback Disconnect] client [],
}

impl ReasonCode {
    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Whether it says that something failed (0x80 and more).
    #[must_use]
    pub const fn is_failure(self) -> bool {
        self as u8 >= 0x80
    }

    /// The code that grants a subscription this level.
    #[must_use]
    pub const fn granted(qos: Qos) -> Self {
        match qos {
            Qos::AtMostOnce => Self::Success,
            Qos::AtLeastOnce => Self::GrantedQos1,
            Qos::ExactlyOnce => Self::GrantedQos2,
        }
    }

    /// Whether a server may send it in this kind of packet.
    #[must_use]
    pub const fn server_may_send(self, kind: PacketKind) -> bool {
        self.server_kinds() & (1 << kind as u8) != 0
    }

    /// Whether a client may send it in this kind of packet.
    #[must_use]
    pub const fn client_may_send(self, kind: PacketKind) -> bool {
        self.client_kinds() & (1 << kind as u8) != 0
    }

    /// The code of a refusal in this kind of packet: the table's, or where the packet may not carry that the one that
    /// says most of what it may.
    #[must_use]
    pub fn of_refusal(refusal: RefusalCode, kind: PacketKind) -> Self {
        let quota = (refusal == RefusalCode::RateLimited).then_some(Self::QuotaExceeded);
        [Self::of(refusal.mqtt_reason()), quota]
            .into_iter()
            .flatten()
            .find(|code| code.server_may_send(kind))
            .unwrap_or(Self::UnspecifiedError)
    }

    /// The return code in a CONNACK of 3.1 and 3.1.1 (3.2.2.3). `None` if none of them fits: then the server
    /// closes without a CONNACK (MQTT-3.2.2-6).
    #[must_use]
    pub const fn return_code(self) -> Option<u8> {
        match self {
            Self::Success => Some(0),
            Self::UnsupportedProtocolVersion => Some(1),
            Self::ClientIdentifierNotValid => Some(2),
            Self::ServerUnavailable
            | Self::ServerBusy
            | Self::UnspecifiedError
            | Self::ImplementationSpecificError
            | Self::QuotaExceeded
            | Self::UseAnotherServer
            | Self::ServerMoved
            | Self::ConnectionRateExceeded => Some(3),
            Self::BadUserNameOrPassword => Some(4),
            Self::NotAuthorized
            | Self::Banned
            | Self::BadAuthenticationMethod
            | Self::TopicNameInvalid => Some(5),
            _ => None,
        }
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (0x{:02x})", self.name(), self.number())
    }
}

#[cfg(test)]
#[path = "reason_tests.rs"]
mod tests;
