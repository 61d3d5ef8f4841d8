//! Older messages that come besides the ordinary subscriptions: retained ones, those after a start of the client's
//! choice (`tidings-after`), and those that are sent again on a new connection but match no ordinary subscription.
//!
//! Each is a subscription of its own in the hub that ends when it has caught up. Until then the ordinary ones stop
//! before what a filter that catches up also matches, so that a topic's messages stay in order.

use tidings_ports::{Command, Framing, Start, SubscriptionKey, Turn, Until};
use tidings_types::{Cursor, Epoch, Message, Offset, TopicFilter};

use super::filters::Filter;
use super::session::{Class, MAIN, Session};
use super::state::{SavedCatchUp, Target};
use super::window::Source;

/// What is caught up on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Retained messages.
    Retained,
    /// What was committed before the subscription.
    History,
    /// Unacknowledged messages alone.
    Resend,
}

/// One catch-up.
#[derive(Clone, Debug)]
pub(super) struct CatchUp {
    /// [`MAIN`] until it is begun.
    pub(super) key: SubscriptionKey,
    pub(super) kind: Kind,
    /// Everything up to here was offered.
    pub(super) position: Offset,
    /// The filters that it is for.
    pub(super) targets: Vec<Target>,
}

impl CatchUp {
    pub(super) fn new(kind: Kind, targets: Vec<Target>) -> Self {
        Self {
            key: MAIN,
            kind,
            position: Offset::ZERO,
            targets,
        }
    }

    pub(super) fn restore(saved: SavedCatchUp) -> Self {
        let kind = if saved.retained {
            Kind::Retained
        } else {
            Kind::History
        };
        Self {
            position: saved.position,
            ..Self::new(kind, saved.targets)
        }
    }

    /// What is kept of it; what is only sent again is found again.
    pub(super) fn save(&self) -> Option<SavedCatchUp> {
        (self.kind != Kind::Resend && !self.targets.is_empty()).then(|| SavedCatchUp {
            retained: self.kind == Kind::Retained,
            position: self.position,
            targets: self.targets.clone(),
        })
    }

    /// How its messages are found again.
    pub(super) fn source(&self) -> Source {
        match self.kind {
            Kind::Retained => Source::Retained,
            Kind::History | Kind::Resend => Source::Main,
        }
    }

    /// The filters that a message at this position is for, as far as the position tells.
    pub(super) fn filters<'a>(
        &'a self,
        filters: &'a [Filter],
        offset: Option<Offset>,
    ) -> impl Iterator<Item = &'a Filter> {
        let reaches = move |target: &&Target| match (target.upto, offset) {
            (Some(upto), Some(offset)) => offset <= upto,
            _ => true,
        };
        let find = |target: &Target| filters.iter().find(|it| it.serial == target.filter);
        self.targets.iter().filter(reaches).filter_map(find)
    }

    /// Whether the ordinary subscriptions have to wait with this message.
    fn holds_back(&self, filters: &[Filter], message: &Message) -> bool {
        self.targets.is_empty()
            || self
                .filters(filters, None)
                .any(|filter| filter.text.matches(&message.topic))
    }
}

impl Session {
    /// Whether the ordinary subscriptions have to wait with this message.
    pub(super) fn is_held_back(&self, message: &Message) -> bool {
        self.unfinished
            .catch_ups
            .iter()
            .any(|catch_up| catch_up.holds_back(&self.filters, message))
    }

    /// Begins a catch-up.
    pub(super) fn begin_catch_up(
        &mut self,
        turn: &mut Turn<'_>,
        mut catch_up: CatchUp,
        start: Start,
        class: Class,
    ) -> SubscriptionKey {
        catch_up.key = self.key();
        let key = catch_up.key;
        let filters = self.texts(&catch_up);
        self.unfinished.catch_ups.push(catch_up);
        let tag = self.tag(class);
        if class == Class::Extra {
            self.unfinished.extras.push((tag, key));
        }
        turn.commands.push(Command::Subscribe {
            tag,
            key,
            filters,
            start,
            framing: Framing::Own,
            echo: true,
            until: Until::CaughtUp,
            group: None,
        });
        key
    }

    /// What a catch-up subscribes to.
    fn texts(&self, catch_up: &CatchUp) -> Vec<TopicFilter> {
        let text = |filter: &Filter| filter.text.clone();
        let mut texts: Vec<TopicFilter> = catch_up.filters(&self.filters, None).map(text).collect();
        let former = self
            .unfinished
            .former
            .iter()
            .map(|former| former.text.clone());
        let unsent = self.window.first_unsent(|it| it == Source::Retained);
        match catch_up.kind {
            Kind::Retained if unsent.is_some() => {
                let plain = self.filters.iter().filter(|it| it.is_plain());
                texts.extend(plain.map(text));
                texts.extend(former);
            }
            Kind::Retained | Kind::History => {}
            Kind::Resend => {
                let shared = self.filters.iter().filter(|it| !it.is_plain());
                texts.extend(shared.map(text));
                texts.extend(former);
            }
        }
        texts.sort_unstable();
        texts.dedup();
        texts.truncate(self.limits.filters_per_subscription_max);
        texts
    }

    /// Takes up what was unfinished, and what the ordinary subscriptions cannot send again, on a new connection.
    pub(super) fn resume_catch_ups(&mut self, turn: &mut Turn<'_>) {
        let epoch = self.delivered.map_or(Epoch(0), |cursor| cursor.epoch);
        let mut unfinished = std::mem::take(&mut self.unfinished.catch_ups);
        let has_retained = unfinished.iter().any(|it| it.kind == Kind::Retained);
        let unsent = |session: &Self, is: fn(Source) -> bool| session.window.first_unsent(is);
        if !has_retained && unsent(self, |it| it == Source::Retained).is_some() {
            unfinished.push(CatchUp::new(Kind::Retained, Vec::new()));
        }
        let elsewhere = match unsent(self, |it| matches!(it, Source::Group(_))) {
            Some(first) => Some(first),
            None if self.unfinished.former.is_empty() => None,
            None => unsent(self, |it| it == Source::Main),
        };
        if elsewhere.is_some() {
            unfinished.push(CatchUp::new(Kind::Resend, Vec::new()));
        }
        for catch_up in unfinished {
            if self.texts(&catch_up).is_empty() {
                continue;
            }
            let after = |offset| Start::After(Cursor { epoch, offset });
            let first = unsent(self, |it| it != Source::Retained);
            let start = match catch_up.kind {
                Kind::Retained => Start::Retained,
                Kind::History => after(catch_up.position),
                Kind::Resend => after(Offset(first.map_or(0, |first| first.0.saturating_sub(1)))),
            };
            self.begin_catch_up(turn, catch_up, start, Class::Extra);
        }
    }

    /// A catch-up is over, or cannot be carried out.
    pub(super) fn end_catch_up(&mut self, turn: &mut Turn<'_>, key: SubscriptionKey) -> bool {
        let Some(at) = self
            .unfinished
            .catch_ups
            .iter()
            .position(|it| it.key == key)
        else {
            return false;
        };
        let catch_up = self.unfinished.catch_ups.swap_remove(at);
        self.unfinished.blocked.retain(|blocked| *blocked != key);
        match catch_up.kind {
            Kind::Retained => self.give_up(|source| source == Source::Retained),
            Kind::Resend => {
                self.give_up(|source| matches!(source, Source::Group(_)));
                self.unfinished.former.clear();
            }
            Kind::History => {}
        }
        if let Some(at) = self.unfinished.blocked.iter().position(|it| *it == MAIN) {
            self.unfinished.blocked.swap_remove(at);
            turn.commands.push(Command::Unblock(MAIN));
        }
        self.touch();
        true
    }
}
