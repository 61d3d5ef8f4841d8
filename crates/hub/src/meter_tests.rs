use bytes::Bytes;
use tidings_types::Topic;

use super::*;

const NOW: Tick = Tick(1_000);

fn named(name: &str) -> Peer {
    let mut principal = Principal::anonymous();
    principal.source = "key";
    principal.name = name.to_owned();
    Arc::new(principal).into()
}

fn from(address: &str) -> Peer {
    Peer {
        address: Some(address.parse().unwrap()),
        ..Arc::new(Principal::anonymous()).into()
    }
}

fn sit(meters: &Meters, peer: &Peer, now: Tick) -> Result<Option<Seat>, Refusal> {
    meters.sit(&peer.principal, peer.address, now)
}

fn drafts(count: usize, payload: usize) -> Vec<Draft> {
    let topic = Topic::new("a").unwrap();
    vec![Draft::new(topic, Bytes::from(vec![b'x'; payload])); count]
}

fn limited() -> Limits {
    Limits {
        connections_max: 10,
        connections_per_identity_max: 2,
        publishes_per_identity_rate: 10,
        publish_bytes_per_identity_rate: 100,
        publish_bytes_per_identity_burst: 1_000,
        requests_per_identity_rate: 1,
        requests_per_identity_burst: 2,
        ..Limits::default()
    }
}

fn code(result: Result<(), Refusal>) -> Option<RefusalCode> {
    result.err().map(|refusal| refusal.code)
}

#[test]
fn without_limits_nobody_is_known() {
    let meters = Meters::default();
    for peer in [named("ann"), from("10.0.0.1")] {
        assert!(sit(&meters, &peer, NOW).unwrap().is_none());
        assert_eq!(meters.publish_once(&peer, &drafts(1_000, 9), NOW), Ok(()));
        assert_eq!(meters.request_once(&peer, NOW), Ok(()));
    }
    assert_eq!(meters.known(), 0);
}

#[test]
fn connections_and_requests_of_one_identity_share_its_budget() {
    let meters = Meters::new(&limited());
    let ann = named("ann");
    let seat = sit(&meters, &ann, NOW).unwrap().unwrap();
    let other = sit(&meters, &ann, NOW).unwrap().unwrap();
    assert_eq!(meters.publish(&seat, &drafts(4, 1), NOW), Ok(()));
    assert_eq!(meters.publish(&other, &drafts(4, 1), NOW), Ok(()));
    assert_eq!(meters.publish_once(&ann, &drafts(2, 1), NOW), Ok(()));
    let refusal = meters.publish(&seat, &drafts(1, 1), NOW).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::RateLimited);
    assert_eq!(refusal.after_ms, Some(100));
    assert!(refusal.detail.contains("publishes_per_identity_rate"));
    // Another one, and one of the same name that something else vouches for, have their own.
    let mut password = Principal::clone(&ann.principal);
    password.source = "password";
    for peer in [named("bob"), Arc::new(password).into()] {
        assert_eq!(meters.publish_once(&peer, &drafts(10, 1), NOW), Ok(()));
    }
    assert_eq!(meters.reached(Limit::Publishes), 1);
}

#[test]
fn all_of_a_batch_or_nothing_is_taken() {
    let meters = Meters::new(&limited());
    let ann = named("ann");
    // Over the bytes: the messages that were counted before are given back.
    assert_eq!(meters.publish_once(&ann, &drafts(1, 900), NOW), Ok(()));
    let refusal = meters.publish_once(&ann, &drafts(2, 100), NOW).unwrap_err();
    assert_eq!(
        (refusal.code, refusal.after_ms),
        (RefusalCode::RateLimited, Some(1_000))
    );
    assert!(refusal.detail.contains("publish_bytes_per_identity_rate"));
    assert_eq!(meters.publish_once(&ann, &drafts(9, 10), NOW), Ok(()));
}

#[test]
fn what_can_never_pass_is_not_told_to_wait() {
    let meters = Meters::new(&limited());
    let ann = named("ann");
    for (drafts, expect) in [
        (drafts(11, 1), RefusalCode::BatchTooLarge),
        (drafts(2, 501), RefusalCode::BatchTooLarge),
        (drafts(1, 1_001), RefusalCode::MessageTooLarge),
    ] {
        let refusal = meters.publish_once(&ann, &drafts, NOW).unwrap_err();
        assert_eq!(refusal.code, expect);
        assert_eq!(refusal.retry_after(), None);
        assert!(refusal.detail.contains("_burst"), "{}", refusal.detail);
    }
    assert_eq!(meters.publish_once(&ann, &drafts(10, 100), NOW), Ok(()));
}

#[test]
fn every_message_that_is_permitted_fits_the_bytes_unless_told_otherwise() {
    let meters = Meters::new(&Limits {
        publish_bytes_per_identity_rate: 1,
        ..Limits::default()
    });
    let largest = drafts(1, Limits::default().message_bytes_max);
    assert_eq!(meters.publish_once(&named("ann"), &largest, NOW), Ok(()));
}

#[test]
fn connections_are_counted_until_they_end() {
    let meters = Meters::new(&limited());
    let first = sit(&meters, &named("ann"), NOW).unwrap();
    let _second = sit(&meters, &named("ann"), NOW).unwrap();
    let refusal = sit(&meters, &named("ann"), NOW).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::TooManyConnections);
    assert!(refusal.retry_after().is_some());
    assert!(sit(&meters, &named("bob"), NOW).is_ok());
    drop(first);
    assert!(sit(&meters, &named("ann"), NOW).is_ok());
    assert_eq!(meters.reached(Limit::Connections), 1);
}

#[test]
fn without_a_credential_the_address_counts_and_not_the_connections() {
    let meters = Meters::new(&limited());
    let seats: Vec<_> = (0..5)
        .map(|_| sit(&meters, &from("10.0.0.1"), NOW).unwrap().unwrap())
        .collect();
    assert_eq!(meters.request(&seats[0], NOW), Ok(()));
    assert_eq!(meters.request(&seats[1], NOW), Ok(()));
    let limited = Some(RefusalCode::RateLimited);
    assert_eq!(code(meters.request(&seats[2], NOW)), limited);
    for (address, expect) in [
        ("10.0.0.1", limited),
        ("::ffff:10.0.0.1", limited),
        ("10.0.0.2", None),
        ("2001:db8:1:2::1", None),
        ("2001:db8:1:2:ffff::9", None),
        ("2001:db8:1:2::3", limited),
        ("2001:db8:1:3::1", None),
    ] {
        assert_eq!(
            code(meters.request_once(&from(address), NOW)),
            expect,
            "{address}"
        );
    }
    let nobody: Peer = Arc::new(Principal::nobody(None)).into();
    assert!(sit(&meters, &nobody, NOW).unwrap().is_none());
}

#[test]
fn an_identity_is_forgotten_when_its_last_connection_has_gone_and_its_buckets_are_full() {
    let meters = Meters::new(&limited());
    let seat = sit(&meters, &named("ann"), NOW).unwrap().unwrap();
    assert_eq!(meters.publish(&seat, &drafts(10, 1), NOW), Ok(()));
    let later = Tick(NOW.0 + 60_000);
    meters.tick(later);
    assert_eq!(meters.known(), 1, "it is connected");
    assert_eq!(meters.publish(&seat, &drafts(10, 1), later), Ok(()));
    drop(seat);
    meters.tick(later);
    assert_eq!(meters.known(), 1, "who comes back is who it was");
    let again = meters.publish_once(&named("ann"), &drafts(1, 1), later);
    assert_eq!(code(again), Some(RefusalCode::RateLimited));
    meters.tick(Tick(later.0 + 1_000));
    assert_eq!(meters.known(), 0);
}

#[test]
fn identities_without_end_take_bounded_memory_and_lose_nobody_that_is_connected() {
    let meters = Meters::new(&limited());
    let seat = sit(&meters, &named("ann"), NOW).unwrap().unwrap();
    let _other = sit(&meters, &named("ann"), NOW).unwrap();
    for number in 0..KNOWN_MAX + 100 {
        let refused = meters.request_once(&named(&number.to_string()), NOW).err();
        // Who finds no room shares what is left with everybody else.
        assert!(refused.is_none() || number >= KNOWN_MAX);
    }
    assert!(meters.known() <= KNOWN_MAX + 10, "{}", meters.known());
    assert!(meters.reached(Limit::Requests) > 0);
    assert!(
        sit(&meters, &named("ann"), NOW).is_err(),
        "it is known still"
    );
    drop(seat);
    // Whoever comes later finds room: nothing is to be remembered of them.
    let later = Tick(NOW.0 + 60_000);
    for number in 0..KNOWN_MAX {
        let name = format!("later {number}");
        let now = Tick(later.0 + number as u64 * 3_000);
        assert_eq!(meters.request_once(&named(&name), now), Ok(()));
    }
    assert!(meters.known() < 100, "{}", meters.known());
}
