//! One connection of a subscription, over any protocol.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use serde::Deserialize;
use tidings_types::TopicFilter;

use super::mqtt::MqttFeed;
use super::{Wanted, Wire};
use crate::client::{Client, Speaks};
use crate::envelope::{
    Asked, ServerWord, auth_request, parse_message, settle_request, subscribe_request,
    unsubscribe_request,
};
use crate::error::{Lost, Refused, TryError};
use crate::http::{Body, HttpConnection, request_line};
use crate::login::TokenFile;
use crate::message::{Gap, Message, Start, Verdict};
use crate::sse::{SseEvent, SseParser};
use crate::url::percent_encode;
use crate::websocket::{Opcode, Received, WebSocket};

/// The largest line and event taken: what a server with a limit far above the default may send.
const EVENT_BYTES_MAX: usize = 64 << 20;
/// The ids of the requests on a `tidings.v1` feed.
const SUBSCRIBE_ID: u64 = 1;
const UNSUBSCRIBE_ID: u64 = 2;
const AUTH_ID: u64 = 3;

/// What comes over a feed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FeedItem {
    Message(Message),
    Gap(Gap),
    /// Nothing to see, but the cursor moved.
    Position(String),
}

pub(super) enum Feed {
    Tidings(Box<TidingsFeed>),
    Sse(Box<SseFeed>),
    Mqtt(Box<MqttFeed>),
}

impl Feed {
    /// Connects and subscribes.
    pub(super) async fn open(client: Client, wanted: Wanted) -> Result<Self, TryError> {
        let Wanted { filters, start, .. } = &wanted;
        if let Speaks::Mqtt(qos) = client.speaks {
            if wanted.membership.is_some() {
                let detail = "over MQTT a work queue is a shared subscription: subscribe to `$share/{group}/{filter}`";
                return Err(Refused::from_code("bad-parameter", detail, None).into());
            }
            let feed = MqttFeed::open(&client, qos, filters, start).await?;
            return Ok(Self::Mqtt(Box::new(feed)));
        }
        match wanted.wire {
            Wire::Tidings => {
                let websocket = client.tidings().await?;
                let open = TidingsFeed::open(websocket, &wanted, client.token_file());
                let feed = client.in_time(open).await?;
                Ok(Self::Tidings(Box::new(feed)))
            }
            Wire::Sse => {
                let open = SseFeed::open(&client, filters, start);
                let feed = client.in_time(open).await?;
                Ok(Self::Sse(Box::new(feed)))
            }
        }
    }

    /// Where the server said that the subscription starts.
    pub(super) fn cursor(&self) -> Option<&str> {
        match self {
            Self::Tidings(feed) => Some(feed.cursor.as_str()).filter(|cursor| !cursor.is_empty()),
            Self::Sse(_) => None,
            Self::Mqtt(feed) => feed.cursor(),
        }
    }

    /// When the server wants this client back.
    pub(super) fn told_wait(&self) -> Option<Duration> {
        match self {
            Self::Tidings(feed) => feed.reconnect,
            Self::Sse(feed) => feed.reconnect.filter(|_| feed.is_draining),
            Self::Mqtt(feed) => feed.told_wait(),
        }
    }

    pub(super) async fn next(&mut self, silence: Duration) -> Result<FeedItem, TryError> {
        match self {
            Self::Tidings(feed) => feed.next(silence).await,
            Self::Sse(feed) => feed.next(silence).await,
            Self::Mqtt(feed) => feed.next(silence).await,
        }
    }

    /// Says goodbye, where a protocol has a word for it.
    pub(super) async fn close(self) {
        match self {
            Self::Tidings(feed) => feed.close().await,
            Self::Sse(_) => {}
            Self::Mqtt(feed) => feed.close().await,
        }
    }

    /// Passes a verdict on; `false` if the message is not there to be settled.
    pub(super) fn settle(&mut self, id: &str, verdict: Verdict) -> bool {
        match self {
            Self::Tidings(feed) => feed.settle(id, verdict),
            Self::Sse(_) | Self::Mqtt(_) => false,
        }
    }

    /// What is here already.
    pub(super) fn ready(&mut self) -> Result<Option<FeedItem>, TryError> {
        match self {
            Self::Tidings(feed) => feed.ready(),
            Self::Sse(feed) => Ok(feed.items.pop_front()),
            Self::Mqtt(feed) => feed.ready(),
        }
    }
}

pub(super) struct TidingsFeed {
    websocket: WebSocket,
    cursor: String,
    reconnect: Option<Duration>,
    /// Where the next token is, when the server says that this one ends.
    token_file: Option<TokenFile>,
    /// In a work queue: what came and is not settled.
    member: Option<Member>,
}

struct Member {
    /// The subscription's number.
    sub: u32,
    /// As many as the server lets be out.
    unsettled: HashSet<String>,
}

impl TidingsFeed {
    async fn open(
        mut websocket: WebSocket,
        wanted: &Wanted,
        token_file: Option<TokenFile>,
    ) -> Result<Self, TryError> {
        let membership = wanted.membership.as_ref();
        let asked = Asked {
            group: membership.map(|it| it.group.as_str()),
            prefetch: membership.and_then(|it| it.prefetch),
            ..Asked::new(&wanted.filters, &wanted.start)
        };
        websocket.queue(Opcode::Text, &subscribe_request(SUBSCRIBE_ID, asked));
        let (cursor, sub) = loop {
            let text = match websocket.receive().await.map_err(Lost::from)? {
                Received::Text(text) => text,
                Received::Close(close) => return Err(Lost::ClosedWith(close).into()),
                _ => continue,
            };
            match ServerWord::parse(&text)? {
                ServerWord::Ok {
                    id: Some(SUBSCRIBE_ID),
                    receipt,
                    sub,
                } => break (receipt.id, sub),
                ServerWord::Error { refused, .. } => return Err(refused.into()),
                ServerWord::Drain { .. } => return Err(Lost::Draining.into()),
                _ => {}
            }
        };
        let member = match (membership, sub) {
            (None, _) => None,
            (Some(_), Some(sub)) => Some(Member {
                sub,
                unsettled: HashSet::new(),
            }),
            (Some(_), None) => return Err(Lost::Answer("a subscription without a `sub`").into()),
        };
        Ok(Self {
            websocket,
            cursor,
            reconnect: None,
            token_file,
            member,
        })
    }

    fn settle(&mut self, id: &str, verdict: Verdict) -> bool {
        let Some(member) = &mut self.member else {
            return false;
        };
        let is_here = member.unsettled.remove(id);
        if is_here {
            let request = settle_request(member.sub, id, verdict);
            self.websocket.queue(Opcode::Text, &request);
        }
        is_here
    }

    /// A member leaves and hears that it has left: a connection that is closed over messages that were not read
    /// is reset, and what is on its way to the server with it, verdicts as well.
    async fn close(mut self) {
        if let Some(member) = &self.member {
            let request = unsubscribe_request(UNSUBSCRIBE_ID, member.sub);
            self.websocket.queue(Opcode::Text, &request);
            while let Ok(received) = self.websocket.receive().await {
                match received {
                    Received::Text(text) if is_answer(&text, UNSUBSCRIBE_ID) => break,
                    Received::Close(_) => break,
                    _ => {}
                }
            }
        }
        self.websocket.close(1000).await;
    }

    async fn next(&mut self, silence: Duration) -> Result<FeedItem, TryError> {
        loop {
            if let Some(item) = self.ready()? {
                return Ok(item);
            }
            let received = tokio::time::timeout(silence, self.websocket.receive()).await;
            let received = received.map_err(|_| Lost::Silent(silence))?;
            let received = received.map_err(|error| self.lost(error.into()))?;
            if let Some(item) = self.take(received)? {
                return Ok(item);
            }
        }
    }

    fn ready(&mut self) -> Result<Option<FeedItem>, TryError> {
        loop {
            let received = self.websocket.receive_ready();
            let Some(received) = received.map_err(|error| self.lost(error.into()))? else {
                return Ok(None);
            };
            let item = self.take(received)?;
            if item.is_some() {
                return Ok(item);
            }
        }
    }

    /// After a drain the way in which the connection ends does not matter.
    fn lost(&self, lost: Lost) -> Lost {
        if self.reconnect.is_some() {
            return Lost::Draining;
        }
        lost
    }

    fn take(&mut self, received: Received) -> Result<Option<FeedItem>, TryError> {
        let text = match received {
            Received::Text(text) => text,
            Received::Close(close) => return Err(self.lost(Lost::ClosedWith(close)).into()),
            Received::Binary(_) | Received::Ping(_) | Received::Pong(_) => return Ok(None),
        };
        match ServerWord::parse(&text)? {
            ServerWord::Message(message) => {
                if let Some(member) = &mut self.member {
                    member.unsettled.insert(message.id.clone());
                }
                Ok(Some(FeedItem::Message(message)))
            }
            ServerWord::Gap(gap) => Ok(Some(FeedItem::Gap(gap))),
            // Of a token that was refused: the connection goes on until the old one's end, and the next one shows what
            // is in the file then.
            ServerWord::Error { id, refused } if id != Some(AUTH_ID) => Err(refused.into()),
            ServerWord::Expiring => {
                if let Some(file) = &self.token_file {
                    let request = auth_request(AUTH_ID, &file.token());
                    self.websocket.queue(Opcode::Text, &request);
                }
                Ok(None)
            }
            ServerWord::Drain { reconnect } => {
                self.reconnect = Some(reconnect);
                Ok(None)
            }
            ServerWord::Ok { .. } | ServerWord::Error { .. } | ServerWord::Unknown => Ok(None),
        }
    }
}

fn is_answer(text: &[u8], request: u64) -> bool {
    matches!(
        ServerWord::parse(text),
        Ok(ServerWord::Ok { id: Some(id), .. } | ServerWord::Error { id: Some(id), .. }) if id == request
    )
}

pub(super) struct SseFeed {
    connection: HttpConnection,
    body: Body,
    parser: SseParser,
    /// Parsed, not given out.
    items: VecDeque<FeedItem>,
    /// The newest id that was seen in the stream.
    position: String,
    /// The reconnection time that the stream set last.
    reconnect: Option<Duration>,
    /// The server said goodbye: the reconnection time is meant for this client now. Otherwise its own backoff
    /// decides, which is as gentle and quicker after a mere loss of the connection.
    is_draining: bool,
    /// The server ended the subscription, after `items`.
    ended: Option<TryError>,
    /// Scratch space.
    decoded: Vec<u8>,
}

impl SseFeed {
    async fn open(
        client: &Client,
        filters: &[TopicFilter],
        start: &Start,
    ) -> Result<Self, TryError> {
        let mut connection = HttpConnection::new(client.connect().await?);
        let mut request = request_line("GET", client.url(), &subscribe_path(filters, start));
        request += "accept: text/event-stream\r\ncache-control: no-cache\r\n\r\n";
        connection.write(request.as_bytes()).await?;
        let head = connection.read_head().await?;
        if head.status != 200 {
            return Err(connection.read_refusal(&head).await);
        }
        let media_type = head.header("content-type").unwrap_or_default();
        if !media_type.starts_with("text/event-stream") {
            return Err(Lost::Answer("not an event stream").into());
        }
        Ok(Self {
            body: head.body()?,
            connection,
            parser: SseParser::new(EVENT_BYTES_MAX),
            items: VecDeque::new(),
            position: String::new(),
            reconnect: None,
            is_draining: false,
            ended: None,
            decoded: Vec::new(),
        })
    }

    async fn next(&mut self, silence: Duration) -> Result<FeedItem, TryError> {
        loop {
            if let Some(item) = self.items.pop_front() {
                return Ok(item);
            }
            if let Some(ended) = self.ended.take() {
                return Err(ended);
            }
            let complete = self.parse()?;
            if !self.items.is_empty() || self.ended.is_some() {
                continue;
            }
            if complete {
                return Err(self.lost(Lost::Closed).into());
            }
            let filled = tokio::time::timeout(silence, self.connection.fill()).await;
            filled
                .map_err(|_| Lost::Silent(silence))?
                .map_err(|lost| self.lost(lost))?;
        }
    }

    /// After a goodbye the way in which the connection ends does not matter.
    fn lost(&self, lost: Lost) -> Lost {
        if self.is_draining {
            Lost::Draining
        } else {
            lost
        }
    }

    /// Parses what was read; true once the response is complete.
    fn parse(&mut self) -> Result<bool, Lost> {
        let complete = self
            .body
            .decode(&mut self.connection.input, &mut self.decoded)?;
        let mut events = Vec::new();
        let pushed = self.parser.push(&self.decoded, &mut events);
        self.decoded.clear();
        if let Some(retry) = self.parser.take_retry() {
            self.reconnect = Some(retry);
        }
        for event in events {
            self.position.clone_from(&event.id);
            self.event(&event)?;
        }
        if self.position != self.parser.last_id() {
            self.position = self.parser.last_id().to_owned();
            self.items
                .push_back(FeedItem::Position(self.position.clone()));
        }
        match pushed {
            Ok(()) => Ok(complete),
            Err(_) => Err(Lost::Answer("an event that is too large")),
        }
    }

    /// The event types `gap`, `drain`, `lost` and `expiring` are the server's own; a publisher's never reach the stream.
    fn event(&mut self, event: &SseEvent) -> Result<(), Lost> {
        let json = |error: serde_json::Error| Lost::Json(error.to_string());
        match event.event.as_str() {
            "gap" => {
                let gap: Gap = serde_json::from_str(&event.data).map_err(json)?;
                self.items.push_back(FeedItem::Gap(gap));
            }
            "expiring" => {}
            "drain" => self.is_draining = true,
            "lost" => {
                let end: End = serde_json::from_str(&event.data).map_err(json)?;
                let retry_after = Duration::from_millis(end.reconnect_after_ms);
                let refused = Refused::from_code(&end.code, &end.message, Some(retry_after));
                self.ended = Some(refused.into());
            }
            _ => {
                let message = parse_message(event.data.as_bytes())?;
                self.items.push_back(FeedItem::Message(message));
            }
        }
        Ok(())
    }
}

/// The data of an event `lost`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct End {
    code: String,
    message: String,
    reconnect_after_ms: u64,
}

fn subscribe_path(filters: &[TopicFilter], start: &Start) -> String {
    let mut path = "/v1/subscribe?format=json".to_owned();
    for filter in filters {
        path.push_str("&topic=");
        percent_encode(filter.as_str(), b"/", &mut path);
    }
    match start {
        Start::Last(count) => {
            path.push_str("&last=");
            path.push_str(&count.to_string());
        }
        other => {
            path.push_str("&after=");
            percent_encode(other.after().unwrap_or("latest"), b"", &mut path);
        }
    }
    path
}
