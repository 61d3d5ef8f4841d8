//! Reads Server-Sent Events (WHATWG HTML, 9.2) from a response body.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::PATIENCE;
use crate::http::{Body, Request};

/// One dispatched event, or a block that only moved the id, or a comment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// `event`; `message` when there is none.
    pub name: String,
    /// The `id` line of this block.
    pub id: Option<String>,
    /// The `data` lines, joined.
    pub data: Option<String>,
    /// The `retry` line.
    pub retry: Option<u64>,
    /// Comment lines.
    pub comment: Option<String>,
}

impl Event {
    /// The data as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        let data = self.data.as_deref().expect("the event has data");
        serde_json::from_str(data).unwrap_or_else(|error| panic!("not JSON ({error}): {data}"))
    }
}

/// An open stream.
pub struct EventStream {
    reader: BufReader<Body>,
    /// The headers of the answer, names in lower case.
    pub headers: Vec<(String, String)>,
}

impl EventStream {
    /// Subscribes; the target is a path with its query.
    #[track_caller]
    pub fn open(address: SocketAddr, target: &str) -> Self {
        Self::send(address, Request::get(target))
    }

    /// Subscribes by a request of one's own.
    #[track_caller]
    pub fn send(address: SocketAddr, request: Request) -> Self {
        let request = request.header("Accept", "text/event-stream");
        let opened = request.open(address).expect("the stream opens");
        if opened.status != 200 {
            let answer = opened.finish().expect("a refusal has an end");
            panic!("refused: {} {}", answer.status, answer.text());
        }
        assert_eq!(opened.header("content-type"), Some("text/event-stream"));
        Self {
            headers: opened.headers.clone(),
            reader: BufReader::with_capacity(64 << 10, opened.body()),
        }
    }

    /// The first header of this name, in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(found, _)| found == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The socket below, for its deadlines and buffers.
    pub fn socket(&self) -> &TcpStream {
        self.reader.get_ref().socket()
    }

    /// How long a read may wait.
    pub fn patience(&self, patience: Duration) {
        self.socket()
            .set_read_timeout(Some(patience))
            .expect("the time is not zero");
    }

    /// The next block, of whatever kind.
    pub fn block(&mut self) -> std::io::Result<Event> {
        let mut event = Event {
            name: "message".to_owned(),
            ..Event::default()
        };
        let mut line = String::new();
        loop {
            line.clear();
            if self.reader.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let text = line.trim_end_matches(['\r', '\n']);
            if text.is_empty() {
                return Ok(event);
            }
            take_line(&mut event, text);
        }
    }

    /// The next event with data; comments and positions are passed over.
    #[track_caller]
    pub fn event(&mut self) -> Event {
        self.try_event()
            .unwrap_or_else(|error| panic!("the stream ended: {error}"))
    }

    /// The next event with data, or why there is none. Heartbeats do not count: a stream that only beats is
    /// given up as well.
    pub fn try_event(&mut self) -> std::io::Result<Event> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let event = self.block()?;
            if event.data.is_some() {
                return Ok(event);
            }
            if Instant::now() > deadline {
                return Err(std::io::ErrorKind::TimedOut.into());
            }
        }
    }

    /// The data of the next events.
    #[track_caller]
    pub fn texts(&mut self, count: usize) -> Vec<String> {
        (0..count)
            .map(|_| self.event().data.expect("an event has data"))
            .collect()
    }
}

fn take_line(event: &mut Event, line: &str) {
    let (field, value) = line.split_once(':').unwrap_or((line, ""));
    let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
    match field {
        "" => event.comment = Some(value),
        "event" => event.name = value,
        "id" => event.id = Some(value),
        "retry" => event.retry = value.parse().ok(),
        "data" => match &mut event.data {
            Some(data) => {
                data.push('\n');
                data.push_str(&value);
            }
            empty => *empty = Some(value),
        },
        _ => {}
    }
}
