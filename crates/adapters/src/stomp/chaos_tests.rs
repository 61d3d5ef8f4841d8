//! Random clients against a hub that answers in any order: every receipt comes once, nothing is settled twice, and a
//! goodbye comes last.

use std::collections::HashSet;

use tidings_ports::{Command, Ending, Event, Framed, SubscriptionKey, Tag};
use tidings_types::Limits;

use super::testing::*;

struct Random(u64);

impl Random {
    fn below(&mut self, below: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) as usize % below.max(1)
    }
}

/// What the client has in mind, and what the hub owes.
struct Run {
    client: Client,
    random: Random,
    version: &'static str,
    input: Vec<u8>,
    /// Commands that are not answered.
    owed: Vec<Command>,
    /// The ids that the client subscribed and has not unsubscribed.
    ids: Vec<u32>,
    next_id: u32,
    /// Keys of the hub's subscriptions.
    keys: Vec<SubscriptionKey>,
    acks: Vec<String>,
    open: Vec<u32>,
    offset: u64,
    asked: Vec<String>,
    got: Vec<String>,
    settled: HashSet<(SubscriptionKey, u64)>,
    is_held: bool,
    /// Some message may be of a subscription that has ended.
    has_ended: bool,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let version = ["1.0", "1.1", "1.2"][random.below(3)];
        let limits = Limits {
            transaction_steps_max: 1_000,
            batch_bytes_max: 1 << 20,
            ..limits()
        };
        Self {
            client: Client::with(version, limits),
            random,
            version,
            input: Vec::new(),
            owed: Vec::new(),
            ids: Vec::new(),
            next_id: 0,
            keys: Vec::new(),
            acks: Vec::new(),
            open: Vec::new(),
            offset: 0,
            asked: Vec::new(),
            got: Vec::new(),
            settled: HashSet::new(),
            is_held: false,
            has_ended: false,
        }
    }

    /// A frame, often with a receipt.
    fn write(&mut self, command: &str, headers: &str) {
        let receipt = if self.random.below(3) > 0 {
            let id = format!("r{}", self.asked.len());
            self.asked.push(id.clone());
            format!("receipt:{id}\n")
        } else {
            String::new()
        };
        let frame = format!("{command}\n{headers}\n{receipt}\n\0");
        self.input.extend(frame.bytes());
    }

    fn transaction(&mut self) -> String {
        match self.open.last() {
            Some(open) if self.random.below(2) == 0 => format!("\ntransaction:t{open}"),
            _ => String::new(),
        }
    }

    fn frame(&mut self) {
        match self.random.below(8) {
            0..=1 => {
                let transaction = self.transaction();
                self.write("SEND", &format!("destination:/topic/a{transaction}"));
            }
            2 if self.ids.len() < 4 => {
                self.next_id += 1;
                let kind = ["topic", "queue"][self.random.below(2)];
                let ack = ["auto", "client"][self.random.below(2)];
                let id = self.next_id;
                self.ids.push(id);
                let headers =
                    format!("id:{id}\ndestination:/{kind}/a\nack:{ack}\nprefetch-count:50");
                self.write("SUBSCRIBE", &headers);
            }
            // A transaction that acknowledges what is not the client's any more is refused.
            3 if !self.ids.is_empty() && self.open.is_empty() && self.random.below(3) == 0 => {
                let at = self.random.below(self.ids.len());
                let id = self.ids.remove(at);
                self.write("UNSUBSCRIBE", &format!("id:{id}"));
                self.has_ended = true;
            }
            4 if !self.acks.is_empty() => {
                let at = self.random.below(self.acks.len());
                // What came before may be settled together with it.
                let target = self.acks.split_off(at).remove(0);
                self.acks.clear();
                let nack = self.version != "1.0" && self.random.below(3) == 0;
                let transaction = if self.has_ended {
                    String::new()
                } else {
                    self.transaction()
                };
                let command = if nack { "NACK" } else { "ACK" };
                self.write(command, &format!("{target}{transaction}"));
            }
            5 if self.open.len() < 2 => {
                self.next_id += 1;
                self.open.push(self.next_id);
                let name = self.next_id;
                self.write("BEGIN", &format!("transaction:t{name}"));
            }
            6 => {
                if let Some(name) = self.open.pop() {
                    let command = ["COMMIT", "ABORT"][self.random.below(2)];
                    self.write(command, &format!("transaction:t{name}"));
                }
            }
            _ => self.input.extend(b"\n"),
        }
    }

    /// The hub does something.
    fn hub(&mut self) {
        if self.is_held {
            self.is_held = false;
            return self.client.tell(Event::Held);
        }
        if !self.owed.is_empty() && self.random.below(2) == 0 {
            let at = self.random.below(self.owed.len());
            let command = self.owed.remove(at);
            return self.answer(&command);
        }
        if self.keys.is_empty() {
            return;
        }
        self.offset += 1;
        let key = self.keys[self.random.below(self.keys.len())];
        let framed = self.client.offer(key.0, &message(self.offset, "a", "x"), 0);
        self.is_held |= framed == Framed::Held;
    }

    fn answer(&mut self, command: &Command) {
        match command {
            Command::Publish { tag, drafts, .. } => {
                self.client.published(tag.0, drafts.len() as u64);
            }
            Command::Subscribe { tag, key, .. } => {
                self.keys.push(*key);
                self.client.subscribed(tag.0, key.0);
            }
            Command::Unsubscribe { tag, key, .. } => {
                self.keys.retain(|it| it != key);
                let (tag, key) = (*tag, *key);
                self.client.tell(Event::Unsubscribed { tag, key });
            }
            Command::Settle { tag, .. } => {
                let tag = tag.unwrap_or(Tag(0));
                self.client.tell(Event::Settled { tag });
            }
            _ => panic!("a command that has no answer"),
        }
    }

    /// Takes what the conversation asked for and sent.
    fn collect(&mut self) {
        for command in self.client.commands() {
            let settle = match &command {
                Command::Settle { settle, .. } => std::slice::from_ref(settle),
                Command::Publish { settle, .. } => &settle[..],
                Command::Refused(refusal) => panic!("{refusal}: {}", self.client.out()),
                _ => &[],
            };
            for settle in settle {
                let is_new = self.settled.insert((settle.key, settle.offset.0));
                assert!(is_new, "settled twice: {settle:?}");
            }
            if !matches!(command, Command::Settle { tag: None, .. }) {
                self.owed.push(command);
            }
        }
        for frame in self.client.out().split_terminator('\0') {
            let header = |name: &str| {
                let mut lines = frame.lines();
                lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            };
            if let Some(receipt) = header("receipt-id") {
                self.got.push(receipt.to_owned());
            } else if let (Some(ack), "1.2") = (header("ack"), self.version) {
                self.acks.push(format!("id:{ack}"));
            }
        }
    }

    fn step(&mut self) {
        if self.random.below(2) == 0 {
            self.frame();
        }
        let length = self.random.below(self.input.len() + 1);
        let bytes: Vec<u8> = self.input.drain(..length).collect();
        if !bytes.is_empty() && self.random.below(2) == 0 {
            self.client.send(&bytes);
        } else {
            self.input.splice(..0, bytes);
            self.hub();
        }
        self.collect();
    }

    fn end(mut self) {
        self.input.extend(b"DISCONNECT\nreceipt:bye\n\n\0");
        let bytes = std::mem::take(&mut self.input);
        self.client.send(&bytes);
        self.collect();
        while self.client.ending.is_none() {
            if self.is_held {
                self.is_held = false;
                self.client.tell(Event::Held);
            } else {
                assert!(
                    !self.owed.is_empty(),
                    "nothing is owed, and it does not end"
                );
                let command = self.owed.remove(0);
                self.answer(&command);
            }
            self.collect();
        }
        assert!(self.owed.is_empty());
        assert_eq!(self.client.ending, Some(Ending::AfterFlush));
        assert_eq!(self.got.pop().as_deref(), Some("bye"));
        self.got.sort_unstable();
        self.asked.sort_unstable();
        assert_eq!(self.got, self.asked);
    }
}

#[test]
fn every_receipt_comes_once_and_nothing_is_settled_twice() {
    for seed in 0..3_000 {
        let mut run = Run::new(seed);
        for _ in 0..80 {
            run.step();
        }
        run.end();
    }
}
