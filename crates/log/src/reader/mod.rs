//! Reads pages. Any number of readers run beside the writer and the keeper: they hold the lock for look-ups
//! in memory only, and hold segments (whose files stay readable after their removal) while they read.
//!
//! A page is made in three steps: the *hits*, where the indexes say that matching messages are; the messages
//! themselves; and the gap, last, so that what retention removed meanwhile shows as a gap and not as nothing.

mod collect;
mod gap;
mod newest;

use std::sync::Arc;

use bytes::Bytes;
use tidings_ports::{Page, ReadError, ReadFrom, ReadRequest};
use tidings_types::{Message, Offset, Storage as Class, Timestamp, TopicFilter};

use crate::record::open_message;
use crate::segment::Posting;
use crate::state::{Shared, count};
use crate::storage::StorageFile;

use collect::Forward;

/// Hits that are this close are read together.
const NEAR_BYTES: u32 = 512;
/// But not more than this at once.
const RUN_BYTES: u32 = 1 << 20;

/// A file that hits are in.
#[derive(Clone, Debug)]
struct Source {
    file: Arc<dyn StorageFile>,
    name: String,
    class: Class,
}

/// A message that is to be read.
#[derive(Clone, Copy, Debug)]
struct Hit {
    source: usize,
    posting: Posting,
}

/// One read.
#[derive(Debug)]
struct Reader<'a> {
    shared: &'a Shared,
    filters: &'a [TopicFilter],
    sources: Vec<Source>,
    /// Bytes that may still be looked through for hits.
    budget: u64,
}

/// Why a read failed, before it is counted and logged.
#[derive(Debug)]
struct Trouble {
    file: String,
    offset: u64,
    what: String,
}

impl Trouble {
    fn io(file: &str, offset: u64) -> impl Fn(std::io::Error) -> Self {
        let file = file.to_owned();
        move |error| Self {
            file: file.clone(),
            offset,
            what: error.to_string(),
        }
    }
}

/// Reads one page.
pub(crate) fn read(shared: &Shared, request: &ReadRequest) -> Result<Page, ReadError> {
    let mut reader = Reader {
        shared,
        filters: &request.filters,
        sources: Vec::new(),
        budget: collect::BUDGET_BYTES,
    };
    let page = match request.from {
        ReadFrom::After { offset, resume } => reader.after(request, offset.0, resume),
        ReadFrom::Last(n) => reader
            .start_of_last(n.max(1) as usize)
            .and_then(|start| reader.after(request, start, false)),
        ReadFrom::Retained { after } => reader.retained(request, after.0),
    };
    match page {
        Ok(page) => {
            count(&shared.counters.pages_read, 1);
            count(&shared.counters.messages_read, page.messages.len() as u64);
            Ok(page)
        }
        Err(trouble) => {
            count(&shared.counters.read_errors, 1);
            let Trouble { file, offset, what } = trouble;
            tracing::error!(file, offset, what, "cannot read messages from the log");
            Err(ReadError::Storage)
        }
    }
}

impl Reader<'_> {
    fn after(&mut self, request: &ReadRequest, after: u64, resume: bool) -> Result<Page, Trouble> {
        let limit = request.messages_max.max(1);
        let found = self.forward(after, limit)?;
        let Forward {
            mut hits,
            complete_to,
            head,
        } = found;
        hits.retain(|hit| hit.posting.offset <= complete_to);
        hits.sort_unstable_by_key(|hit| hit.posting.offset);
        let mut bytes = 0;
        let mut taken = 0;
        for hit in hits.iter().take(limit) {
            bytes += hit.posting.len as usize;
            if taken > 0 && bytes > request.bytes_max {
                break;
            }
            taken += 1;
        }
        let mut scanned_to = complete_to;
        if taken < hits.len() {
            hits.truncate(taken);
            scanned_to = hits.last().map_or(after, |hit| hit.posting.offset);
        }
        let first = hits.first().map(|hit| hit.posting.offset);
        let (messages, read_to) = self.messages(&hits)?;
        let scanned_to = read_to.unwrap_or(scanned_to).max(after);
        let gap_storage = if resume { self.gap_after(after)? } else { None };
        Ok(Page {
            messages,
            scanned_to: Offset(scanned_to),
            at_head: scanned_to >= head,
            gap: gap_storage.map(|_| Offset(first.unwrap_or(head))),
            gap_storage: gap_storage.unwrap_or_default(),
        })
    }

    fn retained(&mut self, request: &ReadRequest, after: u64) -> Result<Page, Trouble> {
        let limit = request.messages_max.max(1);
        let (mut hits, more, head) = self.retained_hits(after, limit)?;
        let mut bytes = 0;
        let fits = hits.iter().take_while(|hit| {
            bytes += hit.posting.len as usize;
            bytes <= request.bytes_max
        });
        let taken = fits.count().max(1).min(hits.len());
        let more = more || taken < hits.len();
        hits.truncate(taken);
        let last = hits.last().map_or(head, |hit| hit.posting.offset);
        let (messages, read_to) = self.messages(&hits)?;
        let done = !more && read_to.is_none();
        Ok(Page {
            messages,
            scanned_to: Offset(read_to.unwrap_or(if done { head } else { last })),
            at_head: done,
            gap: None,
            gap_storage: Class::default(),
        })
    }

    /// Reads what was hit. If a later part cannot be read, what came before it is a shorter page: then the
    /// offset that it goes to is there.
    fn messages(&self, hits: &[Hit]) -> Result<(Vec<Arc<Message>>, Option<u64>), Trouble> {
        let now = Timestamp(self.shared.now());
        let mut messages = Vec::with_capacity(hits.len());
        let mut rest = hits;
        while !rest.is_empty() {
            let run = run_len(rest);
            if let Err(trouble) = self.run(&rest[..run], now, &mut messages) {
                // The next read begins at the damage and reports it.
                let last = messages.last().map(|message| message.offset.0);
                return last.map_or(Err(trouble), |last| Ok((messages, Some(last))));
            }
            rest = &rest[run..];
        }
        Ok((messages, None))
    }

    fn run(
        &self,
        run: &[Hit],
        now: Timestamp,
        messages: &mut Vec<Arc<Message>>,
    ) -> Result<(), Trouble> {
        let (first, last) = (run[0], run[run.len() - 1].posting);
        let source = &self.sources[first.source];
        let start = first.posting.position;
        let mut bytes = vec![0; (last.position + last.len - start) as usize];
        source
            .file
            .read_at(&mut bytes, u64::from(start))
            .map_err(Trouble::io(&source.name, u64::from(start)))?;
        let bytes = Bytes::from(bytes);
        for hit in run {
            let from = (hit.posting.position - start) as usize;
            let record = bytes.slice(from..from + hit.posting.len as usize);
            let message = open_message(&record, self.shared.epoch, source.class);
            let message = message.map_err(|invalid| Trouble {
                file: source.name.clone(),
                offset: u64::from(hit.posting.position),
                what: invalid.0.to_owned(),
            })?;
            if !message.is_expired(now) {
                messages.push(Arc::new(message));
            }
        }
        Ok(())
    }
}

/// How many hits from the front are read together: they lie in one file, one close behind the other.
fn run_len(hits: &[Hit]) -> usize {
    let first = hits[0];
    let mut end = first.posting.position + first.posting.len;
    let mut len = 1;
    for hit in &hits[1..] {
        let Posting {
            position,
            len: bytes,
            ..
        } = hit.posting;
        let near = hit.source == first.source
            && position >= end
            && position - end <= NEAR_BYTES
            && position + bytes - first.posting.position <= RUN_BYTES;
        if !near {
            break;
        }
        end = position + bytes;
        len += 1;
    }
    len
}
