//! A parser of Server-Sent Events (WHATWG HTML, 9.2.5 and 9.2.6): bytes in, events out, no I/O.
//!
//! Bytes may be cut anywhere. What is held is bounded: a line, or an event's data, over the limit is an error.

use std::time::Duration;

/// One event, as it is dispatched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SseEvent {
    /// The `event` field; empty is `message`.
    pub event: String,
    /// The `data` lines, joined by LF.
    pub data: String,
    /// The last event id at the time of dispatch.
    pub id: String,
}

/// A line or an event is over the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SseTooLong {
    /// In bytes.
    pub bytes_max: usize,
}

/// The parser.
#[derive(Debug)]
pub struct SseParser {
    /// The line that is not complete yet.
    line: Vec<u8>,
    /// Whether the last byte was a CR: a LF after it belongs to the same line end.
    after_cr: bool,
    /// Whether the first line was not seen yet: it may begin with a byte order mark.
    at_start: bool,
    data: String,
    event: String,
    /// The id that the next dispatch makes the last event id.
    id: String,
    last_id: String,
    retry: Option<Duration>,
    bytes_max: usize,
}

impl SseParser {
    /// Holds at most `bytes_max` of a line, and of an event's data.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            line: Vec::new(),
            after_cr: false,
            at_start: true,
            data: String::new(),
            event: String::new(),
            id: String::new(),
            last_id: String::new(),
            retry: None,
            bytes_max,
        }
    }

    /// The id to resume from: of the last event, or of the last block that had an `id` but no data.
    pub fn last_id(&self) -> &str {
        &self.last_id
    }

    /// The reconnection time that the stream set, once.
    pub fn take_retry(&mut self) -> Option<Duration> {
        self.retry.take()
    }

    /// Takes bytes, and appends the events that they complete.
    pub fn push(&mut self, mut bytes: &[u8], events: &mut Vec<SseEvent>) -> Result<(), SseTooLong> {
        while let Some(first) = bytes.first() {
            if std::mem::take(&mut self.after_cr) && *first == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let Some(end) = memchr::memchr2(b'\r', b'\n', bytes) else {
                self.extend_line(bytes)?;
                break;
            };
            self.extend_line(&bytes[..end])?;
            self.after_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            let mut line = std::mem::take(&mut self.line);
            self.end_line(&line, events)?;
            line.clear();
            self.line = line;
        }
        Ok(())
    }

    fn extend_line(&mut self, bytes: &[u8]) -> Result<(), SseTooLong> {
        self.bounded(self.line.len() + bytes.len())?;
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn bounded(&self, bytes: usize) -> Result<(), SseTooLong> {
        if bytes > self.bytes_max {
            return Err(SseTooLong {
                bytes_max: self.bytes_max,
            });
        }
        Ok(())
    }

    fn end_line(&mut self, line: &[u8], events: &mut Vec<SseEvent>) -> Result<(), SseTooLong> {
        let line = match line.strip_prefix(b"\xef\xbb\xbf") {
            Some(rest) if self.at_start => rest,
            _ => line,
        };
        self.at_start = false;
        if line.is_empty() {
            self.dispatch(events);
            return Ok(());
        }
        let (field, value) = match line.iter().position(|byte| *byte == b':') {
            Some(0) => return Ok(()),
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (line, &line[line.len()..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => {
                self.bounded(self.data.len() + value.len() + 1)?;
                self.data.push_str(&String::from_utf8_lossy(value));
                self.data.push('\n');
            }
            b"event" => self.event = String::from_utf8_lossy(value).into_owned(),
            b"id" if !value.contains(&0) => self.id = String::from_utf8_lossy(value).into_owned(),
            b"retry" if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                let ms = str::from_utf8(value)
                    .ok()
                    .and_then(|digits| digits.parse().ok());
                self.retry = ms.map(Duration::from_millis).or(self.retry);
            }
            _ => {}
        }
        Ok(())
    }

    /// 9.2.6: the id takes effect also when there is no data; the event type only lasts for one block.
    fn dispatch(&mut self, events: &mut Vec<SseEvent>) {
        if self.last_id != self.id {
            self.last_id.clone_from(&self.id);
        }
        let event = std::mem::take(&mut self.event);
        let mut data = std::mem::take(&mut self.data);
        if data.pop().is_some() {
            events.push(SseEvent {
                event,
                data,
                id: self.last_id.clone(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(input: &[u8]) -> (Vec<(String, String, String)>, String, Option<u64>) {
        let mut outcomes = Vec::new();
        // Whole, and cut at every byte: the same events.
        for step in [input.len().max(1), 1] {
            let mut parser = SseParser::new(1_000);
            let mut events = Vec::new();
            for part in input.chunks(step) {
                parser.push(part, &mut events).unwrap();
            }
            let events = events
                .into_iter()
                .map(|event| (event.event, event.data, event.id))
                .collect::<Vec<_>>();
            let retry = parser.take_retry().map(|retry| retry.as_millis() as u64);
            outcomes.push((events, parser.last_id().to_owned(), retry));
        }
        assert_eq!(outcomes[0], outcomes[1], "{:?}", input.escape_ascii());
        outcomes.remove(0)
    }

    #[test]
    fn streams_are_read_as_the_standard_says() {
        type Case = (
            &'static str,
            &'static [(&'static str, &'static str, &'static str)],
            &'static str,
        );
        let cases: &[Case] = &[
            ("data: a\n\n", &[("", "a", "")], ""),
            ("data: a\r\r", &[("", "a", "")], ""),
            ("data: a\r\n\r\n", &[("", "a", "")], ""),
            ("data: a\r\ndata: b\n\r", &[("", "a\nb", "")], ""),
            ("\u{feff}data: a\n\n", &[("", "a", "")], ""),
            ("\u{feff}\u{feff}data: a\n\n", &[], ""),
            ("data: a\n\n\u{feff}data: b\n\n", &[("", "a", "")], ""),
            (": comment\ndata: a\n:\n\n", &[("", "a", "")], ""),
            (
                "data\n\ndata\ndata\n\ndata:",
                &[("", "", ""), ("", "\n", "")],
                "",
            ),
            (
                "data:a\n\ndata: a\n\ndata:  a\n\n",
                &[("", "a", ""), ("", "a", ""), ("", " a", "")],
                "",
            ),
            (
                "id: 1\ndata: a\n\ndata: b\n\n",
                &[("", "a", "1"), ("", "b", "1")],
                "1",
            ),
            (
                "id: 1\ndata: a\n\nid\ndata: b\n\n",
                &[("", "a", "1"), ("", "b", "")],
                "",
            ),
            ("id: 1\n\n", &[], "1"),
            ("id: 1\n", &[], ""),
            ("id: 1\0\ndata: a\n\n", &[("", "a", "")], ""),
            ("id: 7\nid: 1\0\ndata: a\n\n", &[("", "a", "7")], "7"),
            (
                "event: x\ndata: a\n\ndata: b\n\n",
                &[("x", "a", ""), ("", "b", "")],
                "",
            ),
            ("event: x\n\ndata: b\n\n", &[("", "b", "")], ""),
            ("Data: a\n data: b\nfoo: c\n\n", &[], ""),
            ("data: no end\n", &[], ""),
            ("data: a:b: c\n\n", &[("", "a:b: c", "")], ""),
        ];
        for (input, events, last_id) in cases {
            let (got, got_id, _) = parsed(input.as_bytes());
            let got: Vec<_> = got
                .iter()
                .map(|(event, data, id)| (event.as_str(), data.as_str(), id.as_str()))
                .collect();
            assert_eq!(got, *events, "{input:?}");
            assert_eq!(got_id, *last_id, "{input:?}");
        }
    }

    #[test]
    fn retry_is_digits_only() {
        for (input, expect) in [
            ("retry: 1500\n", Some(1500)),
            ("retry:7\n", Some(7)),
            ("retry: 1500\nretry: x\n", Some(1500)),
            ("retry: -1\n", None),
            ("retry: 1.5\n", None),
            ("retry\n", None),
            ("retry: 99999999999999999999999999\n", None),
        ] {
            assert_eq!(parsed(input.as_bytes()).2, expect, "{input:?}");
        }
    }

    #[test]
    fn bytes_that_are_not_utf8_become_replacement_characters() {
        let (events, _, _) = parsed(b"data: \xff\n\n");
        assert_eq!(events[0].1, "\u{fffd}");
    }

    #[test]
    fn what_never_ends_is_an_error() {
        let mut parser = SseParser::new(100);
        let mut events = Vec::new();
        assert!(parser.push(&[b'x'; 101], &mut events).is_err());
        let mut parser = SseParser::new(100);
        let endless = b"data: 123456789\n".repeat(20);
        assert!(parser.push(&endless, &mut events).is_err());
        assert!(events.is_empty());
    }
}
