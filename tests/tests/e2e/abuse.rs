//! Everything that can be tried at once, on every port, while well-behaved peers are served as if nothing was.
//!
//! An attack is a function in [`attacks`], [`http2`] or [`credentials`]: it does its worst until it is told to stop, and says
//! how often. What each is refused with is in [`COUNTED`]: a new limit adds an attack there and its counter here.

mod attacks;
mod credentials;
mod http2;

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;
use tidings_e2e::http::Request;
use tidings_e2e::mqtt::{Client as Mqtt, Connect};
use tidings_e2e::server::tidings;
use tidings_e2e::sse::EventStream;
use tidings_e2e::tls::Authority;
use tidings_e2e::tools::stdout;
use tidings_e2e::websocket::WebSocket;
use tidings_e2e::{Options, PATIENCE, Server, eventually, spawn};

use credentials::Secrets;

/// How long all attacks go on together.
const SPAN: Duration = Duration::from_secs(15);

/// What is counted of the attacks: a metric, and a label that its lines have.
const COUNTED: [(&str, &str); 18] = [
    ("tidings_refusals_total", "\"request-timeout\""),
    ("tidings_refusals_total", "\"head-too-large\""),
    ("tidings_refusals_total", "\"bad-request\""),
    ("tidings_refusals_total", "\"unauthorized\""),
    ("tidings_refusals_total", "\"forbidden\""),
    ("tidings_refusals_total", "\"message-too-large\""),
    ("tidings_refusals_total", "\"too-many-subscriptions\""),
    ("tidings_refusals_total", "\"busy\""),
    ("tidings_tls_handshake_failures_total", "\"timeout\""),
    ("tidings_tls_handshake_failures_total", "\"not-tls\""),
    ("tidings_tls_handshake_failures_total", "\"malformed\""),
    ("tidings_logins_total", "\"password\""),
    ("tidings_logins_total", "\"unknown\""),
    ("tidings_logins_total", "\"revoked\""),
    ("tidings_logins_total", "\"expired\""),
    ("tidings_logins_total", "\"signature\""),
    ("tidings_logins_total", "\"missing\""),
    ("tidings_logins_total", "\"accepted\""),
];

/// Where to attack, with what, and until when.
#[derive(Clone)]
pub struct Target {
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub mqtt: SocketAddr,
    pub mqtts: SocketAddr,
    pub stomp: SocketAddr,
    pub stomps: SocketAddr,
    pub secrets: Secrets,
    stop: Arc<AtomicBool>,
}

impl Target {
    pub fn goes_on(&self) -> bool {
        !self.stop.load(Relaxed)
    }

    pub fn ports(&self) -> [SocketAddr; 6] {
        [
            self.http,
            self.https,
            self.mqtt,
            self.mqtts,
            self.stomp,
            self.stomps,
        ]
    }

    pub fn tls_ports(&self) -> [SocketAddr; 3] {
        [self.https, self.mqtts, self.stomps]
    }
}

type Attack = (&'static str, fn(&Target) -> usize);

/// Each on a thread of its own.
const ATTACKS: [Attack; 18] = [
    ("half-open TCP", attacks::half_open),
    ("half-open TLS", attacks::half_open_tls),
    ("slow heads", attacks::slow_heads),
    ("endless heads", attacks::endless_heads),
    ("slow bodies", attacks::slow_bodies),
    ("deflate bombs", attacks::deflate_bombs),
    ("pings", attacks::websocket_pings),
    ("MQTT pings", attacks::mqtt_pings),
    ("subscribes by tidings.v1", attacks::tidings_subscribes),
    ("subscribes by MQTT", attacks::mqtt_subscribes),
    ("subscribes by STOMP", attacks::stomp_subscribes),
    ("garbage", attacks::garbage),
    ("long CONNECTs", attacks::long_connects),
    ("rapid reset", http2::rapid_reset),
    ("endless fields", http2::endless_fields),
    ("HTTP/2 pings", http2::pings),
    ("wrong passwords", credentials::wrong_passwords),
    ("bad tokens", credentials::bad_tokens),
];

/// Connections of one attack that do not read what they asked for, at the most.
const SLOW_PEERS: u64 = 8;
/// What a connection costs whose peer has not said who it is and has nothing waiting: a socket, a TLS session in its
/// handshake, what was read so far.
const OPENING_BYTES: u64 = 64 << 10;

struct Abused {
    server: Server,
    target: Target,
    _files: TempDir,
}

impl Abused {
    fn start() -> Self {
        let files = tempfile::tempdir().unwrap();
        let path = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
        let secrets = Secrets::make(files.path());
        let rules = "[[rule]]\npublish = [\"news\"]\nsubscribe = [\"news\", \"x/#\"]\n";
        fs::write(path("permissions"), rules).unwrap();
        let options = Options::default()
            .tls(&Authority::new())
            .set("auth.passwords_file", path("users"))
            .set("auth.keys_file", path("keys"))
            .set("auth.jwt_secret_file", path("secret"))
            .set("auth.permissions_file", path("permissions"))
            .set("auth.jwt_leeway_ms", 0)
            .set("limits.handshake_ms_max", 6_000)
            .set("limits.request_body_ms_max", 6_000)
            .set("limits.stall_ms_max", 10_000)
            .set("limits.submit_bytes_max", 16 << 20)
            .set("limits.tail_bytes_max", 8 << 20)
            .set("limits.inbox_bytes_max", 8 << 20);
        let server = Server::start(options);
        let target = Target {
            http: server.address(),
            https: server.https(),
            mqtt: server.mqtt(),
            mqtts: server.mqtts(),
            stomp: server.stomp(),
            stomps: server.stomps(),
            secrets,
            stop: Arc::default(),
        };
        eventually("the short token has expired", PATIENCE, || {
            credentials::is_refused(&target, &target.secrets.expired)
        });
        Self {
            server,
            target,
            _files: files,
        }
    }

    /// Who publishes, and who listens: each gives what it heard, in its order.
    fn well_behaved(&self) -> WellBehaved {
        let (token, http) = (&self.target.secrets.token, self.target.http);
        let mut socket = signed_in(&self.target);
        socket.ask(&json!({"op":"subscribe","id":1,"topic":"news"}));
        assert_eq!(socket.json()["op"], "ok");
        let request = Request::get("/v1/topics/news");
        let request = request.header("Authorization", &format!("Bearer {token}"));
        let mut stream = EventStream::send(http, request);
        let connect = Connect::v5("listener").login("", token);
        let (mut client, _) = Mqtt::open(self.target.mqtt, &connect);
        assert_eq!(client.subscribe(&[("news", 1)]), [1]);
        let listeners = vec![
            listen("WebSocket", move || {
                socket.json()["data"].as_str().map(str::to_owned).unwrap()
            }),
            listen("SSE", move || stream.event().data.unwrap()),
            listen("MQTT", move || client.receive().text()),
        ];
        let target = self.target.clone();
        let publisher = spawn(move || {
            let mut socket = signed_in(&target);
            let mut slowest = Duration::ZERO;
            let mut count = 0;
            while target.goes_on() {
                let begun = Instant::now();
                publish(&mut socket, &count.to_string());
                slowest = slowest.max(begun.elapsed());
                count += 1;
            }
            publish(&mut socket, END);
            (count, slowest)
        });
        WellBehaved {
            publisher,
            listeners,
        }
    }
}

struct WellBehaved {
    publisher: JoinHandle<(usize, Duration)>,
    listeners: Vec<(&'static str, JoinHandle<Vec<String>>)>,
}

/// The last message.
const END: &str = "end";

fn listen(
    name: &'static str,
    mut next: impl FnMut() -> String + Send + 'static,
) -> (&'static str, JoinHandle<Vec<String>>) {
    let thread =
        spawn(move || std::iter::from_fn(|| Some(next()).filter(|text| text != END)).collect());
    (name, thread)
}

fn publish(socket: &mut WebSocket, text: &str) {
    socket.ask(&json!({"op":"publish","id":text,"topic":"news","data":text}));
    let answer = socket.json();
    assert_eq!(answer["op"], "ok", "{answer}");
}

fn signed_in(target: &Target) -> WebSocket {
    let mut socket = WebSocket::tidings(target.http);
    socket.ask(&json!({"op":"auth","token":target.secrets.token}));
    assert_eq!(socket.json()["op"], "ok");
    socket
}

#[test]
fn who_behaves_is_served_while_others_try_everything() {
    let abused = Abused::start();
    let (server, target) = (&abused.server, &abused.target);
    let files_before = server.open_files();
    let well_behaved = abused.well_behaved();
    let resident_before = server.resident_bytes();
    let attackers: Vec<_> = ATTACKS
        .iter()
        .map(|(name, attack)| {
            let target = target.clone();
            (*name, spawn(move || attack(&target)))
        })
        .collect();
    let (mut most_sockets, mut most_resident) = (0.0_f64, 0);
    let mut users = target.secrets.users.iter();
    let deadline = Instant::now() + SPAN;
    let mut logged_in = 0;
    while Instant::now() < deadline || logged_in < target.secrets.users.len() {
        // Each for the first time: the server has to hash the password.
        logged_in += users.next().map_or(0, |user| {
            credentials::log_in(target, user);
            1
        });
        most_sockets = most_sockets.max(server.metric("tidings_sockets", ""));
        most_resident = most_resident.max(server.resident_bytes());
    }
    target.stop.store(true, Relaxed);
    let (count, slowest) = well_behaved
        .publisher
        .join()
        .expect("the publisher is served");
    for (name, listener) in well_behaved.listeners {
        let heard = listener.join().expect("listeners are served");
        let expect: Vec<String> = (0..count).map(|number| number.to_string()).collect();
        assert!(heard == expect, "{name}: {} of {count}", heard.len());
    }
    for (name, attacker) in attackers {
        let times = attacker
            .join()
            .unwrap_or_else(|_| panic!("{name}: see above"));
        eprintln!("{times:>8} {name}");
        assert!(times > 0, "{name}");
    }
    let grown = most_resident.saturating_sub(resident_before);
    eprintln!(
        "{count} messages, the slowest in {slowest:?}; {most_sockets} sockets; {} MiB more",
        grown >> 20
    );
    assert!(count > 100, "{count} messages");
    assert!(most_sockets > 2_000.0, "{most_sockets} sockets");
    let slow = SLOW_PEERS * ATTACKS.len() as u64;
    let bound = server.announced_bytes("memory_queues_max")
        + slow * server.announced_bytes("memory_per_slow_peer_max")
        + most_sockets as u64 * OPENING_BYTES;
    assert!(grown < bound, "{grown} bytes, {bound} permitted");
    for (metric, label) in COUNTED {
        assert!(server.metric(metric, label) > 0.0, "{metric} {label}");
    }
    eventually("all are gone", PATIENCE, || {
        // The one that asks.
        server.metric("tidings_sockets", "") <= 1.0
            && server.metric("tidings_connections", "") <= 1.0
    });
    eventually("their descriptors too", PATIENCE, || {
        server.open_files() <= files_before + 2
    });
    let log = server.log().join("\n");
    assert!(!log.contains("\"ERROR\""), "{log}");
}
