//! Commands that need a permission which no grant decides: they are kept back, with those behind them, until
//! somebody has said whether it is given.
//!
//! Invariant: what is permitted so counts for the one command that was asked for. The connection's own grants do
//! not grow.

use std::collections::VecDeque;
use std::sync::Arc;

use tidings_ports::{Action, Command, Event, Permission, Petition, SessionSave};
use tidings_types::{Grants, Principal, Refusal, RefusalCode, TopicFilter};

use super::Shard;
use super::connection::{ConnectionId, Unidentified};
use super::subscription::SubscriptionId;
use crate::gate;
use crate::inbox::Note;

/// A command that waits for a permission.
pub(super) struct Petitioned {
    /// Tells it from earlier ones of its connection.
    number: u64,
    command: Command,
    /// What was permitted before.
    before: Grants,
}

/// What a command wants that no grant decides, and what of it was permitted before.
#[derive(Default)]
struct Undecided {
    wants: Vec<(Action, TopicFilter)>,
    before: Grants,
}

impl Undecided {
    fn want(&mut self, want: (Action, TopicFilter)) {
        if !self.wants.contains(&want) {
            self.wants.push(want);
        }
    }
}

impl Shard {
    /// Carries a command out, once it is known what of it is permitted.
    pub(super) fn carry_out_if_permitted(&mut self, id: ConnectionId, command: Command) {
        let Some(Undecided { wants, before }) = self.undecided(id, &command) else {
            return self.carry_out_permitted(id, command);
        };
        if wants.is_empty() {
            return self.carry_out_with(id, command, before);
        }
        let Some(connection) = self.connection(id) else {
            return;
        };
        let petition = Petition {
            principal: Arc::clone(&connection.principal),
            protocol: connection.protocol,
            address: connection.address,
            wants,
        };
        if let Some(permission) = self.permitter.recall(&petition) {
            return self.decided(id, command, before, permission);
        }
        let number = self.next_random();
        let Some(connection) = self.connection(id).filter(|it| !it.knows_closed) else {
            // Nobody is there any more for whom it could wait.
            return self.decided(id, command, before, Err(too_late()));
        };
        connection.unidentified = Some(Box::new(Unidentified {
            waiting: VecDeque::new(),
            petitioned: Some(Petitioned {
                number,
                command,
                before,
            }),
        }));
        let (inboxes, index) = (Arc::clone(&self.inboxes), self.index);
        let told = move |permission| inboxes.send(index, Note::Permitted(id, number, permission));
        self.permitter.ask(petition, Box::new(told));
    }

    /// It is known what is permitted of a command that waited for it.
    pub(super) fn permitted(&mut self, id: ConnectionId, number: u64, permission: Permission) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        let is_meant = |it: &mut Box<Unidentified>| {
            it.petitioned.as_ref().is_some_and(|it| it.number == number)
        };
        let Some(held) = connection.unidentified.take_if(is_meant) else {
            return;
        };
        let later = std::mem::take(&mut self.commands);
        if let Some(Petitioned {
            command, before, ..
        }) = held.petitioned
        {
            self.decided(id, command, before, permission);
        }
        // Before whatever its conversation asked for in answer.
        let answers = std::mem::take(&mut self.commands);
        let waiting = held.waiting.into_iter().map(|command| (id, command));
        self.commands = waiting.chain(answers).chain(later).collect();
        // It is read again.
        self.mark_dirty(id);
    }

    fn decided(
        &mut self,
        id: ConnectionId,
        command: Command,
        before: Grants,
        permission: Permission,
    ) {
        match permission {
            Ok(mut grants) => {
                grants.extend(before);
                self.carry_out_with(id, command, grants);
            }
            Err(refusal) => self.refuse_command(id, &command, refusal),
        }
    }

    /// Carries a command out with grants that count for it alone.
    fn carry_out_with(&mut self, id: ConnectionId, command: Command, grants: Grants) {
        let Some(connection) = self.connection(id).filter(|_| grants.filters() > 0) else {
            return self.carry_out_permitted(id, command);
        };
        let wider = wider(&connection.principal, grants);
        let own = std::mem::replace(&mut connection.principal, Arc::clone(&wider));
        self.carry_out_permitted(id, command);
        if let Some(connection) = self.connection(id)
            && Arc::ptr_eq(&connection.principal, &wider)
        {
            connection.principal = own;
        }
    }

    fn refuse_command(&mut self, id: ConnectionId, command: &Command, refusal: Refusal) {
        let tag = match command {
            Command::Publish { tag, .. }
            | Command::Subscribe { tag, .. }
            | Command::Alter { tag, .. } => Some(*tag),
            Command::SaveSession { tag, .. } => *tag,
            _ => None,
        };
        self.or_refuse_if_asked(id, tag, Err(refusal));
    }

    /// What of a command no grant decides; `None` if nothing is, and nothing was permitted before.
    fn undecided(&self, id: ConnectionId, command: &Command) -> Option<Undecided> {
        let connection = self.connections.get(id.index as usize);
        let connection = connection.filter(|it| it.id == id)?;
        let principal = &*connection.principal;
        let mut found = Undecided::default();
        let (filters, save) = match command {
            // What is over a limit is refused for that, and nobody is asked about it.
            Command::Publish { drafts, save, .. } => {
                if drafts.len() <= self.limits.batch_messages_max {
                    let wants = drafts
                        .iter()
                        .filter_map(|draft| gate::undecided_publish(principal, &draft.topic));
                    for want in wants {
                        found.want(want);
                    }
                }
                (&[][..], save.as_ref())
            }
            Command::Subscribe { filters, .. } => (&filters[..], None),
            Command::Alter { filters, key, .. } => {
                // What it has it was permitted to have.
                if let Some(it) = self.subscription_of(id, *key) {
                    let has = &self.subscriptions[it.index as usize].filters;
                    let kept = has.iter().filter(|has| filters.contains(has));
                    found.before.subscribe = kept.cloned().collect();
                }
                (&filters[..], None)
            }
            Command::SaveSession { save, .. } => (&[][..], Some(save)),
            _ => return None,
        };
        if filters.len() <= self.limits.filters_per_subscription_max {
            let new = filters
                .iter()
                .filter(|it| !found.before.subscribe.contains(it));
            let wants: Vec<_> = new
                .filter_map(|it| gate::undecided_subscribe(principal, it))
                .collect();
            for want in wants {
                found.want(want);
            }
        }
        if let Some(will) = save.and_then(|save: &SessionSave| save.will.as_ref()) {
            let kept = connection.session.and_then(|it| self.sessions.saved(it));
            let kept = kept.and_then(|kept| kept.will.as_ref());
            let was_admitted = kept.is_some_and(|kept| *kept.draft.get() == will.draft);
            if let Some(want) = gate::undecided_publish(principal, &will.draft.topic) {
                if was_admitted {
                    found.before.publish.push(want.1);
                } else {
                    found.want(want);
                }
            }
        }
        (!found.wants.is_empty() || found.before.filters() > 0).then_some(found)
    }

    /// Asks again for a subscription that a connection's new principal has no grant for; `false` if nobody is to be
    /// asked.
    pub(super) fn petition_again(
        &mut self,
        id: ConnectionId,
        subscription: SubscriptionId,
        filters: &[TopicFilter],
    ) -> bool {
        if !self.permitter.is_asked() {
            return false;
        }
        let Some(connection) = self.connection(id) else {
            return false;
        };
        let principal = Arc::clone(&connection.principal);
        let (protocol, address) = (connection.protocol, connection.address);
        let wants = filters
            .iter()
            .filter_map(|it| gate::undecided_subscribe(&principal, it));
        let wants: Vec<_> = wants.collect();
        // If one of them is denied, nobody is asked about the others.
        let mut probe = Grants::default();
        probe
            .subscribe
            .extend(wants.iter().map(|(_, filter)| filter.clone()));
        if wants.is_empty() || gate::check_grants(&wider(&principal, probe), filters).is_err() {
            return false;
        }
        let petition = Petition {
            principal,
            protocol,
            address,
            wants,
        };
        let (inboxes, index) = (Arc::clone(&self.inboxes), self.index);
        let told = move |permission| {
            inboxes.send(index, Note::Repermitted(id, subscription, permission));
        };
        self.permitter.ask(petition, Box::new(told));
        true
    }

    /// It is known whether a subscription may go on.
    pub(super) fn repermitted(
        &mut self,
        id: ConnectionId,
        subscription: SubscriptionId,
        permission: Permission,
    ) {
        let Some(connection) = self
            .connection(id)
            .filter(|it| it.subscriptions.contains(&subscription))
        else {
            return;
        };
        let principal = Arc::clone(&connection.principal);
        let Some(it) = self.subscription(subscription) else {
            return;
        };
        let (key, filters) = (it.key, it.wanted_filters().to_vec());
        let checked =
            permission.and_then(|grants| gate::check_grants(&wider(&principal, grants), &filters));
        if let Err(refusal) = checked {
            self.end_subscription(id, subscription);
            self.refused(refusal.code);
            self.tell(id, Event::Lost { key, refusal });
        }
    }
}

fn wider(principal: &Principal, grants: Grants) -> Arc<Principal> {
    let mut wider = principal.clone();
    wider.grants.extend(grants);
    Arc::new(wider)
}

fn too_late() -> Refusal {
    let detail =
        "it cannot be found out any more whether that is permitted: the connection has ended";
    Refusal::new(RefusalCode::Forbidden, detail)
}
