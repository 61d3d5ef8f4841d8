//! The obviously right model: everything that was committed, and what may be missing from what a peer saw.

use std::collections::{BTreeMap, HashMap};

use tidings_ports::Start;
use tidings_types::{Offset, Storage, Topic, TopicFilter};

use super::peer::{Record, UNKNOWN};
use super::world::is_letter;

/// The topics, and where each is kept. `few` keeps three messages.
pub const TOPICS: [(&str, Storage); 8] = [
    ("d/a", Storage::Durable),
    ("d/b", Storage::Durable),
    ("d/c/x", Storage::Durable),
    ("few/a", Storage::Durable),
    ("few/b", Storage::Durable),
    ("m/a", Storage::Memory),
    ("m/b", Storage::Memory),
    ("n/a", Storage::None),
];
pub const FEW: u64 = 3;

#[derive(Clone, Debug)]
pub struct Entry {
    pub topic: Topic,
    pub id: u64,
    pub storage: Storage,
    /// How often the server had been started.
    pub run: u32,
}

#[derive(Default)]
pub struct Model {
    pub committed: BTreeMap<u64, Entry>,
    ids: HashMap<u64, (Storage, u32)>,
    by_topic: HashMap<Topic, Vec<u64>>,
    pub run: u32,
}

impl Model {
    pub fn head(&self) -> u64 {
        self.committed
            .last_key_value()
            .map_or(0, |(offset, _)| *offset)
    }

    pub fn add(&mut self, offset: u64, topic: Topic, id: u64, storage: Storage) {
        // A dead letter has the number of the message that it is about.
        if !is_letter(&topic) {
            self.check_id(&topic, id, storage);
        }
        self.by_topic.entry(topic.clone()).or_default().push(offset);
        let entry = Entry {
            topic,
            id,
            storage,
            run: self.run,
        };
        assert!(
            self.committed.insert(offset, entry).is_none(),
            "{offset} was used twice"
        );
    }

    fn check_id(&mut self, topic: &Topic, id: u64, storage: Storage) {
        let before = self.ids.insert(id, (storage, self.run));
        // The key of a message that is not on the disk is lost with it.
        let again = before.is_none_or(|(kept, run)| kept != Storage::Durable && run < self.run);
        assert!(
            again,
            "{id} was committed twice: {topic}, before {before:?}, now {storage:?} in run {}",
            self.run
        );
    }

    /// Whether the log must still have the message.
    pub fn is_kept(&self, offset: u64) -> bool {
        let entry = &self.committed[&offset];
        match entry.storage {
            Storage::None => false,
            Storage::Memory => entry.run == self.run,
            Storage::Durable if entry.topic.as_str().starts_with("few/") => {
                let all = &self.by_topic[&entry.topic];
                let newer = all.iter().filter(|other| **other > offset).count() as u64;
                newer < FEW
            }
            Storage::Durable => true,
        }
    }
}

/// What one subscription has seen, and what it may have missed.
pub struct View {
    filters: Vec<TopicFilter>,
    start: Start,
    /// The head when it subscribed.
    subscribed_at: u64,
    /// Everything up to here was seen or excused; `None` before the subscription is there.
    pub position: Option<u64>,
    /// The head when its first message came, at the latest: its first page was read by then.
    began_by: Option<u64>,
    /// After a gap: what is not kept, up to here.
    excused_to: u64,
}

impl View {
    pub fn new(filters: Vec<TopicFilter>, start: Start, head: u64) -> Self {
        Self {
            filters,
            start,
            subscribed_at: head,
            position: None,
            began_by: None,
            excused_to: 0,
        }
    }

    fn wants(&self, entry: &Entry) -> bool {
        self.filters
            .iter()
            .any(|filter| filter.matches(&entry.topic))
    }

    /// Checks a record against the model.
    pub fn take(&mut self, record: Record, model: &Model) {
        match record {
            Record::Subscribed { cursor } => {
                assert!(self.position.is_none(), "subscribed twice");
                self.position = Some(cursor.offset.0);
            }
            Record::Message {
                offset: Offset(offset),
                id,
            } => {
                let position = self.position.expect("a message before the subscription");
                assert!(
                    offset > position,
                    "{offset} after {position}: not in order, or twice"
                );
                let entry = model.committed.get(&offset).expect("never committed");
                assert_eq!(entry.id, id, "the wrong message at {offset}");
                assert!(self.wants(entry), "{:?} does not match", entry.topic);
                self.check_missing(position, offset - 1, model);
                self.position = Some(offset);
                self.began_by.get_or_insert(model.head());
            }
            Record::Gap { reason, head, .. } => {
                if reason == UNKNOWN {
                    self.position = Some(0);
                    self.start = Start::Earliest;
                }
                self.excused_to = self.excused_to.max(head.0);
            }
            Record::Lost => panic!("a read failed"),
            Record::Published { .. } | Record::Refused { .. } => {}
        }
    }

    /// Every message in `(from, to]` that matches and was not seen must be excused.
    fn check_missing(&self, from: u64, to: u64, model: &Model) {
        if from >= to {
            return;
        }
        for (offset, entry) in model.committed.range(from + 1..=to) {
            if !self.wants(entry) || self.is_excused(*offset, entry, model) {
                continue;
            }
            panic!(
                "{offset} ({:?}, {:?}, run {}) is missing without a gap: start {:?}, position {from}, next {}",
                entry.topic,
                entry.storage,
                entry.run,
                self.start,
                to + 1
            );
        }
    }

    fn is_excused(&self, offset: u64, entry: &Entry, model: &Model) -> bool {
        if offset <= self.excused_to && !model.is_kept(offset) {
            return true;
        }
        // A start that claims nothing is told of nothing that was gone by then.
        let claims = matches!(self.start, Start::After(_) | Start::Latest);
        if claims {
            return false;
        }
        let was_before = offset <= self.subscribed_at && entry.storage == Storage::None;
        let unread = self.began_by.is_none_or(|head| offset <= head);
        was_before || (unread && entry.storage != Storage::None && !model.is_kept(offset))
    }

    /// At the end, with everything delivered: nothing is missing up to the head.
    pub fn check_end(&self, model: &Model) {
        let position = self.position.expect("never subscribed");
        self.check_missing(position, model.head(), model);
    }
}
