//! What one identity may take, on all its connections, shards and protocols together.
//!
//! An identity is a source with a name; who showed no credential is an address (one /64 of IPv6). Its [`Meter`] is
//! found in one table when it comes, and held by its connections. A request, which is over at once, looks it up.
//! The table remembers a meter for as long as a connection holds it or one of its buckets is not full: then a new one
//! would say the same.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidings_ports::Tick;
use tidings_types::{Draft, Limits, Principal, Refusal, RefusalCode};

use crate::rate::{Bucket, Over, Rate};
use crate::shard::Peer;

/// Identities that may be known at once, besides those with connections.
const KNOWN_MAX: usize = 65_536;
/// Of the known ones, how many are looked at when one comes, and whether they can be forgotten.
const LOOKS_A_NEWCOMER: usize = 2;
/// How many at each tick.
const LOOKS_A_TICK: usize = 64;
/// When somebody with too many connections may come back. Nobody knows when one of them ends.
const COME_BACK_MS: u64 = 5_000;

/// A limit of an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `limits.connections_per_identity_max`
    Connections,
    /// `limits.publishes_per_identity_rate`
    Publishes,
    /// `limits.publish_bytes_per_identity_rate`
    PublishBytes,
    /// `limits.requests_per_identity_rate`
    Requests,
}

impl Limit {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Connections,
        Self::Publishes,
        Self::PublishBytes,
        Self::Requests,
    ];

    /// The option, without its section: the metrics label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections_per_identity_max",
            Self::Publishes => "publishes_per_identity_rate",
            Self::PublishBytes => "publish_bytes_per_identity_rate",
            Self::Requests => "requests_per_identity_rate",
        }
    }
}

/// What one identity has taken.
#[derive(Debug, Default)]
pub struct Meter {
    publishes: Bucket,
    bytes: Bucket,
    requests: Bucket,
    connections: AtomicU64,
}

/// A connection's share of its identity's meter.
#[derive(Debug)]
pub struct Seat(Arc<Meter>);

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Relaxed);
    }
}

/// The meters of all identities, and the limits.
pub struct Meters {
    connections_max: u64,
    publishes: Option<Rate>,
    bytes: Option<Rate>,
    requests: Option<Rate>,
    /// Whether one of them is on. If not, there are no meters.
    is_on: bool,
    known_max: usize,
    /// Two, as identities are known by 128 bits that nobody can choose.
    hashers: [RandomState; 2],
    table: Mutex<Table>,
    /// Of all those for whom the table has no room.
    crowd: Arc<Meter>,
    reached: [AtomicU64; Limit::ALL.len()],
}

#[derive(Default)]
struct Table {
    by_identity: HashMap<u128, Arc<Meter>>,
    /// The same, in the order in which they are looked at.
    order: VecDeque<u128>,
}

impl Table {
    /// Forgets some of those that there is nothing to remember of.
    fn forget(&mut self, looks: usize, now: Tick) {
        for _ in 0..looks.min(self.order.len()) {
            let Some(identity) = self.order.pop_front() else {
                return;
            };
            // Nobody else holds it, and nobody can take hold of it meanwhile: that takes the table's lock.
            let is_over = |meter: &mut Arc<Meter>| {
                Arc::get_mut(meter).is_some_and(|meter| {
                    [&meter.publishes, &meter.bytes, &meter.requests]
                        .iter()
                        .all(|bucket| bucket.is_full(now))
                })
            };
            if self.by_identity.get_mut(&identity).is_some_and(is_over) {
                self.by_identity.remove(&identity);
            } else {
                self.order.push_back(identity);
            }
        }
        if self.order.capacity() > 1_024 && self.order.len() < self.order.capacity() / 4 {
            self.order.shrink_to(self.order.len() * 2);
            self.by_identity.shrink_to(self.order.len() * 2);
        }
    }
}

impl Default for Meters {
    fn default() -> Self {
        Self::new(&Limits::default())
    }
}

impl Meters {
    /// With nobody known yet.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        let publishes = Rate::new(
            limits.publishes_per_identity_rate,
            limits.publishes_per_identity_burst,
        );
        // Unless told otherwise, every message that may be published fits.
        let message = limits.message_bytes_max + limits.message_header_bytes_max;
        let burst = match limits.publish_bytes_per_identity_burst {
            0 => limits.publish_bytes_per_identity_rate.max(message as u64),
            burst => burst,
        };
        let bytes = Rate::new(limits.publish_bytes_per_identity_rate, burst);
        let requests = Rate::new(
            limits.requests_per_identity_rate,
            limits.requests_per_identity_burst,
        );
        let connections_max = limits.connections_per_identity_max as u64;
        let rates = [publishes, bytes, requests];
        Self {
            connections_max,
            publishes,
            bytes,
            requests,
            is_on: connections_max > 0 || rates.iter().any(Option::is_some),
            known_max: KNOWN_MAX + limits.connections_max,
            hashers: [RandomState::new(), RandomState::new()],
            table: Mutex::default(),
            crowd: Arc::default(),
            reached: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// How many identities are known.
    pub fn known(&self) -> usize {
        self.lock().by_identity.len()
    }

    /// How often a limit was reached.
    pub fn reached(&self, limit: Limit) -> u64 {
        self.reached[limit as usize].load(Relaxed)
    }

    /// Gives a connection its share of its identity's meter, if it has one and there are limits.
    pub fn sit(
        &self,
        principal: &Principal,
        address: Option<IpAddr>,
        now: Tick,
    ) -> Result<Option<Seat>, Refusal> {
        if !self.is_on {
            return Ok(None);
        }
        let Some(meter) = self.meter(principal, address, now) else {
            return Ok(None);
        };
        // Whoever showed no credential is bounded by address, where a socket is accepted; and to know whom the crowd
        // consists of is what there was no room for.
        let is_bounded = self.connections_max > 0
            && principal.source != Principal::ANONYMOUS
            && !Arc::ptr_eq(&meter, &self.crowd);
        let max = if is_bounded {
            self.connections_max
        } else {
            u64::MAX
        };
        let taken = meter
            .connections
            .fetch_update(Relaxed, Relaxed, |open| (open < max).then_some(open + 1));
        if taken.is_ok() {
            return Ok(Some(Seat(meter)));
        }
        self.reached[Limit::Connections as usize].fetch_add(1, Relaxed);
        let detail = format!(
            "`{}` has {max} connections open, the most that are permitted (limits.connections_per_identity_max): close one",
            principal.name
        );
        let refusal = Refusal::new(RefusalCode::TooManyConnections, detail);
        Err(refusal.after_ms(COME_BACK_MS))
    }

    /// Charges drafts, all or none, to a connection's share.
    pub fn publish(&self, seat: &Seat, drafts: &[Draft], now: Tick) -> Result<(), Refusal> {
        self.charge_publish(&seat.0, drafts, now)
    }

    /// Charges drafts, all or none, to whoever sends a request.
    pub fn publish_once(&self, peer: &Peer, drafts: &[Draft], now: Tick) -> Result<(), Refusal> {
        if self.publishes.is_none() && self.bytes.is_none() {
            return Ok(());
        }
        let meter = self.meter(&peer.principal, peer.address, now);
        meter.map_or(Ok(()), |meter| self.charge_publish(&meter, drafts, now))
    }

    /// Charges a subscription, or something else that is read, to a connection's share.
    pub fn request(&self, seat: &Seat, now: Tick) -> Result<(), Refusal> {
        self.charge(Limit::Requests, &seat.0, 1, now)
    }

    /// Charges something that is read to whoever sends a request.
    pub fn request_once(&self, peer: &Peer, now: Tick) -> Result<(), Refusal> {
        if self.requests.is_none() {
            return Ok(());
        }
        let meter = self.meter(&peer.principal, peer.address, now);
        meter.map_or(Ok(()), |meter| self.charge(Limit::Requests, &meter, 1, now))
    }

    /// Forgets some of those that there is nothing to remember of.
    pub fn tick(&self, now: Tick) {
        if self.is_on {
            self.lock().forget(LOOKS_A_TICK, now);
        }
    }

    fn charge_publish(&self, meter: &Meter, drafts: &[Draft], now: Tick) -> Result<(), Refusal> {
        let count = drafts.len() as u64;
        let bytes = || drafts.iter().map(size).sum();
        let judge = |refusal: Refusal| match refusal.code {
            // It is one message, or a batch of them.
            RefusalCode::BatchTooLarge if count == 1 => Refusal {
                code: RefusalCode::MessageTooLarge,
                ..refusal
            },
            _ => refusal,
        };
        self.charge(Limit::Publishes, meter, count, now)
            .map_err(judge)?;
        if self.bytes.is_some()
            && let Err(refusal) = self.charge(Limit::PublishBytes, meter, bytes(), now)
        {
            if let Some(publishes) = &self.publishes {
                meter.publishes.give_back(publishes, count);
            }
            return Err(judge(refusal));
        }
        Ok(())
    }

    fn charge(&self, limit: Limit, meter: &Meter, n: u64, now: Tick) -> Result<(), Refusal> {
        let (rate, bucket, what) = match limit {
            Limit::Publishes => (&self.publishes, &meter.publishes, "messages"),
            Limit::PublishBytes => (&self.bytes, &meter.bytes, "bytes of messages"),
            Limit::Requests | Limit::Connections => {
                (&self.requests, &meter.requests, "subscriptions and reads")
            }
        };
        let Some(rate) = rate else { return Ok(()) };
        let Err(over) = bucket.take(rate, now, n) else {
            return Ok(());
        };
        self.reached[limit as usize].fetch_add(1, Relaxed);
        let name = limit.name();
        Err(match over {
            Over::Until(ms) => {
                let detail = format!(
                    "more than {} {what} a second from one identity (limits.{name}): wait {ms} ms",
                    rate.per_second()
                );
                Refusal::new(RefusalCode::RateLimited, detail).after_ms(ms)
            }
            Over::Ever => {
                let burst = name.replace("_rate", "_burst");
                let detail = format!(
                    "{n} {what} at once are more than one identity may ever publish at once, {} (limits.{burst}): send less at once",
                    rate.burst()
                );
                Refusal::new(RefusalCode::BatchTooLarge, detail)
            }
        })
    }

    /// The meter of whoever this is. `None` if that is nobody: then nothing is permitted anyway.
    fn meter(
        &self,
        principal: &Principal,
        address: Option<IpAddr>,
        now: Tick,
    ) -> Option<Arc<Meter>> {
        let identity = if principal.source == Principal::ANONYMOUS {
            self.identity((Principal::ANONYMOUS, network(address?)))
        } else if principal.is_nobody() {
            return None;
        } else {
            self.identity((principal.source, &principal.name))
        };
        let mut table = self.lock();
        if let Some(meter) = table.by_identity.get(&identity) {
            return Some(Arc::clone(meter));
        }
        table.forget(LOOKS_A_NEWCOMER, now);
        if table.by_identity.len() >= self.known_max {
            return Some(Arc::clone(&self.crowd));
        }
        let meter = Arc::<Meter>::default();
        table.by_identity.insert(identity, Arc::clone(&meter));
        table.order.push_back(identity);
        Some(meter)
    }

    fn identity(&self, of: impl Hash) -> u128 {
        let [high, low] = &self.hashers;
        u128::from(high.hash_one(&of)) << 64 | u128::from(low.hash_one(&of))
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a draft is charged: its payload, and what is stored with it.
fn size(draft: &Draft) -> u64 {
    (draft.payload.len() + draft.properties.size()) as u64
}

/// What one peer can change its address within: all of it counts as one.
#[must_use]
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) & (u128::MAX << 64);
            IpAddr::V6(Ipv6Addr::from(network))
        }
        IpAddr::V4(address) => IpAddr::V4(address),
    }
}

#[cfg(test)]
#[path = "meter_tests.rs"]
mod tests;
