//! The protocols, as ways in for [`super::grants`]: each tries what it is told to, and fails the test unless the answer is the
//! right one.

use std::cell::RefCell;
use std::rc::Rc;

use serde_json::{Value, json};
use tidings_e2e::http::Request;
use tidings_e2e::mqtt::{Client as Mqtt, Connect, Publish, kind};
use tidings_e2e::sse::EventStream;
use tidings_e2e::stomp::{Client as Stomp, Frame as StompFrame};
use tidings_e2e::websocket::{WebSocket, upgrade};

use super::checker::matches;
use super::grants::World;
use super::who::{Secret, Way, Who};

/// One way in.
pub struct Door {
    /// In which ways a credential can be shown there.
    pub ways: &'static [Way],
    /// Publishes, and notes what has to be stored.
    pub publish: fn(&mut World, &Who, &str),
    /// Subscribes to so many random filters, and gives those who were admitted.
    pub subscribe: fn(&mut World, &Who, usize) -> Vec<Listener>,
    /// Finds out that somebody who shows nothing is not let in.
    pub refused: fn(&World, &Who),
}

/// A subscriber that waits for messages.
pub struct Listener {
    /// For a failure.
    pub who: String,
    /// What it was admitted to.
    pub filters: Vec<String>,
    /// The text of the next message.
    pub next: Box<dyn FnMut() -> String>,
    /// Makes sure that nothing else has come.
    pub end: Box<dyn FnMut()>,
}

const OVER_HTTP: &[Way] = &[Way::Header, Way::Query, Way::Cookie];

pub const DOORS: [Door; 8] = [
    Door {
        ways: OVER_HTTP,
        publish: http_publish,
        subscribe: http_history,
        refused: http_refused,
    },
    Door {
        ways: OVER_HTTP,
        publish: http_batch,
        subscribe: http_poll,
        refused: http_refused,
    },
    Door {
        ways: OVER_HTTP,
        publish: http_publish,
        subscribe: event_stream,
        refused: http_refused,
    },
    Door {
        ways: &[Way::Header, Way::Query, Way::Cookie, Way::Subprotocol],
        publish: raw_publish,
        subscribe: raw_socket,
        refused: raw_refused,
    },
    Door {
        ways: &[
            Way::Header,
            Way::Query,
            Way::Cookie,
            Way::Subprotocol,
            Way::Login,
        ],
        publish: tidings_publish,
        subscribe: tidings_socket,
        refused: tidings_refused,
    },
    Door {
        ways: &[Way::Login],
        publish: |world, who, topic| mqtt_publish(world, who, topic, Connect::v3("")),
        subscribe: |world, who, tries| mqtt_subscribe(world, who, tries, Connect::v3("")),
        refused: |world, who| mqtt_refused(world, who, &Connect::v3(""), 5),
    },
    Door {
        ways: &[Way::Login, Way::Enhanced],
        publish: |world, who, topic| mqtt_publish(world, who, topic, Connect::v5("")),
        subscribe: |world, who, tries| mqtt_subscribe(world, who, tries, Connect::v5("")),
        refused: |world, who| mqtt_refused(world, who, &Connect::v5(""), 0x87),
    },
    Door {
        ways: &[Way::Login],
        publish: stomp_publish,
        subscribe: stomp_subscribe,
        refused: stomp_refused,
    },
];

fn shown(who: &Who) -> String {
    format!("{:?} {} by {:?}", who.kind, who.name, who.way)
}

/// A filter in the path of a request.
fn target(filter: &str, query: &str) -> String {
    format!("/v1/topics/{}?{query}", filter.replace('#', "%23"))
}

fn http_publish(world: &mut World, who: &Who, topic: &str) {
    let text = world.text();
    let request = Request::post(&target(topic, "")).body(text.clone());
    let answer = who.request(request).send(world.http(who));
    if who.may_publish(topic) {
        assert_eq!(answer.status, 201, "{who:?} {topic} {}", answer.text());
        world.stored(topic, &text);
    } else {
        assert_eq!(answer.status, 403, "{who:?} {topic}");
        answer.assert_problem(403, "forbidden");
    }
}

/// Two messages at once: both or none.
fn http_batch(world: &mut World, who: &Who, topic: &str) {
    let messages = [(topic.to_owned(), world.text()), {
        let other = world.random.topic();
        (other, world.text())
    }];
    let body = messages
        .each_ref()
        .map(|(topic, text)| json!({"topic": topic, "data": text}));
    let request = Request::post("/v1/publish")
        .header("Content-Type", "application/json")
        .body(json!(body).to_string());
    let answer = who.request(request).send(world.http(who));
    if messages.iter().all(|(topic, _)| who.may_publish(topic)) {
        assert_eq!(answer.status, 201, "{who:?} {messages:?} {}", answer.text());
        for (topic, text) in &messages {
            world.stored(topic, text);
        }
    } else {
        assert_eq!(answer.status, 403, "{who:?} {messages:?}");
        answer.assert_problem(403, "forbidden");
    }
}

/// Asks for a page, which holds nothing that was not asked for.
fn http_page(world: &mut World, who: &Who, query: &str) {
    let wanted = world.random.wanted();
    let request = Request::get(&target(&wanted, query));
    let answer = who.request(request).send(world.http(who));
    if who.may_subscribe(&wanted) {
        assert_eq!(answer.status, 200, "{who:?} {wanted} {}", answer.text());
        for message in answer.json()["messages"].as_array().unwrap() {
            let topic = message["topic"].as_str().unwrap();
            assert!(matches(&wanted, topic), "{wanted} {topic}");
        }
    } else {
        assert_eq!(answer.status, 403, "{who:?} {wanted} {}", answer.text());
        answer.assert_problem(403, "forbidden");
    }
}

fn http_history(world: &mut World, who: &Who, tries: usize) -> Vec<Listener> {
    for _ in 0..tries {
        http_page(world, who, "as=json&after=earliest");
    }
    Vec::new()
}

fn http_poll(world: &mut World, who: &Who, tries: usize) -> Vec<Listener> {
    for _ in 0..tries {
        http_page(world, who, "as=json&wait=1ms");
    }
    Vec::new()
}

fn http_refused(world: &World, who: &Who) {
    for request in [
        Request::post("/v1/topics/a").body("x"),
        Request::get("/v1/topics/a?as=json"),
        Request::get("/v1/topics/a?as=sse"),
    ] {
        let answer = request.send(world.http(who));
        answer.assert_problem(401, "unauthorized");
    }
}

/// The text of an event, which may be the message as JSON.
fn text_in(event: &str) -> String {
    let message: Option<Value> = serde_json::from_str(event).ok();
    let text = message.and_then(|message| message["data"].as_str().map(str::to_owned));
    text.unwrap_or_else(|| event.to_owned())
}

fn event_stream(world: &mut World, who: &Who, tries: usize) -> Vec<Listener> {
    let address = world.http(who);
    let mut listeners = Vec::new();
    for _ in 0..tries {
        let wanted = world.random.wanted();
        let request = who.request(Request::get(&target(&wanted, "as=sse")));
        if who.may_subscribe(&wanted) {
            let mut stream = EventStream::send(address, request);
            listeners.push(Listener {
                who: format!("{} by SSE", shown(who)),
                filters: vec![wanted],
                next: Box::new(move || text_in(&stream.texts(1)[0])),
                end: Box::new(|| {}),
            });
        } else {
            request.send(address).assert_problem(403, "forbidden");
        }
    }
    listeners
}

fn open_raw(world: &World, who: &Who, filter: &str) -> Option<WebSocket> {
    let request = who.request(upgrade(&target(filter, "")));
    let opened = request.open(world.http(who)).unwrap();
    if who.may_subscribe(filter) {
        assert_eq!(opened.status, 101, "{who:?} {filter}");
        return Some(WebSocket::from_opened(opened));
    }
    assert_eq!(opened.status, 403, "{who:?} {filter}");
    opened.finish().unwrap().assert_problem(403, "forbidden");
    None
}

fn raw_publish(world: &mut World, who: &Who, topic: &str) {
    let Some(mut socket) = open_raw(world, who, topic) else {
        return;
    };
    let text = world.text();
    socket.send(&text);
    if who.may_publish(topic) {
        assert_eq!(socket.text(), text, "{who:?} {topic}: its echo");
        world.stored(topic, &text);
    } else {
        assert_eq!(socket.close_frame().0, 1008, "{who:?} {topic}");
    }
}

fn raw_socket(world: &mut World, who: &Who, tries: usize) -> Vec<Listener> {
    let mut listeners = Vec::new();
    for _ in 0..tries {
        let wanted = world.random.wanted();
        if let Some(mut socket) = open_raw(world, who, &wanted) {
            listeners.push(Listener {
                who: format!("{} by raw WebSocket", shown(who)),
                filters: vec![wanted],
                next: Box::new(move || socket.text()),
                end: Box::new(|| {}),
            });
        }
    }
    listeners
}

fn raw_refused(world: &World, who: &Who) {
    let answer = upgrade("/v1/topics/a").send(world.http(who));
    answer.assert_problem(401, "unauthorized");
}

fn open_tidings(world: &World, who: &Who) -> WebSocket {
    let request = upgrade("/v1/ws").header("Sec-WebSocket-Protocol", "tidings.v1");
    let opened = who.request(request).open(world.http(who)).unwrap();
    assert_eq!(opened.status, 101, "{who:?}");
    let mut socket = WebSocket::from_opened(opened);
    let request = match &who.secret {
        Secret::Token(token) if who.way == Way::Login => json!({"op":"auth","token":token}),
        Secret::Login(user, password) if who.way == Way::Login => {
            json!({"op":"auth","user":user,"password":password})
        }
        _ => return socket,
    };
    assert_eq!(ask(&mut socket, &request)["op"], "ok", "{who:?}");
    socket
}

fn ask(socket: &mut WebSocket, request: &Value) -> Value {
    socket.ask(request);
    socket.json()
}

fn tidings_publish(world: &mut World, who: &Who, topic: &str) {
    let mut socket = open_tidings(world, who);
    let text = world.text();
    let answer = ask(
        &mut socket,
        &json!({"op":"publish","id":1,"topic":topic,"data":text}),
    );
    if who.may_publish(topic) {
        assert_eq!(answer["op"], "ok", "{who:?} {topic} {answer}");
        world.stored(topic, &text);
    } else {
        assert_eq!(answer["code"], "forbidden", "{who:?} {topic} {answer}");
    }
}

fn tidings_socket(world: &mut World, who: &Who, tries: usize) -> Vec<Listener> {
    let mut socket = open_tidings(world, who);
    let mut filters: Vec<String> = Vec::new();
    for _ in 0..tries {
        let wanted = world.random.wanted();
        if filters.contains(&wanted) {
            continue;
        }
        let answer = ask(
            &mut socket,
            &json!({"op":"subscribe","id":1,"topic":wanted}),
        );
        if who.may_subscribe(&wanted) {
            assert_eq!(answer["op"], "ok", "{who:?} {wanted} {answer}");
            filters.push(wanted);
        } else {
            assert_eq!(answer["code"], "forbidden", "{who:?} {wanted} {answer}");
        }
    }
    let socket = Rc::new(RefCell::new(socket));
    let last = Rc::clone(&socket);
    vec![Listener {
        who: format!("{} by tidings.v1", shown(who)),
        filters,
        next: Box::new(move || {
            let message = socket.borrow_mut().json();
            assert_eq!(message["op"], "message", "{message}");
            message["data"].as_str().unwrap().to_owned()
        }),
        end: Box::new(move || {
            let answer = ask(&mut last.borrow_mut(), &json!({"op":"ping"}));
            assert_eq!(answer["op"], "ok", "{answer}");
        }),
    }]
}

fn tidings_refused(world: &World, who: &Who) {
    for request in [
        json!({"op":"subscribe","id":1,"topic":"a"}),
        json!({"op":"publish","id":1,"topic":"a","data":"x"}),
    ] {
        let mut socket = WebSocket::tidings(world.http(who));
        assert_eq!(ask(&mut socket, &request)["code"], "unauthorized");
    }
}

fn open_mqtt(world: &World, who: &Who, connect: Connect) -> Mqtt {
    let connect = match (&who.secret, who.login()) {
        // Authentication Method, Authentication Data.
        (Secret::Token(token), _) if who.way == Way::Enhanced => {
            connect.with(|it| it.text(0x15, "BEARER").text(0x16, token))
        }
        (_, Some((user, password))) => connect.login(user, password),
        (_, None) => connect,
    };
    Mqtt::open(world.mqtt(who), &connect).0
}

fn mqtt_publish(world: &mut World, who: &Who, topic: &str, connect: Connect) {
    let version = connect.version;
    let mut client = open_mqtt(world, who, connect);
    let text = world.text();
    client.send(&Publish::new(topic, text.clone()).qos(1, 7));
    let answer = client.answer(kind::PUBACK);
    let may = who.may_publish(topic);
    // 3.1.1 has no word for it: the message is dropped.
    let expect = if may || version == 4 { 0 } else { 0x87 };
    // 0x10 is that nobody subscribes, which is as good.
    let reason = if answer.reason() == 0x10 {
        0
    } else {
        answer.reason()
    };
    assert_eq!(reason, expect, "{who:?} {topic}");
    if may {
        world.stored(topic, &text);
    }
}

/// All in one packet: those that are refused do not fail the others.
fn mqtt_subscribe(world: &mut World, who: &Who, tries: usize, connect: Connect) -> Vec<Listener> {
    let denied = if connect.version == 5 { 0x87 } else { 0x80 };
    let mut client = open_mqtt(world, who, connect);
    let wanted: Vec<String> = (0..tries).map(|_| world.random.wanted()).collect();
    let asked: Vec<(&str, u8)> = wanted.iter().map(|filter| (filter.as_str(), 0)).collect();
    let may: Vec<bool> = wanted
        .iter()
        .map(|filter| who.may_subscribe(filter))
        .collect();
    let expect: Vec<u8> = may
        .iter()
        .map(|may| if *may { 0 } else { denied })
        .collect();
    assert_eq!(client.subscribe(&asked), expect, "{who:?} {wanted:?}");
    let granted = wanted.into_iter().zip(may).filter(|(_, may)| *may);
    let filters: Vec<String> = granted.map(|(filter, _)| filter).collect();
    let client = Rc::new(RefCell::new(client));
    let last = Rc::clone(&client);
    vec![Listener {
        who: format!("{} by MQTT", shown(who)),
        filters,
        next: Box::new(move || client.borrow_mut().message().text()),
        end: Box::new(move || last.borrow_mut().ping()),
    }]
}

fn mqtt_refused(world: &World, who: &Who, connect: &Connect, reason: u8) {
    let opened = Mqtt::try_open(world.mqtt(who), connect);
    assert_eq!(opened.unwrap().1.reason(), reason);
}

fn open_stomp(world: &World, who: &Who) -> Stomp {
    let login = who.login();
    let headers = login.map(|(user, secret)| [("login", user), ("passcode", secret)]);
    let headers = headers.as_ref().map_or(&[][..], |headers| &headers[..]);
    let (client, answer) = Stomp::try_open(world.stomp(who), "1.2", headers).unwrap();
    assert_eq!(answer.command, "CONNECTED", "{who:?} {answer:?}");
    client
}

fn stomp_publish(world: &mut World, who: &Who, topic: &str) {
    let mut client = open_stomp(world, who);
    let (text, destination) = (world.text(), format!("/topic/{topic}"));
    if who.may_publish(topic) {
        client.publish(&destination, text.clone());
        world.stored(topic, &text);
    } else {
        let headers = [("destination", destination.as_str())];
        client
            .send(&StompFrame::new("SEND", &headers, text))
            .unwrap();
        assert_eq!(
            client.error().expect("tidings-code"),
            "forbidden",
            "{who:?} {topic}"
        );
    }
}

fn stomp_subscribe(world: &mut World, who: &Who, tries: usize) -> Vec<Listener> {
    let mut listeners = Vec::new();
    for _ in 0..tries {
        let wanted = world.random.wanted();
        let destination = format!("/topic/{wanted}");
        // A refusal ends the connection.
        let mut client = open_stomp(world, who);
        if who.may_subscribe(&wanted) {
            client.subscribe("0", &destination, &[]);
            listeners.push(Listener {
                who: format!("{} by STOMP", shown(who)),
                filters: vec![wanted],
                next: Box::new(move || client.message().text()),
                end: Box::new(|| {}),
            });
        } else {
            let headers = [("destination", destination.as_str()), ("id", "0")];
            client
                .send(&StompFrame::new("SUBSCRIBE", &headers, ""))
                .unwrap();
            assert_eq!(
                client.error().expect("tidings-code"),
                "forbidden",
                "{who:?} {wanted}"
            );
        }
    }
    listeners
}

fn stomp_refused(world: &World, who: &Who) {
    let (_, answer) = Stomp::try_open(world.stomp(who), "1.2", &[]).unwrap();
    assert_eq!(answer.command, "ERROR", "{answer:?}");
    assert_eq!(answer.expect("tidings-code"), "unauthorized");
}
