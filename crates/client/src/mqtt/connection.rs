//! One MQTT connection: CONNECT and CONNACK, then packets, with signs of life in between. All waiting can be
//! cancelled.

use std::time::Duration;

use bytes::BytesMut;
use tidings_types::Qos;
use tokio::time::{Instant, sleep_until, timeout};

use super::codec::{
    Connack, DISCONNECT, Disconnect, Incoming, PINGREQ, connect_packet, level, split_packet,
};
use super::reason::refused;
use crate::duplex::Duplex;
use crate::error::{Lost, Refused, TryError, told_wait};
use crate::login::Login;
use crate::random::Random;
use crate::stream::Stream;

/// After so much silence of this client a server may give it up (3.1.2.10), half as much again later.
const KEEP_ALIVE_S: u16 = 30;
/// The largest packet taken: what a server with a limit far above the default may send.
const PACKET_BYTES_MAX: u32 = 64 << 20;
/// Messages that the server may send before the first is acknowledged.
pub(crate) const RECEIVE_MAXIMUM: u16 = 1_024;
/// For the server to close the connection after DISCONNECT.
const FAREWELL_MAX: Duration = Duration::from_secs(2);

/// An open connection.
#[derive(Debug)]
pub struct MqttConnection {
    duplex: Duplex,
    /// Between two signs of life.
    ping_every: Duration,
    ping_at: Instant,
    /// How many publishes with `QoS` 1 and 2 the server takes before the first is done.
    receive_maximum: u16,
    /// The largest packet that the server takes.
    packet_bytes_max: usize,
    maximum_qos: u8,
    /// When the server, which went away, wants this client back.
    reconnect: Option<Duration>,
}

impl MqttConnection {
    /// Opens a session that ends with the connection, over a fresh stream. `silence` is how long the caller
    /// waits for the server at most.
    pub async fn open(
        stream: Stream,
        login: Option<&Login>,
        silence: Duration,
    ) -> Result<Self, TryError> {
        let ping_every = Duration::from_secs(KEEP_ALIVE_S.into()) / 2;
        let mut connection = Self {
            duplex: Duplex::new(stream, BytesMut::new()),
            // Answers to pings are all that an idle connection shows.
            ping_every: ping_every.min(silence / 3),
            ping_at: Instant::now() + ping_every,
            receive_maximum: u16::MAX,
            packet_bytes_max: usize::MAX,
            maximum_qos: 2,
            reconnect: None,
        };
        // 23 bytes at most, which every server takes (MQTT-3.1.3-5).
        let client_id = format!("tidings-{:015x}", Random::from_system().next_u64() >> 4);
        let connect = connect_packet(
            (&client_id, login),
            KEEP_ALIVE_S,
            RECEIVE_MAXIMUM,
            PACKET_BYTES_MAX,
        )
        .map_err(|_| Lost::Answer("the user name or password is too long for MQTT"))?;
        connection.queue(&connect);
        match connection.receive().await? {
            Incoming::Connack(connack) => connection.opened(connack)?,
            _ => return Err(Lost::Answer("no CONNACK to a CONNECT").into()),
        }
        Ok(connection)
    }

    fn opened(&mut self, connack: Connack) -> Result<(), TryError> {
        let Connack { reason, properties } = connack;
        if reason != 0 {
            return Err(refused(reason, &properties).into());
        }
        if let Some(seconds) = properties
            .server_keep_alive_s
            .filter(|seconds| *seconds > 0)
        {
            let half = Duration::from_secs(seconds.into()) / 2;
            self.ping_every = self.ping_every.min(half);
        }
        self.ping_at = Instant::now() + self.ping_every;
        self.receive_maximum = properties.receive_maximum.unwrap_or(u16::MAX).max(1);
        if let Some(max) = properties.packet_bytes_max {
            self.packet_bytes_max = max as usize;
        }
        self.maximum_qos = properties.maximum_qos.unwrap_or(2);
        Ok(())
    }

    /// How many publishes with `QoS` 1 and 2 the server takes before the first is done.
    pub fn receive_maximum(&self) -> u16 {
        self.receive_maximum
    }

    /// Whether the server takes a packet of so many bytes.
    pub fn takes(&self, packet_bytes: usize) -> Result<(), Refused> {
        if packet_bytes <= self.packet_bytes_max {
            return Ok(());
        }
        let max = self.packet_bytes_max;
        let detail = format!(
            "the packet has {packet_bytes} bytes, and the server takes {max}: send a smaller message"
        );
        Err(Refused::from_code("message-too-large", &detail, None))
    }

    /// Whether the server takes publishes of this `QoS`.
    pub fn takes_qos(&self, qos: Qos) -> Result<(), Refused> {
        if level(qos) <= self.maximum_qos {
            return Ok(());
        }
        let detail = format!("the server takes QoS {} at most", self.maximum_qos);
        Err(Refused {
            status: 400,
            code: "qos-not-supported".to_owned(),
            detail,
            retry_after: None,
        })
    }

    /// When the server wants this client back, if it said so as it went away.
    pub fn reconnect(&self) -> Option<Duration> {
        self.reconnect
    }

    /// Puts a packet behind those that wait. They are written while [`MqttConnection::receive`] or
    /// [`MqttConnection::flush`] is awaited.
    pub fn queue(&mut self, packet: &[u8]) {
        self.duplex.output.extend_from_slice(packet);
    }

    /// The bytes that wait to be written.
    pub fn queued_bytes(&self) -> usize {
        self.duplex.queued_bytes()
    }

    /// Writes everything that waits. An error is what the server said before it closed, if it said something.
    pub async fn flush(&mut self) -> Result<(), TryError> {
        let Err(severed) = self.duplex.flush().await else {
            return Ok(());
        };
        while self.duplex.fill().await.is_ok() {
            while self.receive_ready()?.is_some() {}
        }
        Err(Lost::from(severed).into())
    }

    /// The next packet that is already here. A DISCONNECT is an error, of the kind that the reason code says.
    pub fn receive_ready(&mut self) -> Result<Option<Incoming>, TryError> {
        // No packet begins so: the flags of a PUBACK are 0.
        if self.duplex.input.starts_with(b"HTTP/") {
            let detail =
                "HTTP is spoken here: MQTT has a port of its own (mqtt.listen), mostly 1883";
            return Err(Refused::from_code("bad-request", detail, None).into());
        }
        let split = split_packet(&mut self.duplex.input, PACKET_BYTES_MAX as usize);
        let Some((first, body)) = split.map_err(Lost::Packet)? else {
            return Ok(None);
        };
        match Incoming::parse(first, body).map_err(Lost::Packet)? {
            Incoming::Disconnect(disconnect) => Err(self.disconnected(&disconnect)),
            incoming => Ok(Some(incoming)),
        }
    }

    /// The next packet. What is queued is written meanwhile, and a sign of life now and then.
    pub async fn receive(&mut self) -> Result<Incoming, TryError> {
        loop {
            if let Some(incoming) = self.receive_ready()? {
                return Ok(incoming);
            }
            tokio::select! {
                exchanged = self.duplex.exchange() => exchanged.map_err(Lost::from)?,
                () = sleep_until(self.ping_at) => {
                    self.queue(&PINGREQ);
                    self.ping_at = Instant::now() + self.ping_every;
                }
            }
        }
    }

    /// Says goodbye and waits a little until the server has read everything and closes.
    pub async fn close(mut self) {
        self.queue(&DISCONNECT);
        // However it ends, it is over: the peer may be gone already.
        timeout(FAREWELL_MAX, self.farewell()).await.ok();
    }

    async fn farewell(&mut self) -> Result<(), TryError> {
        self.flush().await?;
        self.duplex.stream.finish().await.map_err(Lost::Io)?;
        loop {
            // Unread input would turn the close into a reset, which may destroy what is on its way.
            self.duplex.fill().await.map_err(Lost::from)?;
            self.duplex.input.clear();
        }
    }

    fn disconnected(&mut self, disconnect: &Disconnect) -> TryError {
        let Disconnect { reason, properties } = disconnect;
        match reason {
            // Server shutting down, use another server, server moved: where to, the next CONNACK says.
            0x8b | 0x9c | 0x9d => {
                let text = properties.reason_string.as_deref();
                self.reconnect = text.and_then(told_wait);
                Lost::Draining.into()
            }
            0x00..=0x7f => Lost::Closed.into(),
            _ => refused(*reason, properties).into(),
        }
    }
}
