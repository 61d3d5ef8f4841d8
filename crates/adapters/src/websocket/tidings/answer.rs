//! Objects to a `tidings.v1` peer.

use std::fmt::Display;
use std::io::Write as _;

use bytes::Bytes;

use crate::envelope::write_json_string;
use crate::websocket::frame::{Opcode, frame};

/// One JSON object in the making.
pub(super) struct Answer(Vec<u8>);

impl Answer {
    /// `{"op":<op>,"id":<id>`; the id as the peer wrote it.
    pub(super) fn new(op: &str, id: Option<&str>) -> Self {
        let mut json = Vec::with_capacity(128);
        json.extend_from_slice(b"{\"op\":\"");
        json.extend_from_slice(op.as_bytes());
        json.push(b'"');
        let answer = Self(json);
        match id {
            Some(id) => answer.plain("id", id),
            None => answer,
        }
    }

    /// A member whose JSON is its text: a number, a boolean, `null`.
    pub(super) fn plain(mut self, name: &str, value: impl Display) -> Self {
        self.name(name);
        write!(self.0, "{value}").expect("a Vec takes every write");
        self
    }

    /// A member that is a string.
    pub(super) fn text(mut self, name: &str, value: &str) -> Self {
        self.name(name);
        write_json_string(value, &mut self.0);
        self
    }

    /// A member that is a list of strings.
    pub(super) fn texts<'t>(mut self, name: &str, values: impl Iterator<Item = &'t str>) -> Self {
        self.name(name);
        self.0.push(b'[');
        for (at, value) in values.enumerate() {
            if at > 0 {
                self.0.push(b',');
            }
            write_json_string(value, &mut self.0);
        }
        self.0.push(b']');
        self
    }

    /// The frame.
    pub(super) fn frame(mut self) -> Bytes {
        self.0.push(b'}');
        frame(Opcode::Text, &self.0)
    }

    fn name(&mut self, name: &str) {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
    }
}
