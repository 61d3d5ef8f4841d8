//! What the tests of this folder share.

use bytes::Bytes;
use http::Response;
use http::request::{Parts, Request};
use tidings_types::message::Place;
use tidings_types::{Cursor, Draft, Epoch, Message, Offset, Storage, Timestamp, Topic};

pub const EPOCH: Epoch = Epoch(1);

/// The head of a request; headers as `name: value`.
pub fn request(method: &str, uri: &str, headers: &[&str]) -> Parts {
    let mut request = Request::builder().method(method).uri(uri);
    for header in headers {
        let (name, value) = header.split_once(": ").unwrap();
        request = request.header(name, value.as_bytes());
    }
    request.body(()).unwrap().into_parts().0
}

pub fn get(uri: &str, headers: &[&str]) -> Parts {
    request("GET", uri, headers)
}

pub fn cursor(offset: u64) -> Cursor {
    Cursor {
        epoch: EPOCH,
        offset: Offset(offset),
    }
}

pub fn message(offset: u64, payload: &str) -> Message {
    let draft = Draft::new(
        Topic::new("t").unwrap(),
        Bytes::copy_from_slice(payload.as_bytes()),
    );
    commit(draft, offset)
}

/// Committed at its offset, in milliseconds.
pub fn commit(draft: Draft, offset: u64) -> Message {
    let place = Place {
        offset: Offset(offset),
        epoch: EPOCH,
        time: Timestamp(offset),
        storage: Storage::Durable,
    };
    Message::commit(draft, place)
}

pub fn header<'a>(response: &'a Response<Bytes>, name: &str) -> Option<&'a str> {
    let value = response.headers().get(name)?;
    Some(value.to_str().unwrap())
}

pub fn json(response: &Response<Bytes>) -> serde_json::Value {
    serde_json::from_slice(response.body()).unwrap()
}

/// Random numbers from a seed (xorshift64*).
pub struct Seeded(pub u64);

impl Seeded {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }

    /// The bytes with a few of them changed, doubled, cut or replaced by what grammars stumble over.
    pub fn mutate(&mut self, bytes: &[u8]) -> Vec<u8> {
        const ODD: [&[u8]; 12] = [
            b"%",
            b"%f",
            b"%ff",
            b"\"",
            b"\\u",
            b"[",
            b"{",
            b"}",
            b"\xff",
            b"\n",
            b"&topic=",
            b"9999999999999999999",
        ];
        let mut out = bytes.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(out.len() + 1);
            match self.below(5) {
                0 if at < out.len() => out[at] = self.below(256) as u8,
                1 if at < out.len() => {
                    out.remove(at);
                }
                2 => out.truncate(at),
                3 => {
                    let tail = out[at..].to_vec();
                    out.extend_from_slice(&tail);
                }
                _ => {
                    let odd = ODD[self.below(ODD.len())];
                    out.splice(at..at, odd.iter().copied());
                }
            }
        }
        out
    }
}
