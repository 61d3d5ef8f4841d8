//! The list of protocols. Metrics labels, the contract tests and the cross-protocol matrix derive from it.

/// One wire protocol that peers speak to Tidings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Plain HTTP requests: publish, history.
    Http,
    /// HTTP long-polling.
    Poll,
    /// Server-Sent Events.
    Sse,
    /// Raw WebSocket on one topic.
    WebSocket,
    /// The JSON protocol `tidings.v1` over WebSocket.
    Tidings,
    /// MQTT 3.1, 3.1.1 and 5.0, over TCP and WebSocket.
    Mqtt,
    /// STOMP 1.0, 1.1 and 1.2, over TCP and WebSocket.
    Stomp,
}

impl Protocol {
    /// Every protocol, in the order of their indexes.
    pub const ALL: [Self; 7] = [
        Self::Http,
        Self::Poll,
        Self::Sse,
        Self::WebSocket,
        Self::Tidings,
        Self::Mqtt,
        Self::Stomp,
    ];

    /// The name in metrics, logs and configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Poll => "poll",
            Self::Sse => "sse",
            Self::WebSocket => "websocket",
            Self::Tidings => "tidings.v1",
            Self::Mqtt => "mqtt",
            Self::Stomp => "stomp",
        }
    }

    /// The position in [`Protocol::ALL`], for tables of counters.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}
