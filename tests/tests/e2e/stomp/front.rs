//! Ports, handshakes and goodbyes: what happens around the conversation.

use std::io::{Read, Write};

use tidings_e2e::http::{Opened, Request, connect, get};
use tidings_e2e::mqtt::Connect;
use tidings_e2e::stomp::{Client, Frame};
use tidings_e2e::websocket::{self, WebSocket, upgrade};
use tidings_e2e::{Options, PATIENCE, Server, eventually, metrics};

use super::{VERSIONS, open, sending};

/// Text and binary, final (RFC 6455, 5.2).
const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;

/// What a client sends first.
fn connect_frame() -> Vec<u8> {
    let headers = [("accept-version", "1.0,1.1,1.2"), ("host", "tidings")];
    Frame::new("CONNECT", &headers, "").bytes("1.2")
}

/// The next frame, which one WebSocket message holds, and whether that was text.
#[track_caller]
fn frame_of(socket: &mut WebSocket) -> (Frame, bool) {
    loop {
        let (bytes, is_text) = match socket.frame() {
            websocket::Frame::Text(text) => (text.into_bytes(), true),
            websocket::Frame::Binary(bytes) => (bytes, false),
            websocket::Frame::Ping(_) | websocket::Frame::Pong(_) => continue,
            websocket::Frame::Close(close) => panic!("no frame of STOMP: {close:?}"),
        };
        if bytes == b"\n" {
            continue;
        }
        let (frame, _) = Frame::read(&mut &bytes[..], "1.2").unwrap();
        return (frame, is_text);
    }
}

#[track_caller]
fn open_socket(server: &Server, subprotocol: Option<&str>) -> WebSocket {
    let opened = WebSocket::try_open(server.address(), "/stomp", subprotocol);
    opened.unwrap_or_else(|error| panic!("/stomp: {error}"))
}

/// Bytes that are sent, and all that comes until the end.
#[track_caller]
fn answer(server: &Server, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(server.stomp()).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    // Closed or reset, at once.
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "{bytes:?}");
    }
    answer
}

#[test]
fn each_version_is_agreed_on_and_the_highest_wins() {
    let server = Server::start(Options::default());
    for (accept, expect) in [
        (None, "1.0"),
        (Some("1.0"), "1.0"),
        (Some("1.1"), "1.1"),
        (Some("1.2"), "1.2"),
        (Some("1.0,1.1"), "1.1"),
        (Some("1.2,1.0,1.1"), "1.2"),
        (Some("2.0,1.1"), "1.1"),
    ] {
        let headers: Vec<_> = accept
            .map(|accept| ("accept-version", accept))
            .into_iter()
            .collect();
        for command in ["CONNECT", "STOMP"] {
            let mut stream = connect(server.stomp()).unwrap();
            let opening = Frame::new(command, &headers, "").bytes("1.2");
            stream.write_all(&opening).unwrap();
            let mut reader = std::io::BufReader::new(stream);
            let (answer, _) = Frame::read(&mut reader, "1.2").unwrap();
            assert_eq!(answer.command, "CONNECTED", "{accept:?}: {answer:?}");
            assert_eq!(answer.expect("version"), expect, "{accept:?}");
            assert!(answer.expect("server").starts_with("tidings/"));
            assert!(!answer.expect("session").is_empty());
        }
    }
    let refused = Client::try_open(server.stomp(), "1.0", &[("accept-version", "1.3,2.0")]);
    let (mut client, answer) = refused.unwrap();
    assert_eq!(answer.command, "ERROR", "{answer:?}");
    assert_eq!(answer.expect("version"), "1.0,1.1,1.2");
    client.until_closed();
    assert!(server.metric("tidings_refusals_total", "bad-version") > 0.5);
}

#[test]
fn http_on_the_stomp_port_is_told_where_http_is() {
    let server = Server::start(Options::default());
    let response = get(server.stomp(), "/v1/topics/demo");
    response.assert_problem(400, "bad-request");
    let text = response.text();
    assert!(
        text.contains("STOMP") && text.contains("http.listen"),
        "{text}"
    );
    assert!(server.metric("tidings_refusals_total", "bad-request") > 0.0);
}

#[test]
fn stomp_on_the_http_port_is_told_where_stomp_is() {
    let server = Server::start(Options::default());
    for first in [
        &b"CONNECT\naccept-version:1.2\n\n\0"[..],
        b"STOMP\r\n\r\n\0",
    ] {
        let mut stream = connect(server.address()).unwrap();
        stream.write_all(first).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("stomp.listen"), "{answer}");
    }
}

#[test]
fn garbage_on_the_stomp_port_is_closed() {
    let server = Server::start(Options::default());
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"\0\0\0\0",
        b"hello\r\n",
        b"connect\n\n\0",
        &Connect::v5("lost").packet(),
    ] {
        assert_eq!(answer(&server, garbage), b"", "{garbage:?}");
    }
    open(&server).leave();
}

#[test]
fn a_client_that_says_nothing_is_closed_after_the_handshake_limit() {
    let server = Server::start(Options::default().set("limits.handshake_ms_max", 200));
    for sent in [&b""[..], b"\n", b"C", b"CONNECT\naccept-version:1.2\n"] {
        assert_eq!(answer(&server, sent), b"", "{sent:?}");
    }
    assert!(server.metric("tidings_refusals_total", "request-timeout") > 3.5);
}

#[test]
fn frames_may_come_byte_by_byte() {
    let server = Server::start(Options::default());
    for version in VERSIONS {
        let mut client = Client::open(server.stomp(), version);
        let subscribe = [
            ("destination", "/topic/slow"),
            ("id", "1"),
            ("receipt", "s"),
        ];
        let mut bytes = Frame::new("SUBSCRIBE", &subscribe, "").bytes(version);
        bytes.extend_from_slice(b"\n\r\n");
        let send = Frame::new("SEND", &[("destination", "/topic/slow")], *b"x\0y");
        bytes.extend(send.bytes(version));
        for byte in bytes {
            client.write(&[byte]).unwrap();
        }
        client.await_receipt("s").unwrap();
        assert_eq!(client.message().body, b"x\0y");
        client.leave();
    }
}

#[test]
fn many_frames_may_come_at_once() {
    let server = Server::start(Options::default());
    let mut client = open(&server);
    let subscribe = [("destination", "/topic/fast"), ("id", "1")];
    let mut bytes = Frame::new("SUBSCRIBE", &subscribe, "").bytes("1.2");
    for n in 0..500 {
        bytes.extend(sending("/topic/fast", &n.to_string()).bytes("1.2"));
    }
    client.write(&bytes).unwrap();
    let expect: Vec<String> = (0..500).map(|n| n.to_string()).collect();
    assert_eq!(client.texts(500), expect);
}

#[test]
fn a_websocket_agrees_on_the_highest_version_that_the_client_offers() {
    let server = Server::start(Options::default());
    for (offered, chosen, version) in [
        (Some("v10.stomp"), Some("v10.stomp"), "1.0"),
        (Some("v10.stomp, v11.stomp"), Some("v11.stomp"), "1.1"),
        (
            Some("v10.stomp, v12.stomp, v11.stomp"),
            Some("v12.stomp"),
            "1.2",
        ),
        (Some("mqtt"), None, "1.2"),
        (None, None, "1.2"),
    ] {
        let mut socket = open_socket(&server, offered);
        assert_eq!(socket.protocol.as_deref(), chosen);
        socket.sender().frame(TEXT, &connect_frame()).unwrap();
        let (answer, is_text) = frame_of(&mut socket);
        assert_eq!(answer.command, "CONNECTED", "{answer:?}");
        assert_eq!(answer.expect("version"), version, "{offered:?}");
        assert!(is_text);
    }
}

#[test]
fn frames_may_span_websocket_messages_and_share_them() {
    let server = Server::start(Options::default().argument("--shards").argument("2"));
    let mut socket = open_socket(&server, Some("v12.stomp"));
    let mut sender = socket.sender();
    let mut bytes = connect_frame();
    let subscribe = [("destination", "/topic/ws"), ("id", "1")];
    bytes.extend(Frame::new("SUBSCRIBE", &subscribe, "").bytes("1.2"));
    bytes.extend(sending("/topic/ws", "text").bytes("1.2"));
    let binary = [0xff, 0, 0xfe];
    bytes.extend(Frame::new("SEND", &[("destination", "/topic/ws")], binary).bytes("1.2"));
    // Of either kind, with no regard to where a frame ends.
    for (n, piece) in bytes.chunks(50).enumerate() {
        let is_text = n % 2 == 0 && str::from_utf8(piece).is_ok();
        sender
            .frame(if is_text { TEXT } else { BINARY }, piece)
            .unwrap();
        sender.frame(0x89, b"ping").unwrap();
    }
    assert_eq!(frame_of(&mut socket).0.command, "CONNECTED");
    let (message, is_text) = frame_of(&mut socket);
    assert_eq!((message.text().as_str(), is_text), ("text", true));
    let (message, is_text) = frame_of(&mut socket);
    assert_eq!((&message.body[..], is_text), (&binary[..], false));
    // Many in one message.
    let mut bytes = Vec::new();
    for n in 0..20 {
        bytes.extend(sending("/topic/ws", &n.to_string()).bytes("1.2"));
    }
    let leave = Frame::new("DISCONNECT", &[("receipt", "bye")], "");
    bytes.extend(leave.bytes("1.2"));
    sender.frame(TEXT, &bytes).unwrap();
    let mut last = frame_of(&mut socket).0;
    while last.command == "MESSAGE" {
        last = frame_of(&mut socket).0;
    }
    assert_eq!(last.expect("receipt-id"), "bye");
    assert_eq!(socket.close_frame().0, 1000);
    assert_eq!(server.history("ws").len(), 22);
}

#[test]
fn an_error_over_websocket_comes_before_the_close_frame() {
    let server = Server::start(Options::default());
    let mut socket = open_socket(&server, Some("v12.stomp"));
    let mut sender = socket.sender();
    sender.frame(TEXT, &connect_frame()).unwrap();
    assert_eq!(frame_of(&mut socket).0.command, "CONNECTED");
    let wrong = sending("nowhere", "x").header("receipt", "7").bytes("1.2");
    sender.frame(TEXT, &wrong).unwrap();
    let error = frame_of(&mut socket).0;
    assert_eq!(error.command, "ERROR", "{error:?}");
    assert_eq!(error.expect("receipt-id"), "7");
    assert_eq!(socket.close_frame().0, 1008);
}

#[test]
fn a_websocket_from_another_page_or_where_it_is_off_is_refused() {
    let server = Server::start(Options::default());
    let foreign = upgrade("/stomp")
        .header("Sec-WebSocket-Protocol", "v12.stomp")
        .header("Origin", "https://elsewhere.example");
    foreign
        .send(server.address())
        .assert_problem(403, "bad-origin");
    get(server.address(), "/stomp").assert_problem(426, "upgrade-required");
    let server = server.restart_with(Options::default().set("stomp.websocket", false));
    let off = upgrade("/stomp").send(server.address());
    off.assert_problem(404, "not-found");
}

#[test]
fn an_upgrade_may_be_the_second_request_of_its_connection() {
    let server = Server::start(Options::default());
    let first = Request::get("/healthz").open(server.address()).unwrap();
    let length: usize = first.header("content-length").unwrap().parse().unwrap();
    let mut reader = first.reader;
    reader.read_exact(&mut vec![0; length]).unwrap();
    let head = format!(
        "GET /stomp HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: v11.stomp\r\n\r\n",
        server.address()
    );
    reader.get_mut().write_all(head.as_bytes()).unwrap();
    let opened = Opened::read_more(reader).unwrap();
    assert_eq!(opened.status, 101);
    assert_eq!(opened.header("sec-websocket-protocol"), Some("v11.stomp"));
    let mut reader = opened.reader;
    let mut frame = vec![TEXT, 0x80 + 10, 0, 0, 0, 0];
    frame.extend_from_slice(b"CONNECT\n\n\0");
    reader.get_mut().write_all(&frame).unwrap();
    let mut answer = [0; 12];
    reader.read_exact(&mut answer).unwrap();
    assert_eq!(&answer[2..], b"CONNECTED\n");
}

#[test]
fn a_shutdown_says_when_to_come_back() {
    let options = Options::default().set("server.shutdown_ms", 200);
    let mut server = Server::start(options);
    let mut clients: Vec<Client> = VERSIONS
        .map(|version| Client::open(server.stomp(), version))
        .into();
    let mut socket = open_socket(&server, Some("v12.stomp"));
    socket.sender().frame(TEXT, &connect_frame()).unwrap();
    assert_eq!(frame_of(&mut socket).0.command, "CONNECTED");
    // One that has not said anything yet.
    let mut silent = connect(server.stomp()).unwrap();
    server.terminate();
    for client in &mut clients {
        let error = client.error();
        assert_eq!(error.expect("tidings-code"), "shutting-down");
        let wait: u64 = error.expect("tidings-reconnect-ms").parse().unwrap();
        assert!(wait < 60_000, "{wait}");
    }
    let (error, _) = frame_of(&mut socket);
    assert_eq!(error.expect("tidings-code"), "shutting-down");
    assert_eq!(socket.close_frame().0, 1012);
    assert_eq!(silent.read_to_end(&mut Vec::new()).unwrap_or(0), 0);
    drop((socket, silent));
    assert!(server.wait().success());
}

#[test]
fn stomp_is_served_without_http_and_http_without_stomp() {
    let off = |name| Options::default().argument(name).argument("off");
    let server = Server::start(off("--http"));
    let mut client = open(&server);
    client.subscribe("1", "/topic/a", &[]);
    client.publish("/topic/a", "heard");
    assert_eq!(client.message().text(), "heard");

    let server = Server::start(off("--stomp"));
    // STOMP over WebSocket is part of the HTTP listener.
    let mut socket = open_socket(&server, None);
    socket.sender().frame(TEXT, &connect_frame()).unwrap();
    assert_eq!(frame_of(&mut socket).0.command, "CONNECTED");
}

#[test]
fn connections_are_counted_and_those_over_the_limit_are_closed() {
    let server = Server::start(Options::default().set("limits.connections_per_address_max", 3));
    let clients: Vec<Client> = (0..2).map(|_| open(&server)).collect();
    let open = || {
        let page = get(server.address(), "/metrics");
        let sum = |text: &str| metrics::sum(text, "tidings_connections", "\"stomp\"");
        (page.status == 200).then(|| sum(&page.text()))
    };
    assert_eq!(open(), Some(2.0));
    // Those that asked for the numbers may still be closing.
    let enter = || {
        let opened = Client::try_open(server.stomp(), "1.2", &[]).ok();
        opened.filter(|(_, answer)| answer.command == "CONNECTED")
    };
    let mut third = None;
    eventually("there is room for a third", PATIENCE, || {
        third = enter();
        third.is_some()
    });
    assert_eq!(answer(&server, b"CONNECT\n\n\0"), b"");
    drop((clients, third));
    eventually("all are gone", PATIENCE, || open() == Some(0.0));
    assert!(server.metric("tidings_refusals_total", "at-capacity") > 0.5);
    eventually("there is room again", PATIENCE, || enter().is_some());
}
