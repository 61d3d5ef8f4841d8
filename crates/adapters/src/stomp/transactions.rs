//! BEGIN, COMMIT and ABORT.
//!
//! What a transaction does is kept here until COMMIT, which is one command: all of it happens, or nothing. A message
//! with a verdict in an open transaction stays the client's, and is unacknowledged again after ABORT.

use bytestring::ByteString;
use tidings_ports::{Command, Settle, Turn};
use tidings_types::{Draft, Refusal, RefusalCode};

use super::answers::What;
use super::codec::{self, Headers};
use super::{StompConversation, missing};

/// An open transaction.
#[derive(Debug)]
pub(super) struct Transaction {
    name: ByteString,
    drafts: Vec<Draft>,
    verdicts: Vec<Settle>,
    /// What the drafts take in memory.
    bytes: usize,
}

impl Transaction {
    /// Whether it has this verdict already.
    pub(super) fn has(&self, settle: &Settle) -> bool {
        self.verdicts.contains(settle)
    }
}

/// What a draft takes in memory.
fn cost(draft: &Draft) -> usize {
    let headers = &draft.properties.headers;
    draft.size() + size_of::<Draft>() + size_of_val(&headers[..])
}

impl StompConversation {
    pub(super) fn begin(
        &mut self,
        headers: &Headers,
        receipt: Option<ByteString>,
    ) -> Result<(), Refusal> {
        let name = named(headers, codec::Command::Begin)?;
        let max = self.limits.publishes_in_flight_max;
        let open = &mut self.work().transactions;
        if open.iter().any(|it| it.name == *name) {
            let detail = "a transaction of this name is open already: commit or abort it first, or take another name";
            return Err(Refusal::new(RefusalCode::BadParameter, detail));
        }
        if open.len() >= max {
            let detail = format!(
                "{max} transactions are open, as many as `limits.publishes_in_flight_max` permits: commit or abort one"
            );
            return Err(Refusal::new(RefusalCode::RateLimited, detail));
        }
        open.push(Transaction {
            name: name.clone(),
            drafts: Vec::new(),
            verdicts: Vec::new(),
            bytes: 0,
        });
        self.receipt(receipt);
        Ok(())
    }

    pub(super) fn commit(
        &mut self,
        headers: &Headers,
        receipt: Option<ByteString>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Refusal> {
        let transaction = self.take_transaction(headers, codec::Command::Commit)?;
        let Transaction {
            drafts, verdicts, ..
        } = transaction;
        if drafts.is_empty() && verdicts.is_empty() {
            self.receipt(receipt);
            return Ok(());
        }
        self.check_held(&verdicts).map_err(not_committed)?;
        for verdict in &verdicts {
            self.forget_claimed(verdict);
        }
        let settles = !verdicts.is_empty();
        let tag = self.ask(What::Commit { settles }, receipt);
        turn.commands.push(Command::Publish {
            tag,
            drafts,
            save: None,
            settle: verdicts,
        });
        Ok(())
    }

    pub(super) fn abort(
        &mut self,
        headers: &Headers,
        receipt: Option<ByteString>,
    ) -> Result<(), Refusal> {
        let transaction = self.take_transaction(headers, codec::Command::Abort)?;
        for verdict in &transaction.verdicts {
            self.unclaim(verdict);
        }
        self.receipt(receipt);
        Ok(())
    }

    /// An open transaction.
    pub(super) fn transaction(&mut self, name: &str) -> Result<&mut Transaction, Refusal> {
        let open = self.work.as_mut().map(|work| &mut work.transactions);
        let found = open.and_then(|open| open.iter_mut().find(|it| it.name == name));
        found.ok_or_else(unknown)
    }

    fn take_transaction(
        &mut self,
        headers: &Headers,
        command: codec::Command,
    ) -> Result<Transaction, Refusal> {
        let name = named(headers, command)?;
        let open = &mut self.work().transactions;
        let at = open.iter().position(|it| it.name == *name);
        at.map(|at| open.remove(at)).ok_or_else(unknown)
    }

    /// Notes a message in a transaction.
    pub(super) fn stage(&mut self, name: &str, draft: Draft) -> Result<(), Refusal> {
        self.check_room(name, 1)?;
        let max = self.limits.batch_bytes_max;
        let open = self.work.iter().flat_map(|work| &work.transactions);
        let bytes: usize = open.map(|it| it.bytes).sum();
        let cost = cost(&draft);
        if bytes + cost > max {
            let detail = format!(
                "the messages of the open transactions are over {max} bytes (`limits.batch_bytes_max`): commit earlier"
            );
            return Err(Refusal::new(RefusalCode::BatchTooLarge, detail));
        }
        let transaction = self.transaction(name)?;
        transaction.bytes += cost;
        transaction.drafts.push(draft);
        Ok(())
    }

    /// Notes verdicts in a transaction, which has room for them.
    pub(super) fn stage_verdicts(
        &mut self,
        name: &str,
        verdicts: impl Iterator<Item = Settle>,
    ) -> Result<(), Refusal> {
        self.transaction(name)?.verdicts.extend(verdicts);
        Ok(())
    }

    /// Refuses what would be more than a transaction may hold.
    pub(super) fn check_room(&mut self, name: &str, more: usize) -> Result<(), Refusal> {
        let max = self.limits.transaction_steps_max;
        let transaction = self.transaction(name)?;
        if transaction.drafts.len() + transaction.verdicts.len() + more <= max {
            return Ok(());
        }
        let detail = format!(
            "a transaction has at most {max} messages and acknowledgements (`limits.transaction_steps_max`): commit earlier"
        );
        Err(Refusal::new(RefusalCode::BatchTooLarge, detail))
    }
}

fn named(headers: &Headers, command: codec::Command) -> Result<&ByteString, Refusal> {
    let name = headers.get("transaction").filter(|name| !name.is_empty());
    name.ok_or_else(|| missing("transaction", command.as_str()))
}

fn unknown() -> Refusal {
    let detail = "there is no open transaction of this name: BEGIN it first";
    Refusal::new(RefusalCode::BadParameter, detail)
}

/// Adds to a refusal of a COMMIT what became of it.
pub(super) fn not_committed(mut refusal: Refusal) -> Refusal {
    refusal
        .detail
        .push_str("; nothing of the transaction was committed");
    refusal
}
