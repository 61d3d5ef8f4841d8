//! Where a subscription over MQTT stands: which messages are new.
//!
//! MQTT permits a server to send a message once for each filter that matches it, retained messages come before
//! newer ones that were given out, and a resume may repeat what it begins after. So the order of the ids counts,
//! and not the order of arrival alone.

use std::collections::VecDeque;

use tidings_types::{Cursor, Offset};

/// Ids that are remembered, to know what is repeated from what is late.
const RECENT_MAX: usize = 1_024;

#[derive(Debug, Default)]
pub(super) struct Place {
    /// The newest message that was given out, or where the subscription started.
    newest: Option<Cursor>,
    /// What was given out last, of the log of `newest`.
    recent: VecDeque<Offset>,
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// To be given out, and the position to resume from.
    Newest,
    /// To be given out; resuming after it would repeat newer ones.
    Late,
    /// It was given out.
    Repeated,
}

impl Place {
    /// The subscription starts, or resumes, after this.
    pub(super) fn start_after(&mut self, id: &str) {
        let Ok(cursor) = id.parse::<Cursor>() else {
            return;
        };
        if self.is_ahead(cursor) {
            self.newest = Some(cursor);
        }
    }

    /// Takes note of a message. One without an id, or with an id that this version cannot read, is the newest.
    pub(super) fn arrived(&mut self, id: &str) -> Arrival {
        let Ok(cursor) = id.parse::<Cursor>() else {
            return Arrival::Newest;
        };
        let offset = cursor.offset;
        if self.is_ahead(cursor) {
            let before = self.newest.replace(cursor);
            if before.is_some_and(|before| before.epoch != cursor.epoch) {
                self.recent.clear();
            }
            self.remember(offset);
            return Arrival::Newest;
        }
        if self.recent.contains(&offset) {
            return Arrival::Repeated;
        }
        self.remember(offset);
        Arrival::Late
    }

    /// Another log is ahead of any other.
    fn is_ahead(&self, cursor: Cursor) -> bool {
        self.newest
            .is_none_or(|newest| newest.epoch != cursor.epoch || cursor.offset > newest.offset)
    }

    fn remember(&mut self, offset: Offset) {
        if self.recent.len() == RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(offset);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidings_types::Epoch;

    fn id(epoch: u64, offset: u64) -> String {
        let cursor = Cursor {
            epoch: Epoch(epoch),
            offset: Offset(offset),
        };
        cursor.to_string()
    }

    #[test]
    fn a_message_is_given_out_once_whatever_the_order() {
        let mut place = Place::default();
        place.start_after(&id(1, 10));
        for (offset, expect) in [
            // A retained message may be what the subscription starts after.
            (10, Arrival::Late),
            (10, Arrival::Repeated),
            (11, Arrival::Newest),
            (11, Arrival::Repeated),
            (3, Arrival::Late),
            (3, Arrival::Repeated),
            (15, Arrival::Newest),
            (12, Arrival::Late),
            (11, Arrival::Repeated),
            (12, Arrival::Repeated),
        ] {
            assert_eq!(place.arrived(&id(1, offset)), expect, "{offset}");
        }
        place.start_after(&id(1, 4));
        assert_eq!(place.arrived(&id(1, 15)), Arrival::Repeated);
    }

    #[test]
    fn a_new_log_begins_anew_and_an_unreadable_id_is_taken_as_it_comes() {
        let mut place = Place::default();
        assert_eq!(place.arrived(&id(1, 10)), Arrival::Newest);
        assert_eq!(place.arrived(&id(2, 1)), Arrival::Newest);
        assert_eq!(place.arrived(&id(2, 2)), Arrival::Newest);
        for text in ["", "of a newer server"] {
            assert_eq!(place.arrived(text), Arrival::Newest);
            assert_eq!(place.arrived(text), Arrival::Newest);
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut place = Place::default();
        for offset in 1..=5_000 {
            place.arrived(&id(1, offset));
        }
        assert_eq!(place.recent.len(), RECENT_MAX);
        assert_eq!(place.arrived(&id(1, 4_500)), Arrival::Repeated);
    }
}
