//! What HTTP/2 lets a peer do without end (CVE-2023-44487, CVE-2024-27316, CVE-2019-9512 and 9515), frame by frame.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use tidings_e2e::http::connect;
use tidings_e2e::{Options, Server};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
/// `GET / HTTP/2`, `http`, `:authority: x` (RFC 7541, appendix A).
const REQUEST: [u8; 6] = [0x82, 0x84, 0x86, 0x01, 1, b'x'];

/// A frame (RFC 9113, 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

#[track_caller]
fn open(server: &Server) -> TcpStream {
    let mut stream = connect(server.address()).unwrap();
    stream.write_all(PREFACE).unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).unwrap();
    stream
        .set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    stream
}

/// Whether the server ended the connection, and with which error if it said so (RFC 9113, 7).
fn ending(mut stream: TcpStream) -> (bool, Option<u32>) {
    let mut bytes = Vec::new();
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let ended = match stream.read_to_end(&mut bytes) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    };
    let mut rest = &bytes[..];
    let mut error = None;
    while let [a, b, c, kind, _, _, _, _, _, ..] = *rest {
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let Some(payload) = rest.get(9..9 + length) else {
            break;
        };
        if kind == GOAWAY {
            error = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
        }
        rest = &rest[9 + length..];
    }
    (ended, error)
}

#[test]
fn requests_that_are_taken_back_at_once_end_the_connection() {
    let server = Server::start(Options::default());
    let mut stream = open(&server);
    let mut sent = 0;
    for number in 0..20_000_u32 {
        let id = number * 2 + 1;
        let mut both = frame(HEADERS, 0x5, id, &REQUEST);
        both.extend(frame(RST_STREAM, 0, id, &[0, 0, 0, 8]));
        if stream.write_all(&both).is_err() {
            break;
        }
        sent += 1;
    }
    let (ended, error) = ending(stream);
    assert!(ended, "{sent} requests were taken back");
    // ENHANCE_YOUR_CALM, if it came through before the reset.
    assert!(matches!(error, None | Some(11)), "{error:?}");
    server.publish("a", "others are served");
}

#[test]
fn headers_that_go_on_for_ever_end_the_connection() {
    let server = Server::start(Options::default());
    let before = server.resident_bytes();
    let mut stream = open(&server);
    stream.write_all(&frame(HEADERS, 0x1, 1, &REQUEST)).unwrap();
    // A header without a name in the table, of 100 bytes.
    let mut header = vec![0, 1, b'h', 100];
    header.extend([b'v'; 100]);
    let piece = frame(CONTINUATION, 0, 1, &header.repeat(100));
    let pieces = (0..5_000)
        .take_while(|_| stream.write_all(&piece).is_ok())
        .count();
    assert!(pieces < 5_000 || ending(stream).0, "{pieces} pieces");
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 20 << 20, "{grown} bytes");
    server.publish("a", "others are served");
}

#[test]
fn pings_and_settings_without_end_that_nobody_reads_the_answers_to_cost_bounded_memory() {
    let server = Server::start(Options::default());
    let before = server.resident_bytes();
    for flood in [
        frame(PING, 0, 0, &[0; 8]),
        frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9]),
    ] {
        let mut stream = open(&server);
        let many = flood.repeat(5_000);
        // Until the server reads no more, and the kernel takes no more; or the connection is ended.
        for _ in 0..400 {
            if stream.write_all(&many).is_err() {
                break;
            }
        }
        let grown = server.resident_bytes().saturating_sub(before);
        assert!(grown < 20 << 20, "{grown} bytes");
        server.publish("a", "others are served");
    }
}
