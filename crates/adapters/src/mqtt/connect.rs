//! From a CONNECT to its CONNACK (3.1, 3.2).

use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use bytestring::ByteString;
use tidings_ports::{Command, Credential, Expiry, Secret, SignOn, Start, Turn, Until, Will};
use tidings_types::{Cursor, Limits, Offset, Refusal, RefusalCode};

use super::alias::OutboundAliases;
use super::auth::{Exchange, Outcome};
use super::codec::{
    Ack, AckKind, Auth, Connack, Connect, Diagnostics, PacketKind, ReasonCode, Version, Wire,
};
use super::draft::{Parts, draft};
use super::filters::Filter;
use super::link::{Link, farewell};
use super::saving::After;
use super::session::{Class, Client, MAIN, Recovered, Session, Stage};
use super::state::State;
use super::unfinished::Connecting;
use super::window::Source;
use super::{MqttOptions, packet_bytes_max, refuse, session_name};

/// The longest client identifier of 3.1 (3.1 of its specification).
const OLD_ID_BYTES_MAX: usize = 23;
/// The longest client identifier. The session is kept under it.
const ID_BYTES_MAX: usize = 1_000;

/// Takes a CONNECT; `None` if it is refused.
pub(super) fn connect(
    connect: Connect,
    options: &MqttOptions,
    link: &mut Link,
    turn: &mut Turn<'_>,
) -> Option<Box<Session>> {
    link.wire = Wire::from(&connect);
    let mut connack = Connack::accepted(false);
    let authentication = connect.properties.authentication.clone();
    let alias_max = connect.properties.topic_alias_maximum;
    let clean_start = connect.clean_start;
    let has_two = authentication.is_some() && connect.password.is_some();
    let credential = match credential(&connect) {
        Credential::Anonymous => options.shown.clone(),
        credential => credential,
    };
    let has_credential = !matches!(credential, Credential::Anonymous);
    let (client, client_id) = match client(connect, options, &mut connack, link, turn) {
        Ok(client) => client,
        Err(No { reason, refusal }) => {
            refuse(link, turn, reason, refusal);
            return None;
        }
    };
    let mut session = Box::new(Session::new(client, options.limits.clone(), turn));
    let ours = u16::try_from(options.limits.mqtt_topic_alias_max).unwrap_or(u16::MAX);
    session.sign_on = options.sign_on;
    session.outbound_aliases = OutboundAliases::new(alias_max.min(ours));
    session.unfinished.connecting = Some(Box::new(Connecting {
        connack,
        client_id,
        clean_start,
        has_credential,
    }));
    let Some(first) = authentication else {
        match options.sign_on {
            SignOn::Open => session.open(turn),
            SignOn::Judged => session.identify(credential, turn),
        }
        return Some(session);
    };
    session.stage = Stage::Authenticating;
    if has_two {
        let text = "there are two credentials: show a password, or use an authentication method";
        let refusal = Refusal::new(RefusalCode::Unauthorized, text);
        refuse(link, turn, ReasonCode::BadUserNameOrPassword, refusal);
        return Some(session);
    }
    match Exchange::begin(&first) {
        Ok((exchange, outcome)) => {
            session.exchange = Some(exchange);
            session.authenticate(link, turn, outcome);
        }
        Err(reason) => {
            let text = "this authentication method is not known here";
            let refusal = Refusal::new(RefusalCode::Unauthorized, text);
            refuse(link, turn, reason, refusal);
        }
    }
    Some(session)
}

/// Why a CONNECT is refused.
struct No {
    reason: ReasonCode,
    refusal: Refusal,
}

impl From<Refusal> for No {
    fn from(refusal: Refusal) -> Self {
        Self {
            reason: ReasonCode::of_refusal(refusal.code, PacketKind::Connack),
            refusal,
        }
    }
}

fn client(
    connect: Connect,
    options: &MqttOptions,
    connack: &mut Connack,
    link: &Link,
    turn: &Turn<'_>,
) -> Result<(Client, ByteString), No> {
    let limits = &options.limits;
    let version = connect.version;
    let max = match version {
        Version::V3 => OLD_ID_BYTES_MAX,
        Version::V4 | Version::V5 => ID_BYTES_MAX,
    };
    if connect.client_id.len() > max {
        return Err(No {
            reason: ReasonCode::ClientIdentifierNotValid,
            refusal: Refusal::new(
                RefusalCode::BadParameter,
                format!("the client identifier has more than {max} bytes: shorten it"),
            ),
        });
    }
    let mut id = connect.client_id;
    if id.is_empty() {
        let drawn = || format!("tidings-{:016x}", turn.random).into();
        id = options.assigned_id.clone().unwrap_or_else(drawn);
        connack.assigned_client_id = Some(id.clone());
    }
    let expiry = expiry(
        version,
        connect.clean_start,
        connect.properties.session_expiry_s,
    );
    let (expiry, capped) = cap(expiry, limits);
    if version == Version::V5 && capped {
        connack.session_expiry_s = Some(limits.session_expiry_s_max);
    }
    let mut keep_alive_s = connect.keep_alive_s;
    let keep_alive_max = u16::try_from(limits.mqtt_keep_alive_s_max).unwrap_or(0);
    let is_long = keep_alive_s == 0 || keep_alive_s > keep_alive_max;
    if version == Version::V5 && keep_alive_max > 0 && is_long {
        keep_alive_s = keep_alive_max;
        connack.server_keep_alive_s = Some(keep_alive_s);
    }
    let will = connect
        .will
        .map(|will| self::will(will, limits).map(Box::new))
        .transpose()?;
    announce(connack, limits);
    let is_plain =
        |id: &ByteString| !id.contains(|c: char| c.is_control() || matches!(c, '+' | '#' | '$'));
    if connect.properties.response_information && is_plain(&id) {
        connack.response_information = Some(format!("response/{id}").into());
    }
    let quota = connect.properties.receive_maximum.get();
    let window_max = u16::try_from(limits.mqtt_window_max.max(1)).unwrap_or(u16::MAX);
    let client = Client {
        version,
        is_websocket: link.stream.is_websocket(),
        // MQTT-3.1.2-22: one and a half times the keep alive; 0 is off.
        silence_ms_max: NonZeroU32::new(u32::from(keep_alive_s) * 1_500),
        expiry,
        will,
        quota: quota.min(window_max),
    };
    Ok((client, id))
}

/// What the client shows. In 5.0 a password may come alone: then it is a token or a key.
fn credential(connect: &Connect) -> Credential {
    let secret = |password: &bytes::Bytes| Secret::new(&password[..]);
    match (&connect.user_name, &connect.password) {
        (None, None) => Credential::Anonymous,
        (None, Some(password)) => Credential::Bearer(secret(password)),
        (Some(user), password) => Credential::Password {
            user: user.to_string(),
            password: password.as_ref().map_or_else(|| Secret::from(""), secret),
        },
    }
}

/// When the client's credential ends, in seconds, as a user property.
fn expires(left: Option<Duration>) -> Option<(ByteString, ByteString)> {
    let seconds = left?.as_secs().to_string();
    Some((ByteString::from_static("tidings-expires"), seconds.into()))
}

/// How long the session is to outlive its connection (3.1.2.4 of 3.1.1, 3.1.2.11.2 of 5.0).
fn expiry(version: Version, clean_start: bool, seconds: Option<u32>) -> Expiry {
    match (version, seconds.unwrap_or(0)) {
        (Version::V3 | Version::V4, _) if clean_start => Expiry::WithConnection,
        (Version::V3 | Version::V4, _) | (Version::V5, u32::MAX) => Expiry::Never,
        (Version::V5, 0) => Expiry::WithConnection,
        (Version::V5, seconds) => Expiry::After(Duration::from_secs(u64::from(seconds))),
    }
}

/// At most as long as the server permits, and whether that is shorter.
fn cap(expiry: Expiry, limits: &Limits) -> (Expiry, bool) {
    let max = Duration::from_secs(u64::from(limits.session_expiry_s_max));
    match expiry {
        Expiry::WithConnection => (expiry, false),
        Expiry::After(span) if span <= max => (expiry, false),
        Expiry::After(_) | Expiry::Never => (Expiry::After(max), true),
    }
}

/// The expiry that a DISCONNECT sets (3.14.2.2.2).
pub(super) fn changed_expiry(seconds: u32, limits: &Limits) -> Expiry {
    cap(expiry(Version::V5, false, Some(seconds)), limits).0
}

fn will(will: super::codec::Will, limits: &Limits) -> Result<Will, No> {
    let delay = Duration::from_secs(u64::from(will.delay_s));
    let parts = Parts {
        topic: will.topic,
        payload: will.payload,
        qos: will.qos,
        retain: will.retain,
        properties: will.properties,
    };
    Ok(Will {
        delay,
        draft: draft(parts, limits)?,
    })
}

/// What the server takes.
fn announce(connack: &mut Connack, limits: &Limits) {
    let at_once = limits
        .publishes_in_flight_max
        .clamp(1, usize::from(u16::MAX));
    connack.receive_maximum = NonZeroU16::new(at_once as u16).filter(|max| *max != NonZeroU16::MAX);
    let bytes = u32::try_from(packet_bytes_max(limits)).unwrap_or(u32::MAX);
    connack.packet_bytes_max = NonZeroU32::new(bytes);
    connack.topic_alias_maximum = u16::try_from(limits.mqtt_topic_alias_max).unwrap_or(u16::MAX);
}

impl Session {
    /// Takes a step of authentication.
    pub(super) fn authenticate(&mut self, link: &mut Link, turn: &mut Turn<'_>, outcome: Outcome) {
        match outcome {
            Outcome::Challenge(auth) => link.send(turn, |wire, out| auth.encode(wire, out)),
            Outcome::Failed(reason) => {
                // MQTT-4.12.0-1, MQTT-4.12.1-2.
                let refusal = Refusal::new(RefusalCode::Unauthorized, "authentication failed");
                refuse(link, turn, reason, refusal);
            }
            Outcome::Judge(credential) => match self.sign_on {
                SignOn::Open => self.identified(link, turn, None),
                SignOn::Judged => self.identify(credential, turn),
            },
        }
    }

    /// The client is who it says, for so long: the session is opened, or a client that has it is told.
    pub(super) fn identified(
        &mut self,
        link: &mut Link,
        turn: &mut Turn<'_>,
        left: Option<Duration>,
    ) {
        let authentication = self.exchange.as_mut().map(Exchange::done);
        let user_properties = expires(left).into_iter().collect();
        let diagnostics = Diagnostics {
            user_properties,
            ..Diagnostics::default()
        };
        if self.stage != Stage::Open {
            if let Some(connecting) = &mut self.unfinished.connecting {
                connecting.connack.authentication = authentication;
                connecting.connack.diagnostics = diagnostics;
            }
            return self.open(turn);
        }
        if let Some(authentication) = authentication {
            let auth = Auth {
                reason: ReasonCode::Success,
                authentication,
                diagnostics,
            };
            link.send(turn, |wire, out| auth.encode(wire, out));
        }
    }

    /// Asks the hub who the client is.
    fn identify(&mut self, credential: Credential, turn: &mut Turn<'_>) {
        if self.stage != Stage::Open {
            self.stage = Stage::Identifying;
        }
        let tag = self.tag(Class::Identify);
        turn.commands
            .push(Command::Authenticate { tag, credential });
    }

    /// The client is not who it says (3.2.2.3 of 3.1.1, 3.2.2.2 and 4.12.1 of 5.0).
    pub(super) fn not_identified(&self, link: &mut Link, turn: &mut Turn<'_>, refusal: &Refusal) {
        let connecting = self.unfinished.connecting.as_ref();
        if refusal.code == RefusalCode::Unauthorized
            && self.exchange.is_none()
            && connecting.is_some_and(|it| it.has_credential)
        {
            let reason = ReasonCode::BadUserNameOrPassword;
            return link.disconnect(turn, farewell(reason, refusal.detail.clone()));
        }
        fail(link, turn, refusal);
    }

    /// Asks the hub for the session.
    pub(super) fn open(&mut self, turn: &mut Turn<'_>) {
        self.stage = Stage::Opening;
        let tag = self.tag(Class::Open);
        let connecting = self.unfinished.connecting.as_ref();
        turn.commands
            .extend(connecting.map(|it| Command::OpenSession {
                tag,
                name: session_name(&it.client_id),
                fresh: it.clean_start,
            }));
    }

    /// The session is open, with what was kept of it.
    pub(super) fn opened(&mut self, link: &mut Link, turn: &mut Turn<'_>, kept: Option<&[u8]>) {
        self.stage = Stage::Resuming;
        // Also what ends with this connection now takes the place of what was to outlive the last one.
        self.was_saved = kept.is_some();
        match kept.map(State::decode) {
            Some(Some(state)) => {
                self.adopt(state);
                if let Some(connecting) = &mut self.unfinished.connecting {
                    connecting.connack.session_present = true;
                }
            }
            Some(None) => {
                let text = "the session was kept in a form that is not known: it begins anew";
                let refusal = Refusal::new(RefusalCode::BadVersion, text);
                turn.commands.push(Command::Refused(refusal));
            }
            None => {}
        }
        self.after_save(link, turn, After::Resume);
    }

    /// Takes up the ordinary subscriptions, if there are any.
    pub(super) fn resume(&mut self, link: &mut Link, turn: &mut Turn<'_>) {
        let Some(delivered) = self
            .delivered
            .filter(|_| self.filters.iter().any(Filter::is_plain))
        else {
            return self.welcome(link, turn);
        };
        // What is to be sent again is read again.
        let unsent = self.window.first_unsent(|source| source == Source::Main);
        let again = unsent.map_or(delivered.offset, |it| Offset(it.0.saturating_sub(1)));
        let tag = self.tag(Class::Main);
        turn.commands.push(Command::Subscribe {
            tag,
            key: MAIN,
            filters: self.plain_texts(),
            start: Start::After(Cursor {
                offset: again.min(delivered.offset),
                ..delivered
            }),
            framing: tidings_ports::Framing::Own,
            echo: true,
            until: Until::Ended,
            group: None,
        });
    }

    /// The ordinary subscriptions are taken up.
    pub(super) fn resumed(&mut self, link: &mut Link, turn: &mut Turn<'_>, cursor: Cursor) {
        if self.stage != Stage::Resuming {
            if self.recovered == Recovered::Yes {
                self.recovered = Recovered::Until(cursor.offset);
            }
            return;
        }
        if self.delivered.is_some_and(|it| it.epoch == cursor.epoch) {
            self.main.is_there = true;
            return self.welcome(link, turn);
        }
        // The log is another one: its positions mean nothing here.
        let tag = self.tag(Class::Ignored);
        turn.commands.push(Command::Unsubscribe {
            tag,
            key: MAIN,
            forget: false,
        });
        self.forget(link, turn);
    }

    /// The ordinary subscriptions cannot be taken up: the session begins anew if the client may not have them any
    /// more, and stays as it is if the server is short of something.
    pub(super) fn not_resumed(&mut self, link: &mut Link, turn: &mut Turn<'_>, refusal: &Refusal) {
        match refusal.code {
            RefusalCode::Forbidden | RefusalCode::Unauthorized | RefusalCode::BadFilter => {
                self.forget(link, turn);
            }
            _ => fail(link, turn, refusal),
        }
    }

    /// Goes on with a new session. It is not said to be present, as what the client has in mind of it is not.
    fn forget(&mut self, link: &mut Link, turn: &mut Turn<'_>) {
        self.adopt(State {
            is_closed: true,
            ..State::default()
        });
        if let Some(connecting) = &mut self.unfinished.connecting {
            connecting.connack.session_present = false;
        }
        self.touch();
        self.welcome(link, turn);
    }

    /// Answers the CONNECT, and takes up what is unfinished (MQTT-4.4.0-1).
    fn welcome(&mut self, link: &mut Link, turn: &mut Turn<'_>) {
        let Some(connecting) = self.unfinished.connecting.take() else {
            return;
        };
        self.stage = Stage::Open;
        link.send(turn, |wire, out| connecting.connack.encode(wire, out));
        link.is_welcome = true;
        for id in self.window.resume_released() {
            let ack = Ack::new(id, ReasonCode::Success);
            link.ack(turn, AckKind::Pubrel, &ack);
        }
        if self.recovered == Recovered::Yes && self.main.is_there {
            // The answer says where the log is now: what comes after that was never sent.
            self.alter_main(turn, Class::Main, Vec::new());
        }
        self.resume_groups(turn);
        self.resume_catch_ups(turn);
    }
}

/// Ends the connection for a refusal of the hub, with a CONNACK if there was none yet.
pub(super) fn fail(link: &mut Link, turn: &mut Turn<'_>, refusal: &Refusal) {
    let kind = if link.is_welcome {
        PacketKind::Disconnect
    } else {
        PacketKind::Connack
    };
    let reason = ReasonCode::of_refusal(refusal.code, kind);
    link.disconnect(turn, farewell(reason, refusal.detail.clone()));
}
