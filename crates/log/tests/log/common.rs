//! Short words for the tests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidings_log::storage::SimStorage;
use tidings_log::{LogConfig, LogCore, OpenError};
use tidings_ports::{
    Answer, Commit, ManualClock, Page, PublishError, ReadError, ReadFrom, ReadRequest, ReplyTo,
    StateChange, Submission,
};
use tidings_types::{Draft, Offset, Receipt, Retention, Storage, Timestamp, Topic, TopicFilter};

pub const REPLY: ReplyTo = ReplyTo { shard: 3, token: 9 };
pub const START: u64 = 1_000_000;

pub fn keep_all() -> Retention {
    Retention {
        storage: Storage::Durable,
        age_max: None,
        bytes_max: None,
        per_topic_max: None,
    }
}

pub fn stored(storage: Storage) -> Retention {
    Retention {
        storage,
        ..keep_all()
    }
}

/// Keeps everything, in segments of this size.
pub fn config(segment_bytes: u32) -> LogConfig {
    let mut config = LogConfig::in_memory();
    config.segment_bytes = segment_bytes;
    config.memory_segment_bytes = segment_bytes;
    config.seed = Some(7);
    config.rules.default = keep_all();
    config
}

pub fn rule(config: &mut LogConfig, filter: &str, retention: Retention) {
    let filter = TopicFilter::new(filter).unwrap();
    config.rules.rules.push((filter, retention));
}

pub fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

pub fn draft(name: &str, payload: &str) -> Draft {
    Draft::new(topic(name), Bytes::copy_from_slice(payload.as_bytes()))
}

pub fn retained(name: &str, payload: &str) -> Draft {
    Draft {
        retain: true,
        ..draft(name, payload)
    }
}

pub fn keyed(name: &str, payload: &str, key: &str) -> Draft {
    Draft {
        key: Some(key.into()),
        ..draft(name, payload)
    }
}

pub fn submission(drafts: Vec<Draft>) -> Submission {
    Submission {
        drafts,
        states: Vec::new(),
        reply: Some(REPLY),
    }
}

/// A new value for a name.
pub fn set(name: &str, value: &str) -> StateChange {
    StateChange {
        name: name.into(),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
    }
}

pub fn forget(name: &str) -> StateChange {
    StateChange {
        name: name.into(),
        value: None,
    }
}

pub fn receipts(commit: Commit) -> Result<Vec<Receipt>, PublishError> {
    match commit.answers.into_iter().next().expect("an answer").1 {
        Answer::Published(result) => result,
        Answer::Read(_) => panic!("an answer to a read"),
    }
}

/// A log on a simulated disk.
pub struct Log {
    pub disk: SimStorage,
    pub clock: Arc<ManualClock>,
    pub config: LogConfig,
    pub core: Option<LogCore>,
}

impl Log {
    pub fn new(config: LogConfig) -> Self {
        let mut log = Self {
            disk: SimStorage::default(),
            clock: Arc::new(ManualClock::at(Timestamp(START))),
            config,
            core: None,
        };
        log.open().unwrap();
        log
    }

    pub fn open(&mut self) -> Result<(), OpenError> {
        self.core = None;
        let disk = Arc::new(self.disk.clone());
        let clock = Arc::clone(&self.clock) as _;
        self.core = Some(LogCore::open_on(disk, self.config.clone(), clock)?);
        Ok(())
    }

    /// Closes and opens it again.
    pub fn reopen(&mut self) {
        if let Some(core) = self.core.take() {
            core.close();
        }
        self.open().unwrap();
    }

    /// The process dies and starts again.
    pub fn kill(&mut self) {
        self.core = None;
        self.disk.kill();
        self.open().unwrap();
    }

    /// The machine dies and starts again.
    pub fn crash(&mut self, seed: u64) {
        self.core = None;
        self.disk.reboot(seed);
        self.open().unwrap();
    }

    pub fn core(&mut self) -> &mut LogCore {
        self.core.as_mut().expect("the log is open")
    }

    pub fn try_publish(&mut self, drafts: Vec<Draft>) -> Result<Vec<Receipt>, PublishError> {
        receipts(self.core().append(vec![submission(drafts)]))
    }

    /// Publishes drafts, perhaps none, together with changes of states.
    pub fn try_save(
        &mut self,
        drafts: Vec<Draft>,
        states: Vec<StateChange>,
    ) -> Result<Vec<Receipt>, PublishError> {
        let whole = Submission {
            states,
            ..submission(drafts)
        };
        receipts(self.core().append(vec![whole]))
    }

    pub fn save(&mut self, states: Vec<StateChange>) {
        assert_eq!(self.try_save(Vec::new(), states), Ok(Vec::new()));
    }

    /// Every state, by name.
    pub fn states(&mut self) -> BTreeMap<String, String> {
        let text = |value: &Bytes| str::from_utf8(value).unwrap().to_owned();
        let states = self.core().states();
        let states = states
            .iter()
            .map(|(name, value)| (name.to_string(), text(value)));
        states.collect()
    }

    pub fn publish(&mut self, name: &str, payload: &str) -> u64 {
        self.publish_draft(draft(name, payload)).cursor.offset.0
    }

    pub fn publish_draft(&mut self, draft: Draft) -> Receipt {
        self.try_publish(vec![draft]).unwrap()[0]
    }

    pub fn try_read(&mut self, filters: &[&str], from: ReadFrom) -> Result<Page, ReadError> {
        let request = request(filters, from);
        self.core().read(&request)
    }

    pub fn page(&mut self, filters: &[&str], from: ReadFrom) -> Page {
        self.try_read(filters, from).unwrap()
    }

    /// All payloads that match, oldest first, read page by page.
    pub fn all(&mut self, filter: &str) -> Vec<String> {
        self.walk(filter, 0, 7)
            .into_iter()
            .map(|(_, text)| text)
            .collect()
    }

    pub fn walk(&mut self, filter: &str, after: u64, page: usize) -> Vec<(u64, String)> {
        let mut found = Vec::new();
        let mut at = after;
        loop {
            let mut request = request(&[filter], earliest(at));
            request.messages_max = page;
            let read = self.core().read(&request).unwrap();
            found.extend(texts(&read));
            at = read.scanned_to.0;
            if read.at_head {
                return found;
            }
        }
    }

    pub fn advance(&mut self, span: Duration) {
        self.clock
            .advance_ms(u64::try_from(span.as_millis()).unwrap());
    }

    pub fn files(&self, suffix: &str) -> Vec<String> {
        use tidings_log::storage::Storage as _;
        let mut names = self.disk.list().unwrap();
        names.retain(|name| name.ends_with(suffix));
        names.sort();
        names
    }
}

pub fn request(filters: &[&str], from: ReadFrom) -> ReadRequest {
    ReadRequest {
        filters: filters
            .iter()
            .map(|f| TopicFilter::new(*f).unwrap())
            .collect(),
        from,
        messages_max: 1_000,
        bytes_max: 1 << 20,
    }
}

pub fn earliest(offset: u64) -> ReadFrom {
    ReadFrom::After {
        offset: Offset(offset),
        resume: false,
    }
}

pub fn resume(offset: u64) -> ReadFrom {
    ReadFrom::After {
        offset: Offset(offset),
        resume: true,
    }
}

pub fn texts(page: &Page) -> Vec<(u64, String)> {
    let text = |m: &Arc<tidings_types::Message>| (m.offset.0, m.text().unwrap().to_owned());
    page.messages.iter().map(text).collect()
}

pub fn payloads(page: &Page) -> Vec<String> {
    texts(page).into_iter().map(|(_, text)| text).collect()
}

pub fn offsets(page: &Page) -> Vec<u64> {
    page.messages.iter().map(|m| m.offset.0).collect()
}
