//! Where everything begins: a server's address and how patient to be with it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tidings_types::{Qos, TopicFilter};

use crate::backoff::{Backoff, RetryPolicy};
use crate::error::{Lost, TryError};
use crate::login::{Login, TokenFile};
use crate::message::{Start, WorkQueue};
use crate::mqtt::MqttConnection;
use crate::pipeline::Pipeline;
use crate::publisher::Publisher;
use crate::random::Random;
use crate::stream::{Connector, Stream};
use crate::subscription::{Subscription, Wire};
use crate::tls::{Tls, TlsError, TlsFiles};
use crate::url::{ServerUrl, UrlError};
use crate::websocket::WebSocket;

/// A server, and how to reach it. Opens nothing by itself; cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) url: Arc<ServerUrl>,
    pub(crate) connector: Connector,
    pub(crate) retry: RetryPolicy,
    pub(crate) silence: Duration,
    pub(crate) speaks: Speaks,
}

/// What a server is spoken to in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// HTTP, and what goes over it.
    Http,
    /// MQTT, with this for publishes, and at most this for what is subscribed to.
    Mqtt(Qos),
}

/// The server's heartbeats come every 15 s: three in a row and a bit.
const SILENCE_DEFAULT: Duration = Duration::from_secs(50);

/// Why no server can be reached as it is asked for.
#[derive(Debug)]
pub enum Unusable {
    /// The URL is none of a server.
    Url(UrlError),
    /// TLS cannot be done.
    Tls(TlsError),
    /// Files for TLS, and a URL without: whoever gives them does not mean to speak in the clear.
    NotTls,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(error) => error.fmt(f),
            Self::Tls(error) => error.fmt(f),
            Self::NotTls => f.write_str(
                "--ca and --cert are for TLS, and the URL is without: write it as https:// (or mqtts://)",
            ),
        }
    }
}

impl std::error::Error for Unusable {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Url(error) => Some(error),
            Self::Tls(error) => Some(error),
            Self::NotTls => None,
        }
    }
}

impl From<UrlError> for Unusable {
    fn from(error: UrlError) -> Self {
        Self::Url(error)
    }
}

impl Client {
    /// For the server at a URL such as `http://127.0.0.1:8080`, or `https://localhost:8443`.
    pub fn new(url: &str, tls: &TlsFiles) -> Result<Self, Unusable> {
        Self::of(url.parse()?, Speaks::Http, tls)
    }

    /// For the MQTT server at a URL such as `mqtt://127.0.0.1:1883`, or `mqtts://localhost:8883`. Everything then
    /// travels over MQTT 5: publishes with this `QoS`, subscriptions with at most this.
    pub fn mqtt(url: &str, qos: Qos, tls: &TlsFiles) -> Result<Self, Unusable> {
        Self::of(ServerUrl::mqtt(url)?, Speaks::Mqtt(qos), tls)
    }

    fn of(url: ServerUrl, speaks: Speaks, files: &TlsFiles) -> Result<Self, Unusable> {
        let protocol = match speaks {
            Speaks::Http => "http/1.1",
            Speaks::Mqtt(_) => "mqtt",
        };
        let tls = if url.is_tls() {
            Some(Tls::load(files, url.host(), protocol).map_err(Unusable::Tls)?)
        } else if files.is_empty() {
            None
        } else {
            return Err(Unusable::NotTls);
        };
        Ok(Self {
            url: Arc::new(url),
            connector: Connector {
                tls,
                ..Connector::default()
            },
            retry: RetryPolicy::default(),
            silence: SILENCE_DEFAULT,
            speaks,
        })
    }

    /// With this shown to the server: who the client is.
    #[must_use]
    pub fn with_login(self, login: Option<Login>) -> Self {
        let url = ServerUrl::clone(&self.url).with_login(login);
        Self {
            url: Arc::new(url),
            ..self
        }
    }

    /// With other waits between tries.
    #[must_use]
    pub fn with_retry(self, retry: RetryPolicy) -> Self {
        Self { retry, ..self }
    }

    /// With another way to connect.
    #[must_use]
    pub fn with_connector(self, connector: Connector) -> Self {
        Self { connector, ..self }
    }

    /// A connection on which nothing comes for so long, not even a heartbeat or an awaited answer, is given up.
    #[must_use]
    pub fn with_silence(self, silence: Duration) -> Self {
        Self { silence, ..self }
    }

    /// Publishes one message after the other over HTTP, or MQTT.
    pub fn publisher(&self) -> Publisher {
        Publisher::new(self.clone())
    }

    /// Publishes many messages at once, in order, over `tidings.v1`, or MQTT; up to `window` are unacknowledged at a
    /// time. Must be called within a tokio runtime.
    pub fn pipeline(&self, window: usize) -> Pipeline {
        Pipeline::start(self.clone(), window)
    }

    /// Subscribes over `tidings.v1`, or MQTT, to whatever matches any of the filters, of which there is at least
    /// one.
    pub fn subscribe(&self, filters: Vec<TopicFilter>, start: Start) -> Subscription {
        self.subscribe_over(Wire::Tidings, filters, start)
    }

    /// Subscribes over a protocol of an HTTP server; an MQTT server is spoken to in MQTT.
    pub fn subscribe_over(
        &self,
        wire: Wire,
        filters: Vec<TopicFilter>,
        start: Start,
    ) -> Subscription {
        Subscription::new(self.clone(), wire, filters, start)
    }

    /// Takes part in a work queue over `tidings.v1`: each message is to be settled
    /// ([`Subscription::settle`]), or goes to another member.
    pub fn work(&self, queue: WorkQueue) -> Subscription {
        Subscription::working(self.clone(), queue)
    }

    /// Opens one connection, without trying again.
    pub async fn connect(&self) -> Result<Stream, Lost> {
        self.connector
            .connect(&self.url)
            .await
            .map_err(Lost::Connect)
    }

    /// Opens one WebSocket at a path such as `/v1/ws`, without trying again.
    pub async fn websocket(
        &self,
        path: &str,
        subprotocol: Option<&str>,
    ) -> Result<WebSocket, TryError> {
        let stream = self.connect().await?;
        let open = WebSocket::open(stream, &self.url, path, subprotocol);
        self.in_time(open).await
    }

    /// Opens one `tidings.v1` WebSocket, without trying again.
    pub async fn tidings(&self) -> Result<WebSocket, TryError> {
        self.websocket("/v1/ws", Some("tidings.v1")).await
    }

    /// Opens one MQTT connection, without trying again.
    pub async fn mqtt_connection(&self) -> Result<MqttConnection, TryError> {
        let stream = self.connect().await?;
        self.in_time(MqttConnection::open(stream, self.url.login(), self.silence))
            .await
    }

    /// The address.
    pub fn url(&self) -> &ServerUrl {
        &self.url
    }

    /// The file that the client's tokens are in.
    pub(crate) fn token_file(&self) -> Option<TokenFile> {
        match self.url.login() {
            Some(Login::TokenFile(file)) => Some(file.clone()),
            _ => None,
        }
    }

    pub(crate) fn backoff(&self) -> Backoff {
        Backoff::new(self.retry, Random::from_system())
    }

    /// Gives an exchange up once it takes longer than silence may.
    pub(crate) async fn in_time<T>(
        &self,
        exchange: impl Future<Output = Result<T, TryError>>,
    ) -> Result<T, TryError> {
        match tokio::time::timeout(self.silence, exchange).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Lost::Silent(self.silence).into()),
        }
    }
}
