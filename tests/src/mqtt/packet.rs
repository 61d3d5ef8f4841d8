//! Packets, written and read.

use super::kind;
use super::property::{Properties, Received, put_text, put_variable, take, take_text};

/// The will of a connection.
#[derive(Clone, Debug, Default)]
pub struct Will {
    /// Where it is published.
    pub topic: String,
    /// What.
    pub payload: Vec<u8>,
    /// At which quality of service.
    pub qos: u8,
    /// Whether it is retained.
    pub retain: bool,
    /// Its properties; 0x18 is the delay.
    pub properties: Properties,
}

/// What a connection is opened with.
#[derive(Clone, Debug)]
pub struct Connect {
    /// 4 for 3.1.1, 5 for 5.0.
    pub version: u8,
    /// The client identifier.
    pub id: String,
    /// Clean session, or clean start.
    pub clean: bool,
    /// Seconds.
    pub keep_alive: u16,
    /// 0x11 is the session's expiry, 0x21 the receive maximum.
    pub properties: Properties,
    /// What is published if the connection breaks.
    pub will: Option<Will>,
    /// User name and password.
    pub login: Option<(String, String)>,
}

impl Connect {
    /// MQTT 3.1.1, with a clean session.
    pub fn v3(id: &str) -> Self {
        Self {
            version: 4,
            id: id.to_owned(),
            clean: true,
            keep_alive: 60,
            properties: Properties::default(),
            will: None,
            login: None,
        }
    }

    /// MQTT 5.0, with a clean start and a session that ends with the connection.
    pub fn v5(id: &str) -> Self {
        Self {
            version: 5,
            ..Self::v3(id)
        }
    }

    /// With a session that is kept.
    #[must_use]
    pub fn kept(mut self) -> Self {
        self.clean = false;
        if self.version == 5 {
            self.properties = self.properties.long(0x11, 3_600);
        }
        self
    }

    /// With properties more.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(Properties) -> Properties) -> Self {
        self.properties = change(self.properties);
        self
    }

    /// With a will.
    #[must_use]
    pub fn will(mut self, will: Will) -> Self {
        self.will = Some(will);
        self
    }

    /// With a user name and a password.
    #[must_use]
    pub fn login(mut self, user: &str, password: &str) -> Self {
        self.login = Some((user.to_owned(), password.to_owned()));
        self
    }

    /// The packet.
    pub fn packet(&self) -> Vec<u8> {
        let mut body = Vec::new();
        put_text(&mut body, b"MQTT");
        let mut flags = u8::from(self.clean) << 1;
        if let Some(will) = &self.will {
            flags |= 0x04 | will.qos << 3 | u8::from(will.retain) << 5;
        }
        if self.login.is_some() {
            flags |= 0xc0;
        }
        body.extend_from_slice(&[self.version, flags]);
        body.extend_from_slice(&self.keep_alive.to_be_bytes());
        let put_properties = |body: &mut Vec<u8>, properties: &Properties| {
            if self.version == 5 {
                put_variable(body, properties.0.len() as u32);
                body.extend_from_slice(&properties.0);
            }
        };
        put_properties(&mut body, &self.properties);
        put_text(&mut body, self.id.as_bytes());
        if let Some(will) = &self.will {
            put_properties(&mut body, &will.properties);
            put_text(&mut body, will.topic.as_bytes());
            put_text(&mut body, &will.payload);
        }
        if let Some((user, password)) = &self.login {
            put_text(&mut body, user.as_bytes());
            put_text(&mut body, password.as_bytes());
        }
        packet(kind::CONNECT << 4, &body)
    }
}

/// A whole packet with this first byte.
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    put_variable(&mut bytes, body.len() as u32);
    bytes.extend_from_slice(body);
    bytes
}

/// A PUBLISH, out or in.
#[derive(Clone, Debug, Default)]
pub struct Publish {
    /// Whether it may have been sent before.
    pub dup: bool,
    /// 0, 1 or 2.
    pub qos: u8,
    /// Out: keep it for the topic. In: it was kept.
    pub retain: bool,
    /// Where it was published.
    pub topic: String,
    /// Nothing at QoS 0.
    pub id: u16,
    /// Of one that is sent.
    pub properties: Properties,
    /// Of one that was received.
    pub received: Received,
    /// What.
    pub payload: Vec<u8>,
}

impl Publish {
    /// One to send. At QoS 1 and 2 it needs an id.
    pub fn new(topic: &str, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            topic: topic.to_owned(),
            payload: payload.into(),
            ..Self::default()
        }
    }

    /// At this quality of service, with this packet id.
    #[must_use]
    pub fn qos(mut self, qos: u8, id: u16) -> Self {
        (self.qos, self.id) = (qos, id);
        self
    }

    /// Sent again.
    #[must_use]
    pub fn again(mut self) -> Self {
        self.dup = true;
        self
    }

    /// Kept for its topic.
    #[must_use]
    pub fn retained(mut self) -> Self {
        self.retain = true;
        self
    }

    /// With properties more.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(Properties) -> Properties) -> Self {
        self.properties = change(self.properties);
        self
    }

    /// The payload as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }

    pub(super) fn packet(&self, version: u8) -> Vec<u8> {
        let mut body = Vec::new();
        put_text(&mut body, self.topic.as_bytes());
        if self.qos > 0 {
            body.extend_from_slice(&self.id.to_be_bytes());
        }
        if version == 5 {
            put_variable(&mut body, self.properties.0.len() as u32);
            body.extend_from_slice(&self.properties.0);
        }
        body.extend_from_slice(&self.payload);
        let flags = u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain);
        packet(kind::PUBLISH << 4 | flags, &body)
    }

    pub(super) fn read(flags: u8, mut body: &[u8], version: u8) -> Self {
        let qos = flags >> 1 & 3;
        let topic = String::from_utf8(take_text(&mut body)).expect("topics are UTF-8");
        let id = if qos > 0 {
            take(&mut body, 2) as u16
        } else {
            0
        };
        let received = if version == 5 {
            Received::read(&mut body)
        } else {
            Received::default()
        };
        Self {
            dup: flags & 8 != 0,
            qos,
            retain: flags & 1 != 0,
            topic,
            id,
            properties: Properties::default(),
            received,
            payload: body.to_vec(),
        }
    }
}

/// What else comes: the packet's type, its id if it has one, reason codes, properties.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The type.
    pub kind: u8,
    /// CONNACK: whether the session was there.
    pub present: bool,
    /// Zero if it has none.
    pub id: u16,
    /// One for each filter of a SUBACK or UNSUBACK, else one; zero if it was left out.
    pub reasons: Vec<u8>,
    /// Of MQTT 5.
    pub properties: Received,
}

impl Answer {
    /// The only reason.
    pub fn reason(&self) -> u8 {
        self.reasons[0]
    }

    pub(super) fn read(kind: u8, mut body: &[u8], version: u8) -> Self {
        let mut answer = Self {
            kind,
            ..Self::default()
        };
        let body = &mut body;
        match kind {
            kind::CONNACK => {
                answer.present = take(body, 1) == 1;
                answer.reasons.push(take(body, 1) as u8);
            }
            kind::DISCONNECT | kind::PINGRESP | kind::AUTH => {}
            _ => answer.id = take(body, 2) as u16,
        }
        if matches!(kind, kind::SUBACK | kind::UNSUBACK) {
            if version == 5 {
                answer.properties = Received::read(body);
            }
            answer.reasons = body.to_vec();
            return answer;
        }
        if kind != kind::CONNACK {
            let reason = if body.is_empty() { 0 } else { take(body, 1) };
            answer.reasons.push(reason as u8);
        }
        if version == 5 && !body.is_empty() {
            answer.properties = Received::read(body);
        }
        answer
    }
}

/// Any packet from the server.
#[derive(Clone, Debug)]
pub enum Packet {
    /// A message.
    Publish(Publish),
    /// Anything else.
    Answer(Answer),
}
