//! The filters, and how each protocol subscribes and publishes.

use std::net::{SocketAddr, TcpStream};

use crate::link::{ask, connect, websocket};
use crate::report::Failure;
use crate::wire::mqtt::{self, Qos};
use crate::wire::websocket_text;

const REGIONS: usize = 100;
/// Filters in one request, where a protocol takes several.
const FILTERS_AT_ONCE: usize = 100;

/// What is subscribed to.
#[derive(Clone, Copy, Debug)]
pub enum Filters {
    /// So many topics, each by a connection of its own.
    Topics { count: usize },
    /// So many filters, three for each device, dealt out to the connections.
    Wildcards { count: usize, connections: usize },
}

impl Filters {
    pub fn count(self) -> usize {
        match self {
            Self::Topics { count } | Self::Wildcards { count, .. } => count,
        }
    }

    pub fn connections(self) -> usize {
        match self {
            Self::Topics { count } => count,
            Self::Wildcards { connections, .. } => connections,
        }
    }

    /// How many filters match a topic that is published to.
    pub fn matches(self) -> usize {
        match self {
            Self::Topics { .. } => 1,
            Self::Wildcards { .. } => 3,
        }
    }

    /// Topics that are published to.
    pub fn topics(self) -> usize {
        self.count() / self.matches()
    }

    /// A topic's name, with MQTT's separator.
    pub fn topic(self, number: usize) -> String {
        match self {
            Self::Topics { .. } => format!("bench/t{number}"),
            Self::Wildcards { .. } => format!("fleet/r{}/d{number}/alarm", number % REGIONS),
        }
    }

    /// A filter, with MQTT's separator and wildcards.
    fn filter(self, number: usize) -> String {
        let device = number / 3;
        let region = device % REGIONS;
        match (self, number % 3) {
            (Self::Topics { .. }, _) => self.topic(number),
            (Self::Wildcards { .. }, 0) => format!("fleet/r{region}/d{device}/+"),
            (Self::Wildcards { .. }, 1) => format!("fleet/+/d{device}/alarm"),
            (Self::Wildcards { .. }, _) => format!("fleet/r{region}/d{device}/#"),
        }
    }

    /// Those of one connection.
    fn of_connection(self, connection: usize) -> Vec<String> {
        let numbers = (connection..self.count()).step_by(self.connections());
        numbers.map(|number| self.filter(number)).collect()
    }

    /// The connections that get what is published to a topic, each once: the filters of a device are next to each other,
    /// and so on different connections.
    pub fn receivers(self, topic: usize) -> impl Iterator<Item = usize> {
        let first = topic * self.matches();
        (first..first + self.matches()).map(move |filter| filter % self.connections())
    }
}

/// A protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    Tidings,
    Nats,
    Mqtt,
}

impl Wire {
    /// Opens a connection with its filters.
    pub fn subscriber(
        self,
        address: SocketAddr,
        filters: Filters,
        connection: usize,
    ) -> Result<TcpStream, Failure> {
        let wanted = filters.of_connection(connection);
        let stream = match (self, filters) {
            (Self::Tidings, Filters::Topics { .. }) => {
                websocket(address, &format!("/v1/topics/{}", wanted[0]), "")?.0
            }
            (Self::Tidings, Filters::Wildcards { .. }) => tidings_subscriber(address, &wanted)?,
            (Self::Nats, _) => {
                let mut stream = nats(address)?;
                let subscribe = |(number, filter): (i32, &String)| {
                    format!("SUB {} {number}\r\n", subject(filter))
                };
                let requests: Vec<String> = (1..).zip(&wanted).map(subscribe).collect();
                let request = requests.concat() + "PING\r\n";
                ask(&mut stream, request.as_bytes(), b"PONG\r\n")?;
                stream
            }
            (Self::Mqtt, _) => mqtt_subscriber(address, connection, &wanted)?,
        };
        stream.set_nonblocking(true)?;
        Ok(stream)
    }

    /// Opens a connection for publishing.
    pub fn publisher(self, address: SocketAddr) -> Result<TcpStream, Failure> {
        let stream = match self {
            Self::Tidings => websocket(address, "/v1/ws", "")?.0,
            Self::Nats => nats(address)?,
            Self::Mqtt => mqtt_client(address, "publisher")?,
        };
        stream.set_nonblocking(true)?;
        Ok(stream)
    }

    /// One publish.
    pub fn publish(self, topic: &str, payload: &str) -> Vec<u8> {
        let length = payload.len();
        match self {
            Self::Tidings => {
                let text =
                    format!(r#"{{"op":"publish","id":1,"topic":"{topic}","data":"{payload}"}}"#);
                websocket_text(text.as_bytes())
            }
            Self::Nats => format!("PUB {} {length}\r\n{payload}\r\n", subject(topic)).into_bytes(),
            Self::Mqtt => mqtt::publish(topic, payload, None),
        }
    }
}

/// The same topic or filter as NATS writes it.
fn subject(filter: &str) -> String {
    filter.replace('/', ".").replace('+', "*").replace('#', ">")
}

fn tidings_subscriber(address: SocketAddr, filters: &[String]) -> Result<TcpStream, Failure> {
    let (mut stream, _) = websocket(address, "/v1/ws", "")?;
    for filters in filters.chunks(FILTERS_AT_ONCE) {
        let request = serde_json::json!({"op": "subscribe", "id": "now", "topics": filters});
        let request = websocket_text(request.to_string().as_bytes());
        let answer = ask(&mut stream, &request, br#""id":"now""#)?;
        if memchr::memmem::find(&answer, br#""op":"ok""#).is_none() {
            let text = String::from_utf8_lossy(&answer);
            return Err(Failure::new(format!("not subscribed: {text}")));
        }
        // The rest of a long answer is read, and holds no marker, with the first messages.
    }
    Ok(stream)
}

fn nats(address: SocketAddr) -> Result<TcpStream, Failure> {
    let mut stream = connect(address)?;
    ask(&mut stream, b"", b"\r\n")?;
    let hello = b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\nPING\r\n";
    ask(&mut stream, hello, b"PONG\r\n")?;
    Ok(stream)
}

/// CONNECT of MQTT 3.1.1, with a clean session and no keep-alive.
fn mqtt_client(address: SocketAddr, client: &str) -> Result<TcpStream, Failure> {
    let mut stream = connect(address)?;
    ask(&mut stream, &mqtt::connect(client, 0), mqtt::CONNACK)?;
    Ok(stream)
}

fn mqtt_subscriber(
    address: SocketAddr,
    connection: usize,
    filters: &[String],
) -> Result<TcpStream, Failure> {
    let mut stream = mqtt_client(address, &format!("subscriber{connection}"))?;
    for (number, filters) in (1_u16..).zip(filters.chunks(FILTERS_AT_ONCE)) {
        let wanted = filters.iter().map(String::as_str);
        let request = mqtt::subscribe(number, wanted, Qos::AtMostOnce);
        let granted = mqtt::granted(number, filters.len(), Qos::AtMostOnce);
        ask(&mut stream, &request, &granted)?;
    }
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_of_a_topic_are_on_connections_of_their_own() {
        let filters = Filters::Wildcards {
            count: 1_200,
            connections: 10,
        };
        let topic = filters.topic(33);
        let receivers: Vec<usize> = filters.receivers(33).collect();
        assert_eq!(receivers, [9, 0, 1]);
        for receiver in receivers {
            let device = topic.split('/').nth(2).unwrap();
            let mine = filters.of_connection(receiver);
            let of_device = mine
                .iter()
                .filter(|filter| filter.split('/').nth(2) == Some(device));
            assert_eq!(of_device.count(), 1);
        }
    }

    #[test]
    fn subjects_are_filters_in_the_words_of_nats() {
        assert_eq!(subject("fleet/+/d1/#"), "fleet.*.d1.>");
    }
}
