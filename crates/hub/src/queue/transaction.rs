//! Settling messages of work queues together with publishing others: all of it, or nothing.
//!
//! The queues may have their homes on several shards. First each queue holds its message: then nobody else gets it,
//! and it is on record that it is not done. Then the drafts and a list of what is settled are given to the log as
//! one submission: at that moment the transaction has happened. Then each queue is told, and when all of them have
//! it on record, the list is forgotten. After a crash the lists that are still there are folded into the queues'
//! records before anybody reads those.

use std::collections::HashMap;

use bytes::Bytes;
use bytestring::ByteString;
use tidings_ports::{StateChange, Tag, Verdict};
use tidings_types::codec::{Input, put_bytes, put_varint};
use tidings_types::{Draft, Offset, Refusal, RefusalCode};

use super::{MemberId, Record, Settled, is_queue};
use crate::gate::Admitted;
use crate::session::{Saved, SessionId};
use crate::shard::ConnectionId;

const PREFIX: &str = "settled/";

/// One message that a transaction settles.
#[derive(Debug)]
pub(crate) struct Part {
    pub member: MemberId,
    /// Of the queue.
    pub key: ByteString,
    pub home: usize,
    pub offset: Offset,
    pub verdict: Verdict,
    /// Whether the queue holds it.
    pub is_held: bool,
}

/// A publish with verdicts that is under way.
#[derive(Debug)]
pub(crate) struct Transaction {
    pub id: ConnectionId,
    pub tag: Tag,
    /// Until they are submitted.
    pub drafts: Option<Admitted<Vec<Draft>>>,
    pub save: Option<(SessionId, Saved)>,
    pub parts: Vec<Part>,
    /// Answers of queues that are still to come.
    pub waiting: usize,
    /// Why it cannot be, if a queue said so.
    pub refusal: Option<Refusal>,
    /// Under which the log knows what is settled.
    pub name: ByteString,
    /// Whether the log knows it.
    pub is_listed: bool,
    pub stage: Stage,
}

/// How far a transaction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Its queues hold the messages.
    Holding,
    /// The log has it.
    Submitted,
    /// Its queues are told what became of it.
    Releasing,
}

impl Transaction {
    /// The name of the list of a shard's transaction.
    pub fn name(shard: usize, number: u64) -> ByteString {
        format!("{PREFIX}{shard}-{number}").into()
    }

    /// A queue answers for one of the parts.
    pub fn held(&mut self, part: usize, settled: Settled) {
        match settled {
            Settled::Durable => self.parts[part].is_held = true,
            Settled::NotYours => {
                self.refusal = Some(Refusal::new(
                    RefusalCode::NotYours,
                    "a message that this would settle went to another consumer meanwhile: nothing of it was carried out",
                ));
            }
            Settled::Failed(error) => {
                // The queue holds it all the same.
                self.parts[part].is_held = true;
                self.refusal = Some(error.into());
            }
        }
    }

    /// What the log is to know of the messages that go to no member again, besides the queues' own records.
    pub fn list(&self) -> Option<StateChange> {
        let mut out = Vec::new();
        for part in &self.parts {
            // What goes out again is as if nothing had been said.
            if matches!(part.verdict, Verdict::Ack | Verdict::Reject) {
                put_step(&mut out, &part.key, part.offset, part.verdict);
            }
        }
        (!out.is_empty()).then(|| StateChange {
            name: self.name.clone(),
            value: Some(out.into()),
        })
    }
}

/// Whether a kept state is a list of settled messages.
fn is_settled(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// Appends to a list: the queue's name behind its length, the offset, and 1 if it was rejected.
fn put_step(out: &mut Vec<u8>, queue: &str, offset: Offset, verdict: Verdict) {
    put_bytes(out, queue.as_bytes());
    put_varint(out, offset.0);
    out.push(u8::from(verdict == Verdict::Reject));
}

/// Each with whether it was rejected.
fn read_list(bytes: &[u8]) -> Option<Vec<(&str, Offset, bool)>> {
    let mut input = Input::new(bytes);
    let mut list = Vec::new();
    while !input.rest.is_empty() {
        list.push((input.text()?, Offset(input.varint()?), input.u8()? == 1));
    }
    Some(list)
}

/// Folds the lists of transactions that the last process did not finish into the records of the queues. Gives what
/// has to be written for it.
pub(crate) fn fold_settled(states: &mut Vec<(ByteString, Bytes)>) -> Vec<StateChange> {
    let (lists, mut rest): (Vec<_>, Vec<_>) = std::mem::take(states)
        .into_iter()
        .partition(|(name, _)| is_settled(name));
    let mut settled: HashMap<&str, Vec<(Offset, bool)>> = HashMap::new();
    for (queue, offset, is_rejected) in lists
        .iter()
        .filter_map(|(_, list)| read_list(list))
        .flatten()
    {
        settled
            .entry(queue)
            .or_default()
            .push((offset, is_rejected));
    }
    let mut changes: Vec<StateChange> = Vec::new();
    for (name, value) in rest.iter_mut().filter(|(name, _)| is_queue(name)) {
        let Some(offsets) = settled.get(&**name) else {
            continue;
        };
        let Some(mut record) = Record::decode(value) else {
            continue;
        };
        for (offset, is_rejected) in offsets {
            if !is_rejected {
                record.outstanding.remove(offset);
            } else if let Some(it) = record.outstanding.get_mut(offset) {
                it.is_rejected = true;
            }
        }
        *value = record.encode();
        changes.push(StateChange {
            name: name.clone(),
            value: Some(value.clone()),
        });
    }
    changes.extend(lists.iter().map(|(name, _)| StateChange {
        name: name.clone(),
        value: None,
    }));
    *states = rest;
    changes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tidings_ports::Expiry;

    use super::super::record::Outstanding;
    use super::*;

    #[test]
    fn lists_that_are_left_over_are_folded_into_the_queues_records() {
        let record = |outstanding: &[u64], rejected: &[u64]| Record {
            expiry: Expiry::Never,
            since: None,
            position: Offset(9),
            suspect_to: Offset(0),
            filters: Vec::new(),
            outstanding: outstanding
                .iter()
                .map(|it| {
                    let is_rejected = rejected.contains(it);
                    let count = 1;
                    (Offset(*it), Outstanding { count, is_rejected })
                })
                .collect::<BTreeMap<_, _>>(),
        };
        let mut list = Vec::new();
        for (queue, offset, verdict) in [
            ("queue/a", 3, Verdict::Ack),
            ("queue/a", 4, Verdict::Reject),
            ("queue/b", 4, Verdict::Ack),
            ("queue/gone", 5, Verdict::Ack),
        ] {
            put_step(&mut list, queue, Offset(offset), verdict);
        }
        let name = |text: &str| ByteString::from(text);
        let mut states = vec![
            (Transaction::name(1, 7), Bytes::from(list)),
            (name("queue/a"), record(&[2, 3, 4], &[]).encode()),
            (name("queue/b"), record(&[4], &[]).encode()),
            (name("queue/c"), record(&[4], &[]).encode()),
            (name("session/x"), Bytes::from_static(b"state")),
        ];
        let changes = fold_settled(&mut states);
        let expect = vec![
            (name("queue/a"), record(&[2, 4], &[4]).encode()),
            (name("queue/b"), record(&[], &[]).encode()),
            (name("queue/c"), record(&[4], &[]).encode()),
            (name("session/x"), Bytes::from_static(b"state")),
        ];
        assert_eq!(states, expect);
        let names: Vec<_> = changes
            .iter()
            .map(|it| (&*it.name, it.value.is_some()))
            .collect();
        assert_eq!(
            names,
            [("queue/a", true), ("queue/b", true), ("settled/1-7", false)]
        );
        assert!(fold_settled(&mut states).is_empty());
    }
}
