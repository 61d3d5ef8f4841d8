//! The query parameters that requests share, read once and checked where they are used.
//!
//! Unknown parameters are ignored: proxies and analytics add them. Of a known one that repeats, the first
//! counts, but for `topic`, of which all do.

use std::time::Duration;

use http::HeaderMap;
use tidings_ports::Start;
use tidings_types::{Limits, Refusal, RefusalCode, TopicFilter};

use crate::query::{
    bad_parameter, form_decode, pairs, parse_duration, parse_flag, parse_last, parse_number,
    parse_start,
};
use crate::sse::Format;

/// Known parameters as text.
#[derive(Debug, Default)]
pub struct Params {
    /// `topic`, every one.
    pub topics: Vec<String>,
    /// `after`: a start position, or in a listing of topics a name.
    pub after: Option<String>,
    /// `last`.
    pub last: Option<String>,
    /// Any of the spellings of `Last-Event-ID`.
    pub last_event_id: Option<String>,
    /// `as`.
    pub representation: Option<String>,
    /// `format`.
    pub format: Option<String>,
    /// `filter`.
    pub filter: Option<String>,
    /// `limit`.
    pub limit: Option<String>,
    /// `wait`.
    pub wait: Option<String>,
    /// `echo`.
    pub echo: Option<String>,
    /// `gzip`.
    pub gzip: Option<String>,
    /// `padding`.
    pub padding: Option<String>,
}

impl Params {
    /// Reads a query or a form into what is there already.
    ///
    /// Refuses a known parameter whose value is not percent-encoded UTF-8.
    pub fn read(&mut self, query: &str) -> Result<(), Refusal> {
        for (name, value) in pairs(query) {
            // A name that cannot be decoded is none that is known.
            let Ok(name) = form_decode(name, "a parameter name") else {
                continue;
            };
            let value = || {
                form_decode(value, &format!("the parameter `{name}`"))
                    .map(std::borrow::Cow::into_owned)
            };
            if name == "topic" {
                self.topics.push(value()?);
                continue;
            }
            if let Some(place) = self.place(&name)
                && place.is_none()
            {
                *place = Some(value()?);
            }
        }
        Ok(())
    }

    fn place(&mut self, name: &str) -> Option<&mut Option<String>> {
        Some(match name {
            "after" => &mut self.after,
            "last" => &mut self.last,
            "lastEventID" | "lastEventId" | "last_event_id" | "Last-Event-ID" | "last-event-id" => {
                &mut self.last_event_id
            }
            "as" => &mut self.representation,
            "format" => &mut self.format,
            "filter" => &mut self.filter,
            "limit" => &mut self.limit,
            "wait" => &mut self.wait,
            "echo" => &mut self.echo,
            "gzip" => &mut self.gzip,
            "padding" => &mut self.padding,
            _ => return None,
        })
    }

    /// Where to start: the `Last-Event-ID` header, one of its query spellings, `after`, `last`, or else
    /// `otherwise`, in this order.
    ///
    /// An id that is no cursor is [`Start::Unknown`] and not a refusal: `EventSource` gives up for good on any
    /// status but 200, so that its reader is told of a gap instead. `after` is written by a person, who is told
    /// `bad-cursor`.
    pub fn start(
        &self,
        headers: &HeaderMap,
        limits: &Limits,
        otherwise: Start,
    ) -> Result<Start, Refusal> {
        let header = headers
            .get("last-event-id")
            .map(|value| value.to_str().unwrap_or("?"));
        let ids = [header, self.last_event_id.as_deref()];
        // An empty id is what a client sends that has seen none yet.
        if let Some(id) = ids.into_iter().flatten().find(|id| !id.is_empty()) {
            return Ok(parse_start(id).unwrap_or(Start::Unknown));
        }
        match (&self.after, &self.last) {
            (None, None) => Ok(otherwise),
            (Some(after), None) => parse_start(after),
            (None, Some(last)) => parse_last(last, limits.last_messages_max),
            (Some(_), Some(_)) => Err(bad_parameter(
                "last",
                "it cannot stand beside `after`: pass one of them",
            )),
        }
    }

    /// The filters of `topic` parameters, each once, in order; at least one.
    pub fn filters(&self, limits: &Limits) -> Result<Vec<TopicFilter>, Refusal> {
        let max = limits.filters_per_subscription_max;
        let mut filters: Vec<TopicFilter> = Vec::with_capacity(self.topics.len().min(max));
        let mut known = std::collections::HashSet::new();
        for topic in &self.topics {
            let filter = filter(topic)?;
            if known.insert(filter.clone()) {
                filters.push(filter);
            }
            if filters.len() > max {
                return Err(Refusal::new(
                    RefusalCode::TooManySubscriptions,
                    format!(
                        "one subscription may have {max} topics (`limits.filters_per_subscription_max`): use a wildcard, or several connections"
                    ),
                ));
            }
        }
        if filters.is_empty() {
            return Err(bad_parameter(
                "topic",
                "name at least one topic, as in `/v1/subscribe?topic=chat/lobby`",
            ));
        }
        Ok(filters)
    }

    /// `format`, or what the filters suggest: one exact topic is raw, all else needs the envelope to say which
    /// topic a message is of.
    pub fn format(&self, filters: &[TopicFilter]) -> Result<Format, Refusal> {
        match self.format.as_deref() {
            Some("raw") => Ok(Format::Raw),
            Some("json") => Ok(Format::Envelope),
            Some(_) => Err(bad_parameter("format", "pass `raw` or `json`")),
            None => Ok(match filters {
                [filter] if !filter.has_wildcard() => Format::Raw,
                _ => Format::Envelope,
            }),
        }
    }

    /// `limit`, from 1 to the size of a page.
    pub fn limit(&self, limits: &Limits) -> Result<Option<usize>, Refusal> {
        let Some(text) = &self.limit else {
            return Ok(None);
        };
        let name = "limits.page_messages_max";
        match parse_number("limit", text, limits.page_messages_max as u64, name)? {
            0 => Err(bad_parameter("limit", "it is at least 1")),
            limit => Ok(Some(limit as usize)),
        }
    }

    /// `wait`; none if it is not there or zero.
    pub fn wait(&self, limits: &Limits) -> Result<Option<Duration>, Refusal> {
        let Some(text) = &self.wait else {
            return Ok(None);
        };
        let wait = parse_duration("wait", text)?;
        let max = limits.poll_wait_ms_max;
        if wait > Duration::from_millis(max) {
            return Err(bad_parameter(
                "wait",
                &format!("it is at most {max}ms (`limits.poll_wait_ms_max`)"),
            ));
        }
        Ok((!wait.is_zero()).then_some(wait))
    }

    /// A flag that is `otherwise` if it is not there.
    pub fn flag(name: &str, text: Option<&String>, otherwise: bool) -> Result<bool, Refusal> {
        text.map_or(Ok(otherwise), |text| parse_flag(name, text))
    }
}

/// Checks the text as a filter.
pub fn filter(text: &str) -> Result<TopicFilter, Refusal> {
    TopicFilter::new(text).map_err(|error| Refusal::new(RefusalCode::BadFilter, error.to_string()))
}
