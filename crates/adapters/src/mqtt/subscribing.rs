//! A SUBSCRIBE under way: what is wished for, and what became of it.

use bytestring::ByteString;
use tidings_ports::{Start, SubscriptionKey};
use tidings_types::{Cursor, Limits, Offset, Refusal, TopicFilter};

use super::codec::{
    Diagnostics, PacketId, ReasonCode, RequestedFilter, RequestedSubscription, RetainHandling,
    SubscriptionId, SubscriptionOptions, UserProperties,
};
use super::filters::Filter;
use super::state::Target;
use crate::query::{parse_last, parse_start};

/// The user property of a SUBSCRIBE that says where to start.
const AFTER_PROPERTY: &str = "tidings-after";

/// A SUBSCRIBE under way.
pub(super) struct Subscribing {
    pub(super) packet_id: PacketId,
    pub(super) subscription_id: Option<SubscriptionId>,
    /// Where the client wants to start, if it said.
    pub(super) start: Option<Start>,
    /// The position after which the first message that is due to an ordinary filter stands.
    pub(super) cursor: Option<Cursor>,
    pub(super) wishes: Vec<Wish>,
    pub(super) diagnostics: Diagnostics,
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
    pub(super) fn new(asked: RequestedSubscription, subscribing: &mut Diagnostics) -> Self {
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
        match filter {
            Ok(text) => wish.text = Some(text),
            Err(unfit) => {
                wish.verdict = Some(ReasonCode::TopicFilterInvalid);
                explain(subscribing, unfit.error.to_string());
            }
        }
        wish
    }

    pub(super) fn is_open(&self) -> bool {
        self.verdict.is_none()
    }

    pub(super) fn is_plain(&self) -> bool {
        self.group.is_none()
    }
}

/// The first sentence is the one that is told.
pub(super) fn explain(diagnostics: &mut Diagnostics, sentence: String) {
    if diagnostics.reason_string.is_none() {
        diagnostics.reason_string = Some(sentence.into());
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
    match value.strip_prefix("last:") {
        Some(count) => parse_last(count, limits.last_messages_max).map(Some),
        None => parse_start(value).map(Some),
    }
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
        explain(&mut self.diagnostics, refusal.detail.clone());
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
