use super::*;
use proptest::prelude::*;

fn filter_text() -> impl Strategy<Value = TopicFilter> {
    prop_oneof!["[a-z]{1,5}", "[a-z]{1,3}/\\+", "[a-z]{1,3}/#"]
        .prop_map(|text| TopicFilter::new(text).unwrap())
}

fn filters() -> impl Strategy<Value = Vec<Filter>> {
    let one = (
        filter_text(),
        0u8..3,
        any::<(bool, bool)>(),
        proptest::option::of(1u32..200_000),
        any::<u64>(),
        proptest::option::of("[a-z]{1,4}"),
    );
    proptest::collection::vec(one, 0..5).prop_map(|list| {
        (1u32..)
            .zip(list)
            .map(
                |(serial, (text, qos, (no_local, rap), id, since, group))| Filter {
                    serial: FilterSerial(serial),
                    text,
                    options: SubscriptionOptions {
                        maximum_qos: Qos::of(qos).unwrap(),
                        no_local,
                        retain_as_published: rap,
                        retain_handling: RetainHandling::default(),
                    },
                    id: id.and_then(SubscriptionId::new),
                    since: Offset(since),
                    share: group.map(|group| {
                        Box::new(Share {
                            group: group.into(),
                            key: None,
                        })
                    }),
                },
            )
            .collect()
    })
}

fn exchange() -> impl Strategy<Value = Exchange> {
    (1u16.., any::<u64>(), 0u8..3, any::<(bool, bool)>()).prop_map(
        |(id, offset, source, (twice, released))| Exchange {
            id: PacketId::new(id).unwrap(),
            offset: Offset(offset),
            source: match source {
                0 => Source::Main,
                1 => Source::Retained,
                _ => Source::Group(SubscriptionKey(0)),
            },
            qos: if twice {
                Qos::ExactlyOnce
            } else {
                Qos::AtLeastOnce
            },
            step: if released {
                Step::Released
            } else {
                Step::Published
            },
            sent: false,
        },
    )
}

fn inbound() -> impl Strategy<Value = Inbound> {
    (1u16.., "[ -~]{1,20}", any::<bool>()).prop_map(|(id, key, received)| Inbound {
        id: PacketId::new(id).unwrap(),
        key: key.into(),
        received,
        is_here: false,
    })
}

prop_compose! {
    fn state()(
        filters in filters(),
        is_closed: bool,
        delivered: Option<(u64, u64)>,
        last_id: u16,
        former in proptest::collection::vec((filter_text(), any::<u64>()), 0..3),
        exchanges in proptest::collection::vec(exchange(), 0..5),
        inbound in proptest::collection::vec(inbound(), 0..5),
        catch_ups in proptest::collection::vec((any::<bool>(), any::<u64>(), any::<Option<u32>>()), 0..3),
    ) -> State {
        let targets = |upto: Option<u32>| {
            let target = |filter: &Filter| Target { filter: filter.serial, upto: upto.map(|it| Offset(it.into())) };
            filters.iter().map(target).collect()
        };
        State {
            is_closed,
            delivered: delivered.map(|(epoch, offset)| Cursor { epoch: Epoch(epoch), offset: Offset(offset) }),
            last_id,
            former: former.into_iter().map(|(text, upto)| Former { text, upto: Offset(upto) }).collect(),
            exchanges,
            inbound,
            catch_ups: catch_ups
                .into_iter()
                .map(|(retained, position, upto)| SavedCatchUp {
                    retained,
                    position: Offset(position),
                    targets: targets(upto),
                })
                .collect(),
            filters,
        }
    }
}

proptest! {
    #[test]
    fn a_state_reads_back_as_it_was(state in state()) {
        prop_assert_eq!(State::decode(&state.encode()), Some(state));
    }

    #[test]
    fn a_state_that_is_cut_or_longer_is_none(state in state(), cut: u16) {
        let bytes = state.encode();
        let cut = usize::from(cut) % bytes.len();
        prop_assert_eq!(State::decode(&bytes[..cut]), None);
        let longer = [&bytes[..], &[0]].concat();
        prop_assert_eq!(State::decode(&longer), None);
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _is_state = State::decode(&bytes).is_some();
        if let Some(version) = bytes.first_mut() {
            *version = VERSION;
        }
        let _is_state = State::decode(&bytes).is_some();
    }
}

#[test]
fn a_state_of_another_version_is_none() {
    let mut bytes = State::default().encode().to_vec();
    assert!(State::decode(&bytes).is_some());
    bytes[0] = 2;
    assert_eq!(State::decode(&bytes), None);
}

#[test]
fn the_state_of_one_subscription_is_short() {
    let state = State {
        filters: vec![Filter {
            serial: FilterSerial(1),
            text: TopicFilter::new("devices/7/#").unwrap(),
            options: SubscriptionOptions::default(),
            id: None,
            since: Offset(1_000_000),
            share: None,
        }],
        ..State::default()
    };
    assert!(state.encode().len() <= 40, "{}", state.encode().len());
}
