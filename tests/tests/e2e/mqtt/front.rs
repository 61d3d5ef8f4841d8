//! Ports, handshakes and goodbyes: what happens around the conversation.

use std::io::{Read, Write};

use tidings_e2e::http::{Opened, Request, connect, get};
use tidings_e2e::mqtt::{Client, Connect, Properties, Publish, Will, kind, packet};
use tidings_e2e::websocket::{Frame, WebSocket, upgrade};
use tidings_e2e::{Options, PATIENCE, Server, eventually};

/// Binary, final (RFC 6455, 5.2).
const BINARY: u8 = 0x82;

#[track_caller]
fn open_socket(server: &Server) -> WebSocket {
    let opened = WebSocket::try_open(server.address(), "/mqtt", Some("mqtt"));
    let socket = opened.unwrap_or_else(|error| panic!("/mqtt: {error}"));
    assert_eq!(socket.protocol.as_deref(), Some("mqtt"));
    socket
}

#[track_caller]
fn binary(socket: &mut WebSocket) -> Vec<u8> {
    match socket.frame() {
        Frame::Binary(bytes) => bytes,
        other => panic!("not binary: {other:?}"),
    }
}

#[test]
fn http_on_the_mqtt_port_is_told_where_http_is() {
    let server = Server::start(Options::default());
    let response = get(server.mqtt(), "/v1/topics/demo");
    response.assert_problem(400, "bad-request");
    assert!(
        response.text().contains("http.listen"),
        "{}",
        response.text()
    );
    assert!(server.metric("tidings_refusals_total", "bad-request") > 0.0);
}

#[test]
fn mqtt_on_the_http_port_is_closed_and_counted() {
    let server = Server::start(Options::default());
    let mut stream = connect(server.address()).unwrap();
    stream.write_all(&Connect::v5("lost").packet()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("mqtt.listen"), "{answer}");
    assert!(server.metric("tidings_refusals_total", "bad-request") > 0.0);
}

#[test]
fn refusals_are_lines_in_the_log_and_a_dropped_message_is_a_warning() {
    let options = Options::default().argument("--log-level").argument("debug");
    let server = Server::start(options);
    let (mut old, _) = Client::open(server.mqtt(), &Connect::v3("sensor-7"));
    for id in 1..=5 {
        old.send(&Publish::new("$closed", "x").qos(1, id));
        assert_eq!(old.answer(kind::PUBACK).id, id);
    }
    let (mut new, _) = Client::open(server.mqtt(), &Connect::v5("sensor-8"));
    new.send_subscribe(&[("a#", 0)], &Properties::default());
    assert_eq!(new.until_closed(), Some(0x81));
    let lines = |words: &[&str]| {
        let log = server.log().into_iter();
        log.filter(|line| words.iter().all(|word| line.contains(word)))
            .count()
    };
    for (words, count) in [
        (&["DEBUG", "refused", "mqtt/sensor-7", "$closed"][..], 5),
        (&["DEBUG", "refused", "mqtt/sensor-8", "as in `a/#`"], 1),
        // One, and then none for a second; a slow machine may come to the next one.
        (&["WARN", "dropped", "mqtt/sensor-7", "$closed"], 1),
    ] {
        eventually("the lines are in the log", PATIENCE, || {
            lines(words) >= count
        });
    }
}

#[test]
fn garbage_on_the_mqtt_port_is_closed() {
    let server = Server::start(Options::default());
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"\0\0\0\0",
        b"hello\r\n",
        &[kind::PINGREQ << 4, 0],
    ] {
        let mut stream = connect(server.mqtt()).unwrap();
        stream.write_all(garbage).unwrap();
        let mut answer = Vec::new();
        // Closed or reset, at once.
        stream.read_to_end(&mut answer).unwrap_or_default();
        assert_eq!(answer, b"", "{garbage:?}");
    }
    let (client, _) = Client::open(server.mqtt(), &Connect::v3("well"));
    client.leave();
}

#[test]
fn a_client_that_says_nothing_is_closed_after_the_handshake_limit() {
    let server = Server::start(Options::default().set("limits.handshake_ms_max", 200));
    let connect_packet = Connect::v5("half").packet();
    for sent in [&[][..], &connect_packet[..5]] {
        let mut stream = connect(server.mqtt()).unwrap();
        stream.write_all(sent).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap_or_default();
        assert_eq!(answer, b"");
    }
    assert!(server.metric("tidings_refusals_total", "request-timeout") > 0.0);
}

#[test]
fn a_first_packet_in_pieces_finds_its_session() {
    let server = Server::start(Options::default().argument("--shards").argument("4"));
    for n in 0..8 {
        let with = Connect::v5(&format!("pieces-{n}")).kept();
        let mut stream = connect(server.mqtt()).unwrap();
        let mut bytes = with.packet();
        bytes.extend_from_slice(&[kind::PINGREQ << 4, 0]);
        for piece in bytes.chunks(3) {
            stream.write_all(piece).unwrap();
        }
        let mut head = [0; 2];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(head[0], kind::CONNACK << 4);
        let mut rest = vec![0; usize::from(head[1]) + 2];
        stream.read_exact(&mut rest).unwrap();
        assert_eq!(rest[rest.len() - 2..], [kind::PINGRESP << 4, 0]);
    }
    assert!((server.metric("tidings_connections_total", "\"mqtt\"") - 8.0).abs() < 0.5);
}

#[test]
fn a_client_without_an_identifier_is_given_one() {
    let server = Server::start(Options::default().argument("--shards").argument("4"));
    let mut ids = Vec::new();
    for _ in 0..8 {
        let (client, answer) = Client::try_open(server.mqtt(), &Connect::v5("")).unwrap();
        assert_eq!(answer.reason(), 0);
        ids.push(answer.properties.text(0x12).expect("the assigned id"));
        client.leave();
        let (client, _) = Client::open(server.mqtt(), &Connect::v3(""));
        client.leave();
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 8, "{ids:?}");
    // MQTT-3.1.3-8: without a clean session it is refused.
    let (_, answer) = Client::try_open(server.mqtt(), &Connect::v3("").kept()).unwrap();
    assert_eq!(answer.reason(), 0x02);
}

#[test]
fn a_websocket_without_the_subprotocol_or_from_another_page_is_refused() {
    let server = Server::start(Options::default());
    let refused = upgrade("/mqtt").send(server.address());
    refused.assert_problem(400, "bad-request");
    assert!(refused.text().contains("mqtt"), "{}", refused.text());
    let other = upgrade("/mqtt").header("Sec-WebSocket-Protocol", "stomp");
    other
        .send(server.address())
        .assert_problem(400, "bad-request");
    let foreign = upgrade("/mqtt")
        .header("Sec-WebSocket-Protocol", "mqtt")
        .header("Origin", "https://elsewhere.example");
    foreign
        .send(server.address())
        .assert_problem(403, "bad-origin");
    get(server.address(), "/mqtt").assert_problem(426, "upgrade-required");
    let server = server.restart_with(Options::default().set("mqtt.websocket", false));
    let off = upgrade("/mqtt").header("Sec-WebSocket-Protocol", "mqtt");
    off.send(server.address()).assert_problem(404, "not-found");
}

#[test]
fn packets_may_span_frames_and_share_them() {
    let server = Server::start(Options::default().argument("--shards").argument("2"));
    for n in 0..4 {
        let mut socket = open_socket(&server);
        let mut sender = socket.sender();
        let bytes = Connect::v3(&format!("spans-{n}")).packet();
        let (first, second) = bytes.split_at(7);
        sender.frame(BINARY, first).unwrap();
        sender.frame(0x89, b"ping").unwrap();
        let mut rest = second.to_vec();
        rest.extend_from_slice(&[kind::PINGREQ << 4, 0]);
        sender.frame(BINARY, &rest).unwrap();
        let mut got = Vec::new();
        while got.len() < 6 {
            match socket.frame() {
                Frame::Binary(bytes) => got.extend(bytes),
                Frame::Pong(payload) => assert_eq!(payload, b"ping"),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(got, [kind::CONNACK << 4, 2, 0, 0, kind::PINGRESP << 4, 0]);
    }
}

#[test]
fn a_text_frame_closes_an_mqtt_websocket() {
    let server = Server::start(Options::default());
    // MQTT-6.0.0-1.
    let mut socket = open_socket(&server);
    socket
        .sender()
        .frame(BINARY, &Connect::v3("t").packet())
        .unwrap();
    binary(&mut socket);
    socket.send("text");
    assert_eq!(socket.close_frame().0, 1003);
    let mut early = open_socket(&server);
    early.send("text");
    assert_eq!(early.close_frame().0, 1003);
}

#[test]
fn an_upgrade_may_be_the_second_request_of_its_connection() {
    let server = Server::start(Options::default().argument("--shards").argument("2"));
    for n in 0..4 {
        let first = Request::get("/healthz").open(server.address()).unwrap();
        let length: usize = first.header("content-length").unwrap().parse().unwrap();
        let mut reader = first.reader;
        reader.read_exact(&mut vec![0; length]).unwrap();
        let mut head = String::new();
        for line in [
            "GET /mqtt HTTP/1.1",
            &format!("Host: {}", server.address()),
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Protocol: mqttv3.1, mqtt",
            "",
        ] {
            head += line;
            head += "\r\n";
        }
        reader.get_mut().write_all(head.as_bytes()).unwrap();
        let opened = Opened::read_more(reader).unwrap();
        assert_eq!(opened.status, 101);
        assert_eq!(opened.header("sec-websocket-protocol"), Some("mqtt"));
        let mut reader = opened.reader;
        let connect = Connect::v3(&format!("second-{n}")).packet();
        let mut frame = vec![BINARY, 0x80 + connect.len() as u8, 0, 0, 0, 0];
        frame.extend_from_slice(&connect);
        reader.get_mut().write_all(&frame).unwrap();
        let mut answer = [0; 6];
        reader.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [BINARY, 4, kind::CONNACK << 4, 2, 0, 0]);
    }
}

#[test]
fn a_shutdown_says_goodbye_and_keeps_sessions_and_wills() {
    let options = Options::default().set("server.shutdown_ms", 200);
    let mut server = Server::start(options.clone());
    let kept = Connect::v5("kept").kept();
    let (mut client, _) = Client::open(server.mqtt(), &kept);
    assert_eq!(client.subscribe(&[("goodbye", 1)]), [1]);
    server.publish("goodbye", "unacknowledged");
    let message = client.message();
    let (mut old, _) = Client::open(server.mqtt(), &Connect::v3("old"));
    let will = Will {
        topic: "wills".to_owned(),
        payload: b"at the shutdown".to_vec(),
        ..Will::default()
    };
    let (mut with_will, _) = Client::open(server.mqtt(), &Connect::v5("will").will(will));
    server.terminate();
    assert_eq!(client.until_closed(), Some(0x8b));
    assert_eq!(with_will.until_closed(), Some(0x8b));
    assert_eq!(old.until_closed(), None);
    assert!(server.wait().success());

    let options = options.set("mqtt.server_reference", "other.example:1883");
    let mut server = server.restart_with(options);
    assert_eq!(super::texts(&server, "wills"), ["at the shutdown"]);
    let (mut client, present) = Client::open(server.mqtt(), &kept);
    assert!(present);
    let again = client.receive();
    assert_eq!((again.id, again.dup), (message.id, true));
    client.ping();
    server.terminate();
    let goodbye = client.answer(kind::DISCONNECT);
    assert_eq!(goodbye.reason(), 0x9c);
    let reference = goodbye.properties.text(0x1c);
    assert_eq!(reference.as_deref(), Some("other.example:1883"));
    assert!(server.wait().success());
}

#[test]
fn mqtt_is_served_without_http_and_http_without_mqtt() {
    let options = Options::default().argument("--http").argument("off");
    let server = Server::start(options);
    let (mut client, _) = Client::open(server.mqtt(), &Connect::v5("alone"));
    assert_eq!(client.subscribe(&[("a", 0)]), [0]);
    client.send(&Publish::new("a", "heard"));
    assert_eq!(client.receive().text(), "heard");

    let server = Server::start(Options::default().argument("--mqtt").argument("off"));
    server.publish("demo", "still");
    // MQTT over WebSocket is part of the HTTP listener.
    let mut socket = open_socket(&server);
    socket
        .sender()
        .frame(BINARY, &Connect::v3("w").packet())
        .unwrap();
    assert_eq!(binary(&mut socket), [kind::CONNACK << 4, 2, 0, 0]);
}

#[test]
fn a_packet_over_the_limit_is_refused() {
    let server = Server::start(Options::default().set("limits.message_bytes_max", 1_000));
    let (mut client, answer) = Client::try_open(server.mqtt(), &Connect::v5("large")).unwrap();
    assert!(answer.properties.number(0x27).is_some(), "{answer:?}");
    // 256 MiB are announced and never sent.
    client.write(&packet(kind::PUBLISH << 4, &[])[..1]).unwrap();
    client.write(&[0xff, 0xff, 0xff, 0x7f, 0]).unwrap();
    assert_eq!(client.until_closed(), Some(0x95));
}

#[test]
fn a_websocket_that_ends_while_it_catches_up_costs_nobody_else_anything() {
    // One shard, so that whatever keeps it from its work keeps everybody from theirs.
    let server = Server::start(Options::default().argument("--shards").argument("1"));
    super::post(&server, "kept/a", "a", &[("Tidings-Retain", "true")]);
    for (name, filter) in [("retained", "kept/#"), ("shared", "$share/g/kept/#")] {
        let mut socket = open_socket(&server);
        let mut body = b"\0\x01\0\0".to_vec();
        body.push(filter.len() as u8);
        body.extend_from_slice(filter.as_bytes());
        body.push(1);
        // SUBSCRIBE and DISCONNECT behind the CONNECT: what the subscription begins is not over when the
        // connection is.
        let mut bytes = Connect::v5(name).kept().packet();
        bytes.extend_from_slice(&packet(kind::SUBSCRIBE << 4 | 2, &body));
        bytes.extend_from_slice(&[kind::DISCONNECT << 4, 0]);
        socket.sender().frame(BINARY, &bytes).unwrap();
        assert_eq!(socket.close_frame().0, 1000, "{name}");
        server.publish("still", "served");
        let refused = server.metric("tidings_refusals_total", "");
        assert!(refused < 10.0, "{name}: {refused} refusals");
    }
}
