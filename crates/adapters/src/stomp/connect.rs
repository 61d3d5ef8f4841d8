//! CONNECT and STOMP: which version is spoken, and how often each side gives a sign of life.

use tidings_ports::{Command, Credential, Secret, SignOn, Turn};
use tidings_types::{Refusal, RefusalCode};

use super::StompConversation;
use super::answers::What;
use super::codec::{self, Headers, Version};
use super::farewell::Farewell;
use super::heartbeat::HeartBeat;

/// The header `server` of CONNECTED.
const SERVER: &str = concat!("tidings/", env!("CARGO_PKG_VERSION"));

impl StompConversation {
    /// Opens the session. `host` may be missing.
    pub(super) fn connect(&mut self, headers: &Headers, turn: &mut Turn<'_>) {
        let accept = headers.get("accept-version").map(|value| &**value);
        let by_subprotocol = self
            .offered
            .and_then(|offered| Version::choose(accept, &[offered]));
        let Some(version) = by_subprotocol.or_else(|| Version::choose(accept, &Version::ALL))
        else {
            let detail = "1.0, 1.1 and 1.2 are spoken here: name one of them in `accept-version`";
            let refusal = Refusal::new(RefusalCode::BadVersion, detail);
            let farewell = Farewell {
                versions: true,
                ..Farewell::default()
            };
            return self.refuse(&refusal, &farewell, turn);
        };
        let header = headers.get("heart-beat").filter(|_| version > Version::V10);
        let ours_ms = self.limits.heartbeat_ms;
        self.beat = match HeartBeat::agree(header.map(|value| &**value), ours_ms) {
            Ok(beat) => beat,
            Err(refusal) => return self.refuse(&refusal, &Farewell::default(), turn),
        };
        self.beat.heard(turn.now);
        self.beat.schedule(turn.now, turn.random);
        self.decoder.set_version(version);
        if self.sign_on == SignOn::Open {
            return self.connected(turn);
        }
        let tag = self.ask(What::Identify, None);
        let credential = credential(headers);
        turn.commands
            .push(Command::Authenticate { tag, credential });
    }

    /// Greets the client.
    pub(super) fn connected(&mut self, turn: &Turn<'_>) {
        let (version, ours_ms) = (self.version(), self.limits.heartbeat_ms);
        let session = format!("{:016x}", turn.random);
        let beat = format!("{ours_ms},{ours_ms}");
        let answer = [
            ("version", version.as_str()),
            ("session", &session),
            ("server", SERVER),
        ];
        // 1.0 has none.
        let beat = (version > Version::V10).then_some(("heart-beat", &*beat));
        let answer = answer.into_iter().chain(beat);
        let encoder = self.encoder();
        encoder.frame(codec::Command::Connected, answer, b"", &mut self.stream.out);
    }
}

/// What the client shows. A passcode may come alone: then it is a token or a key.
fn credential(headers: &Headers) -> Credential {
    let secret = |text: &bytestring::ByteString| Secret::from(&**text);
    match (headers.get("login"), headers.get("passcode")) {
        (None, None) => Credential::Anonymous,
        (None, Some(passcode)) => Credential::Bearer(secret(passcode)),
        (Some(login), passcode) => Credential::Password {
            user: login.to_string(),
            password: passcode.map_or_else(|| Secret::from(""), secret),
        },
    }
}
