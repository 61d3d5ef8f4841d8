//! Who is measured, over which protocol.

use super::BURST_MESSAGES;
use crate::Options;
use crate::peers::{self, Peer};
use crate::report::Failure;
use crate::wire::{Publish, Qos, Subscribe};

/// A server with one way to subscribe and one to publish.
#[derive(Debug)]
pub struct Contestant {
    /// As the tables call it.
    pub name: &'static str,
    /// `None` where it is not installed.
    pub start: fn(&Options) -> Result<Option<Peer>, Failure>,
    pub subscribe: Subscribe,
    pub publish: Publish,
    /// The floor or Tidings, which have to work.
    pub is_ours: bool,
}

fn floor(_options: &Options) -> Result<Option<Peer>, Failure> {
    peers::floor().map(Some)
}

fn tidings(options: &Options) -> Result<Option<Peer>, Failure> {
    peers::tidings(options, &[]).map(Some)
}

/// With room for a burst in what a subscriber may have unacknowledged.
fn tidings_mqtt(options: &Options) -> Result<Option<Peer>, Failure> {
    let window = format!("limits.mqtt_window_max={}", 2 * BURST_MESSAGES);
    peers::tidings_mqtt(options, &["--set", &window]).map(Some)
}

const fn ours(name: &'static str, subscribe: Subscribe) -> Contestant {
    Contestant {
        name,
        start: tidings,
        subscribe,
        publish: Publish::TidingsV1,
        is_ours: true,
    }
}

/// Subscribed and published with the same quality of service: what was published with a lower one would be delivered
/// with that.
const fn mqtt(
    name: &'static str,
    start: fn(&Options) -> Result<Option<Peer>, Failure>,
    qos: Qos,
) -> Contestant {
    Contestant {
        name,
        start,
        subscribe: Subscribe::Mqtt(qos),
        publish: Publish::Mqtt(qos),
        is_ours: false,
    }
}

/// The first is what all the others are compared with.
pub const CONTESTANTS: &[Contestant] = &[
    Contestant {
        name: "floor",
        start: floor,
        subscribe: Subscribe::Floor,
        publish: Publish::Floor,
        is_ours: true,
    },
    ours(RAW, Subscribe::WebSocket("/v1/topics/bench")),
    ours(V1, Subscribe::TidingsV1),
    ours(SSE, Subscribe::Sse("/v1/topics/bench")),
    ours(
        "tidings SSE HTTP/2",
        Subscribe::SseHttp2("/v1/topics/bench"),
    ),
    Contestant {
        is_ours: true,
        ..mqtt(MQTT, tidings_mqtt, Qos::AtMostOnce)
    },
    Contestant {
        is_ours: true,
        ..mqtt(MQTT_QOS_1, tidings_mqtt, Qos::AtLeastOnce)
    },
    Contestant {
        name: "uWebSockets",
        start: peers::uws,
        subscribe: Subscribe::WebSocket("/sub"),
        publish: Publish::WebSocket("/pub"),
        is_ours: false,
    },
    Contestant {
        name: "nchan WebSocket",
        start: peers::nchan,
        subscribe: Subscribe::WebSocket("/sub"),
        publish: Publish::Post("/pub"),
        is_ours: false,
    },
    Contestant {
        name: NCHAN_SSE,
        start: peers::nchan,
        subscribe: Subscribe::Sse("/sub"),
        publish: Publish::Post("/pub"),
        is_ours: false,
    },
    mqtt(MOSQUITTO, peers::mosquitto, Qos::AtMostOnce),
    mqtt(MOSQUITTO_QOS_1, peers::mosquitto, Qos::AtLeastOnce),
    Contestant {
        name: NATS,
        start: peers::nats,
        subscribe: Subscribe::Nats,
        publish: Publish::Nats,
        is_ours: false,
    },
];

/// Tidings over a WebSocket that carries payloads alone, as the WebSocket peers do.
pub const RAW: &str = "tidings WebSocket";
/// Tidings with its envelope of topic, id and time.
pub const V1: &str = "tidings tidings.v1";
/// Tidings' event stream.
pub const SSE: &str = "tidings SSE";
/// What Tidings' event stream is compared with.
pub const NCHAN_SSE: &str = "nchan SSE";
/// Tidings over MQTT.
pub const MQTT: &str = "tidings MQTT";
/// The same with messages that are acknowledged.
pub const MQTT_QOS_1: &str = "tidings MQTT QoS 1";
/// What Tidings over MQTT is compared with.
pub const MOSQUITTO: &str = "mosquitto MQTT";
/// What it is compared with where messages are acknowledged.
pub const MOSQUITTO_QOS_1: &str = "mosquitto MQTT QoS 1";
/// What the targets name.
pub const NATS: &str = "nats";
