//! SUBSCRIBE and UNSUBSCRIBE.
//!
//! `/topic` without acknowledgements is a plain subscription. With them, or if it is durable, it is a work queue that
//! nobody else takes part in; `/queue` is one that all share who name it.

use std::time::Duration;

use bytes::BytesMut;
use bytestring::ByteString;
use tidings_ports::{Command, Expiry, Framing, Gap, Group, Start, SubscriptionKey, Turn, Until};
use tidings_types::{Limits, Offset, Refusal, RefusalCode, TopicFilter};

use super::answers::What;
use super::codec::{Encoder, Headers, Version};
use super::destination::{self, Kind};
use super::format::{self, MessageFormat};
use super::send::flag;
use super::settle::Unacked;
use super::{StompConversation, missing};
use crate::query::{bad_parameter, parse_flag, parse_last, parse_start};

/// As in the hub: nobody has more unacknowledged, whatever is asked for.
const PREFETCH_MAX: u32 = 10_000;
/// Of a subscription: each of its messages has it.
const ID_BYTES_MAX: usize = 255;
/// Of a durable subscription, or a group.
const NAME_BYTES_MAX: usize = 256;
/// The group of `/queue` if there is no `x-group`.
const DEFAULT_GROUP: &str = "queue";

/// How messages are acknowledged (SUBSCRIBE ack Header).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AckMode {
    /// As they are sent.
    Auto,
    /// One with all before it.
    Client,
    /// One by one.
    ClientIndividual,
}

/// One subscription.
#[derive(Debug)]
pub(super) struct Subscription {
    /// Ascending in the list.
    pub(super) key: SubscriptionKey,
    /// The client's `id`, or in 1.0 the destination.
    name: Box<str>,
    /// MESSAGE with the headers that all its messages have.
    pub(super) head: Box<[u8]>,
    pub(super) format: &'static MessageFormat,
    pub(super) ack: AckMode,
    /// If it takes part in a work queue: what the client has not acknowledged.
    pub(super) unacked: Option<Box<Unacked>>,
    /// The newest message that it was given; none yet if it is [`Offset::ZERO`].
    pub(super) given: Offset,
    /// Not told yet.
    pub(super) gap: Option<Box<Gap>>,
}

impl Subscription {
    pub(super) fn is_member(&self) -> bool {
        self.unacked.is_some()
    }

    pub(super) fn is_named(&self, name: &str) -> bool {
        *self.name == *name
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Notes a message that the client is given.
    pub(super) fn note(&mut self, offset: Offset) {
        self.given = self.given.max(offset);
        if self.ack == AckMode::Auto {
            return;
        }
        if let Some(unacked) = &mut self.unacked {
            unacked.note(offset);
        }
    }
}

impl StompConversation {
    pub(super) fn subscribe(
        &mut self,
        headers: &Headers,
        receipt: Option<ByteString>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Refusal> {
        let version = self.version();
        let Some(destination) = headers.get("destination") else {
            return Err(missing("destination", "SUBSCRIBE"));
        };
        let name = self.new_name(headers, destination)?;
        if headers.get("selector").is_some() {
            let detail = "selectors are not supported: subscribe to a narrower topic, with `*` for a level or `#` for the rest";
            return Err(Refusal::new(RefusalCode::BadParameter, detail));
        }
        let (manner, filter) = destination::filter(destination)?;
        let ack = ack_mode(headers, version)?;
        let Some(key) = self.last_key.checked_add(1) else {
            let detail = "the connection has made as many subscriptions as it can: connect again";
            return Err(Refusal::new(RefusalCode::TooManySubscriptions, detail));
        };
        // One call may bring several subscriptions, with one random number.
        let unique = turn.random.wrapping_add(key.into());
        let group = group(headers, (manner.kind, &filter, ack), unique, &self.limits)?;
        let start = start(headers, manner.kind, group.is_some(), &self.limits)?;
        let echo = echo(headers, group.is_some())?;
        self.last_key = key;
        let key = SubscriptionKey(key);
        let prefetch = group.as_ref().map(|group| group.prefetch as usize);
        self.subscriptions.push(Subscription {
            key,
            head: head(version, headers.get("id")),
            name,
            format: format::of(version, manner),
            ack,
            unacked: prefetch.map(|max| Box::new(Unacked::new(max))),
            given: Offset::ZERO,
            gap: None,
        });
        let what = match group {
            Some(_) => What::Join,
            None => What::Plain,
        };
        let tag = self.ask(what, receipt);
        turn.commands.push(Command::Subscribe {
            tag,
            key,
            filters: vec![filter],
            start,
            framing: Framing::Own,
            echo,
            until: Until::Ended,
            group,
        });
        Ok(())
    }

    /// What a new subscription is called.
    fn new_name(&self, headers: &Headers, destination: &str) -> Result<Box<str>, Refusal> {
        let name = match headers.get("id") {
            Some(id) if id.len() > ID_BYTES_MAX => {
                let what = format!("it has at most {ID_BYTES_MAX} bytes");
                return Err(bad_parameter("id", &what));
            }
            Some(id) => id,
            None if self.version() == Version::V10 => destination,
            None => return Err(missing("id", "SUBSCRIBE")),
        };
        if self.subscriptions.iter().any(|it| it.is_named(name)) {
            let detail = "a subscription of this connection has this `id` already: unsubscribe it first, or take another one";
            return Err(Refusal::new(RefusalCode::BadParameter, detail));
        }
        let max = self.limits.subscriptions_per_connection_max;
        if self.subscriptions.len() >= max {
            let detail = format!(
                "the connection has {max} subscriptions, as many as `limits.subscriptions_per_connection_max` permits: end one, or use a wildcard"
            );
            return Err(Refusal::new(RefusalCode::TooManySubscriptions, detail));
        }
        Ok(name.into())
    }

    pub(super) fn unsubscribe(
        &mut self,
        headers: &Headers,
        receipt: Option<ByteString>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Refusal> {
        let name = match headers.get("id") {
            Some(id) => id,
            None if self.version() > Version::V10 => return Err(missing("id", "UNSUBSCRIBE")),
            None => headers
                .get("destination")
                .ok_or_else(|| missing("destination", "UNSUBSCRIBE"))?,
        };
        let Some(at) = self.subscriptions.iter().position(|it| it.is_named(name)) else {
            let detail = "there is no such subscription: name it as its SUBSCRIBE did";
            return Err(Refusal::new(RefusalCode::NotFound, detail));
        };
        let forget = flag(headers, "durable")?;
        let subscription = self.subscriptions.remove(at);
        self.note_ended(&subscription);
        let key = subscription.key;
        self.give_back(|held| held == key, turn);
        let tag = self.ask(What::Plain, receipt);
        turn.commands
            .push(Command::Unsubscribe { tag, key, forget });
        Ok(())
    }

    /// Ends every subscription, so that no message follows a close frame, and queues go on without this client.
    pub(super) fn end_subscriptions(&mut self, turn: &mut Turn<'_>) {
        for subscription in std::mem::take(&mut self.subscriptions) {
            let tag = self.ask(What::Plain, None);
            turn.commands.push(Command::Unsubscribe {
                tag,
                key: subscription.key,
                forget: false,
            });
        }
    }
}

/// The command and the headers that all messages of a subscription have.
fn head(version: Version, id: Option<&ByteString>) -> Box<[u8]> {
    let mut out = BytesMut::new();
    let headers = id.map(|id| ("subscription", &**id));
    Encoder::new(version).own_message(headers, &mut out);
    out[..].into()
}

fn ack_mode(headers: &Headers, version: Version) -> Result<AckMode, Refusal> {
    match headers.get("ack").map(|value| &**value) {
        None | Some("auto") => Ok(AckMode::Auto),
        Some("client") => Ok(AckMode::Client),
        Some("client-individual") if version > Version::V10 => Ok(AckMode::ClientIndividual),
        Some(_) if version == Version::V10 => {
            Err(bad_parameter("ack", "STOMP 1.0 has `auto` and `client`"))
        }
        Some(_) => Err(bad_parameter(
            "ack",
            "pass `auto`, `client` or `client-individual`",
        )),
    }
}

/// The work queue to take part in, if any.
fn group(
    headers: &Headers,
    (kind, filter, ack): (Kind, &TopicFilter, AckMode),
    unique: u64,
    limits: &Limits,
) -> Result<Option<Group>, Refusal> {
    let (name, expiry) = if kind == Kind::Queue {
        let group = headers.get("x-group").map_or(DEFAULT_GROUP, |name| name);
        if !is_name(group) || group.contains(['/', '+', '#']) {
            let what = format!("pass 1 to {NAME_BYTES_MAX} bytes without `/`, `+` and `#`");
            return Err(bad_parameter("x-group", &what));
        }
        (Group::shared_name(group, filter), queue_expiry(headers)?)
    } else if headers.get("x-group").is_some() {
        let what = "groups are for `/queue/`, whose consumers share it: every subscriber of `/topic/` gets each message";
        return Err(bad_parameter("x-group", what));
    } else if let Some(name) = durable_name(headers)? {
        let kept = Duration::from_secs(limits.session_expiry_s_max.into());
        (Group::durable_name(name), Expiry::After(kept))
    } else if ack == AckMode::Auto {
        return Ok(None);
    } else {
        (Group::own_name(unique), Expiry::WithConnection)
    };
    Ok(Some(Group {
        name,
        prefetch: prefetch(headers, limits)?,
        expiry,
        ack_timeout: milliseconds(headers, "x-ack-timeout")?,
    }))
}

/// How long a queue is kept without consumers, as other brokers name it.
fn queue_expiry(headers: &Headers) -> Result<Expiry, Refusal> {
    if flag(headers, "exclusive")? {
        let what =
            "a queue is shared by all who name it: leave it away, or subscribe to `/topic/..`";
        return Err(bad_parameter("exclusive", what));
    }
    if flag(headers, "auto-delete")? {
        return Ok(Expiry::WithConnection);
    }
    let kept = milliseconds(headers, "x-expires")?;
    Ok(kept.map_or(Expiry::Never, Expiry::After))
}

/// The name of a durable subscription, if it is to be one. An `id` is none: clients count theirs, and two of them would
/// share one subscription.
fn durable_name(headers: &Headers) -> Result<Option<&ByteString>, Refusal> {
    let activemq = headers.get("activemq.subscriptionName");
    if !flag(headers, "durable")? && activemq.is_none() {
        return Ok(None);
    }
    let named = headers.get("durable-name").or(activemq);
    let named = named.or_else(|| headers.get("x-queue-name"));
    match named.filter(|name| is_name(name)) {
        Some(name) => Ok(Some(name)),
        None => Err(Refusal::new(
            RefusalCode::BadParameter,
            format!(
                "a durable subscription has a name that no other client uses: pass 1 to {NAME_BYTES_MAX} bytes as `durable-name` (or `activemq.subscriptionName`, or `x-queue-name`)"
            ),
        )),
    }
}

fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control)
}

fn prefetch(headers: &Headers, limits: &Limits) -> Result<u32, Refusal> {
    let asked = ["prefetch-count", "activemq.prefetchSize"]
        .into_iter()
        .find_map(|name| Some((name, headers.get(name)?)));
    let Some((name, text)) = asked else {
        return Ok(limits.prefetch.clamp(1, PREFETCH_MAX));
    };
    let max = PREFETCH_MAX;
    match text.parse() {
        Ok(0) => Ok(limits.prefetch.clamp(1, max)),
        Ok(count) => Ok(u32::min(count, max)),
        Err(_) => Err(bad_parameter(
            name,
            &format!("pass a number from 1 to {max}, or 0 for `limits.prefetch`"),
        )),
    }
}

fn milliseconds(headers: &Headers, name: &str) -> Result<Option<Duration>, Refusal> {
    let Some(text) = headers.get(name) else {
        return Ok(None);
    };
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(ms @ 1..) if digits => Ok(Some(Duration::from_millis(ms))),
        _ => Err(bad_parameter(name, "pass a number of milliseconds")),
    }
}

fn echo(headers: &Headers, is_member: bool) -> Result<bool, Refusal> {
    let wanted = headers
        .get("echo")
        .map_or(Ok(true), |value| parse_flag("echo", value))?;
    let name = if wanted { "no-local" } else { "echo" };
    let echo = wanted && !flag(headers, "no-local")?;
    if is_member && !echo {
        let what = "a queue, a durable subscription, or one with acknowledgements gets each message, whoever sent it: leave it away";
        return Err(bad_parameter(name, what));
    }
    Ok(echo)
}

/// Where a subscription starts; a work queue only if it is new.
fn start(
    headers: &Headers,
    kind: Kind,
    is_member: bool,
    limits: &Limits,
) -> Result<Start, Refusal> {
    let start = if let Some(text) = headers.get("x-after") {
        match text.strip_prefix("last:") {
            Some(count) => parse_last(count, limits.last_messages_max)?,
            None => parse_start(text).map_err(|_| bad_start())?,
        }
    } else if let Some(text) = headers.get("x-stream-offset") {
        match &**text {
            "first" => Start::Earliest,
            "last" => Start::Last(1),
            "next" => Start::Latest,
            _ => return Err(bad_stream_offset()),
        }
    } else if kind == Kind::Queue {
        Start::Earliest
    } else {
        Start::Latest
    };
    if is_member && start == Start::Retained {
        let what = "what is retained is for subscriptions that are neither durable, nor acknowledge, nor share a queue";
        return Err(bad_parameter("x-after", what));
    }
    Ok(start)
}

fn bad_start() -> Refusal {
    let detail = "`x-after` is not a cursor: pass the `message-id` of a message as it was, or `earliest`, `latest`, `retained` or `last:N`";
    Refusal::new(RefusalCode::BadCursor, detail)
}

/// Offsets and times of another broker's stream say nothing about this log.
fn bad_stream_offset() -> Refusal {
    let what = "`first`, `last` and `next` are known here: to go on after a message pass its `message-id` as `x-after`";
    bad_parameter("x-stream-offset", what)
}
