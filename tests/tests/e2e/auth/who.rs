//! Everybody who comes to [`super::grants`]: by which kind of credential, in which way it is shown, and with what it grants.
//!
//! A kind is an entry of [`ALL`], with how it is made in [`Registry::make`].

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tidings_e2e::Options;
use tidings_e2e::backend::{Backend, Reply};
use tidings_e2e::http::Request;
use tidings_e2e::issuer::SigningKey;
use tidings_e2e::peer::Peer;
use tidings_e2e::server::tidings;
use tidings_e2e::tls::{Authority, Pair};
use tidings_e2e::tools::stdout;

use super::checker::{Random, Rights};
use super::set_password;

pub const SUBJECTS: [&str; 2] = ["ann", "bob"];
const PASSWORD: &str = "pw-Sesame-77";
/// The year 2100.
const LATER: u64 = 4_102_444_800;

/// A kind of credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Anonymous,
    Password,
    Key,
    Token,
    /// A token of an issuer who publishes its keys.
    Issued,
    Introspected,
    Callout,
    Certificate,
}

pub const ALL: [Kind; 8] = [
    Kind::Anonymous,
    Kind::Password,
    Kind::Key,
    Kind::Token,
    Kind::Issued,
    Kind::Introspected,
    Kind::Callout,
    Kind::Certificate,
];

impl Kind {
    /// Its name as a source in the permission file, and for the backend.
    pub fn source(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Password => "password",
            Self::Key => "key",
            Self::Token => "jwt",
            Self::Issued => "jwks",
            Self::Introspected => "introspection",
            Self::Callout => "callout",
            Self::Certificate => "certificate",
        }
    }

    pub fn names(self) -> &'static [&'static str] {
        match self {
            Self::Anonymous => &["anonymous"],
            _ => &SUBJECTS,
        }
    }

    /// Whether a credential of this kind may have grants of its own.
    fn has_grants(self) -> bool {
        !matches!(self, Self::Anonymous | Self::Password | Self::Certificate)
    }
}

/// What is shown, besides a certificate.
#[derive(Clone, Debug)]
pub enum Secret {
    Nothing,
    /// User and password.
    Login(String, String),
    Token(String),
}

/// In which way it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `Authorization`.
    Header,
    /// `access_token` in the address.
    Query,
    Cookie,
    Subprotocol,
    /// With user and password, or the message, that the protocol has for it.
    Login,
    /// Enhanced authentication of MQTT 5.
    Enhanced,
}

/// Somebody, with what it shows and what it may do.
#[derive(Clone, Debug)]
pub struct Who {
    pub kind: Kind,
    pub name: String,
    /// Whether it is let in.
    pub is_admitted: bool,
    pub secret: Secret,
    pub way: Way,
    pub rights: Rights,
    /// What the backend permits where the rights say nothing.
    pub permitted: Rights,
}

impl Who {
    pub fn may_publish(&self, topic: &str) -> bool {
        let asked = || !topic.starts_with('$') && self.permitted.publish(topic) == Some(true);
        self.rights.publish(topic).unwrap_or_else(asked)
    }

    pub fn may_subscribe(&self, wanted: &str) -> bool {
        let asked = || !wanted.starts_with('$') && self.permitted.subscribe(wanted) == Some(true);
        self.rights.subscribe(wanted).unwrap_or_else(asked)
    }

    /// The same, once for each of these ways in which it can show what it has.
    pub fn by(&self, ways: &[Way]) -> Vec<Self> {
        let any = matches!(self.secret, Secret::Token(_));
        let by = |way: &Way| Self {
            way: *way,
            ..self.clone()
        };
        ways.iter()
            .filter(|way| any || matches!(way, Way::Header | Way::Login))
            .map(by)
            .collect()
    }

    /// A request with what it shows.
    pub fn request(&self, request: Request) -> Request {
        match (&self.secret, self.way) {
            (Secret::Login(user, password), Way::Header) => {
                let both = STANDARD.encode(format!("{user}:{password}"));
                request.header("Authorization", &format!("Basic {both}"))
            }
            (Secret::Token(token), Way::Header) => {
                request.header("Authorization", &format!("Bearer {token}"))
            }
            (Secret::Token(token), Way::Query) => request.query("access_token", token),
            (Secret::Token(token), Way::Cookie) => request
                .header("Cookie", &format!("session={token}"))
                .header("Sec-Fetch-Site", "same-origin"),
            (Secret::Token(token), Way::Subprotocol) => {
                request.header("Sec-WebSocket-Protocol", &format!("bearer.{token}"))
            }
            _ => request,
        }
    }

    /// User and password, where there is room for nothing else. Users who are not in the password file may be anybody's.
    pub fn login(&self) -> Option<(&str, &str)> {
        match &self.secret {
            Secret::Nothing => None,
            Secret::Login(user, password) => Some((user, password)),
            Secret::Token(token) => Some(("whoever", token)),
        }
    }
}

/// Whoever issues what outlasts a server.
pub struct Issuers {
    key: SigningKey,
    pub authority: Authority,
    pairs: HashMap<&'static str, Pair>,
    tunnels: Peer,
}

impl Issuers {
    pub fn new() -> Self {
        let authority = Authority::new();
        let issue = |name: &'static str| {
            let (subject, extension) = (format!("/CN={name}"), "basicConstraints=CA:FALSE");
            (name, authority.issue_to(name, &subject, extension, 3_600))
        };
        Self {
            key: SigningKey::new("one"),
            pairs: SUBJECTS.map(issue).into(),
            authority,
            tunnels: Peer::node("tls_tunnel.mjs", &[]),
        }
    }

    /// Where a peer without TLS is at that address over TLS, with the certificate of this name.
    pub fn tunnel(&mut self, name: &str, to: std::net::SocketAddr) -> std::net::SocketAddr {
        let pair = &self.pairs[name];
        let wish = json!({"to": to.to_string(), "ca": self.authority.ca(), "cert": pair.cert, "key": pair.key});
        let port = self.tunnels.ask(&wish)["port"].as_u64().unwrap();
        ([127, 0, 0, 1], u16::try_from(port).unwrap()).into()
    }
}

/// Where credentials are kept: files in a folder, and what other servers know.
pub struct Registry<'a> {
    folder: &'a Path,
    issuers: &'a Issuers,
    /// By token.
    introspected: HashMap<String, Value>,
    /// By token or password.
    connects: HashMap<String, Value>,
    /// By source and name.
    permitted: HashMap<(String, String), Rights>,
}

impl<'a> Registry<'a> {
    pub fn new(folder: &'a Path, issuers: &'a Issuers) -> Self {
        let registry = Self {
            folder,
            issuers,
            introspected: HashMap::new(),
            connects: HashMap::new(),
            permitted: HashMap::new(),
        };
        for subject in SUBJECTS {
            set_password(&folder.join("users"), subject, PASSWORD);
        }
        stdout(&mut tidings(&["token", "secret", &registry.file("secret")]));
        registry
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).to_str().unwrap().to_owned()
    }

    /// Somebody new, with grants of its own.
    pub fn make(&mut self, kind: Kind, name: &str, random: &mut Random) -> Who {
        let mut rights = Rights::default();
        if kind.has_grants() {
            rights = Rights::random(random, false);
        }
        let secret = match kind {
            Kind::Anonymous | Kind::Certificate => Secret::Nothing,
            Kind::Password => Secret::Login(name.to_owned(), PASSWORD.to_owned()),
            Kind::Key => self.key(name, &rights.arguments()),
            Kind::Token => {
                let from = format!("--secret-file={}", self.file("secret"));
                let fixed = ["token", "mint", name, &from, "--expires-in=1h"];
                command(&fixed, &rights.arguments())
            }
            Kind::Issued => {
                let claims = json!({"sub": name, "exp": LATER, "tidings": rights.json()});
                Secret::Token(self.issuers.key.sign(&claims))
            }
            Kind::Introspected => {
                let token = format!("opaque-{name}");
                let said = json!({"active": true, "sub": name, "tidings": rights.json()});
                self.introspected.insert(token.clone(), said);
                Secret::Token(token)
            }
            Kind::Callout => {
                let shown = format!("backend-{name}");
                let said =
                    json!({"sub": name, "grants": rights.json(), "cache_s": random.below(2)});
                self.connects.insert(shown.clone(), said);
                if name == "ann" {
                    Secret::Token(shown)
                } else {
                    Secret::Login("somebody".to_owned(), shown)
                }
            }
        };
        Who {
            kind,
            name: name.to_owned(),
            is_admitted: true,
            secret,
            way: Way::Header,
            rights,
            permitted: Rights::default(),
        }
    }

    /// A new key.
    pub fn key(&self, name: &str, grants: &[String]) -> Secret {
        command(&["key", "new", &self.file("keys"), name], grants)
    }

    /// Has the backend permit this.
    pub fn permit(&mut self, who: &Who) {
        let whose = (who.kind.source().to_owned(), who.name.clone());
        self.permitted.insert(whose, who.permitted.clone());
    }

    /// Tells the server where all that is, and the other servers what to say.
    pub fn open(self, backend: &Backend, rules: &str, asks: bool) -> Options {
        fs::write(self.folder.join("permissions"), rules).unwrap();
        let mut options = Options::default()
            .argument("--memory")
            .tls(&self.issuers.authority)
            .set("tls.client_ca", self.issuers.authority.ca_argument())
            .set("tls.client_auth", "optional")
            .set("auth.client_certificates", "subject-cn")
            .set("auth.cookie", "session")
            .set("auth.passwords_file", self.file("users"))
            .set("auth.keys_file", self.file("keys"))
            .set("auth.jwt_secret_file", self.file("secret"))
            .set("auth.permissions_file", self.file("permissions"))
            .set("auth.jwt_jwks_url", backend.url("/keys"))
            .set("auth.introspection_url", backend.url("/introspect"))
            .set("auth.callout_connect_url", backend.url("/connect"))
            // The authorization server comes last: what it does not know is refused for good.
            .set("auth.order", "key,jwt,jwks,callout,password")
            .set("auth.failures_max", 0);
        if asks {
            options = options.set("auth.callout_permission_url", backend.url("/permission"));
        }
        backend.always(
            "/keys",
            Reply::json(&json!({"keys": [self.issuers.key.jwk()]})),
        );
        backend.on("/introspect", move |asked| {
            let token = asked.body.split(['=', '&']).nth(1).unwrap();
            let said = self.introspected.get(token).cloned();
            Reply::json(&said.unwrap_or_else(|| json!({"active": false})))
        });
        backend.on("/connect", move |asked| {
            let asked = asked.json();
            let shown = asked["token"].as_str().or(asked["password"].as_str());
            let said = self.connects.get(shown.unwrap());
            said.map_or(Reply::status(404), Reply::json)
        });
        backend.on("/permission", move |asked| {
            permission(&self.permitted, &asked.json())
        });
        options
    }
}

/// The backend's answer, which is remembered for every other text.
fn permission(permitted: &HashMap<(String, String), Rights>, asked: &Value) -> Reply {
    let text = |field: &str| asked[field].as_str().unwrap().to_owned();
    let (topic, whose) = (text("topic"), (text("source"), text("sub")));
    let rights = permitted.get(&whose).cloned().unwrap_or_default();
    let allow = match &*text("action") {
        "publish" => rights.publish(&topic),
        "subscribe" => rights.subscribe(&topic),
        other => panic!("asked about {other}"),
    };
    let cache_s = if topic.len() % 2 == 0 { 60 } else { 0 };
    Reply::json(&json!({"allow": allow == Some(true), "cache_s": cache_s}))
}

/// What a command makes.
fn command(fixed: &[&str], own: &[String]) -> Secret {
    let own = own.iter().map(String::as_str);
    let all: Vec<&str> = fixed.iter().copied().chain(own).collect();
    Secret::Token(stdout(&mut tidings(&all)).trim().to_owned())
}
