//! Frames of HTTP/2 (RFC 9113), by hand: for what no client library would send.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::http::connect;

/// What a client says first (RFC 9113, 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames (RFC 9113, 6).
pub mod kind {
    #![expect(missing_docs, reason = "they are the specification's own names")]
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const CONTINUATION: u8 = 9;
}

/// `END_STREAM`, where a frame has it.
pub const END_STREAM: u8 = 1;
/// `END_HEADERS`.
pub const END_HEADERS: u8 = 4;

/// One frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = (payload.len() as u32).to_be_bytes();
    let mut bytes = length.to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Header fields as literals that are not indexed (RFC 7541, 6.2.2), each shorter than 127 bytes.
pub fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            bytes.push(u8::try_from(text.len()).expect("it is short"));
            bytes.extend(text.as_bytes());
        }
    }
    bytes
}

/// A whole request without a body, with these fields besides the usual ones.
pub fn get(stream: u32, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut all = vec![
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "x"),
        (":path", path),
    ];
    all.extend(more);
    frame(
        kind::HEADERS,
        END_STREAM | END_HEADERS,
        stream,
        &fields(&all),
    )
}

/// Opens a connection with these settings: identifiers with values (RFC 9113, 6.5).
pub fn open(address: SocketAddr, settings: &[(u16, u32)]) -> std::io::Result<TcpStream> {
    let mut stream = connect(address)?;
    let mut payload = Vec::new();
    for (id, value) in settings {
        payload.extend(id.to_be_bytes());
        payload.extend(value.to_be_bytes());
    }
    stream.write_all(&[PREFACE, &frame(kind::SETTINGS, 0, 0, &payload)].concat())?;
    Ok(stream)
}

/// Reads a frame: its type, its flags, its stream and its payload.
pub fn read(stream: &mut impl Read) -> std::io::Result<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head)?;
    let [a, b, c, kind, flags, id @ ..] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    stream.read_exact(&mut payload)?;
    Ok((kind, flags, u32::from_be_bytes(id) & 0x7fff_ffff, payload))
}
