//! Opens the connections of a measurement, and keeps them.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::time::Duration;

use tidings_types::{Topic, TopicFilter};

use super::socket::Socket;
use super::{BenchError, mqtt};
use crate::cli::terminal::Progress;
use crate::cli::{Load, Wire};
use crate::client::Client;
use crate::envelope::{Asked, ServerWord, subscribe_request};
use crate::error::{Lost, TryError};
use crate::http::{HttpConnection, request_line};
use crate::message::Start;
use crate::stream::{Connector, Stream};
use crate::url::percent_encode;
use crate::websocket::{Opcode, Received, WebSocket, encode_frame};

/// Connections from one local address: there are about 28,000 ports for them.
const PER_ADDRESS: usize = 20_000;
/// Handshakes at a time: enough to keep the server busy, within what a listen queue holds.
const HANDSHAKES_MAX: usize = 128;
/// Between two signs of life of an idle WebSocket; servers give up on silent peers after 45 s.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// The same of an idle MQTT connection, which says that it will show some every 60 s.
const KEEP_ALIVE_MQTT: Duration = Duration::from_secs(30);

/// The name of a measurement's topic, of which there are several at most.
pub(super) fn topic(run: u64, index: usize) -> Topic {
    let text = format!("bench/{run:016x}/{index}");
    Topic::new(text).expect("made of levels without wildcards")
}

/// A client whose connections come from the local address for the connection of this number.
pub(super) fn client_of(client: &Client, index: usize) -> Client {
    let is_loopback = client.url().host() == "127.0.0.1" || client.url().host() == "localhost";
    let block = index / PER_ADDRESS;
    if !is_loopback || block == 0 {
        return client.clone();
    }
    let last = u8::try_from(1 + block).unwrap_or(u8::MAX);
    let connector = Connector {
        source: Some(IpAddr::V4(Ipv4Addr::new(127, 0, 0, last))),
        ..client.connector.clone()
    };
    client.clone().with_connector(connector)
}

/// Runs `open` for each number, so many at a time, and gives the results in the order of the numbers.
pub(super) async fn open_all<T, F, O>(load: &Load, open: O) -> Result<Vec<T>, BenchError>
where
    T: 'static,
    F: Future<Output = Result<T, TryError>>,
    O: Fn(usize) -> F + 'static,
{
    let total = load.connections;
    let next = Rc::new(Cell::new(0));
    let open = Rc::new(open);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..HANDSHAKES_MAX.min(total) {
        let (next, open) = (Rc::clone(&next), Rc::clone(&open));
        tasks.spawn_local(async move {
            let mut opened = Vec::new();
            while next.get() < total {
                let index = next.replace(next.get() + 1);
                opened.push((index, open(index).await?));
            }
            Ok::<_, TryError>(opened)
        });
    }
    let mut progress = Progress::new(load.json);
    let mut redraw = tokio::time::interval(Duration::from_millis(100));
    let mut opened = Vec::with_capacity(total);
    loop {
        tokio::select! {
            joined = tasks.join_next() => match joined {
                Some(Ok(part)) => opened.extend(part?),
                Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
                None => break,
            },
            _ = redraw.tick() => progress.show(|| format!("{} of {total} connections", next.get())),
        }
    }
    progress.clear();
    opened.sort_unstable_by_key(|(index, _)| *index);
    Ok(opened.into_iter().map(|(_, opened)| opened).collect())
}

/// How subscribers speak.
#[derive(Clone, Copy, Debug)]
pub(super) struct Speech {
    wire: Wire,
    /// Over MQTT.
    qos: u8,
}

impl Speech {
    /// As the options say; publishers have protocols of their own.
    pub(super) fn of_subscribers(load: &Load) -> Result<Self, BenchError> {
        match load.protocol {
            Wire::Http => Err(BenchError::Misused(
                "subscribers speak sse, ws, tidings or mqtt",
            )),
            wire => Ok(Self {
                wire,
                qos: load.qos,
            }),
        }
    }

    /// Whether each message is to be acknowledged.
    pub(super) fn acknowledges(self) -> bool {
        self.wire == Wire::Mqtt && self.qos > 0
    }
}

/// Opens a connection that is subscribed to the topic; nothing was published to it yet.
pub(super) async fn subscriber(
    client: &Client,
    speech: Speech,
    topic: &Topic,
) -> Result<Socket, TryError> {
    let open = async {
        match speech.wire {
            Wire::Mqtt => mqtt::subscribe(client, topic, speech.qos).await,
            Wire::Sse => subscribe_sse(client, topic).await,
            Wire::Ws => subscribe_raw(client, topic).await,
            Wire::Tidings | Wire::Http => subscribe_tidings(client, topic).await,
        }
    };
    client.in_time(open).await.map(Socket::from)
}

async fn subscribe_sse(client: &Client, topic: &Topic) -> Result<Stream, TryError> {
    let mut connection = HttpConnection::new(client.connect().await?);
    let mut request = request_line("GET", client.url(), &topic_path(topic));
    request += "accept: text/event-stream\r\n\r\n";
    connection.write(request.as_bytes()).await?;
    let head = connection.read_head().await?;
    if head.status != 200 {
        return Err(connection.read_refusal(&head).await);
    }
    // The position tells that the subscription is there.
    while memchr::memmem::find(&connection.input, b"id: ").is_none() {
        connection.fill().await?;
    }
    Ok(connection.stream)
}

async fn subscribe_raw(client: &Client, topic: &Topic) -> Result<Stream, TryError> {
    let mut websocket = client.websocket(&topic_path(topic), None).await?;
    // A raw WebSocket says nothing when it is subscribed, but what it answers comes after.
    websocket.queue(Opcode::Ping, b"");
    loop {
        match websocket.receive().await.map_err(Lost::from)? {
            Received::Pong(_) => return Ok(websocket.into_stream()),
            Received::Close(close) => return Err(Lost::ClosedWith(close).into()),
            _ => {}
        }
    }
}

async fn subscribe_tidings(client: &Client, topic: &Topic) -> Result<Stream, TryError> {
    let mut websocket = client.tidings().await?;
    let request = subscribe_request(1, Asked::new(&[TopicFilter::exact(topic)], &Start::Latest));
    websocket.queue(Opcode::Text, &request);
    match next_word(&mut websocket).await? {
        ServerWord::Ok { .. } => Ok(websocket.into_stream()),
        ServerWord::Error { refused, .. } => Err(refused.into()),
        _ => Err(Lost::Answer("no answer to a subscribe").into()),
    }
}

/// The next text message of the server.
pub(super) async fn next_word(websocket: &mut WebSocket) -> Result<ServerWord, Lost> {
    loop {
        match websocket.receive().await? {
            Received::Text(text) => return ServerWord::parse(&text),
            Received::Close(close) => return Err(Lost::ClosedWith(close)),
            _ => {}
        }
    }
}

fn topic_path(topic: &Topic) -> String {
    let mut path = "/v1/topics/".to_owned();
    percent_encode(topic.as_str(), b"/", &mut path);
    path
}

/// Shows each server of a WebSocket or of MQTT now and then that its peer lives; pings are not answered
/// otherwise, because receivers do not look at frames. Never ends.
pub(super) async fn keep_alive(streams: Vec<Rc<Socket>>, speech: Speech) {
    let mut sign = Vec::new();
    let every = match speech.wire {
        // Acknowledgements may be written in parts, between which nothing else may come.
        Wire::Mqtt if speech.acknowledges() => return std::future::pending().await,
        Wire::Sse | Wire::Http => return std::future::pending().await,
        Wire::Mqtt => {
            sign.extend_from_slice(&mqtt::PINGREQ);
            KEEP_ALIVE_MQTT
        }
        Wire::Ws | Wire::Tidings => {
            encode_frame(Opcode::Pong, b"", [0; 4], &mut sign);
            KEEP_ALIVE
        }
    };
    let mut interval = tokio::time::interval(every);
    loop {
        interval.tick().await;
        for stream in &streams {
            // A full socket, or one that is closed, shows where it is read.
            stream.try_write(&sign).ok();
        }
    }
}
