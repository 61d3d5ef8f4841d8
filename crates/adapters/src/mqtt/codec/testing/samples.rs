//! Valid packets of every kind and version, as bytes and as what they say.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;
use bytestring::ByteString;
use tidings_types::{PayloadFormat, Topic, TopicError, TopicFilter};

use super::super::*;
use super::Sample;

/// Every sample.
pub(in crate::mqtt::codec) fn samples() -> Vec<Sample> {
    [connects(), publishes(), acks(), requests()].concat()
}

fn sample(
    name: &'static str,
    state: Option<Version>,
    bytes: &'static [u8],
    packet: Packet,
) -> Sample {
    Sample {
        name,
        state,
        bytes,
        packet,
    }
}

fn text(text: &'static str) -> ByteString {
    ByteString::from_static(text)
}

fn bytes(bytes: &'static [u8]) -> Bytes {
    Bytes::from_static(bytes)
}

fn id(number: u16) -> PacketId {
    PacketId::new(number).unwrap()
}

fn users(pairs: &[(&'static str, &'static str)]) -> UserProperties {
    pairs
        .iter()
        .map(|(name, value)| (text(name), text(value)))
        .collect()
}

fn why() -> Diagnostics {
    Diagnostics {
        reason_string: Some(text("why")),
        user_properties: users(&[("k", "v")]),
    }
}

fn connect(connect: Connect) -> Packet {
    Packet::Connect(Box::new(connect))
}

/// A clean start, 60 seconds of keep alive and nothing else.
fn bare(version: Version) -> Connect {
    Connect {
        version,
        clean_start: true,
        keep_alive_s: 60,
        client_id: text(""),
        will: None,
        user_name: None,
        password: None,
        properties: ConnectProperties::default(),
    }
}

fn will(topic: &'static str, payload: &'static [u8]) -> Will {
    Will {
        topic: Ok(Topic::new(topic).unwrap()),
        payload: bytes(payload),
        qos: Qos::AtMostOnce,
        retain: false,
        delay_s: 0,
        properties: MessageProperties::default(),
    }
}

fn publish(publish: Publish) -> Packet {
    Packet::Publish(Box::new(publish))
}

fn message(topic: &'static str, payload: &'static [u8]) -> Publish {
    Publish {
        topic: PublishTopic::Name(Ok(Topic::new(topic).unwrap())),
        payload: bytes(payload),
        delivery: Delivery::AtMostOnce,
        duplicate: false,
        retain: false,
        properties: MessageProperties::default(),
    }
}

fn ack(kind: AckKind, ack: Ack) -> Packet {
    Packet::Ack(kind, ack)
}

fn filter(filter: &'static str) -> RequestedFilter {
    RequestedFilter::Plain(Ok(TopicFilter::new(filter).unwrap()))
}

fn share(group: &'static str, filter: &'static str) -> RequestedFilter {
    RequestedFilter::Share {
        group: text(group),
        filter: Ok(TopicFilter::new(filter).unwrap()),
    }
}

fn plain(text: &'static str, maximum_qos: Qos) -> RequestedSubscription {
    RequestedSubscription {
        filter: filter(text),
        options: SubscriptionOptions {
            maximum_qos,
            ..SubscriptionOptions::default()
        },
    }
}

fn subscribe(
    subscriptions: Vec<RequestedSubscription>,
    subscription_id: Option<SubscriptionId>,
    properties: &[(&'static str, &'static str)],
) -> Packet {
    Packet::Subscribe(Subscribe {
        packet_id: id(1),
        subscriptions,
        subscription_id,
        user_properties: users(properties),
    })
}

fn unsubscribe(
    filters: Vec<RequestedFilter>,
    properties: &[(&'static str, &'static str)],
) -> Packet {
    Packet::Unsubscribe(Unsubscribe {
        packet_id: id(1),
        filters,
        user_properties: users(properties),
    })
}

fn disconnect(
    reason: ReasonCode,
    session_expiry_s: Option<u32>,
    diagnostics: Diagnostics,
) -> Packet {
    Packet::Disconnect(Disconnect {
        reason,
        session_expiry_s,
        diagnostics,
    })
}

/// CONNECT.
#[rustfmt::skip]
fn connects() -> Vec<Sample> {
    vec![
        sample("3.1 connect", None, b"\x10\x0f\x00\x06MQIsdp\x03\x02\x00<\x00\x01a", connect(Connect { client_id: text("a"), ..bare(Version::V3) })),
        sample("3.1 connect with all", None, b"\x10\x1b\x00\x06MQIsdp\x03\xce\x00<\x00\x01a\x00\x01w\x00\x01\xff\x00\x01u\x00\x01p", connect(Connect { client_id: text("a"), will: Some(Will { qos: Qos::AtLeastOnce, ..will("w", b"\xff") }), user_name: Some(text("u")), password: Some(bytes(b"p")), ..bare(Version::V3) })),
        sample("3.1 connect whose announced credentials are missing", None, b"\x10\x0f\x00\x06MQIsdp\x03\xc2\x00<\x00\x01a", connect(Connect { client_id: text("a"), ..bare(Version::V3) })),
        sample("3.1 connect whose announced password is missing", None, b"\x10\x12\x00\x06MQIsdp\x03\xc2\x00<\x00\x01a\x00\x01u", connect(Connect { client_id: text("a"), user_name: Some(text("u")), ..bare(Version::V3) })),
        sample("3.1 connect with will bits without a will", None, b"\x10\x0f\x00\x06MQIsdp\x03:\x00<\x00\x01a", connect(Connect { client_id: text("a"), ..bare(Version::V3) })),
        sample("3.1.1 connect without client id", None, b"\x10\x0c\x00\x04MQTT\x04\x02\x00<\x00\x00", connect(bare(Version::V4))),
        sample("3.1.1 connect of a lasting session", None, b"\x10\x0d\x00\x04MQTT\x04\x00\x00\x00\x00\x01a", connect(Connect { clean_start: false, keep_alive_s: 0, client_id: text("a"), ..bare(Version::V4) })),
        sample("3.1.1 connect with all", None, b"\x10\x1b\x00\x04MQTT\x04\xf4\x00<\x00\x01a\x00\x03w/x\x00\x00\x00\x01u\x00\x02\x00\xff", connect(Connect { clean_start: false, client_id: text("a"), will: Some(Will { qos: Qos::ExactlyOnce, retain: true, ..will("w/x", b"") }), user_name: Some(text("u")), password: Some(bytes(b"\x00\xff")), ..bare(Version::V4) })),
        sample("3.1.1 connect with empty credentials", None, b"\x10\x10\x00\x04MQTT\x04\xc2\x00<\x00\x00\x00\x00\x00\x00", connect(Connect { user_name: Some(text("")), password: Some(Bytes::new()), ..bare(Version::V4) })),
        sample("3.1.1 client id with U+FEFF and control characters", None, b"\x10\x12\x00\x04MQTT\x04\x02\x00<\x00\x06\xef\xbb\xbfa\x01\x7f", connect(Connect { client_id: text("\u{feff}a\u{1}\u{7f}"), ..bare(Version::V4) })),
        sample("3.1.1 will topic that Tidings does not take", None, b"\x10\x14\x00\x04MQTT\x04\x06\x00<\x00\x01a\x00\x02w\x0a\x00\x01m", connect(Connect { client_id: text("a"), will: Some(Will { topic: Err(Unfit { text: text("w\n"), error: TopicError::Control }), ..will("w", b"m") }), ..bare(Version::V4) })),
        sample("5.0 connect", None, b"\x10\x0d\x00\x04MQTT\x05\x02\x00<\x00\x00\x00", connect(bare(Version::V5))),
        sample("5.0 connect without client id and clean start", None, b"\x10\x0d\x00\x04MQTT\x05\x00\x00<\x00\x00\x00", connect(Connect { clean_start: false, ..bare(Version::V5) })),
        sample("5.0 password without user name", None, b"\x10\x11\x00\x04MQTT\x05B\x00<\x00\x00\x01a\x00\x01p", connect(Connect { client_id: text("a"), password: Some(bytes(b"p")), ..bare(Version::V5) })),
        sample("5.0 topic alias maximum 0", None, b"\x10\x11\x00\x04MQTT\x05\x02\x00<\x03\"\x00\x00\x00\x01a", connect(Connect { client_id: text("a"), ..bare(Version::V5) })),
        sample("5.0 connect with all properties", None, b"\x109\x00\x04MQTT\x05\x02\x00<+\x11\xff\xff\xff\xff!\x00\x0a'\x00\x01\x00\x00\"\x00\x14\x19\x01\x17\x00\x15\x00\x01m\x16\x00\x02\x00d&\x00\x01k\x00\x011&\x00\x01k\x00\x012\x00\x01a", connect(Connect { client_id: text("a"), properties: ConnectProperties {
            session_expiry_s: Some(u32::MAX), receive_maximum: NonZeroU16::new(10).unwrap(), packet_bytes_max: NonZeroU32::new(65_536),
            topic_alias_maximum: 20, response_information: true, problem_information: false,
            authentication: Some(Authentication { method: text("m"), data: Some(bytes(b"\x00d")) }),
            user_properties: users(&[("k", "1"), ("k", "2")]) }, ..bare(Version::V5) })),
        sample("5.0 will with all properties", None, b"\x10=\x00\x04MQTT\x05.\x00<\x00\x00\x01a(\x18\x00\x00\x00\x1e\x01\x01\x02\x00\x00\x00<\x03\x00\x0atext/plain\x08\x00\x01r\x09\x00\x01c&\x00\x01a\x00\x01b\x00\x01w\x00\x01m", connect(Connect { client_id: text("a"), will: Some(Will { qos: Qos::AtLeastOnce, retain: true, delay_s: 30, properties: MessageProperties {
            format: Some(PayloadFormat::Text), expiry_s: Some(60), content_type: Some(text("text/plain")), response_topic: Some(text("r")),
            correlation: Some(bytes(b"c")), user_properties: users(&[("a", "b")]) }, ..will("w", b"m") }), ..bare(Version::V5) })),
    ]
}

/// PUBLISH.
#[rustfmt::skip]
fn publishes() -> Vec<Sample> {
    vec![
        sample("3.1 publish", Some(Version::V3), b"0\x04\x00\x01ax", publish(message("a", b"x"))),
        sample("3.1 publish of qos 0 marked as a duplicate", Some(Version::V3), b"8\x04\x00\x01ax", publish(message("a", b"x"))),
        sample("3.1 publish of qos 1 again", Some(Version::V3), b":\x06\x00\x01a\x00\x07x", publish(Publish { delivery: Delivery::AtLeastOnce(id(7)), duplicate: true, ..message("a", b"x") })),
        sample("3.1.1 publish without a payload", Some(Version::V4), b"1\x05\x00\x03a/b", publish(Publish { retain: true, ..message("a/b", b"") })),
        sample("3.1.1 publish of qos 1", Some(Version::V4), b"2\x07\x00\x01a\x00\x01\x00\xff", publish(Publish { delivery: Delivery::AtLeastOnce(id(1)), ..message("a", b"\x00\xff") })),
        sample("3.1.1 publish of qos 2 again and retained", Some(Version::V4), b"=\x06\x00\x01a\xff\xffx", publish(Publish { delivery: Delivery::ExactlyOnce(id(0xffff)), duplicate: true, retain: true, ..message("a", b"x") })),
        sample("3.1.1 topic of empty levels", Some(Version::V4), b"0\x05\x00\x02//x", publish(message("//", b"x"))),
        sample("3.1.1 reserved topic", Some(Version::V4), b"0\x09\x00\x06$SYS/ax", publish(message("$SYS/a", b"x"))),
        sample("3.1.1 topic with U+FEFF", Some(Version::V4), b"0\x07\x00\x04\xef\xbb\xbfax", publish(message("\u{feff}a", b"x"))),
        sample("3.1.1 topic that Tidings does not take", Some(Version::V4), b"0\x05\x00\x02a\x7fx", publish(Publish { topic: PublishTopic::Name(Err(Unfit { text: text("a\u{7f}"), error: TopicError::Control })), ..message("a", b"x") })),
        sample("5.0 publish", Some(Version::V5), b"0\x05\x00\x01a\x00x", publish(message("a", b"x"))),
        sample("5.0 publish of qos 1", Some(Version::V5), b"2\x07\x00\x01a\x00\x01\x00x", publish(Publish { delivery: Delivery::AtLeastOnce(id(1)), ..message("a", b"x") })),
        sample("5.0 publish with all properties", Some(Version::V5), b"5=\x00\x01a\x00\x025\x01\x01\x02\x00\x00\x00\x0a#\x00\x05\x03\x00\x0atext/plain\x08\x00\x03r/s\x09\x00\x02\x00\x01&\x00\x01k\x00\x011&\x00\x00\x00\x00&\x00\x01k\x00\x011\xc3\xa4", publish(Publish { topic: PublishTopic::Assign(id(5), Ok(Topic::new("a").unwrap())), delivery: Delivery::ExactlyOnce(id(2)), retain: true,
            properties: MessageProperties { format: Some(PayloadFormat::Text), expiry_s: Some(10), content_type: Some(text("text/plain")),
            response_topic: Some(text("r/s")), correlation: Some(bytes(b"\x00\x01")), user_properties: users(&[("k", "1"), ("", ""), ("k", "1")]) },
            ..message("a", "ä".as_bytes()) })),
        sample("5.0 publish by alias", Some(Version::V5), b"0\x07\x00\x00\x03#\xff\xffx", publish(Publish { topic: PublishTopic::Alias(id(0xffff)), ..message("a", b"x") })),
        sample("5.0 payload that is not the text it claims to be", Some(Version::V5), b"0\x07\x00\x01a\x02\x01\x01\xff", publish(Publish { properties: MessageProperties { format: Some(PayloadFormat::Text), ..MessageProperties::default() }, ..message("a", b"\xff") })),
        sample("5.0 payload of any bytes", Some(Version::V5), b"0\x07\x00\x01a\x02\x01\x00\xff", publish(Publish { properties: MessageProperties { format: Some(PayloadFormat::Binary), ..MessageProperties::default() }, ..message("a", b"\xff") })),
        sample("5.0 expiry 0 and empty texts", Some(Version::V5), b"0\x0f\x00\x01a\x0b\x02\x00\x00\x00\x00\x03\x00\x00\x09\x00\x00", publish(Publish { properties: MessageProperties { expiry_s: Some(0), content_type: Some(text("")), correlation: Some(Bytes::new()), ..MessageProperties::default() }, ..message("a", b"") })),
    ]
}

/// PUBACK, PUBREC, PUBREL and PUBCOMP.
#[rustfmt::skip]
fn acks() -> Vec<Sample> {
    vec![
        sample("3.1.1 puback", Some(Version::V4), b"@\x02\x124", ack(AckKind::Puback, Ack::new(id(0x1234), ReasonCode::Success))),
        sample("5.0 puback of two bytes", Some(Version::V5), b"@\x02\x00\x01", ack(AckKind::Puback, Ack::new(id(1), ReasonCode::Success))),
        sample("5.0 puback with a reason", Some(Version::V5), b"@\x03\x00\x01\x97", ack(AckKind::Puback, Ack::new(id(1), ReasonCode::QuotaExceeded))),
        sample("5.0 puback with diagnostics", Some(Version::V5), b"@\x11\x00\x01\x97\x0d\x1f\x00\x03why&\x00\x01k\x00\x01v", ack(AckKind::Puback, Ack { diagnostics: why(), ..Ack::new(id(1), ReasonCode::QuotaExceeded) })),
        sample("3.1.1 pubrec", Some(Version::V4), b"P\x02\x124", ack(AckKind::Pubrec, Ack::new(id(0x1234), ReasonCode::Success))),
        sample("5.0 pubrec of two bytes", Some(Version::V5), b"P\x02\x00\x01", ack(AckKind::Pubrec, Ack::new(id(1), ReasonCode::Success))),
        sample("5.0 pubrec with a reason", Some(Version::V5), b"P\x03\x00\x01\x97", ack(AckKind::Pubrec, Ack::new(id(1), ReasonCode::QuotaExceeded))),
        sample("5.0 pubrec with diagnostics", Some(Version::V5), b"P\x11\x00\x01\x97\x0d\x1f\x00\x03why&\x00\x01k\x00\x01v", ack(AckKind::Pubrec, Ack { diagnostics: why(), ..Ack::new(id(1), ReasonCode::QuotaExceeded) })),
        sample("3.1.1 pubrel", Some(Version::V4), b"b\x02\x124", ack(AckKind::Pubrel, Ack::new(id(0x1234), ReasonCode::Success))),
        sample("5.0 pubrel of two bytes", Some(Version::V5), b"b\x02\x00\x01", ack(AckKind::Pubrel, Ack::new(id(1), ReasonCode::Success))),
        sample("5.0 pubrel with a reason", Some(Version::V5), b"b\x03\x00\x01\x92", ack(AckKind::Pubrel, Ack::new(id(1), ReasonCode::PacketIdNotFound))),
        sample("5.0 pubrel with diagnostics", Some(Version::V5), b"b\x11\x00\x01\x92\x0d\x1f\x00\x03why&\x00\x01k\x00\x01v", ack(AckKind::Pubrel, Ack { diagnostics: why(), ..Ack::new(id(1), ReasonCode::PacketIdNotFound) })),
        sample("3.1.1 pubcomp", Some(Version::V4), b"p\x02\x124", ack(AckKind::Pubcomp, Ack::new(id(0x1234), ReasonCode::Success))),
        sample("5.0 pubcomp of two bytes", Some(Version::V5), b"p\x02\x00\x01", ack(AckKind::Pubcomp, Ack::new(id(1), ReasonCode::Success))),
        sample("5.0 pubcomp with a reason", Some(Version::V5), b"p\x03\x00\x01\x92", ack(AckKind::Pubcomp, Ack::new(id(1), ReasonCode::PacketIdNotFound))),
        sample("5.0 pubcomp with diagnostics", Some(Version::V5), b"p\x11\x00\x01\x92\x0d\x1f\x00\x03why&\x00\x01k\x00\x01v", ack(AckKind::Pubcomp, Ack { diagnostics: why(), ..Ack::new(id(1), ReasonCode::PacketIdNotFound) })),
        sample("5.0 puback without properties", Some(Version::V5), b"@\x04\x00\x01\x00\x00", ack(AckKind::Puback, Ack::new(id(1), ReasonCode::Success))),
        sample("3.1 pubrel again", Some(Version::V3), b"j\x02\x00\x01", ack(AckKind::Pubrel, Ack::new(id(1), ReasonCode::Success))),
    ]
}

/// SUBSCRIBE, UNSUBSCRIBE, PINGREQ, DISCONNECT and AUTH.
#[rustfmt::skip]
fn requests() -> Vec<Sample> {
    vec![
        sample("3.1 subscribe again", Some(Version::V3), b"\x8a\x06\x00\x01\x00\x01a\x01", subscribe(vec![plain("a", Qos::AtLeastOnce)], None, &[])),
        sample("3.1.1 subscribe", Some(Version::V4), b"\x82\x18\x00\x01\x00\x01#\x00\x00\x05+/a/+\x01\x00\x01/\x02\x00\x03a/#\x00", subscribe(vec![plain("#", Qos::AtMostOnce), plain("+/a/+", Qos::AtLeastOnce), plain("/", Qos::ExactlyOnce), plain("a/#", Qos::AtMostOnce)], None, &[])),
        sample("3.1.1 shared subscription", Some(Version::V4), b"\x82\x11\x00\x01\x00\x0c$share/g/a/#\x01", subscribe(vec![RequestedSubscription { filter: share("g", "a/#"), ..plain("a", Qos::AtLeastOnce) }], None, &[])),
        sample("3.1.1 filters that look like shares", Some(Version::V4), b"\x822\x00\x01\x00\x08$share/g\x00\x00\x09$share//a\x00\x00\x0a$share/+/a\x00\x00\x09$share/g/\x00", subscribe(vec![plain("$share/g", Qos::AtMostOnce), plain("$share//a", Qos::AtMostOnce), plain("$share/+/a", Qos::AtMostOnce), plain("$share/g/", Qos::AtMostOnce)], None, &[])),
        sample("5.0 subscribe", Some(Version::V5), b"\x82\x07\x00\x01\x00\x00\x01a\x02", subscribe(vec![plain("a", Qos::ExactlyOnce)], None, &[])),
        sample("5.0 subscribe with all options and properties", Some(Version::V5), b"\x821\x00\x01\x1d\x0b\xff\xff\xff\x7f&\x00\x0dtidings-after\x00\x06last:1\x00\x01a-\x00\x01b\x14\x00\x06$share\x00", subscribe(vec![
            RequestedSubscription { options: SubscriptionOptions { maximum_qos: Qos::AtLeastOnce, no_local: true, retain_as_published: true, retain_handling: RetainHandling::DoNotSend }, ..plain("a", Qos::AtMostOnce) },
            RequestedSubscription { options: SubscriptionOptions { no_local: true, retain_handling: RetainHandling::SendIfNew, ..SubscriptionOptions::default() }, ..plain("b", Qos::AtMostOnce) },
            plain("$share", Qos::AtMostOnce)], SubscriptionId::new(268_435_455), &[("tidings-after", "last:1")])),
        sample("5.0 shared subscription", Some(Version::V5), b"\x82\x16\x00\x01\x02\x0b\x01\x00\x0e$share/a b/+/c\x01", subscribe(vec![RequestedSubscription { filter: share("a b", "+/c"), ..plain("a", Qos::AtLeastOnce) }], SubscriptionId::new(1), &[])),
        sample("5.0 filter that Tidings does not take", Some(Version::V5), b"\x82\x09\x00\x01\x00\x00\x03a\x09b\x00", subscribe(vec![RequestedSubscription { filter: RequestedFilter::Plain(Err(Unfit { text: text("a\tb"), error: TopicError::Control })), ..plain("a", Qos::AtMostOnce) }], None, &[])),
        sample("3.1 unsubscribe again", Some(Version::V3), b"\xaa\x05\x00\x01\x00\x01a", unsubscribe(vec![filter("a")], &[])),
        sample("3.1.1 unsubscribe", Some(Version::V4), b"\xa2\x0a\x00\x01\x00\x03a/+\x00\x01#", unsubscribe(vec![filter("a/+"), filter("#")], &[])),
        sample("5.0 unsubscribe", Some(Version::V5), b"\xa2\x19\x00\x01\x07&\x00\x01k\x00\x01v\x00\x0a$share/g/a\x00\x01b", unsubscribe(vec![share("g", "a"), filter("b")], &[("k", "v")])),
        sample("3.1 pingreq", Some(Version::V3), b"\xc0\x00", Packet::Pingreq),
        sample("3.1 disconnect", Some(Version::V3), b"\xe0\x00", disconnect(ReasonCode::Success, None, Diagnostics::default())),
        sample("3.1.1 pingreq", Some(Version::V4), b"\xc0\x00", Packet::Pingreq),
        sample("3.1.1 disconnect", Some(Version::V4), b"\xe0\x00", disconnect(ReasonCode::Success, None, Diagnostics::default())),
        sample("5.0 pingreq", Some(Version::V5), b"\xc0\x00", Packet::Pingreq),
        sample("5.0 disconnect", Some(Version::V5), b"\xe0\x00", disconnect(ReasonCode::Success, None, Diagnostics::default())),
        sample("5.0 disconnect with will", Some(Version::V5), b"\xe0\x01\x04", disconnect(ReasonCode::DisconnectWithWill, None, Diagnostics::default())),
        sample("5.0 disconnect with all properties", Some(Version::V5), b"\xe0 \x98\x1e\x11\x00\x00\x00<\x1c\x00\x09elsewhere\x1f\x00\x03why&\x00\x01k\x00\x01v", disconnect(ReasonCode::AdministrativeAction, Some(60), why())),
        sample("5.0 disconnect without properties", Some(Version::V5), b"\xe0\x02\x00\x00", disconnect(ReasonCode::Success, None, Diagnostics::default())),
        sample("5.0 auth", Some(Version::V5), b"\xf0\x18\x18\x16\x15\x00\x01m\x16\x00\x02\x00d\x1f\x00\x03why&\x00\x01k\x00\x01v", Packet::Auth(Auth { reason: ReasonCode::ContinueAuthentication, authentication: Authentication { method: text("m"), data: Some(bytes(b"\x00d")) }, diagnostics: why() })),
        sample("5.0 auth anew", Some(Version::V5), b"\xf0\x06\x19\x04\x15\x00\x01m", Packet::Auth(Auth { reason: ReasonCode::Reauthenticate, authentication: Authentication { method: text("m"), data: None }, diagnostics: Diagnostics::default() })),
    ]
}
