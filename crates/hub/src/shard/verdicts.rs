//! Verdicts on messages of work queues: alone, or together with a publish (see [`crate::queue::Transaction`]).

use bytestring::ByteString;
use tidings_ports::{Event, PublishError, Settle, SubscriptionKey, Tag, Verdict};
use tidings_types::{Draft, Receipt, Refusal, RefusalCode};

use super::Shard;
use super::connection::ConnectionId;
use super::pending::Publisher;
use crate::gate::Admitted;
use crate::inbox::Note;
use crate::queue::{MemberId, Part, Request, Settled, Stage, Transaction};
use crate::session::{Saved, SessionId};

/// What a verdict that somebody waits for belongs to.
pub(super) enum Awaited {
    /// A command with this tag.
    Command(ConnectionId, Tag),
    /// A part of a transaction.
    Part(usize, usize),
    /// A command with this tag ended a subscription, and its queue with it.
    Unsubscribe(ConnectionId, Tag, SubscriptionKey),
}

impl Shard {
    pub(super) fn settle_for(
        &mut self,
        id: ConnectionId,
        tag: Option<Tag>,
        settle: Settle,
    ) -> Result<(), Refusal> {
        let (home, key, member) = self.queue_of(id, settle.key)?;
        let token = tag.map(|tag| {
            if let Some(connection) = self.connection(id) {
                connection.in_flight += 1;
            }
            self.awaited.insert(Awaited::Command(id, tag)) as u64
        });
        let request = Request::Settle(settle.offset, settle.verdict, token);
        self.send(home, Note::Request(key, member, request));
        Ok(())
    }

    /// The queue that a subscription takes part in, and as whom.
    fn queue_of(
        &mut self,
        id: ConnectionId,
        key: SubscriptionKey,
    ) -> Result<(usize, ByteString, MemberId), Refusal> {
        let not_there = || {
            Refusal::new(
                RefusalCode::BadRequest,
                "there is no such subscription to a work queue on this connection",
            )
        };
        let subscription = self.subscription_of(id, key).ok_or_else(not_there)?;
        let member = MemberId {
            shard: self.index,
            subscription,
        };
        let subscription = self.subscription(subscription).ok_or_else(not_there)?;
        let membership = subscription.membership.as_ref().ok_or_else(not_there)?;
        Ok((membership.home, membership.key.clone(), member))
    }

    /// Has the queues hold what a publish is to settle.
    pub(super) fn begin_transaction(
        &mut self,
        (id, tag): (ConnectionId, Tag),
        drafts: Option<Admitted<Vec<Draft>>>,
        save: Option<(SessionId, Saved)>,
        settle: &[Settle],
    ) -> Result<(), Refusal> {
        let max = self.limits.transaction_steps_max;
        if settle.len() > max {
            let detail = format!(
                "{} messages to settle at once, at most {max} are taken (limits.transaction_steps_max)",
                settle.len()
            );
            return Err(Refusal::new(RefusalCode::BatchTooLarge, detail));
        }
        let mut parts = Vec::with_capacity(settle.len());
        for settle in settle {
            let (home, key, member) = self.queue_of(id, settle.key)?;
            parts.push(Part {
                member,
                key,
                home,
                offset: settle.offset,
                verdict: settle.verdict,
                is_held: false,
            });
        }
        if let Some(connection) = self.connection(id) {
            connection.in_flight += 1;
        }
        self.transaction_number += 1;
        let at = self.transactions.insert(Transaction {
            id,
            tag,
            drafts,
            save,
            waiting: parts.len(),
            parts,
            refusal: None,
            name: Transaction::name(self.index, self.transaction_number),
            is_listed: false,
            stage: Stage::Holding,
        });
        self.ask_queues(at, |part, token| Some(Request::Hold(part.offset, token)));
        Ok(())
    }

    /// Asks something of the queue of each part; how many were asked.
    fn ask_queues(&mut self, at: usize, ask: impl Fn(&Part, u64) -> Option<Request>) -> usize {
        let mut asked = 0;
        for part in 0..self.transactions[at].parts.len() {
            let entry = self.awaited.vacant_entry();
            let part_of = &self.transactions[at].parts[part];
            let Some(request) = ask(part_of, entry.key() as u64) else {
                continue;
            };
            entry.insert(Awaited::Part(at, part));
            let note = Note::Request(part_of.key.clone(), part_of.member, request);
            let home = part_of.home;
            self.send(home, note);
            asked += 1;
        }
        asked
    }

    /// A queue says what became of a verdict.
    pub(super) fn settled(&mut self, token: u64, settled: Settled) {
        match self.awaited.remove(token as usize) {
            Awaited::Command(id, tag) => {
                self.landed(id);
                match settled {
                    // Whoever has it now is to say what becomes of it.
                    Settled::Durable | Settled::NotYours => self.tell(id, Event::Settled { tag }),
                    Settled::Failed(error) => self.refuse(id, tag, error.into()),
                }
            }
            Awaited::Unsubscribe(id, tag, key) => {
                self.landed(id);
                match settled {
                    Settled::Durable | Settled::NotYours => {
                        self.tell(id, Event::Unsubscribed { tag, key });
                    }
                    Settled::Failed(error) => self.refuse(id, tag, error.into()),
                }
            }
            Awaited::Part(at, part) => {
                let transaction = &mut self.transactions[at];
                transaction.waiting -= 1;
                if transaction.stage == Stage::Holding {
                    transaction.held(part, settled);
                }
                if transaction.waiting > 0 {
                    return;
                }
                match transaction.stage {
                    Stage::Holding if transaction.refusal.is_some() => self.abort(at),
                    Stage::Holding => self.submit_transaction(at),
                    Stage::Submitted => {}
                    Stage::Releasing => self.forget_transaction(at),
                }
            }
        }
    }

    /// Every queue holds its message: now it happens.
    fn submit_transaction(&mut self, at: usize) {
        let transaction = &mut self.transactions[at];
        transaction.stage = Stage::Submitted;
        let list = transaction.list();
        transaction.is_listed = list.is_some();
        let (drafts, save) = (transaction.drafts.take(), transaction.save.take());
        if drafts.is_none() && list.is_none() && save.is_none() {
            return self.transaction_done(at, Ok(Vec::new()));
        }
        if let Err(error) = self.submit_saving(drafts, save, list, Publisher::Transaction(at)) {
            self.transactions[at].refusal = Some(error.into());
            self.transactions[at].is_listed = false;
            self.abort(at);
        }
    }

    /// The log has carried a transaction out, or has not.
    pub(super) fn transaction_done(
        &mut self,
        at: usize,
        result: Result<Vec<Receipt>, PublishError>,
    ) {
        match result {
            Ok(receipts) => {
                let (id, tag) = (self.transactions[at].id, self.transactions[at].tag);
                self.release(at, true);
                self.landed(id);
                self.tell(id, Event::Published { tag, receipts });
            }
            Err(error) => {
                // A list that failed was not kept, or no list is any more.
                self.transactions[at].is_listed = false;
                self.transactions[at].refusal = Some(error.into());
                self.abort(at);
            }
        }
    }

    fn abort(&mut self, at: usize) {
        let (id, tag) = (self.transactions[at].id, self.transactions[at].tag);
        let refusal = self.transactions[at].refusal.take();
        self.release(at, false);
        self.landed(id);
        if let Some(refusal) = refusal {
            self.refuse(id, tag, refusal);
        }
    }

    fn release(&mut self, at: usize, happened: bool) {
        self.transactions[at].stage = Stage::Releasing;
        let asked = self.ask_queues(at, |part, token| {
            let verdict: Option<Verdict> = happened.then_some(part.verdict);
            part.is_held
                .then_some(Request::Release(part.offset, verdict, token))
        });
        self.transactions[at].waiting = asked;
        if asked == 0 {
            self.forget_transaction(at);
        }
    }

    /// All queues have it on record, so the log need not know of it any more.
    fn forget_transaction(&mut self, at: usize) {
        let transaction = self.transactions.remove(at);
        if transaction.is_listed {
            self.states.changed(transaction.name);
        }
    }
}
