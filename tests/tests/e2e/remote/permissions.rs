//! The backend says what a peer may do where no grant decides.

use std::time::Duration;

use serde_json::{Value, json};
use tidings_e2e::backend::{Asked, Backend, Reply};
use tidings_e2e::http::Request;
use tidings_e2e::mqtt::{Client, Connect, Properties, Publish, Will, kind};
use tidings_e2e::peer::Peer;
use tidings_e2e::sse::EventStream;
use tidings_e2e::tools::{curl, output, stdout};
use tidings_e2e::websocket::{WebSocket, upgrade};
use tidings_e2e::{PATIENCE, eventually, stomp};

use super::{World, grants, lies};

const SETTINGS: [(&str, &str); 3] = [
    ("auth.callout_connect_url", "{url}/connect"),
    ("auth.callout_permission_url", "{url}/permission"),
    ("auth.callout_ms_max", "2s"),
];

/// Says yes to what is in `asked/#`, to `open/+` as a whole, and to nothing else.
fn answer(asked: &Asked, cache_s: u64) -> Reply {
    let asked = asked.json();
    let topic = asked["topic"].as_str().unwrap();
    let allow = topic.starts_with("asked/") || topic == "open/+";
    Reply::json(&json!({"allow": allow, "cache_s": cache_s}))
}

#[track_caller]
fn world_with(cache_s: u64) -> World {
    let backend = Backend::start();
    backend.always(
        "/connect",
        Reply::json(&json!({"sub": "ann", "grants": grants(), "cache_s": 60})),
    );
    backend.on("/permission", move |asked| answer(asked, cache_s));
    World::start(backend, &SETTINGS)
}

#[track_caller]
fn world() -> World {
    world_with(60)
}

impl World {
    fn petitions(&self) -> Vec<Value> {
        self.backend
            .asked("/permission")
            .iter()
            .map(Asked::json)
            .collect()
    }
}

#[test]
fn grants_and_denials_decide_first_and_the_rest_is_asked_once() {
    let world = world();
    for (topic, status) in [
        ("own/a", 201),
        ("own/locked", 403),
        ("asked/a", 201),
        ("asked/a", 201),
        ("other", 403),
        ("other", 403),
        ("$sys/a", 403),
    ] {
        assert_eq!(world.publish(topic, "t").status, status, "{topic}");
    }
    let petitions = world.petitions();
    let expect = |topic: &str| {
        json!({"sub": "ann", "source": "callout", "action": "publish", "topic": topic, "protocol": "http",
            "address": petitions[0]["address"]})
    };
    assert_eq!(petitions, [expect("asked/a"), expect("other")]);
    assert_eq!(
        (
            world.asks("permission", "accepted"),
            world.asks("permission", "refused")
        ),
        (1, 1)
    );
}

#[test]
fn every_way_in_over_http_asks() {
    // Nothing is remembered: each request asks once, and no more than that.
    let world = world_with(0);
    let url = |path: &str| world.server.url(path);
    let auth = [
        "-H",
        "Authorization: Bearer t",
        "-w",
        "%{http_code}",
        "-o",
        "/dev/null",
    ];
    let batch = |topic: &str| format!(r#"{{"topic":"{topic}","data":"x"}}"#);
    for (arguments, status) in [
        (
            vec!["-d".to_owned(), "x".to_owned(), url("/v1/topics/asked/a")],
            "201",
        ),
        (
            vec!["-d".to_owned(), "x".to_owned(), url("/v1/topics/other")],
            "403",
        ),
        (vec![url("/v1/topics/asked/a?as=json")], "200"),
        (vec![url("/v1/topics/other?as=json")], "403"),
        (vec![url("/v1/topics/open/+?as=json")], "200"),
        (vec![url("/v1/topics/open/%23?as=json")], "403"),
        (
            vec![
                "-d".to_owned(),
                format!("[{}]", batch("asked/a")),
                "-H".to_owned(),
                "Content-Type: application/json".to_owned(),
                url("/v1/publish"),
            ],
            "201",
        ),
        (
            vec![
                "-d".to_owned(),
                format!("[{},{}]", batch("asked/a"), batch("other")),
                "-H".to_owned(),
                "Content-Type: application/json".to_owned(),
                url("/v1/publish"),
            ],
            "403",
        ),
    ] {
        let arguments: Vec<&str> = auth
            .into_iter()
            .chain(arguments.iter().map(String::as_str))
            .collect();
        let said = stdout(&mut curl(&arguments));
        assert_eq!(said, status, "{arguments:?}");
    }
    assert_eq!(world.petitions().len(), 9);
}

#[test]
fn a_stream_asks_once_when_it_is_opened() {
    let world = world_with(0);
    let stream = |topic: &str| {
        Request::get(&format!("/v1/topics/{topic}?as=sse")).header("Authorization", "Bearer t")
    };
    let mut events = EventStream::send(world.server.address(), stream("asked/a"));
    assert_eq!(world.publish("asked/a", "t").status, 201);
    assert_eq!(events.texts(1), ["x"]);
    stream("other")
        .send(world.server.address())
        .assert_problem(403, "forbidden");
    assert_eq!(world.petitions().len(), 3, "a stream asks once");
    let raw =
        |topic: &str| upgrade(&format!("/v1/topics/{topic}")).header("Authorization", "Bearer t");
    let opened = raw("asked/a").open(world.server.address()).unwrap();
    assert_eq!(opened.status, 101);
    assert_eq!(
        raw("other").open(world.server.address()).unwrap().status,
        403
    );
}

#[test]
fn over_websocket_each_command_is_answered_in_its_order() {
    let world = world();
    let target = "/v1/ws?access_token=t";
    let opened = WebSocket::try_open(world.server.address(), target, Some("tidings.v1"));
    let mut socket = opened.unwrap();
    for request in [
        json!({"op": "subscribe", "id": 1, "topic": "open/+"}),
        json!({"op": "subscribe", "id": 2, "topic": "open/#"}),
        json!({"op": "publish", "id": 3, "topic": "other", "data": "x"}),
        json!({"op": "publish", "id": 4, "topic": "asked/a", "data": "x"}),
    ] {
        socket.ask(&request);
    }
    let answers: Vec<Value> = (0..4).map(|_| socket.json()).collect();
    let ids: Vec<&Value> = answers.iter().map(|it| &it["id"]).collect();
    assert_eq!(ids, [1, 2, 3, 4], "{answers:?}");
    for (answer, code) in answers
        .iter()
        .zip([None, Some("forbidden"), Some("forbidden"), None])
    {
        assert_eq!(answer["code"].as_str(), code, "{answer}");
    }
}

#[test]
fn one_forbidden_filter_fails_no_other_over_mqtt() {
    for cache_s in [0, 60] {
        let world = world_with(cache_s);
        for (connect, denied) in [(Connect::v5("a"), 0x87), (Connect::v3("b"), 0x80)] {
            let is_5 = connect.version == 5;
            let connect = connect.login("u", "p");
            let (mut client, _) = Client::open(world.server.mqtt(), &connect);
            let filters = [
                ("asked/+", 1),
                ("other", 1),
                ("own/#", 1),
                ("another", 1),
                ("open/+", 0),
            ];
            assert_eq!(
                client.subscribe(&filters),
                [1, denied, 1, denied, 0],
                "{cache_s}"
            );
            client.publish(&Publish::new("asked/a", "x").qos(1, 7));
            assert_eq!(client.receive().text(), "x");
            if is_5 {
                client.send(&Publish::new("other", "x").qos(1, 8));
                assert_eq!(client.answer(kind::PUBACK).reason(), 0x87);
            }
            client.unsubscribe(&["asked/+"]);
            client.leave();
        }
    }
}

#[test]
fn what_is_sent_right_before_a_farewell_is_published() {
    let world = world_with(0);
    let (mut client, _) = Client::open(world.server.mqtt(), &Connect::v5("a").login("u", "p"));
    let mut bytes = Vec::new();
    for text in ["one", "two"] {
        // A topic of seven bytes, no properties, at quality of service 0.
        let body = format!("\0\u{7}asked/a\0{text}");
        bytes.extend(tidings_e2e::mqtt::packet(0x30, body.as_bytes()));
    }
    // DISCONNECT, in the same segment.
    bytes.extend([0xe0, 0]);
    client.write(&bytes).unwrap();
    let page = || {
        Request::get("/v1/topics/asked/a?as=json")
            .header("Authorization", "Bearer t")
            .send(world.server.address())
    };
    eventually("both are there", PATIENCE, || {
        let text = page().text();
        text.contains("one") && text.contains("two")
    });
}

fn will(topic: &str) -> Will {
    Will {
        topic: topic.to_owned(),
        payload: b"gone".to_vec(),
        qos: 0,
        retain: false,
        properties: Properties::default(),
    }
}

#[test]
fn a_will_is_asked_about_when_it_is_left() {
    let world = world();
    for (topic, reason) in [("asked/will", 0), ("other", 0x87)] {
        let connect = Connect::v5("w").login("u", "p").will(will(topic));
        let (client, answer) = Client::try_open(world.server.mqtt(), &connect).unwrap();
        assert_eq!(answer.reason(), reason, "{topic}");
        drop(client);
    }
    let page = || {
        Request::get("/v1/topics/asked/will?as=json")
            .header("Authorization", "Bearer t")
            .send(world.server.address())
    };
    eventually("it is published", PATIENCE, || {
        page().text().contains("gone")
    });
}

#[test]
fn over_stomp_a_queue_and_a_transaction_ask_too() {
    let world = world();
    let headers = [("login", "u"), ("passcode", "p")];
    let open = || {
        stomp::Client::try_open(world.server.stomp(), "1.2", &headers)
            .unwrap()
            .0
    };
    let mut client = open();
    client.subscribe("0", "/queue/asked/jobs", &[("ack", "client")]);
    client.publish("/queue/asked/jobs", "job");
    let message = client.message();
    assert_eq!(message.text(), "job");
    client.ack(&message);
    for (command, destination) in [("SEND", "/topic/other"), ("SUBSCRIBE", "/queue/other")] {
        let mut client = open();
        let headers = [("destination", destination), ("id", "0")];
        client
            .send(&stomp::Frame::new(command, &headers, ""))
            .unwrap();
        assert_eq!(
            client.error().expect("tidings-code"),
            "forbidden",
            "{destination}"
        );
    }
}

#[test]
fn client_libraries_are_told_what_the_backend_says() {
    let world = world();
    let mut peer = Peer::node("websocket.mjs", &[]);
    let options = json!({"headers": {"Authorization": "Bearer t"}});
    let open = json!({"open": world.server.ws_url("/v1/ws"), "protocols": ["tidings.v1"], "options": options});
    let line = peer.ask(&open);
    assert_eq!(line["open"]["protocol"], "tidings.v1", "{line}");
    let mosquitto = |topic: &str| {
        let address = world.server.mqtt();
        let mut command = std::process::Command::new("mosquitto_pub");
        command
            .args([
                "-h",
                &address.ip().to_string(),
                "-p",
                &address.port().to_string(),
            ])
            .args([
                "-V", "mqttv5", "-q", "1", "-u", "u", "-P", "p", "-m", "x", "-t", topic,
            ]);
        output(&mut command)
    };
    assert!(mosquitto("asked/m").status.success());
    let refused = mosquitto("other");
    let text = String::from_utf8_lossy(&refused.stderr).to_lowercase();
    assert!(
        !refused.status.success() || text.contains("not authorized"),
        "{refused:?}"
    );
    let mut peer = Peer::python("stomp_client.py", &[]);
    let connect = json!({"url": format!("stomp://{}", world.server.stomp()), "versions": ["1.2"], "user": "u", "password": "p"});
    let line = peer.ask(&json!({"connect": connect}));
    assert_eq!(line["connected"]["version"], "1.2", "{line}");
    let published = world.server.metric("tidings_published_total", "mqtt");
    assert!((published - 1.0).abs() < 0.5, "{published}");
}

#[test]
fn a_backend_that_is_down_slow_or_lies_permits_nothing_and_denies_nothing() {
    let world = world();
    let yes = Reply::json(&json!({"allow": true}));
    let late = Reply::Late(Duration::from_secs(4), Box::new(yes));
    for lie in lies()
        .into_iter()
        .chain([Reply::json(&json!({"allow": 1})), late])
    {
        world.backend.always("/permission", lie.clone());
        world.publish("asked/a", "t").assert_problem(503, "busy");
        assert_eq!(
            world.publish("own/a", "t").status,
            201,
            "grants need nobody"
        );
    }
    let (mut client, _) = Client::open(world.server.mqtt(), &Connect::v5("a").login("u", "p"));
    world.backend.set_down(true);
    assert_eq!(client.subscribe(&[("own/#", 1)]), [1]);
    assert_eq!(
        client.subscribe(&[("asked/b", 1)]),
        [0x80],
        "busy is no denial"
    );
    world.backend.set_down(false);
    world.backend.on("/permission", |asked| answer(asked, 0));
    eventually("it is back", PATIENCE, || {
        world.publish("asked/a", "t").status == 201
    });
}
