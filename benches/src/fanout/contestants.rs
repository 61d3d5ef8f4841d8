//! Who is measured, over which protocol.

use crate::Options;
use crate::peers::{self, Peer};
use crate::report::Failure;
use crate::wire::{Publish, Subscribe};

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

const fn ours(name: &'static str, subscribe: Subscribe) -> Contestant {
    Contestant {
        name,
        start: tidings,
        subscribe,
        publish: Publish::TidingsV1,
        is_ours: true,
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
    Contestant {
        name: "mosquitto MQTT",
        start: peers::mosquitto,
        subscribe: Subscribe::Mqtt,
        publish: Publish::Mqtt,
        is_ours: false,
    },
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
/// What the targets name.
pub const NATS: &str = "nats";
