//! What the hub was asked and has not answered, and the receipts that depend on it.
//!
//! A RECEIPT says that the work is done and durable, so receipts may overtake each other: each waits for its own
//! answer.

use bytestring::ByteString;
use tidings_ports::{Tag, Turn};

use super::codec;
use super::connect::EXPIRES;
use super::{Goodbye, StompConversation};

/// What was asked, where that matters for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// Nothing but its receipt.
    Plain,
    /// To take part in a work queue: what came behind it waits, so that a message which is sent next is not missed.
    Join,
    /// A transaction. If it settles, what came behind it waits: it takes its queues' answers, and a message that is
    /// sent next is not to come before it.
    Commit { settles: bool },
    /// To find out who the client is: nothing is done before.
    Identify,
    /// To find that out anew.
    Renew,
}

impl What {
    /// Whether what came behind it waits.
    fn must_be_first(self) -> bool {
        matches!(
            self,
            Self::Join | Self::Identify | Self::Commit { settles: true }
        )
    }
}

/// A command that is under way.
#[derive(Debug)]
pub(super) struct Pending {
    tag: Tag,
    pub(super) what: What,
    pub(super) receipt: Option<ByteString>,
}

impl StompConversation {
    /// A tag for a command that is answered.
    pub(super) fn ask(&mut self, what: What, receipt: Option<ByteString>) -> Tag {
        self.last_tag += 1;
        self.unanswered += 1;
        let tag = Tag(self.last_tag);
        if receipt.is_some() || what != What::Plain {
            let work = self.work();
            work.barriers += usize::from(what.must_be_first());
            work.pending.push_back(Pending { tag, what, receipt });
        }
        tag
    }

    /// What an answer is for, if it was noted. Most answers come in order.
    pub(super) fn answered(&mut self, tag: Tag) -> Option<Pending> {
        self.unanswered = self.unanswered.saturating_sub(1);
        let work = self.work.as_mut()?;
        let at = work.pending.binary_search_by_key(&tag.0, |it| it.tag.0);
        let pending = work.pending.remove(at.ok()?)?;
        work.barriers -= usize::from(pending.what.must_be_first());
        Some(pending)
    }

    /// The work of a command is done.
    pub(super) fn done(&mut self, tag: Tag) {
        let pending = self.answered(tag);
        self.receipt(pending.and_then(|pending| pending.receipt));
    }

    /// Sends a receipt, if one was asked for.
    pub(super) fn receipt(&mut self, receipt: Option<ByteString>) {
        self.receipt_with(receipt, None);
    }

    /// Sends it with the end of the client's credential.
    pub(super) fn receipt_with(&mut self, receipt: Option<ByteString>, expires: Option<&str>) {
        let Some(receipt) = receipt.filter(|_| !self.stream.has_ended()) else {
            return;
        };
        let encoder = self.encoder();
        let expires = expires.map(|text| (EXPIRES, text));
        let headers = [("receipt-id", &*receipt)].into_iter().chain(expires);
        encoder.frame(codec::Command::Receipt, headers, b"", &mut self.stream.out);
    }

    /// The client said goodbye: its connection ends, and its receipt is sent, once everything is answered.
    pub(super) fn disconnect(&mut self, receipt: Option<ByteString>) {
        self.work().goodbye = Some(Goodbye { receipt });
    }

    pub(super) fn said_goodbye(&self) -> bool {
        self.work.as_ref().is_some_and(|it| it.goodbye.is_some())
    }

    /// Ends the connection of a client that has said goodbye, or sent its last byte, when nothing is under way.
    pub(super) fn leave_if_done(&mut self, turn: &mut Turn<'_>) {
        if self.unanswered > 0 || self.stream.has_ended() {
            return;
        }
        let goodbye = self.work.as_mut().and_then(|work| work.goodbye.take());
        if let Some(goodbye) = goodbye {
            self.receipt(goodbye.receipt);
            self.stream
                .close(crate::transport::NORMAL_CLOSURE, "", turn);
        } else if self.stream.is_done(self.is_busy()) {
            self.stream.finish(turn);
        }
    }
}
