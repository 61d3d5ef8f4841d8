//! A GET over HTTP/2 with prior knowledge (RFC 9113), in handwritten frames: one stream, whose body nobody limits.

use std::io::{Read, Write};

use crate::report::Failure;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD_BYTES: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const ACK: u8 = 1;
/// `END_HEADERS` and `END_STREAM`.
const WHOLE_REQUEST: u8 = 4 | 1;
/// The largest window there is (RFC 9113 6.9.1): what is read is never announced again.
const WINDOW_MAX: u32 = (1 << 31) - 1;
const WINDOW_INITIAL: u32 = 65_535;

/// Opens an event stream and returns when its first bytes have come.
pub fn open(stream: &mut (impl Read + Write), path: &str) -> Result<(), Failure> {
    const INITIAL_WINDOW_SIZE: u16 = 4;
    let mut request = PREFACE.to_vec();
    let mut settings = INITIAL_WINDOW_SIZE.to_be_bytes().to_vec();
    settings.extend_from_slice(&WINDOW_MAX.to_be_bytes());
    push_frame(&mut request, SETTINGS, 0, 0, &settings);
    let more = (WINDOW_MAX - WINDOW_INITIAL).to_be_bytes();
    push_frame(&mut request, WINDOW_UPDATE, 0, 0, &more);
    push_frame(&mut request, HEADERS, WHOLE_REQUEST, 1, &headers(path));
    stream.write_all(&request)?;
    loop {
        let mut head = [0; FRAME_HEAD_BYTES];
        stream.read_exact(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        match (head[3], head[4]) {
            (SETTINGS, 0) => {
                let mut answer = Vec::new();
                push_frame(&mut answer, SETTINGS, ACK, 0, b"");
                stream.write_all(&answer)?;
            }
            // `:status: 200` is the eighth entry of HPACK's table.
            (HEADERS, _) if body.first() != Some(&0x88) => {
                return Err(Failure::new("the request was refused"));
            }
            (DATA, _) if !body.is_empty() => return Ok(()),
            (RST_STREAM | GOAWAY, _) => return Err(Failure::new("the stream was ended")),
            _ => {}
        }
    }
}

/// The request's header block: indexed fields, and literal ones without indexing (RFC 7541 6.1, 6.2.2).
fn headers(path: &str) -> Vec<u8> {
    const METHOD_GET: u8 = 0x82;
    const SCHEME_HTTP: u8 = 0x86;
    const AUTHORITY: u8 = 0x01;
    const PATH: u8 = 0x04;
    let mut block = vec![METHOD_GET, SCHEME_HTTP];
    let mut literal = |name: &[u8], value: &str| {
        block.extend_from_slice(name);
        block.push(value.len() as u8);
        block.extend_from_slice(value.as_bytes());
    };
    literal(&[AUTHORITY], "localhost");
    literal(&[PATH], path);
    // `accept` is entry 19: four bits of prefix hold 15, the next byte the rest.
    literal(&[0x0f, 19 - 15], "text/event-stream");
    block
}

fn push_frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, body: &[u8]) {
    out.extend_from_slice(&(body.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(body);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_length_kind_flags_stream_and_body() {
        let mut out = Vec::new();
        push_frame(&mut out, HEADERS, WHOLE_REQUEST, 1, b"ab");
        assert_eq!(out, b"\0\0\x02\x01\x05\0\0\0\x01ab");
    }
}
