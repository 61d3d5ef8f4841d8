//! The session's subscriptions in the hub: one for all ordinary filters, and one for each shared one.

use bytestring::ByteString;
use tidings_ports::{Command, Expiry, Framing, Group, Start, SubscriptionKey, Turn, Until};
use tidings_types::{Cursor, TopicFilter};

use super::codec::{Qos, Wire};
use super::filters::Filter;
use super::format;
use super::link::Link;
use super::session::{Class, MAIN, Recovered, Session, Stage};

impl Session {
    /// The filters of the ordinary subscriptions.
    pub(super) fn plain_texts(&self) -> Vec<TopicFilter> {
        let plain = self.filters.iter().filter(|it| it.is_plain());
        plain.map(|it| it.text.clone()).collect()
    }

    /// Gives the ordinary subscriptions these filters besides what they have.
    pub(super) fn alter_main(&mut self, turn: &mut Turn<'_>, class: Class, more: Vec<TopicFilter>) {
        let tag = self.tag(class);
        let mut filters = self.plain_texts();
        filters.extend(more);
        filters.sort_unstable();
        filters.dedup();
        if class == Class::Operation {
            // What the new filters ask for is not known to be simple; once they are there it is judged again.
            self.main.was_shared = std::mem::replace(&mut self.main.is_shared, false);
        }
        let framing = self.framing();
        turn.commands.push(if self.main.is_there {
            Command::Alter {
                tag,
                key: MAIN,
                filters,
                framing,
            }
        } else {
            Command::Subscribe {
                tag,
                key: MAIN,
                filters,
                start: Start::Latest,
                framing,
                echo: true,
                until: Until::Ended,
                group: None,
            }
        });
    }

    /// Takes away what was removed from the session's filters. Whether the hub is going to answer.
    pub(super) fn shrink_main(&mut self, turn: &mut Turn<'_>, class: Class) -> bool {
        if !self.main.is_there {
            return false;
        }
        if self.filters.iter().any(Filter::is_plain) {
            self.alter_main(turn, class, Vec::new());
        } else {
            self.main.is_there = false;
            self.unfinished.blocked.retain(|key| *key != MAIN);
            let tag = self.tag(class);
            turn.commands.push(Command::Unsubscribe {
                tag,
                key: MAIN,
                forget: false,
            });
        }
        true
    }

    /// The ordinary subscriptions are there, with new filters from this position on.
    pub(super) fn main_made(&mut self, cursor: Cursor) {
        if !self.main.is_there {
            self.main.is_there = true;
            self.delivered = Some(cursor);
            self.recovered = Recovered::No;
        }
    }

    /// Joins a shared subscription's queue.
    pub(super) fn subscribe_group(
        &mut self,
        turn: &mut Turn<'_>,
        class: Class,
        key: SubscriptionKey,
        (group, text): (&ByteString, &TopicFilter),
        start: Start,
    ) {
        let tag = self.tag(class);
        if class == Class::Extra {
            self.unfinished.extras.push((tag, key));
        }
        turn.commands.push(Command::Subscribe {
            tag,
            key,
            filters: vec![text.clone()],
            start,
            framing: Framing::Own,
            echo: true,
            until: Until::Ended,
            group: Some(Group {
                name: Group::shared_name(group, text),
                prefetch: self.client.quota.into(),
                expiry: self.client.expiry,
                ack_timeout: None,
            }),
        });
    }

    /// Takes shared subscriptions up again on a new connection.
    pub(super) fn resume_groups(&mut self, turn: &mut Turn<'_>) {
        for at in 0..self.filters.len() {
            let key = self.key();
            let filter = &mut self.filters[at];
            let text = filter.text.clone();
            if let Some(share) = &mut filter.share {
                share.key = Some(key);
                let group = share.group.clone();
                self.subscribe_group(turn, Class::Extra, key, (&group, &text), Start::Latest);
            }
        }
    }

    /// Whether the ordinary subscriptions' frames are the same as everybody's.
    fn wants_shared(&self, wire: Wire) -> bool {
        let is_simple = |filter: &Filter| {
            let options = filter.options;
            options.maximum_qos == Qos::AtMostOnce
                && !options.no_local
                && !options.retain_as_published
                && filter.id.is_none()
        };
        // A session that is kept has to know its position, also in messages of QoS 0.
        self.client.expiry == Expiry::WithConnection
            && self.unfinished.catch_ups.is_empty()
            && self.unfinished.gap.is_none()
            && self.outbound_aliases.is_none()
            && wire.packet_bytes_max == u32::MAX
            && self
                .filters
                .iter()
                .filter(|it| it.is_plain())
                .all(is_simple)
    }

    fn framing(&self) -> Framing {
        if self.main.is_shared {
            Framing::Shared(format::shared(
                self.client.version,
                self.client.is_websocket,
            ))
        } else {
            Framing::Own
        }
    }

    /// Changes between shared frames and own ones when it is time.
    pub(super) fn reframe(&mut self, link: &Link, turn: &mut Turn<'_>) {
        if self.stage != Stage::Open || !self.main.is_there || link.stream.has_ended() {
            return;
        }
        let wants_shared = self.unfinished.operation.is_none() && self.wants_shared(link.wire);
        if wants_shared != self.main.is_shared {
            self.main.is_shared = wants_shared;
            self.alter_main(turn, Class::Main, Vec::new());
        }
    }

    /// Ends every subscription, so that nothing follows a WebSocket's close frame.
    pub(super) fn end_subscriptions(&mut self, turn: &mut Turn<'_>) {
        let shares = self.filters.iter().filter_map(|it| it.share.as_ref());
        let mut keys: Vec<SubscriptionKey> = shares.filter_map(|share| share.key).collect();
        keys.extend(self.unfinished.catch_ups.iter().map(|it| it.key));
        if self.main.is_there {
            keys.push(MAIN);
        }
        // Each once: they stay in the session's lists, for the last save.
        keys.retain(|key| !self.unfinished.unsubscribed.contains(key));
        for key in keys {
            let tag = self.tag(Class::Ignored);
            turn.commands.push(Command::Unsubscribe {
                tag,
                key,
                forget: false,
            });
            self.unfinished.unsubscribed.push(key);
        }
    }
}
