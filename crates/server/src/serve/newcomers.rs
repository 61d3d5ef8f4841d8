//! How many connections there may be, in all and from one address, and how fast they may come from one.
//!
//! Nobody is put out to let another one in: who comes too late is told when to come back, as far as its protocol has
//! words for it before its first ones.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tidings_hub::meter::network;
use tidings_hub::rate::{Over, Rate};
use tidings_ports::Tick;
use tidings_types::{Limits, Refusal, RefusalCode};

use super::accept::{Endpoint, Spoken};

/// Connections over a limit that are told so; further ones are closed without a word, so that a flood of them takes
/// neither the descriptors that the log needs nor much of the shards' time.
const TOLD_MAX: usize = 64;
/// When somebody comes back whom there was no room for: from the one to both together, as nobody knows when there will
/// be some.
const COME_BACK_MS: u64 = 3_000;
const COME_BACK_SPREAD_MS: u64 = 7_000;

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// `limits.connections_max`
    Everywhere,
    /// `limits.connections_per_address_max`
    Address,
    /// `limits.connections_per_address_rate`
    Rate,
}

impl Full {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Everywhere, Self::Address, Self::Rate];

    /// The option, without its section: the metrics label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Everywhere => "connections_max",
            Self::Address => "connections_per_address_max",
            Self::Rate => "connections_per_address_rate",
        }
    }

    const fn code(self) -> RefusalCode {
        match self {
            Self::Everywhere | Self::Address => RefusalCode::AtCapacity,
            Self::Rate => RefusalCode::RateLimited,
        }
    }
}

/// Counts sockets, in all and by address.
#[derive(Debug)]
pub struct Sockets {
    /// Those with a place.
    open: AtomicUsize,
    open_max: usize,
    /// By [`network`]. It has those alone that have connections.
    by_address: Mutex<HashMap<IpAddr, usize>>,
    /// 0 is no limit.
    per_address_max: usize,
    rates: Option<AddressRates>,
    told: AtomicUsize,
    refused: [AtomicU64; Full::ALL.len()],
}

impl Sockets {
    /// None yet.
    pub fn new(limits: &Limits) -> Self {
        let rate = Rate::new(
            limits.connections_per_address_rate,
            limits.connections_per_address_burst,
        );
        Self {
            open: AtomicUsize::new(0),
            open_max: limits.connections_max,
            by_address: Mutex::default(),
            per_address_max: limits.connections_per_address_max,
            rates: rate.map(AddressRates::new),
            told: AtomicUsize::new(0),
            refused: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// How many are open, those among them that are told why they are refused.
    pub fn open(&self) -> usize {
        self.open.load(Relaxed) + self.told.load(Relaxed)
    }

    /// How many were refused for this.
    pub fn refused(&self, why: Full) -> u64 {
        self.refused[why as usize].load(Relaxed)
    }

    /// Takes a place for a new connection. If there is none, what it is told before it is closed; or, if it is to be
    /// closed without a word, the code alone. `is_exempt` is whether the address stands for many clients.
    pub fn admit(
        self: &Arc<Self>,
        address: IpAddr,
        is_exempt: bool,
        endpoint: Endpoint,
        now: Tick,
    ) -> Result<(Permit, Option<Refusal>), RefusalCode> {
        let mut permit = Permit {
            sockets: Arc::clone(self),
            address,
            is_counted: false,
            is_told: false,
        };
        let open = self.open.fetch_add(1, Relaxed) + 1;
        let judged = if open > self.open_max {
            Err((Full::Everywhere, 0))
        } else {
            permit.join_address(is_exempt, now)
        };
        let refusal = match judged {
            Ok(()) => None,
            Err(over) => Some(permit.turn_away(over, endpoint)?),
        };
        Ok((permit, refusal))
    }

    /// Counts one more for an address, until it is dropped.
    pub fn count(
        self: &Arc<Self>,
        address: IpAddr,
        is_exempt: bool,
        now: Tick,
    ) -> Result<Counted, Refusal> {
        match self.add(address, is_exempt, now) {
            Ok(is_counted) => Ok(Counted {
                sockets: Arc::clone(self),
                address: is_counted.then_some(address),
            }),
            Err((why, wait_ms)) => Err(self.refuse(why, wait_ms)),
        }
    }

    /// Whether one more is counted for an address, or why it is one too many.
    fn add(&self, address: IpAddr, is_exempt: bool, now: Tick) -> Result<bool, (Full, u64)> {
        if is_exempt {
            return Ok(false);
        }
        let address = network(address);
        if self.per_address_max > 0 {
            let mut by_address = self.by_address();
            let count = by_address.entry(address).or_default();
            if *count >= self.per_address_max {
                return Err((Full::Address, 0));
            }
            *count += 1;
        }
        let is_counted = self.per_address_max > 0;
        match self.rates.as_ref().map(|rates| rates.take(address, now)) {
            None | Some(Ok(())) => Ok(is_counted),
            Some(Err(wait_ms)) => {
                if is_counted {
                    self.subtract(address);
                }
                Err((Full::Rate, wait_ms))
            }
        }
    }

    fn subtract(&self, address: IpAddr) {
        let address = network(address);
        let mut by_address = self.by_address();
        if let Some(count) = by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&address);
            }
        }
    }

    fn refuse(&self, why: Full, wait_ms: u64) -> Refusal {
        self.refused[why as usize].fetch_add(1, Relaxed);
        self.refusal(why, wait_ms)
    }

    fn may_tell(&self) -> bool {
        let taken = self.told.fetch_update(Relaxed, Relaxed, |told| {
            (told < TOLD_MAX).then_some(told + 1)
        });
        taken.is_ok()
    }

    fn refusal(&self, why: Full, wait_ms: u64) -> Refusal {
        let name = why.name();
        // Without random numbers all come back at the same time, which is no reason not to tell them.
        let random = getrandom::u64().unwrap_or_default();
        let (detail, after_ms) = match why {
            Full::Everywhere => {
                let detail = format!(
                    "{} connections are open, the most that are permitted (limits.{name}): come back later",
                    self.open_max
                );
                (detail, COME_BACK_MS + random % COME_BACK_SPREAD_MS)
            }
            Full::Address => {
                let detail = format!(
                    "{} connections are open from this address, the most that are permitted (limits.{name}): close one",
                    self.per_address_max
                );
                (detail, COME_BACK_MS + random % COME_BACK_SPREAD_MS)
            }
            Full::Rate => {
                let detail = format!(
                    "too many new connections from this address (limits.{name}): use one for several requests, and come back in {wait_ms} ms"
                );
                (detail, wait_ms + random % 1_000)
            }
        };
        Refusal::new(why.code(), detail).after_ms(after_ms)
    }

    fn by_address(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.by_address
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// One more for an address, until it is dropped.
#[derive(Debug)]
pub struct Counted {
    sockets: Arc<Sockets>,
    /// `None` if there is no limit for it.
    address: Option<IpAddr>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(address) = self.address {
            self.sockets.subtract(address);
        }
    }
}

/// One connection's place.
#[derive(Debug)]
pub struct Permit {
    sockets: Arc<Sockets>,
    address: IpAddr,
    /// Whether it is one of those from the address.
    is_counted: bool,
    /// It is one of those that are told why they are refused, which have no place.
    is_told: bool,
}

impl Permit {
    /// The client's address, as far as that is known.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Counts it for the address of its client. If it is one too many, what it is told before it is closed; or, if it is
    /// to be closed without a word, the code alone.
    pub fn readdress(
        &mut self,
        address: IpAddr,
        is_exempt: bool,
        endpoint: Endpoint,
        now: Tick,
    ) -> Result<Option<Refusal>, RefusalCode> {
        self.leave_address();
        self.address = address;
        // There was no room for it, whosever it is.
        if self.is_told {
            return Ok(None);
        }
        match self.join_address(is_exempt, now) {
            Ok(()) => Ok(None),
            Err(over) => self.turn_away(over, endpoint).map(Some),
        }
    }

    /// Gives its place to somebody else: for what it is told, or the code alone if it is to be told nothing.
    fn turn_away(
        &mut self,
        (why, wait_ms): (Full, u64),
        endpoint: Endpoint,
    ) -> Result<Refusal, RefusalCode> {
        let refusal = self.sockets.refuse(why, wait_ms);
        // MQTT and STOMP have no word for it before the peer's first one. Of those that are too many, which is a matter
        // of moments, none is worth a handshake of TLS.
        let has_words = matches!(endpoint.spoken, Spoken::Http | Spoken::Admin)
            && !(endpoint.tls && why == Full::Rate);
        if !has_words || !self.sockets.may_tell() {
            return Err(refusal.code);
        }
        self.is_told = true;
        self.sockets.open.fetch_sub(1, Relaxed);
        Ok(refusal)
    }

    /// Takes over what is counted for an address.
    pub fn take_over(&mut self, address: IpAddr, counted: Option<Counted>) {
        self.leave_address();
        self.address = address;
        self.is_counted = counted.is_some_and(|mut it| it.address.take().is_some());
    }

    fn join_address(&mut self, is_exempt: bool, now: Tick) -> Result<(), (Full, u64)> {
        self.is_counted = self.sockets.add(self.address, is_exempt, now)?;
        Ok(())
    }

    fn leave_address(&mut self) {
        if std::mem::take(&mut self.is_counted) {
            self.sockets.subtract(self.address);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let count = if self.is_told {
            &self.sockets.told
        } else {
            &self.sockets.open
        };
        count.fetch_sub(1, Relaxed);
        self.leave_address();
    }
}

/// Groups of buckets; an address belongs to one group.
const GROUPS: usize = 1 << 14;
/// Buckets of one group.
const GROUP: usize = 4;

/// How fast connections come from each address: a table of fixed size, 1 MiB.
///
/// An address takes the bucket of its group that is nearest to being full, as the least is forgotten by it. So to be
/// forgotten an attacker needs more addresses than the table has buckets, and nobody is held to account for another one.
struct AddressRates {
    rate: Rate,
    /// Nobody can choose which group an address belongs to.
    hasher: RandomState,
    buckets: Mutex<Box<[AddressBucket]>>,
}

#[derive(Clone, Copy, Default)]
struct AddressBucket {
    /// The address, hashed.
    address: u64,
    /// See [`Rate::take`].
    state: u64,
}

impl std::fmt::Debug for AddressRates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("AddressRates").field(&self.rate).finish()
    }
}

impl AddressRates {
    fn new(rate: Rate) -> Self {
        Self {
            rate,
            hasher: RandomState::new(),
            buckets: Mutex::new(vec![AddressBucket::default(); GROUPS * GROUP].into()),
        }
    }

    /// Counts a connection. If it is too early for it, in how many milliseconds it is not.
    fn take(&self, address: IpAddr, now: Tick) -> Result<(), u64> {
        let address = self.hasher.hash_one(address);
        let first = address as usize % GROUPS * GROUP;
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let group = &mut buckets[first..first + GROUP];
        let found = group.iter().position(|it| it.address == address);
        let state = found.map_or(0, |at| group[at].state);
        let state = match self.rate.take(state, now, 1) {
            Ok(state) => state,
            Err(Over::Until(ms)) => return Err(ms),
            Err(Over::Ever) => unreachable!("a burst is at least one"),
        };
        let place = match found {
            Some(at) => group.get_mut(at),
            None => group.iter_mut().min_by_key(|it| it.state),
        };
        if let Some(place) = place {
            *place = AddressBucket { address, state };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const NOW: Tick = Tick(1_000);
    const HTTP: Endpoint = Endpoint::plain(Spoken::Http);

    fn sockets(set: impl FnOnce(&mut Limits)) -> Arc<Sockets> {
        let mut limits = Limits::default();
        set(&mut limits);
        Arc::new(Sockets::new(&limits))
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// What was told, or the code of one that was closed without a word.
    fn refusal(admitted: Result<(Permit, Option<Refusal>), RefusalCode>) -> Refusal {
        admitted.unwrap().1.unwrap()
    }

    #[test]
    fn connections_of_one_network_are_counted_together() {
        let sockets = sockets(|limits| limits.connections_per_address_max = 2);
        let mut held = Vec::new();
        for (from, expect) in [
            ("2001:db8::1", true),
            ("2001:db8::2", true),
            ("2001:db8::3", false),
            ("2001:db8:0:1::1", true),
            ("10.0.0.1", true),
            ("::ffff:10.0.0.1", true),
            ("10.0.0.1", false),
            ("10.0.0.2", true),
        ] {
            let (permit, refusal) = sockets.admit(address(from), false, HTTP, NOW).unwrap();
            assert_eq!(refusal.is_none(), expect, "{from}");
            held.extend(refusal.is_none().then_some(permit));
        }
        assert_eq!(sockets.refused(Full::Address), 2);
        held.clear();
        assert_eq!(sockets.open(), 0);
        assert!(sockets.by_address().is_empty());
    }

    #[test]
    fn new_connections_come_no_faster_than_their_rate() {
        let sockets = sockets(|limits| {
            limits.connections_per_address_rate = 10;
            limits.connections_per_address_burst = 3;
        });
        let from = address("10.0.0.1");
        for _ in 0..3 {
            assert_eq!(sockets.admit(from, false, HTTP, NOW).unwrap().1, None);
        }
        let told = refusal(sockets.admit(from, false, HTTP, NOW));
        assert_eq!(told.code, RefusalCode::RateLimited);
        assert!((100..1_100).contains(&told.after_ms.unwrap()), "{told:?}");
        // It does not cost the server a handshake, or what the peer would not understand.
        for endpoint in [
            Endpoint::tls(Spoken::Http),
            Endpoint::plain(Spoken::Mqtt),
            Endpoint::plain(Spoken::Stomp),
        ] {
            let closed = sockets.admit(from, false, endpoint, NOW).err();
            assert_eq!(closed, Some(RefusalCode::RateLimited));
        }
        let other = sockets
            .admit(address("10.0.0.2"), false, HTTP, NOW)
            .unwrap();
        assert_eq!(other.1, None);
        let later = Tick(NOW.0 + 100);
        assert_eq!(sockets.admit(from, false, HTTP, later).unwrap().1, None);
        assert_eq!(sockets.refused(Full::Rate), 4);
    }

    #[test]
    fn of_many_that_are_refused_a_few_are_told_so_at_different_times() {
        let sockets = sockets(|limits| limits.connections_max = 1);
        let from = address("10.0.0.1");
        let place = sockets.admit(from, false, HTTP, NOW).unwrap();
        assert_eq!(place.1, None);
        let told: Vec<_> = (0..TOLD_MAX)
            .map(|_| sockets.admit(from, false, HTTP, NOW).unwrap())
            .collect();
        let times: std::collections::HashSet<_> = told
            .iter()
            .map(|(_, refusal)| refusal.as_ref().unwrap().after_ms.unwrap())
            .collect();
        assert!(times.len() > TOLD_MAX / 2, "{times:?}");
        let range = COME_BACK_MS..COME_BACK_MS + COME_BACK_SPREAD_MS;
        assert!(times.iter().all(|ms| range.contains(ms)), "{times:?}");
        let closed = sockets.admit(from, false, HTTP, NOW).err();
        assert_eq!(closed, Some(RefusalCode::AtCapacity));
        drop(told);
        drop(place);
        assert_eq!(sockets.admit(from, false, HTTP, NOW).unwrap().1, None);
    }

    #[test]
    fn whoever_is_told_that_there_is_no_room_takes_none() {
        let sockets = sockets(|limits| limits.connections_max = 1);
        let from = address("10.0.0.1");
        let (place, _) = sockets.admit(from, false, HTTP, NOW).unwrap();
        let told: Vec<_> = (0..TOLD_MAX)
            .map(|_| sockets.admit(from, false, HTTP, NOW).unwrap())
            .collect();
        assert_eq!(sockets.open(), 1 + TOLD_MAX);
        drop(place);
        let (place, refusal) = sockets.admit(from, false, HTTP, NOW).unwrap();
        assert_eq!(refusal, None);
        drop(told);
        assert_eq!(sockets.open(), 1);
        drop(place);
        assert_eq!(sockets.open(), 0);
    }

    #[test]
    fn a_proxy_is_not_counted_and_its_clients_are() {
        let sockets = sockets(|limits| limits.connections_per_address_max = 2);
        let (proxy, client) = (address("10.0.0.1"), address("203.0.113.1"));
        let through = || {
            let (mut permit, refusal) = sockets.admit(proxy, true, HTTP, NOW).unwrap();
            assert_eq!(refusal, None);
            let told = permit.readdress(client, false, HTTP, NOW).unwrap();
            (permit, told)
        };
        let mut held = vec![through(), through()];
        assert!(held.iter().all(|(_, told)| told.is_none()));
        let (over, told) = through();
        assert_eq!(told.unwrap().code, RefusalCode::AtCapacity);
        // Whoever comes by itself is counted with them.
        let (itself, told) = sockets.admit(client, false, HTTP, NOW).unwrap();
        assert!(told.is_some());
        assert_eq!(sockets.by_address()[&client], 2);
        assert_eq!(
            (sockets.open(), sockets.refused(Full::Address)),
            (4, 2),
            "two have a place, and two are told"
        );
        drop((over, itself));
        // A client that is a proxy itself, and one that was told before it said whose it is.
        let (mut permit, _) = held.pop().unwrap();
        assert_eq!(permit.readdress(proxy, true, HTTP, NOW), Ok(None));
        assert_eq!(sockets.by_address()[&client], 1);
        drop((permit, held));
        assert_eq!(sockets.open(), 0);
        assert!(sockets.by_address().is_empty());
    }

    #[test]
    fn clients_of_a_proxy_that_come_too_fast_are_told_no_more_than_others() {
        let sockets = sockets(|limits| {
            limits.connections_max = 1_000;
            limits.connections_per_address_rate = 1;
            limits.connections_per_address_burst = 1;
        });
        let (proxy, client) = (address("10.0.0.1"), address("203.0.113.1"));
        let through = |endpoint| {
            let (mut permit, _) = sockets.admit(proxy, true, endpoint, NOW).unwrap();
            let told = permit.readdress(client, false, endpoint, NOW)?;
            Ok((permit, told))
        };
        let first = through(HTTP).unwrap();
        assert_eq!(first.1, None);
        let closed = Some(RefusalCode::RateLimited);
        for endpoint in [Endpoint::tls(Spoken::Http), Endpoint::plain(Spoken::Mqtt)] {
            assert_eq!(through(endpoint).err(), closed, "{endpoint:?}");
        }
        let told: Vec<_> = (0..TOLD_MAX).map(|_| through(HTTP).unwrap()).collect();
        assert!(told.iter().all(|(_, told)| told.is_some()));
        assert_eq!(through(HTTP).err(), closed);
        assert_eq!(sockets.refused(Full::Rate), TOLD_MAX as u64 + 3);
        assert_eq!(sockets.open(), 1 + TOLD_MAX);
        drop((first, told));
        assert_eq!(sockets.open(), 0);
    }

    #[test]
    fn one_that_there_is_no_room_for_is_not_counted_for_its_client() {
        let sockets = sockets(|limits| {
            limits.connections_max = 1;
            limits.connections_per_address_max = 1;
        });
        let (proxy, client) = (address("10.0.0.1"), address("203.0.113.1"));
        let held = sockets.admit(proxy, true, HTTP, NOW).unwrap();
        let (mut permit, refusal) = sockets.admit(proxy, true, HTTP, NOW).unwrap();
        assert!(refusal.is_some());
        assert_eq!(permit.readdress(client, false, HTTP, NOW), Ok(None));
        assert_eq!(permit.address(), client);
        assert!(sockets.by_address().is_empty());
        assert_eq!(sockets.refused(Full::Everywhere), 1);
        drop((permit, held));
        assert_eq!(sockets.open(), 0);
    }

    #[test]
    fn a_stream_through_a_proxy_counts_once_wherever_it_goes() {
        let sockets = sockets(|limits| limits.connections_per_address_max = 1);
        let (proxy, client) = (address("10.0.0.1"), address("203.0.113.1"));
        let (mut permit, _) = sockets.admit(proxy, true, HTTP, NOW).unwrap();
        let counted = sockets.count(client, false, NOW).unwrap();
        let refused = sockets.count(client, false, NOW).unwrap_err();
        assert_eq!(refused.code, RefusalCode::AtCapacity);
        assert_eq!(sockets.refused(Full::Address), 1);
        // To the shard of its session, where the connection and the stream are one.
        permit.take_over(client, Some(counted));
        assert_eq!(sockets.by_address()[&client], 1);
        assert_eq!((permit.address(), sockets.open()), (client, 1));
        drop(permit);
        assert!(sockets.by_address().is_empty());
        // One that does not count, and one that stays where it is.
        let (mut permit, _) = sockets.admit(proxy, false, HTTP, NOW).unwrap();
        permit.take_over(client, Some(sockets.count(client, true, NOW).unwrap()));
        assert!(sockets.by_address().is_empty());
        drop(sockets.count(client, false, NOW).unwrap());
        drop(permit);
        assert!(sockets.by_address().is_empty());
        assert_eq!(sockets.open(), 0);
    }

    #[test]
    fn a_flood_from_many_addresses_holds_nobody_else_to_account() {
        let rates = AddressRates::new(Rate::new(1, 2).unwrap());
        for number in 0..200_000_u32 {
            let from = IpAddr::V4(Ipv4Addr::from(number));
            assert_eq!(rates.take(from, NOW), Ok(()), "{from}");
        }
        // Its own account is kept while the table has room, which it has once the flood is over.
        let later = Tick(NOW.0 + 2_000);
        let from = address("2001:db8::");
        assert_eq!(rates.take(from, later), Ok(()));
        assert_eq!(rates.take(from, later), Ok(()));
        for number in 0..1_000_u32 {
            let other = IpAddr::V4(Ipv4Addr::from(number));
            assert_eq!(rates.take(other, later), Ok(()), "{other}");
        }
        assert_eq!(rates.take(from, later), Err(1_000));
    }
}
