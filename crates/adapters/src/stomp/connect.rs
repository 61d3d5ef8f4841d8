//! CONNECT and STOMP: which version is spoken, and how often each side gives a sign of life.

use std::time::Duration;

use bytestring::ByteString;
use tidings_ports::{Command, Credential, Secret, SignOn, Tag, Turn};
use tidings_types::{Refusal, RefusalCode};

use super::StompConversation;
use super::answers::{Pending, What};
use super::codec::{self, Frame, Headers, Version};
use super::farewell::Farewell;
use super::heartbeat::HeartBeat;

/// The header `server` of CONNECTED.
const SERVER: &str = concat!("tidings/", env!("CARGO_PKG_VERSION"));

/// Where a new credential is sent to.
pub(super) const AUTH: &str = "/auth";

/// In how many seconds the client's credential ends.
pub(super) const EXPIRES: &str = "tidings-expires";

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
            return self.connected(None, turn);
        }
        let tag = self.ask(What::Identify, None);
        let shown = self.work().shown.take();
        let credential = match credential(headers) {
            Credential::Anonymous => shown.unwrap_or(Credential::Anonymous),
            credential => credential,
        };
        turn.commands
            .push(Command::Authenticate { tag, credential });
    }

    /// The client is who it says, for so long: it is greeted, or, if it was before, has its receipt.
    pub(super) fn identified(&mut self, tag: Tag, left: Option<Duration>, turn: &Turn<'_>) {
        match self.answered(tag) {
            Some(Pending {
                what: What::Renew,
                receipt,
                ..
            }) => self.receipt_with(receipt, expires(left).as_deref()),
            _ => self.connected(left, turn),
        }
    }

    /// Takes a SEND to [`AUTH`]: a new credential of the same user, in `login` and `passcode`, or a token as body.
    pub(super) fn renew(
        &mut self,
        frame: &Frame,
        receipt: Option<ByteString>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Refusal> {
        let shown = credential(&frame.headers);
        let credential = match (shown, &frame.body[..]) {
            (Credential::Anonymous, body) => Credential::Bearer(Secret::new(body)),
            (shown, b"") => shown,
            _ => {
                let detail = "there are two credentials: send `passcode`, or a token as the body";
                return Err(Refusal::new(RefusalCode::BadRequest, detail));
            }
        };
        if frame.headers.get("transaction").is_some() {
            let detail = "a credential is no part of a transaction: leave `transaction` away";
            return Err(Refusal::new(RefusalCode::BadParameter, detail));
        }
        if self.sign_on == SignOn::Open {
            self.receipt(receipt);
            return Ok(());
        }
        let tag = self.ask(What::Renew, receipt);
        turn.commands
            .push(Command::Authenticate { tag, credential });
        Ok(())
    }

    /// Greets the client.
    fn connected(&mut self, left: Option<Duration>, turn: &Turn<'_>) {
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
        let expires = expires(left);
        let expires = expires.as_deref().map(|text| (EXPIRES, text));
        let answer = answer.into_iter().chain(beat).chain(expires);
        let encoder = self.encoder();
        encoder.frame(codec::Command::Connected, answer, b"", &mut self.stream.out);
    }
}

/// The text of [`EXPIRES`].
fn expires(left: Option<Duration>) -> Option<String> {
    left.map(|left| left.as_secs().to_string())
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
