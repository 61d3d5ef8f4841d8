//! A SUBSCRIBE under way: what is wished for, and what became of it.

use bytestring::ByteString;
use tidings_ports::{Start, SubscriptionKey};
use tidings_types::{Cursor, Limits, Offset, Refusal, RefusalCode, TopicFilter};

use super::codec::{
    PacketId, ReasonCode, RequestedFilter, RequestedSubscription, RetainHandling, SubscriptionId,
    SubscriptionOptions, UserProperties,
};
use super::filters::Filter;
use super::state::Target;
use crate::query::{parse_last, parse_start};

/// The user property of a SUBSCRIBE that says where to start.
const AFTER_PROPERTY: &str = "tidings-after";

/// How many of the refused filters of a SUBSCRIBE the reason string tells of.
const SENTENCES_MAX: usize = 3;
/// How many characters of a filter that is none the reason string shows.
const SHOWN_MAX: usize = 80;

/// A SUBSCRIBE under way.
pub(super) struct Subscribing {
    pub(super) packet_id: PacketId,
    pub(super) subscription_id: Option<SubscriptionId>,
    /// Where the client wants to start, if it said.
    pub(super) start: Option<Start>,
    /// The position after which the first message that is due to an ordinary filter stands.
    pub(super) cursor: Option<Cursor>,
    pub(super) wishes: Vec<Wish>,
    /// What is wrong with it: the reason string.
    pub(super) sentences: Vec<String>,
    pub(super) step: Step,
}

/// One subscription that is wished for.
pub(super) struct Wish {
    /// Set if it is shared.
    pub(super) group: Option<ByteString>,
    /// `None` if it is none here.
    pub(super) text: Option<TopicFilter>,
    pub(super) options: SubscriptionOptions,
    /// Whether the session had none like it.
    pub(super) is_new: bool,
    /// From where on the ordinary subscriptions bring its messages.
    pub(super) position: Option<Offset>,
    pub(super) verdict: Option<ReasonCode>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// All ordinary filters.
    Together,
    /// This one alone.
    Single(usize),
    /// This shared one.
    Shared(usize, SubscriptionKey),
    /// Older messages.
    History(SubscriptionKey),
    /// The save.
    Saving,
}

impl Wish {
    /// A wish, and why it cannot be one here.
    pub(super) fn new(asked: RequestedSubscription) -> (Self, Option<Refusal>) {
        let (group, filter) = match asked.filter {
            RequestedFilter::Plain(filter) => (None, filter),
            RequestedFilter::Share { group, filter } => (Some(group), filter),
        };
        let mut wish = Self {
            group,
            text: None,
            options: asked.options,
            is_new: true,
            position: None,
            verdict: None,
        };
        let unfit = match filter {
            Ok(text) => {
                wish.text = Some(text);
                return (wish, None);
            }
            Err(unfit) => unfit,
        };
        wish.verdict = Some(ReasonCode::TopicFilterInvalid);
        let shown: String = unfit.text.escape_debug().take(SHOWN_MAX).collect();
        let detail = format!("`{shown}`: {}", unfit.error);
        (wish, Some(Refusal::new(RefusalCode::BadFilter, detail)))
    }

    pub(super) fn is_open(&self) -> bool {
        self.verdict.is_none()
    }

    pub(super) fn is_plain(&self) -> bool {
        self.group.is_none()
    }
}

/// The first sentences are those that are told, each once.
pub(super) fn explain(sentences: &mut Vec<String>, sentence: String) {
    if sentences.len() < SENTENCES_MAX && !sentences.contains(&sentence) {
        sentences.push(sentence);
    }
}

/// Where a SUBSCRIBE wants to start: `tidings-after` is a cursor, `earliest`, `latest`, `retained` or `last:N`.
pub(super) fn start_of(
    properties: &UserProperties,
    limits: &Limits,
) -> Result<Option<Start>, Refusal> {
    let found = properties
        .iter()
        .rev()
        .find(|(name, _)| name == AFTER_PROPERTY);
    let Some((_, value)) = found else {
        return Ok(None);
    };
    let max = limits.last_messages_max;
    let (start, detail) = match value.strip_prefix("last:") {
        Some(count) => (
            parse_last(count, max),
            format!(
                "`tidings-after` has no number behind `last:`: pass a whole one from 0 to {max} (limits.last_messages_max)"
            ),
        ),
        None => (
            parse_start(value),
            "`tidings-after` is not a cursor: pass one exactly as a `tidings-cursor` carried it, or `earliest`, `latest`, `retained` or `last:N`".to_owned(),
        ),
    };
    let refused = |refusal: Refusal| Refusal::new(refusal.code, detail);
    start.map(Some).map_err(refused)
}

impl Subscribing {
    /// The ordinary wishes that have no answer yet.
    pub(super) fn open_plain(&self) -> Vec<usize> {
        (0..self.wishes.len())
            .filter(|at| self.wishes[*at].is_open() && self.wishes[*at].is_plain())
            .collect()
    }

    pub(super) fn texts(&self, places: &[usize]) -> Vec<TopicFilter> {
        let text = |at: &usize| self.wishes[*at].text.clone();
        places.iter().filter_map(text).collect()
    }

    /// Whether older messages than the newest are wanted, other than retained ones.
    pub(super) fn has_history(&self) -> bool {
        !matches!(self.start, None | Some(Start::Latest | Start::Retained))
    }

    pub(super) fn take_history(&mut self) -> Option<Start> {
        let asked_already = matches!(self.step, Step::History(_));
        (self.has_history() && !asked_already).then(|| self.start.clone())?
    }

    /// 3.3.1.3: no retained messages for a shared subscription; otherwise as the retain handling says, and
    /// only where the client did not choose another start.
    pub(super) fn wants_retained(&self, wish: &Wish) -> bool {
        let handled = match wish.options.retain_handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => wish.is_new,
            RetainHandling::DoNotSend => false,
        };
        match self.start {
            None => handled,
            Some(Start::Retained) => true,
            Some(_) => false,
        }
    }

    /// The filters of granted ordinary wishes, with the position from which they come another way.
    pub(super) fn targets(
        &self,
        filters: &[Filter],
        is_meant: impl Fn(&Wish) -> bool,
    ) -> Vec<Target> {
        let mut targets: Vec<Target> = Vec::new();
        for wish in &self.wishes {
            let granted = wish.verdict.is_some_and(|verdict| !verdict.is_failure());
            let Some(text) = wish.text.as_ref().filter(|_| granted && wish.is_plain()) else {
                continue;
            };
            let found = filters.iter().find(|filter| filter.is(None, text));
            let Some(filter) = found.filter(|_| is_meant(wish)) else {
                continue;
            };
            if targets.iter().all(|target| target.filter != filter.serial) {
                targets.push(Target {
                    filter: filter.serial,
                    upto: wish.position,
                });
            }
        }
        targets
    }

    pub(super) fn refuse(&mut self, places: &[usize], reason: ReasonCode, refusal: &Refusal) {
        for at in places {
            self.wishes[*at].verdict = Some(reason);
        }
        explain(&mut self.sentences, refusal.detail.clone());
    }

    /// A share that stands there twice is asked for once.
    pub(super) fn grant_same_share(&mut self, at: usize) {
        let name = (self.wishes[at].group.clone(), self.wishes[at].text.clone());
        let same = |wish: &&mut Wish| wish.is_open() && wish.group == name.0 && wish.text == name.1;
        for wish in self.wishes.iter_mut().filter(same) {
            wish.verdict = Some(ReasonCode::granted(wish.options.maximum_qos));
        }
    }
}
