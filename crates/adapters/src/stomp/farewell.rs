//! ERROR frames, after which the connection ends.

use std::time::Duration;

use bytestring::ByteString;
use tidings_ports::{Command, Turn};
use tidings_types::{Refusal, RefusalCode};

use super::StompConversation;
use super::codec::{self, Answer, Rule, Violation};

/// What an ERROR says besides its refusal.
#[derive(Clone, Debug, Default)]
pub(super) struct Farewell {
    /// The receipt that the frame asked for.
    pub(super) receipt: Option<ByteString>,
    /// When to come back.
    pub(super) reconnect_after: Option<Duration>,
    /// The versions that are spoken, for a client that speaks none of them.
    pub(super) versions: bool,
}

impl Farewell {
    pub(super) fn to(receipt: Option<ByteString>) -> Self {
        Self {
            receipt,
            ..Self::default()
        }
    }
}

impl StompConversation {
    /// Ends the connection for what the client did, and counts it.
    pub(super) fn refuse(&mut self, refusal: &Refusal, farewell: &Farewell, turn: &mut Turn<'_>) {
        if !self.stream.has_ended() {
            turn.commands.push(Command::Refused(refusal.clone()));
        }
        self.dismiss(refusal, farewell, turn);
    }

    /// Ends the connection with an ERROR.
    pub(super) fn dismiss(&mut self, refusal: &Refusal, farewell: &Farewell, turn: &mut Turn<'_>) {
        if self.stream.has_ended() {
            return;
        }
        let code = refusal.code;
        let wait = farewell.reconnect_after.or(refusal.retry_after());
        let wait = wait.map(|wait| wait.as_millis().to_string());
        let headers = [
            ("message", Some(code.title())),
            ("tidings-code", Some(code.slug())),
            ("receipt-id", farewell.receipt.as_deref()),
            ("content-type", Some("text/plain")),
            ("version", farewell.versions.then_some("1.0,1.1,1.2")),
            ("tidings-reconnect-ms", wait.as_deref()),
        ];
        let headers = headers
            .iter()
            .filter_map(|(name, value)| Some((*name, (*value)?)));
        let encoder = self.encoder();
        let body = refusal.detail.as_bytes();
        encoder.frame(codec::Command::Error, headers, body, &mut self.stream.out);
        self.stream.close(code.close_code(), code.title(), turn);
    }

    /// A frame broke a rule.
    pub(super) fn violated(&mut self, violation: Violation, turn: &mut Turn<'_>) {
        let code = match violation.rule {
            Rule::TooManyHeaders | Rule::HeaderTooLong | Rule::HeadersTooLarge => {
                RefusalCode::HeadTooLarge
            }
            Rule::BodyTooLarge => RefusalCode::MessageTooLarge,
            Rule::IllFormedText => RefusalCode::BadText,
            _ => RefusalCode::BadFrame,
        };
        if violation.answer == Answer::Close {
            // It does not speak STOMP, and would not understand an ERROR.
            let refusal = Refusal::new(code, violation.to_string());
            turn.commands.push(Command::Refused(refusal));
            return self.stream.close(code.close_code(), code.title(), turn);
        }
        let refusal = Refusal::new(code, violation.to_string());
        self.refuse(&refusal, &Farewell::to(violation.receipt), turn);
    }
}
