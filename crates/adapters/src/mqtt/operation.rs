//! SUBSCRIBE and UNSUBSCRIBE (3.8 to 3.11), one at a time.
//!
//! All new filters of a SUBSCRIBE are asked for together. If the hub refuses, they are asked for one by one, so that each gets its
//! own reason code (MQTT-3.8.4-6) and one that is refused does not fail the others. What changed is saved before it is
//! acknowledged.

use bytestring::ByteString;
use tidings_ports::{Command, Start, SubscriptionKey, Turn};
use tidings_types::{Cursor, Offset, Refusal, RefusalCode, TopicFilter};

use super::catch_up::{CatchUp, Kind};
use super::codec::{
    Diagnostics, FilterName, PacketKind, ReasonCode, RequestedFilter, Suback, Subscribe, Unsuback,
    Unsubscribe,
};
use super::connect;
use super::filters::{Filter, Share};
use super::format::CURSOR_PROPERTY;
use super::link::Link;
use super::saving::After;
use super::session::{Class, Session};
use super::state::Former;
use super::subscribing::{Step, Subscribing, Wish, explain, start_of};
use super::window::Source;

/// Ended subscriptions that are remembered for the sake of unacknowledged messages.
const FORMER_MAX: usize = 64;

/// What is under way.
pub(super) enum Operation {
    /// A SUBSCRIBE.
    Subscribe(Box<Subscribing>),
    /// An UNSUBSCRIBE.
    Unsubscribe {
        /// The answer.
        unsuback: Unsuback,
        /// How many answers of the hub are still to come.
        awaited: usize,
    },
}

impl Session {
    pub(super) fn subscribe(&mut self, link: &mut Link, turn: &mut Turn<'_>, subscribe: Subscribe) {
        let mut sentences = Vec::new();
        let mut wishes = Vec::with_capacity(subscribe.subscriptions.len());
        for asked in subscribe.subscriptions {
            let (wish, refusal) = Wish::new(asked);
            wishes.push(wish);
            if let Some(refusal) = refusal {
                explain(&mut sentences, refusal.detail.clone());
                turn.commands.push(Command::Refused(refusal));
            }
        }
        let start = start_of(&subscribe.user_properties, &self.limits).unwrap_or_else(|refusal| {
            for wish in wishes.iter_mut().filter(|wish| wish.is_open()) {
                wish.verdict = Some(ReasonCode::ImplementationSpecificError);
            }
            explain(&mut sentences, refusal.detail.clone());
            turn.commands.push(Command::Refused(refusal));
            None
        });
        let mut subscribing = Subscribing {
            packet_id: subscribe.packet_id,
            subscription_id: subscribe.subscription_id,
            start,
            cursor: None,
            wishes,
            sentences,
            step: Step::Together,
        };
        self.judge(turn, &mut subscribing);
        self.ask_next(link, turn, Box::new(subscribing));
    }

    /// Grants what the session has already, with its new options (MQTT-3.8.4-3), and refuses what is over the limit.
    fn judge(&mut self, turn: &mut Turn<'_>, subscribing: &mut Subscribing) {
        let max = self.limits.filters_per_subscription_max;
        let mut count = self.filters.len();
        let has_history = subscribing.has_history();
        let mut news: Vec<(Option<ByteString>, TopicFilter)> = Vec::new();
        for wish in subscribing.wishes.iter_mut().filter(|wish| wish.is_open()) {
            let Some(text) = &wish.text else {
                continue;
            };
            let group = wish.group.as_deref();
            let mut known = self.filters.iter_mut();
            if let Some(filter) = known.find(|filter| filter.is(group, text)) {
                wish.is_new = false;
                filter.options = wish.options;
                filter.id = subscribing.subscription_id;
                if !(has_history && wish.is_plain()) {
                    wish.verdict = Some(ReasonCode::granted(wish.options.maximum_qos));
                }
                continue;
            }
            let name = (wish.group.clone(), text.clone());
            if news.contains(&name) {
                continue;
            }
            if count == max {
                wish.verdict = Some(ReasonCode::QuotaExceeded);
                let sentence = format!(
                    "the session has {max} subscriptions, as many as `limits.filters_per_subscription_max` permits"
                );
                explain(&mut subscribing.sentences, sentence.clone());
                let refusal = Refusal::new(RefusalCode::TooManySubscriptions, sentence);
                turn.commands.push(Command::Refused(refusal));
                continue;
            }
            count += 1;
            news.push(name);
        }
    }

    /// Asks for what is open of a SUBSCRIBE, step by step, and saves at the end.
    fn ask_next(&mut self, link: &mut Link, turn: &mut Turn<'_>, mut asked: Box<Subscribing>) {
        let plain = asked.open_plain();
        let all_at_once = asked.step == Step::Together;
        let class = Class::Operation;
        if let Some(first) = plain.first() {
            let texts = if all_at_once {
                asked.texts(&plain)
            } else {
                asked.step = Step::Single(*first);
                asked.texts(&plain[..1])
            };
            self.alter_main(turn, class, texts);
        } else if let Some(at) = asked.wishes.iter().position(Wish::is_open) {
            let key = self.key();
            asked.step = Step::Shared(at, key);
            self.join_group(turn, class, key, &asked.wishes[at], asked.start.clone());
        } else if let Some(start) = asked.take_history() {
            let targets = asked.targets(&self.filters, |wish| wish.position.is_some());
            if targets.is_empty() {
                return self.save_operation(link, turn, asked);
            }
            let catch_up = CatchUp::new(Kind::History, targets);
            let key = self.begin_catch_up(turn, catch_up, start, class);
            asked.step = Step::History(key);
        } else {
            return self.save_operation(link, turn, asked);
        }
        self.unfinished.operation = Some(Box::new(Operation::Subscribe(asked)));
    }

    fn save_operation(
        &mut self,
        link: &mut Link,
        turn: &mut Turn<'_>,
        mut asked: Box<Subscribing>,
    ) {
        asked.step = Step::Saving;
        self.unfinished.operation = Some(Box::new(Operation::Subscribe(asked)));
        self.after_save(link, turn, After::Operation);
    }

    fn join_group(
        &mut self,
        turn: &mut Turn<'_>,
        class: Class,
        key: SubscriptionKey,
        wish: &Wish,
        start: Option<Start>,
    ) {
        if let (Some(group), Some(text)) = (&wish.group, &wish.text) {
            let start = start.unwrap_or(Start::Latest);
            self.subscribe_group(turn, class, key, (group, text), start);
        }
    }

    /// The hub made what was asked for.
    pub(super) fn operation_granted(
        &mut self,
        link: &mut Link,
        turn: &mut Turn<'_>,
        cursor: Cursor,
    ) {
        match self.unfinished.operation.take().map(|operation| *operation) {
            Some(Operation::Subscribe(asked)) => self.granted(link, turn, asked, cursor),
            Some(Operation::Unsubscribe { unsuback, awaited }) => {
                self.unsubscribed_one(link, turn, unsuback, awaited);
            }
            None => {}
        }
    }

    fn granted(
        &mut self,
        link: &mut Link,
        turn: &mut Turn<'_>,
        mut asked: Box<Subscribing>,
        cursor: Cursor,
    ) {
        let plain = asked.open_plain();
        match asked.step {
            Step::Together => {
                self.main_made(cursor);
                asked.cursor = Some(cursor);
                self.grant(&mut asked, &plain, cursor.offset);
            }
            Step::Single(at) => {
                self.main_made(cursor);
                asked.cursor.get_or_insert(cursor);
                let text = asked.wishes[at].text.clone();
                let same: Vec<usize> = plain
                    .into_iter()
                    .filter(|at| asked.wishes[*at].text == text)
                    .collect();
                self.grant(&mut asked, &same, cursor.offset);
            }
            Step::Shared(at, key) => {
                self.grant(&mut asked, &[at], cursor.offset);
                self.set_group_key(&asked.wishes[at], key);
                asked.grant_same_share(at);
            }
            Step::History(key) => {
                asked.cursor = Some(cursor);
                let found = self
                    .unfinished
                    .catch_ups
                    .iter_mut()
                    .find(|it| it.key == key);
                if let Some(catch_up) = found {
                    catch_up.position = cursor.offset;
                }
            }
            Step::Saving => {}
        }
        self.ask_next(link, turn, asked);
    }

    /// Adds the filters that these wishes name, or changes them; the last wish of a name counts.
    fn grant(&mut self, asked: &mut Subscribing, places: &[usize], since: Offset) {
        for at in places {
            let id = asked.subscription_id;
            let wish = &mut asked.wishes[*at];
            wish.verdict = Some(ReasonCode::granted(wish.options.maximum_qos));
            wish.position = Some(since);
            let Some(text) = wish.text.clone() else {
                continue;
            };
            let group = wish.group.as_deref();
            let known = self.filters.iter_mut().find(|it| it.is(group, &text));
            if let Some(filter) = known {
                filter.options = wish.options;
                filter.id = id;
                continue;
            }
            let serial = self.serial();
            // Most clients have one or two.
            if self.filters.len() < 4 {
                self.filters.reserve_exact(1);
            }
            self.filters.push(Filter {
                serial,
                text,
                options: wish.options,
                id,
                since,
                share: wish
                    .group
                    .clone()
                    .map(|group| Box::new(Share { group, key: None })),
            });
        }
    }

    fn set_group_key(&mut self, wish: &Wish, key: SubscriptionKey) {
        let group = wish.group.as_deref();
        let is_it = |it: &&mut Filter| wish.text.as_ref().is_some_and(|text| it.is(group, text));
        if let Some(share) = self
            .filters
            .iter_mut()
            .find(is_it)
            .and_then(|it| it.share.as_mut())
        {
            share.key = Some(key);
        }
    }

    /// The hub refused what was asked for.
    pub(super) fn operation_refused(
        &mut self,
        link: &mut Link,
        turn: &mut Turn<'_>,
        refusal: &Refusal,
    ) {
        match self.unfinished.operation.take().map(|operation| *operation) {
            Some(Operation::Subscribe(asked)) => self.not_granted(link, turn, asked, refusal),
            Some(Operation::Unsubscribe { .. }) => {
                connect::fail(link, turn, refusal);
            }
            None => {}
        }
    }

    fn not_granted(
        &mut self,
        link: &mut Link,
        turn: &mut Turn<'_>,
        mut asked: Box<Subscribing>,
        refusal: &Refusal,
    ) {
        let reason = ReasonCode::of_refusal(refusal.code, PacketKind::Suback);
        let plain = asked.open_plain();
        if matches!(asked.step, Step::Together | Step::Single(_)) {
            self.main.is_shared = self.main.was_shared;
        }
        match asked.step {
            Step::Together if plain.len() > 1 => asked.step = Step::Single(0),
            Step::Together => asked.refuse(&plain, reason, refusal),
            Step::Single(at) => {
                let text = asked.wishes[at].text.clone();
                let same: Vec<usize> = plain
                    .into_iter()
                    .filter(|at| asked.wishes[*at].text == text)
                    .collect();
                asked.refuse(&same, reason, refusal);
            }
            Step::Shared(at, _) => asked.refuse(&[at], reason, refusal),
            Step::History(key) => {
                self.end_catch_up(turn, key);
                self.take_back(turn, &mut asked, reason, refusal);
            }
            Step::Saving => return connect::fail(link, turn, refusal),
        }
        self.ask_next(link, turn, asked);
    }

    /// Takes new filters back whose older messages cannot be had.
    fn take_back(
        &mut self,
        turn: &mut Turn<'_>,
        asked: &mut Subscribing,
        reason: ReasonCode,
        refusal: &Refusal,
    ) {
        let is_it = |wish: &Wish| wish.is_plain() && wish.position.is_some();
        let places: Vec<usize> = (0..asked.wishes.len())
            .filter(|at| is_it(&asked.wishes[*at]))
            .collect();
        let gone: Vec<&TopicFilter> = places
            .iter()
            .filter(|at| asked.wishes[**at].is_new)
            .filter_map(|at| asked.wishes[*at].text.as_ref())
            .collect();
        self.filters
            .retain(|filter| !(filter.is_plain() && gone.contains(&&filter.text)));
        asked.refuse(&places, reason, refusal);
        self.shrink_main(turn, Class::Ignored);
    }

    /// The session is saved: answers, and begins with the retained messages.
    pub(super) fn answer_operation(&mut self, link: &mut Link, turn: &mut Turn<'_>) {
        match self.unfinished.operation.take().map(|operation| *operation) {
            Some(Operation::Subscribe(asked)) => {
                let reason = |wish: &Wish| wish.verdict.unwrap_or(ReasonCode::UnspecifiedError);
                let mut diagnostics = Diagnostics::default();
                if !asked.sentences.is_empty() {
                    diagnostics.reason_string = Some(asked.sentences.join("; ").into());
                }
                diagnostics
                    .user_properties
                    .extend(asked.cursor.map(|cursor| {
                        let text = ByteString::from(cursor.to_string());
                        (ByteString::from_static(CURSOR_PROPERTY), text)
                    }));
                let suback = Suback {
                    packet_id: asked.packet_id,
                    reasons: asked.wishes.iter().map(reason).collect(),
                    diagnostics,
                };
                link.send(turn, |wire, out| suback.encode(wire, out));
                let targets = asked.targets(&self.filters, |wish| asked.wants_retained(wish));
                if !targets.is_empty() {
                    let catch_up = CatchUp::new(Kind::Retained, targets);
                    self.begin_catch_up(turn, catch_up, Start::Retained, Class::Extra);
                }
            }
            Some(Operation::Unsubscribe { unsuback, .. }) => {
                link.send(turn, |wire, out| unsuback.encode(wire, out));
            }
            None => {}
        }
    }

    pub(super) fn unsubscribe(
        &mut self,
        link: &mut Link,
        turn: &mut Turn<'_>,
        unsubscribe: Unsubscribe,
    ) {
        let mut reasons = Vec::with_capacity(unsubscribe.filters.len());
        let mut awaited = 0;
        let mut is_smaller = false;
        for name in unsubscribe.filters {
            let (group, filter) = match name {
                RequestedFilter::Plain(filter) => (None, filter),
                RequestedFilter::Share { group, filter } => (Some(group), filter),
            };
            let (reason, gone) = self.remove_filter(group.as_deref(), &filter);
            reasons.push(reason);
            match gone.map(|filter| filter.share.map(|share| share.key)) {
                Some(None) => is_smaller = true,
                Some(Some(Some(key))) => {
                    awaited += 1;
                    let tag = self.tag(Class::Operation);
                    turn.commands.push(Command::Unsubscribe {
                        tag,
                        key,
                        forget: false,
                    });
                }
                _ => {}
            }
        }
        if is_smaller {
            awaited += usize::from(self.shrink_main(turn, Class::Operation));
        }
        let unsuback = Unsuback {
            packet_id: unsubscribe.packet_id,
            reasons,
            diagnostics: Diagnostics::default(),
        };
        self.unsubscribed_one(link, turn, unsuback, awaited + 1);
    }

    fn unsubscribed_one(
        &mut self,
        link: &mut Link,
        turn: &mut Turn<'_>,
        unsuback: Unsuback,
        awaited: usize,
    ) {
        let awaited = awaited.saturating_sub(1);
        let operation = Operation::Unsubscribe { unsuback, awaited };
        self.unfinished.operation = Some(Box::new(operation));
        if awaited == 0 {
            self.after_save(link, turn, After::Operation);
        }
    }

    fn remove_filter(
        &mut self,
        group: Option<&str>,
        filter: &FilterName,
    ) -> (ReasonCode, Option<Filter>) {
        let Ok(text) = filter else {
            return (ReasonCode::TopicFilterInvalid, None);
        };
        let Some(at) = self.filters.iter().position(|it| it.is(group, text)) else {
            return (ReasonCode::NoSubscriptionExisted, None);
        };
        let filter = self.filters.remove(at);
        if filter.is_plain() && self.is_persistent() {
            self.remember_former(&filter.text);
        }
        (ReasonCode::Success, Some(filter))
    }

    /// What was begun is completed, also on another connection (MQTT-3.10.4-3).
    fn remember_former(&mut self, text: &TopicFilter) {
        let main = self.window.iter().filter(|it| it.source == Source::Main);
        let Some(upto) = main.map(|it| it.offset).max() else {
            return;
        };
        self.unfinished.former.retain(|former| former.text != *text);
        if self.unfinished.former.len() == FORMER_MAX {
            self.unfinished.former.remove(0);
        }
        self.unfinished.former.push(Former {
            text: text.clone(),
            upto,
        });
    }
}
