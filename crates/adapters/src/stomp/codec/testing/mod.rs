//! What the tests share: the tables of frames, and a decoder in the state that each needs.

mod samples;
mod violations_client;
mod violations_connect;
mod violations_server;

use bytes::BytesMut;
use bytestring::ByteString;

use super::{Command, Decoder, Frame, Item, Limits, Rule, Sender, Version, Violation};

pub(in crate::stomp) use samples::samples;

/// Small enough that the tables can go over them.
pub(in crate::stomp) const LIMITS: Limits = Limits {
    header_count_max: 8,
    header_line_bytes_max: 48,
    header_bytes_max: 128,
    body_bytes_max: 1 << 15,
};

/// Large enough for what the tests write.
pub(in crate::stomp) const ROOMY: Limits = Limits {
    header_count_max: 1 << 10,
    header_line_bytes_max: 1 << 10,
    header_bytes_max: 1 << 14,
    body_bytes_max: 1 << 15,
};

/// Whose frames are read, and after which frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::stomp) enum State {
    /// A client's first frame.
    Before,
    /// A client's, once it is connected.
    Client(Version),
    /// A server's first frame.
    ServerBefore,
    /// A server's, once it has accepted the connection.
    Server(Version),
}

impl State {
    /// Every state.
    pub(in crate::stomp) const ALL: [Self; 8] = [
        Self::Before,
        Self::Client(Version::V10),
        Self::Client(Version::V11),
        Self::Client(Version::V12),
        Self::ServerBefore,
        Self::Server(Version::V10),
        Self::Server(Version::V11),
        Self::Server(Version::V12),
    ];

    pub(in crate::stomp) fn decoder(self) -> Decoder {
        self.decoder_within(LIMITS)
    }

    pub(in crate::stomp) fn decoder_within(self, limits: Limits) -> Decoder {
        let (sender, version) = match self {
            Self::Before => (Sender::Client, None),
            Self::Client(version) => (Sender::Client, Some(version)),
            Self::ServerBefore => (Sender::Server, None),
            Self::Server(version) => (Sender::Server, Some(version)),
        };
        let mut decoder = Decoder::new(sender, limits);
        if let Some(version) = version {
            decoder.set_version(version);
        }
        decoder
    }
}

/// What a server does with a frame that breaks a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::stomp) enum Outcome {
    /// Close without a word.
    Close,
    /// An ERROR with this `receipt-id`, then close.
    Error(Option<&'static str>),
}

/// A frame that breaks a rule.
#[derive(Clone, Copy, Debug)]
pub(in crate::stomp) struct Violating {
    pub(in crate::stomp) name: &'static str,
    pub(in crate::stomp) state: State,
    pub(in crate::stomp) bytes: &'static [u8],
    pub(in crate::stomp) rule: Rule,
    pub(in crate::stomp) outcome: Outcome,
}

/// A valid frame.
#[derive(Clone, Copy, Debug)]
pub(in crate::stomp) struct Sample {
    pub(in crate::stomp) name: &'static str,
    pub(in crate::stomp) state: State,
    pub(in crate::stomp) bytes: &'static [u8],
    pub(in crate::stomp) command: Command,
    pub(in crate::stomp) headers: &'static [(&'static str, &'static str)],
    pub(in crate::stomp) body: &'static [u8],
}

impl Sample {
    pub(in crate::stomp) fn frame(&self) -> Frame {
        Frame {
            command: self.command,
            headers: self.headers.iter().copied().collect(),
            body: self.body.into(),
        }
    }
}

macro_rules! state {
    (before) => {
        State::Before
    };
    (v10) => {
        State::Client(Version::V10)
    };
    (v11) => {
        State::Client(Version::V11)
    };
    (v12) => {
        State::Client(Version::V12)
    };
    (server_before) => {
        State::ServerBefore
    };
    (server_v10) => {
        State::Server(Version::V10)
    };
    (server_v11) => {
        State::Server(Version::V11)
    };
    (server_v12) => {
        State::Server(Version::V12)
    };
}
use state;

/// Rows of `state Rule outcome(receipt) "name" b"bytes";`.
macro_rules! violations {
    ($($state:ident $rule:ident $outcome:ident $(($receipt:literal))? $name:literal $bytes:literal;)*) => {
        pub(super) const ROWS: &[Violating] = &[$(Violating {
            name: $name,
            state: state!($state),
            bytes: $bytes,
            rule: Rule::$rule,
            outcome: violations!(@outcome $outcome $($receipt)?),
        },)*];
    };
    (@outcome close) => { Outcome::Close };
    (@outcome error) => { Outcome::Error(None) };
    (@outcome error $receipt:literal) => { Outcome::Error(Some($receipt)) };
}
use violations;

/// Every frame that breaks a rule.
pub(in crate::stomp) fn violating() -> impl Iterator<Item = &'static Violating> {
    violations_connect::ROWS
        .iter()
        .chain(violations_client::ROWS)
        .chain(violations_server::ROWS)
}

/// Everything that a decoder finds in bytes that come in pieces, how it ends, and how much it leaves. The version
/// stays what it is.
pub(in crate::stomp) fn decode_pieces<'a>(
    mut decoder: Decoder,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<Item>, Option<Violation>, usize) {
    let mut input = BytesMut::new();
    let mut found = Vec::new();
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(item)) => found.push(item),
                Ok(None) => break,
                Err(violation) => return (found, Some(violation), input.len()),
            }
        }
    }
    (found, None, input.len())
}

/// The frames among items.
pub(in crate::stomp) fn frames(items: Vec<Item>) -> Vec<Frame> {
    let frame = |item| match item {
        Item::Frame(frame) => Some(frame),
        Item::HeartBeat => None,
    };
    items.into_iter().filter_map(frame).collect()
}

/// The value of a header that must be there.
pub(in crate::stomp) fn value<'a>(frame: &'a Frame, name: &str) -> &'a ByteString {
    frame
        .headers
        .get(name)
        .unwrap_or_else(|| panic!("{name} in {frame:?}"))
}
