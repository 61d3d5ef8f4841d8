//! CONNECT (3.1).

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;
use bytestring::ByteString;

use super::filter::{TopicName, topic_name};
use super::packet::{MessageProperties, UserProperties};
use super::property::{self, Place, Property};
use super::reader::Reader;
use super::rule::{Rule, Violation};
use super::version::{PacketKind, Qos, Version};

/// A client's wish to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// The protocol's version.
    pub version: Version,
    /// Whether to forget an earlier session (before 5.0 also: to keep none, "clean session").
    pub clean_start: bool,
    /// In seconds; 0 is off.
    pub keep_alive_s: u16,
    /// May be empty if the server is to choose one: in 5.0, and in 3.1.1 with `clean_start`.
    pub client_id: ByteString,
    /// What to publish when the connection ends without a goodbye.
    pub will: Option<Will>,
    /// A credential.
    pub user_name: Option<ByteString>,
    /// A credential. In 5.0 it may come without a user name.
    pub password: Option<Bytes>,
    /// Defaults before 5.0.
    pub properties: ConnectProperties,
}

/// The properties of a CONNECT (3.1.2.11).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectProperties {
    /// How long the session outlives the connection, in seconds; `u32::MAX` is for ever. `None` before 5.0, and
    /// as 0 in 5.0.
    pub session_expiry_s: Option<u32>,
    /// How many unacknowledged messages of `QoS` 1 and 2 the client takes; 65,535 if it does not say.
    pub receive_maximum: NonZeroU16,
    /// The largest packet that the client takes; `None` is no limit.
    pub packet_bytes_max: Option<NonZeroU32>,
    /// The highest topic alias that the server may use; 0 is none.
    pub topic_alias_maximum: u16,
    /// Whether CONNACK may hold response information.
    pub response_information: bool,
    /// Whether reason strings and user properties may stand in any packet, or only in PUBLISH, CONNACK and
    /// DISCONNECT (MQTT-3.1.2-29).
    pub problem_information: bool,
    /// Enhanced authentication.
    pub authentication: Option<Authentication>,
    /// Whatever the client likes.
    pub user_properties: UserProperties,
}

impl Default for ConnectProperties {
    fn default() -> Self {
        Self {
            session_expiry_s: None,
            receive_maximum: NonZeroU16::MAX,
            packet_bytes_max: None,
            topic_alias_maximum: 0,
            response_information: false,
            problem_information: true,
            authentication: None,
            user_properties: Vec::new(),
        }
    }
}

/// The method of enhanced authentication and its data (3.1.2.11.9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authentication {
    /// Its name.
    pub method: ByteString,
    /// What the method says.
    pub data: Option<Bytes>,
}

/// What to publish when the connection ends without a goodbye (3.1.2.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    /// Where to.
    pub topic: TopicName,
    /// The bytes.
    pub payload: Bytes,
    /// How surely.
    pub qos: Qos,
    /// Whether it becomes the topic's retained message.
    pub retain: bool,
    /// How long after the connection's end, in seconds.
    pub delay_s: u32,
    /// Everything else.
    pub properties: MessageProperties,
}

/// The connect flags (3.1.2.3).
#[derive(Clone, Copy)]
struct Flags(u8);

impl Flags {
    const RESERVED: u8 = 0x01;
    const CLEAN_START: u8 = 0x02;
    const WILL: u8 = 0x04;
    const WILL_RETAIN: u8 = 0x20;
    const PASSWORD: u8 = 0x40;
    const USER_NAME: u8 = 0x80;

    fn has(self, flag: u8) -> bool {
        self.0 & flag != 0
    }

    fn will_qos(self) -> u8 {
        self.0 >> 3 & 3
    }

    fn check(self, version: Version) -> Result<(), Rule> {
        if self.has(Self::RESERVED) {
            return Err(Rule::ConnectReservedFlag);
        }
        if !self.has(Self::WILL) && version != Version::V3 {
            // 3.1 says of these flags only that they mean nothing without a will.
            if self.will_qos() != 0 {
                return Err(Rule::WillQosWithoutWill);
            }
            if self.has(Self::WILL_RETAIN) {
                return Err(Rule::WillRetainWithoutWill);
            }
        }
        if version != Version::V5 && self.has(Self::PASSWORD) && !self.has(Self::USER_NAME) {
            return Err(Rule::PasswordWithoutUserName);
        }
        Ok(())
    }
}

/// The protocol name and level (3.1.2.1, 3.1.2.2).
pub(super) fn read_version(reader: &mut Reader<'_>) -> Result<Version, Violation> {
    let before = |rule| Violation::at_connect(rule, None);
    let name = reader.text().map_err(before)?;
    if name != "MQTT" && name != "MQIsdp" {
        return Err(before(Rule::ProtocolName));
    }
    let level = reader.byte().map_err(before)?;
    match (&*name, level) {
        ("MQIsdp", 3) => Ok(Version::V3),
        ("MQTT", 4) => Ok(Version::V4),
        ("MQTT", 5) => Ok(Version::V5),
        // Bridges set the top bit of a level that they speak. Whoever speaks a later version than 5.0 knows
        // the form of 5.0 better than that of 3.1.1.
        ("MQTT", level) if level & 0x7f >= 5 => Err(Violation::unsupported_level(Version::V5)),
        _ => Err(Violation::unsupported_level(Version::V4)),
    }
}

impl Connect {
    /// Reads what follows the protocol level.
    pub(super) fn read(
        reader: &mut Reader<'_>,
        version: Version,
        items_max: usize,
    ) -> Result<Self, Rule> {
        let flags = Flags(reader.byte()?);
        flags.check(version)?;
        let keep_alive_s = reader.two_bytes()?;
        let mut properties = ConnectProperties::default();
        if version == Version::V5 {
            properties = ConnectProperties::read(reader, items_max)?;
        }
        let client_id = reader.text()?;
        let clean_start = flags.has(Flags::CLEAN_START);
        let nameless = match version {
            Version::V3 => client_id.is_empty(),
            Version::V4 => client_id.is_empty() && !clean_start,
            Version::V5 => false,
        };
        if nameless {
            return Err(Rule::EmptyClientId);
        }
        let mut will = None;
        if flags.has(Flags::WILL) {
            will = Some(Will::read(reader, flags, version, items_max)?);
        }
        // 3.1 puts the remaining length above the flags: a user name or password may be announced and missing.
        let announced = |flag, left: usize| flags.has(flag) && (version != Version::V3 || left > 0);
        let mut user_name = None;
        if announced(Flags::USER_NAME, reader.left()) {
            user_name = Some(reader.text()?);
        }
        let mut password = None;
        if announced(Flags::PASSWORD, reader.left()) {
            password = Some(reader.binary()?);
        }
        Ok(Self {
            version,
            clean_start,
            keep_alive_s,
            client_id,
            will,
            user_name,
            password,
            properties,
        })
    }
}

impl ConnectProperties {
    fn read(reader: &mut Reader<'_>, items_max: usize) -> Result<Self, Rule> {
        let mut found = Self::default();
        let mut method = None;
        let mut data = None;
        let place = Place::Packet(PacketKind::Connect);
        property::read(reader, place, items_max, |property| {
            match property {
                Property::SessionExpiry(seconds) => found.session_expiry_s = Some(seconds),
                Property::ReceiveMaximum(number) => found.receive_maximum = number,
                Property::MaximumPacketSize(bytes) => found.packet_bytes_max = Some(bytes),
                Property::TopicAliasMaximum(number) => found.topic_alias_maximum = number,
                Property::RequestResponseInformation(wanted) => {
                    found.response_information = wanted;
                }
                Property::RequestProblemInformation(wanted) => found.problem_information = wanted,
                Property::AuthenticationMethod(name) => method = Some(name),
                Property::AuthenticationData(bytes) => data = Some(bytes),
                Property::User(name, value) => found.user_properties.push((name, value)),
                _ => return Err(Rule::MisplacedProperty),
            }
            Ok(())
        })?;
        found.authentication = match (method, data) {
            (Some(method), data) => Some(Authentication { method, data }),
            (None, Some(_)) => return Err(Rule::DataWithoutMethod),
            (None, None) => None,
        };
        Ok(found)
    }
}

impl Will {
    fn read(
        reader: &mut Reader<'_>,
        flags: Flags,
        version: Version,
        items_max: usize,
    ) -> Result<Self, Rule> {
        let qos = Qos::of(flags.will_qos()).ok_or(Rule::WillQos)?;
        let mut properties = MessageProperties::default();
        let mut delay_s = 0;
        if version == Version::V5 {
            property::read(reader, Place::Will, items_max, |property| {
                if let Property::WillDelay(seconds) = property {
                    delay_s = seconds;
                    return Ok(());
                }
                properties.take(property)
            })?;
        }
        Ok(Self {
            topic: topic_name(reader.text()?, Rule::WildcardInWillTopic)?,
            payload: reader.binary()?,
            qos,
            retain: flags.has(Flags::WILL_RETAIN),
            delay_s,
            properties,
        })
    }
}
