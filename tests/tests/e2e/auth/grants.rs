//! Random grants against a naive checker: every protocol, every kind of credential, not one topic more.
//!
//! A protocol is a function in [`super::doors`], a kind of credential an entry in [`super::who`]; what is granted is judged
//! in [`super::checker`].

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;

use serde_json::json;
use tempfile::TempDir;
use tidings_e2e::backend::Backend;
use tidings_e2e::http::Request;
use tidings_e2e::{PATIENCE, Server, eventually};

use super::checker::{Random, Rights, Rule, matches};
use super::doors::{DOORS, Listener};
use super::who::{ALL, Issuers, Kind, Registry, SUBJECTS, Who};

/// What each peer tries in each protocol, at least once in each way.
const TRIES: usize = 5;

/// Where the protocols are.
struct Addresses {
    http: SocketAddr,
    mqtt: SocketAddr,
    stomp: SocketAddr,
}

/// One server with everybody's credentials, and what was stored on it.
pub struct World {
    _server: Server,
    plain: Addresses,
    /// For those who come with a certificate, by their names.
    tunnels: HashMap<&'static str, Addresses>,
    pub random: Random,
    sent: usize,
    /// What has to be there in the end, as `topic text`.
    stored: BTreeSet<String>,
    /// The files are read when the server starts, and may be again.
    _folder: TempDir,
    _backend: Backend,
}

impl World {
    fn start(seed: u64, issuers: &mut Issuers) -> (Self, Vec<Who>, Who) {
        let mut random = Random(seed);
        let folder = tempfile::tempdir().unwrap();
        let (anonymous, asks) = (random.one_in(2), seed % 2 == 1);
        let rules: Vec<Rule> = (0..6).map(|_| Rule::random(&mut random)).collect();
        let mut registry = Registry::new(folder.path(), issuers);
        let mut everybody = Vec::new();
        for (kind, name) in ALL
            .iter()
            .flat_map(|kind| kind.names().iter().map(move |name| (*kind, *name)))
        {
            let mut who = registry.make(kind, name, &mut random);
            who.is_admitted = kind != Kind::Anonymous || anonymous;
            for rule in rules.iter().filter(|rule| rule.fits(kind, name)) {
                who.rights.add(&rule.rights, name);
            }
            if asks {
                who.permitted = Rights::random(&mut random, false);
                registry.permit(&who);
            }
            everybody.push(who);
        }
        let all = ["publish=#", "publish=$s/#", "subscribe=#", "subscribe=$s/#"];
        let root = Who {
            secret: registry.key("root", &all.map(|grant| format!("--{grant}"))),
            ..registry.make(Kind::Anonymous, "root", &mut random)
        };
        let rules: Vec<String> = rules.iter().map(Rule::text).collect();
        let backend = Backend::start();
        let options = registry.open(&backend, &rules.join("\n"), asks);
        let server = Server::start(options.set("auth.anonymous", anonymous));
        let plain = Addresses {
            http: server.address(),
            mqtt: server.mqtt(),
            stomp: server.stomp(),
        };
        let mut tunnels = HashMap::new();
        for name in SUBJECTS {
            let addresses = Addresses {
                http: issuers.tunnel(name, server.https()),
                mqtt: issuers.tunnel(name, server.mqtts()),
                stomp: issuers.tunnel(name, server.stomps()),
            };
            tunnels.insert(name, addresses);
        }
        let world = Self {
            _server: server,
            plain,
            tunnels,
            random,
            sent: 0,
            stored: BTreeSet::new(),
            _folder: folder,
            _backend: backend,
        };
        world.has_keys(&everybody);
        (world, everybody, root)
    }

    /// Waits until the server has the issuer's keys.
    fn has_keys(&self, everybody: &[Who]) {
        let issued = everybody.iter().find(|who| who.kind == Kind::Issued);
        let issued = issued.unwrap();
        eventually("there are keys", PATIENCE, || {
            let request = issued.request(Request::get("/v1/topics/a?as=json"));
            request.send(self.http(issued)).status != 503
        });
    }

    fn addresses(&self, who: &Who) -> &Addresses {
        match who.kind {
            Kind::Certificate => &self.tunnels[&*who.name],
            _ => &self.plain,
        }
    }

    /// Where HTTP is, for whom.
    pub fn http(&self, who: &Who) -> SocketAddr {
        self.addresses(who).http
    }

    /// Where MQTT is, for whom.
    pub fn mqtt(&self, who: &Who) -> SocketAddr {
        self.addresses(who).mqtt
    }

    /// Where STOMP is, for whom.
    pub fn stomp(&self, who: &Who) -> SocketAddr {
        self.addresses(who).stomp
    }

    /// A text that no other message has.
    pub fn text(&mut self) -> String {
        self.sent += 1;
        format!("m{}", self.sent)
    }

    /// Notes what was published and has to be there.
    pub fn stored(&mut self, topic: &str, text: &str) {
        self.stored.insert(format!("{topic} {text}"));
    }
}

#[test]
fn nobody_writes_or_reads_one_topic_more_or_less_than_granted() {
    let mut issuers = Issuers::new();
    for seed in [0x7469_6469_6e67_7301, 2, 3, 4] {
        // What a failure shows first.
        eprintln!("seed {seed}");
        let (mut world, everybody, root) = World::start(seed, &mut issuers);
        let doors = || {
            everybody
                .iter()
                .flat_map(|who| DOORS.iter().map(move |door| (who, door)))
        };
        for (who, door) in doors() {
            if !who.is_admitted {
                (door.refused)(&world, who);
                continue;
            }
            let ways = who.by(door.ways);
            for who in ways.iter().cycle().take(TRIES) {
                let topic = world.random.topic();
                (door.publish)(&mut world, who, &topic);
            }
        }
        // Behind everything that is published so far.
        let mut listeners = Vec::new();
        for (who, door) in doors().filter(|(who, _)| who.is_admitted) {
            let ways = who.by(door.ways);
            for who in &ways {
                let tries = TRIES.div_ceil(ways.len());
                listeners.extend((door.subscribe)(&mut world, who, tries));
            }
        }
        assert!(listeners.len() > 20, "{} listeners", listeners.len());
        everything_is_stored_once(&world, &root);
        everything_is_heard(&mut world, &root, listeners);
    }
}

/// What was granted is there, and nothing else.
fn everything_is_stored_once(world: &World, root: &Who) {
    let mut there = BTreeSet::new();
    for filter in ["%23", "$s/%23"] {
        let target = format!("/v1/topics/{filter}?as=json&after=earliest&limit=1000");
        let page = root.request(Request::get(&target)).send(world.http(root));
        assert_eq!(page.status, 200, "{}", page.text());
        let page = page.json();
        assert_eq!(page["more"], json!(false));
        for message in page["messages"].as_array().unwrap() {
            let text = |field: &str| message[field].as_str().unwrap().to_owned();
            assert!(there.insert(format!("{} {}", text("topic"), text("data"))));
        }
    }
    assert_eq!(there, world.stored);
}

/// Publishes, and each listener gets what its filters have, in order, and nothing else.
fn everything_is_heard(world: &mut World, root: &Who, listeners: Vec<Listener>) {
    let mut said = Vec::new();
    for _ in 0..60 {
        let (topic, text) = (world.random.topic(), world.text());
        let request = Request::post(&format!("/v1/topics/{topic}")).body(text.clone());
        let answer = root.request(request).send(world.http(root));
        assert_eq!(answer.status, 201, "{}", answer.text());
        said.push((topic, text));
    }
    for mut listener in listeners {
        let has = |topic: &str| listener.filters.iter().any(|filter| matches(filter, topic));
        let expect: Vec<&str> = said
            .iter()
            .filter(|(topic, _)| has(topic))
            .map(|(_, text)| text.as_str())
            .collect();
        let heard: Vec<String> = expect.iter().map(|_| (listener.next)()).collect();
        assert_eq!(heard, expect, "{} {:?}", listener.who, listener.filters);
        (listener.end)();
    }
}
