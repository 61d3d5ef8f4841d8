//! The options, as clap reads them.

use std::path::PathBuf;

use tidings_types::Qos;

use clap::{Args, Subcommand, ValueEnum};

use crate::http::is_header_value;
use crate::login::{Login, TokenFile};
use crate::tls::{ClientCertificate, TlsFiles};

/// Where the server is unless said otherwise.
pub const URL_DEFAULT: &str = "http://127.0.0.1:8080";

/// Where the MQTT server of a measurement is unless said otherwise.
pub const MQTT_URL_DEFAULT: &str = "mqtt://127.0.0.1:1883";

/// MQTT's `QoS`, as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum QosLevel {
    /// At most once: nothing is acknowledged
    #[value(name = "0")]
    AtMostOnce,
    /// At least once
    #[value(name = "1")]
    AtLeastOnce,
    /// Exactly once
    #[value(name = "2")]
    ExactlyOnce,
}

impl From<QosLevel> for Qos {
    fn from(level: QosLevel) -> Self {
        match level {
            QosLevel::AtMostOnce => Self::AtMostOnce,
            QosLevel::AtLeastOnce => Self::AtLeastOnce,
            QosLevel::ExactlyOnce => Self::ExactlyOnce,
        }
    }
}

/// `tidings pub`: publish a message, or a message for each line of standard input.
#[derive(Args, Clone, Debug)]
pub struct PubArgs {
    /// The topic to publish to, as in `chat/lobby`
    pub topic: String,
    /// The payload; standard input, whole, if left out
    #[arg(conflicts_with = "lines")]
    pub data: Option<String>,
    /// Publish each line of standard input as a message, as it comes
    #[arg(long)]
    pub lines: bool,
    /// The server; if it is away, this waits for it
    #[arg(long, default_value = URL_DEFAULT, value_name = "URL")]
    pub url: String,
    /// Who to be.
    #[command(flatten)]
    pub login: LoginArgs,
    /// How to speak TLS.
    #[command(flatten)]
    pub tls: TlsArgs,
    /// Publish over MQTT 5, to the server at this address, as in `mqtt://127.0.0.1:1883` or
    /// `mqtts://localhost:8883`
    #[arg(long, conflicts_with = "url", value_name = "URL")]
    pub mqtt_url: Option<String>,
    /// With --mqtt-url: the `QoS` to publish with; 0 is not acknowledged, and so may be lost
    #[arg(
        long,
        value_enum,
        default_value = "1",
        requires = "mqtt_url",
        conflicts_with = "url",
        value_name = "QOS"
    )]
    pub qos: QosLevel,
    /// The media type of the payload
    #[arg(long, value_name = "TYPE")]
    pub content_type: Option<String>,
    /// The event type (SSE's `event` field)
    #[arg(long, value_name = "EVENT")]
    pub event: Option<String>,
    /// The idempotency key, instead of a random one; a repeated publish with it is not appended again
    #[arg(long, conflicts_with = "lines", value_name = "KEY")]
    pub key: Option<String>,
    /// For how many seconds the message may be delivered
    #[arg(long, value_name = "SECONDS")]
    pub ttl: Option<u64>,
    /// Keep the message as the topic's retained one
    #[arg(long)]
    pub retain: bool,
    /// A user property of the message; may be given several times
    #[arg(long = "header", value_name = "NAME=VALUE")]
    pub headers: Vec<String>,
    /// With --lines: how many messages may be unacknowledged at a time
    #[arg(long, default_value_t = 256, value_name = "N", requires = "lines")]
    pub window: usize,
    /// Print nothing but errors
    #[arg(long, short)]
    pub quiet: bool,
}

/// Who to be to the server.
#[derive(Args, Clone, Default)]
pub struct LoginArgs {
    /// Show this token or API key [environment: `TIDINGS_TOKEN`]
    #[arg(long, value_name = "TOKEN")]
    pub token: Option<String>,
    /// Show the token or API key in this file; it is read again for each connection, and before the token ends
    #[arg(long, conflicts_with = "token", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Be this user, with this password [environment: `TIDINGS_USER`]
    #[arg(long, conflicts_with_all = ["token", "token_file"], value_name = "USER:PASSWORD")]
    pub user: Option<String>,
}

impl std::fmt::Debug for LoginArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LoginArgs(..)")
    }
}

/// Not a login.
#[derive(Debug)]
pub enum NoLogin {
    /// Not one in form.
    Malformed,
    /// The file of `--token-file` cannot be used.
    File(PathBuf, std::io::Error),
}

impl std::fmt::Display for NoLogin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Malformed => f.write_str(
                "a login is a token on one line, or a user and a password as USER:PASSWORD",
            ),
            Self::File(path, error) => {
                write!(f, "cannot read the token in {}: {error}", path.display())
            }
        }
    }
}

impl LoginArgs {
    /// What the options say, or else the environment.
    pub fn login(&self) -> Result<Option<Login>, NoLogin> {
        if let Some(path) = &self.token_file {
            let file = TokenFile::open(path);
            let file = file.map_err(|error| NoLogin::File(path.clone(), error))?;
            return Ok(Some(Login::TokenFile(file)));
        }
        let env = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
        let is_given = self.token.is_some() || self.user.is_some();
        let (token, user) = if is_given {
            (self.token.clone(), self.user.clone())
        } else {
            (env("TIDINGS_TOKEN"), env("TIDINGS_USER"))
        };
        match (token, user) {
            (Some(token), _) if is_header_value(&token) => Ok(Some(Login::Token(token))),
            (Some(_), _) => Err(NoLogin::Malformed),
            (None, Some(user)) => Login::user(&user).map(Some).ok_or(NoLogin::Malformed),
            (None, None) => Ok(None),
        }
    }
}

/// How to speak TLS to a server at `https://`, `wss://` or `mqtts://`.
#[derive(Args, Clone, Debug, Default)]
pub struct TlsArgs {
    /// With a URL of TLS: trust servers of the authorities in this PEM file, and no others; those that the system
    /// trusts if left out
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// With a URL of TLS: show the certificate in this PEM file to a server that asks for one; the key may be in
    /// the same file
    #[arg(long, value_name = "FILE[:KEY]", value_parser = client_certificate)]
    pub cert: Option<ClientCertificate>,
}

impl TlsArgs {
    /// What the options say.
    pub fn files(&self) -> TlsFiles {
        TlsFiles {
            ca: self.ca.clone(),
            certificate: self.cert.clone(),
        }
    }
}

fn client_certificate(text: &str) -> Result<ClientCertificate, &'static str> {
    let (cert, key) = text.split_once(':').unwrap_or((text, text));
    if cert.is_empty() || key.is_empty() {
        return Err("write it as cert.pem:key.pem, or as one file that has both");
    }
    Ok(ClientCertificate {
        cert: cert.into(),
        key: key.into(),
    })
}

/// How a subscription travels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum SubscribeWire {
    /// The `tidings.v1` WebSocket protocol
    #[default]
    Tidings,
    /// Server-Sent Events
    Sse,
}

/// `tidings sub`: print messages as they come.
#[derive(Args, Clone, Debug)]
pub struct SubArgs {
    /// The topic filters, as in `chat/+/log` or `sensors/#`
    #[arg(required = true, value_name = "FILTER")]
    pub filters: Vec<String>,
    /// Start after this message: a cursor, `earliest`, `latest` or `retained`
    #[arg(long, value_name = "CURSOR|earliest|latest|retained")]
    pub after: Option<String>,
    /// Start with the newest N messages
    #[arg(long, value_name = "N", conflicts_with = "after")]
    pub last: Option<u64>,
    /// Take part in the work queue of this group and the filter: each message goes to one member, and is
    /// acknowledged once it is printed. A new queue starts with the oldest message unless told otherwise
    #[arg(long, conflicts_with_all = ["protocol", "mqtt_url"], value_name = "NAME")]
    pub group: Option<String>,
    /// With --group: how many messages may be on their way here, unacknowledged; the server decides if left out
    #[arg(long, requires = "group", value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    pub prefetch: Option<u32>,
    /// Print one JSON object a line with topic, id, time and data, instead of payloads (no time over MQTT, which
    /// does not tell it)
    #[arg(long)]
    pub json: bool,
    /// The server; if it is away, this waits for it
    #[arg(long, default_value = URL_DEFAULT, value_name = "URL")]
    pub url: String,
    /// Who to be.
    #[command(flatten)]
    pub login: LoginArgs,
    /// How to speak TLS.
    #[command(flatten)]
    pub tls: TlsArgs,
    /// End after this many messages
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// The protocol to subscribe over
    #[arg(long, value_enum, default_value_t, value_name = "PROTOCOL")]
    pub protocol: SubscribeWire,
    /// Subscribe over MQTT 5, to the server at this address, as in `mqtt://127.0.0.1:1883` or
    /// `mqtts://localhost:8883`
    #[arg(long, conflicts_with_all = ["url", "protocol"], value_name = "URL")]
    pub mqtt_url: Option<String>,
    /// With --mqtt-url: the most that messages are to come with
    #[arg(
        long,
        value_enum,
        default_value = "1",
        requires = "mqtt_url",
        conflicts_with_all = ["url", "protocol", "group"],
        value_name = "QOS"
    )]
    pub qos: QosLevel,
    /// Print nothing on standard error but refusals
    #[arg(long, short)]
    pub quiet: bool,
}

/// `tidings health`: ask a server whether it is ready.
#[derive(Args, Clone, Debug)]
pub struct HealthArgs {
    /// The server
    #[arg(long, default_value = URL_DEFAULT, value_name = "URL")]
    pub url: String,
    /// How to speak TLS.
    #[command(flatten)]
    pub tls: TlsArgs,
}

/// `tidings bench`: drive a server and measure it.
#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    /// What to measure
    #[command(subcommand)]
    pub what: BenchWhat,
}

/// What to measure.
#[derive(Subcommand, Clone, Debug)]
pub enum BenchWhat {
    /// One publisher, many subscribers: deliveries a second, and the time from publish to delivery
    Fanout(Load),
    /// Many publishers: durable acknowledged publishes a second, and the time from publish to acknowledgement
    Publish(Load),
    /// Connections that are subscribed and get nothing: the server's memory for each
    Idle(Load),
}

/// The protocol that the load speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Wire {
    /// Server-Sent Events; for subscribers
    Sse,
    /// The raw WebSocket of a topic; for subscribers
    Ws,
    /// Requests on kept HTTP/1.1 connections; for publishers
    Http,
    /// The `tidings.v1` WebSocket protocol
    #[default]
    Tidings,
    /// MQTT: subscribers 3.1.1, publishers 5 with `QoS` 1
    Mqtt,
}

impl Wire {
    /// The name, as it is typed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sse => "sse",
            Self::Ws => "ws",
            Self::Http => "http",
            Self::Tidings => "tidings",
            Self::Mqtt => "mqtt",
        }
    }
}

/// The load, and what to print.
#[derive(Args, Clone, Debug)]
pub struct Load {
    /// The server; if it is away, this waits for it
    #[arg(long, default_value = URL_DEFAULT, value_name = "URL")]
    pub url: String,
    /// With --protocol mqtt: the server, instead of --url; the one on this machine if left out
    #[arg(long, conflicts_with = "url", value_name = "URL")]
    pub mqtt_url: Option<String>,
    /// How to speak TLS.
    #[command(flatten)]
    pub tls: TlsArgs,
    /// With --protocol mqtt: what subscribers ask for, 0 or 1
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=1), default_value_t = 0, value_name = "QOS")]
    pub qos: u8,
    /// How many connections subscribe, or publish
    #[arg(long, short, default_value_t = 1_000, value_name = "N")]
    pub connections: usize,
    /// How many messages are published and measured, in all
    #[arg(long, short, default_value_t = 1_000, value_name = "N")]
    pub messages: u64,
    /// How many are published before measuring starts
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub warmup: u64,
    /// The bytes of a payload
    #[arg(long, default_value_t = 128, value_name = "BYTES")]
    pub payload_bytes: usize,
    /// How many messages may be under way: from publish to the last delivery, or for each publisher to its
    /// acknowledgement
    #[arg(long, short = 'k', default_value_t = 1, value_name = "K")]
    pub in_flight: usize,
    /// The protocol
    #[arg(long, value_enum, default_value_t, value_name = "PROTOCOL")]
    pub protocol: Wire,
    /// Over how many topics the subscribers, or publishers, are spread
    #[arg(long, default_value_t = 1, value_name = "T")]
    pub topics: usize,
    /// With idle: for how many seconds to watch
    #[arg(long, default_value_t = 5, value_name = "S")]
    pub seconds: u64,
    /// The server's process, if it is on this machine; found by its listening port if left out
    #[arg(long, value_name = "PID")]
    pub pid: Option<u32>,
    /// Where to find processes
    #[arg(long, hide = true, default_value = "/proc", value_name = "DIR")]
    pub proc: PathBuf,
    /// Print the figures as one JSON object
    #[arg(long)]
    pub json: bool,
}
