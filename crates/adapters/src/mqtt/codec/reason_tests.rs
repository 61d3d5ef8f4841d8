use super::*;

/// The table of 2.4 for codes that a server sends: number, and the packets' initials. A connack, K puback and
/// pubrec, L pubrel and pubcomp, S suback, U unsuback, D disconnect, H auth.
const SERVER: &[(u8, &str)] = &[
    (0x00, "AKLSUH"),
    (0x01, "S"),
    (0x02, "S"),
    (0x10, "K"),
    (0x11, "U"),
    (0x18, "H"),
    (0x80, "AKSUD"),
    (0x81, "AD"),
    (0x82, "AD"),
    (0x83, "AKSUD"),
    (0x84, "A"),
    (0x85, "A"),
    (0x86, "A"),
    (0x87, "AKSUD"),
    (0x88, "A"),
    (0x89, "AD"),
    (0x8a, "A"),
    (0x8b, "D"),
    (0x8c, "AD"),
    (0x8d, "D"),
    (0x8e, "D"),
    (0x8f, "SUD"),
    (0x90, "AKD"),
    (0x91, "KSU"),
    (0x92, "L"),
    (0x93, "D"),
    (0x94, "D"),
    (0x95, "AD"),
    (0x96, "D"),
    (0x97, "AKSD"),
    (0x98, "D"),
    (0x99, "AKD"),
    (0x9a, "AD"),
    (0x9b, "AD"),
    (0x9c, "AD"),
    (0x9d, "AD"),
    (0x9e, "SD"),
    (0x9f, "AD"),
    (0xa0, "D"),
    (0xa1, "SD"),
    (0xa2, "SD"),
];

/// The same for codes that a client sends.
const CLIENT: &[(u8, &str)] = &[
    (0x00, "KLD"),
    (0x04, "D"),
    (0x10, ""),
    (0x18, "H"),
    (0x19, "H"),
    (0x80, "KD"),
    (0x81, "D"),
    (0x82, "D"),
    (0x83, "KD"),
    (0x87, "K"),
    (0x90, "KD"),
    (0x91, "K"),
    (0x92, "L"),
    (0x93, "D"),
    (0x94, "D"),
    (0x95, "D"),
    (0x96, "D"),
    (0x97, "KD"),
    (0x98, "D"),
    (0x99, "KD"),
];

const KINDS: &[(PacketKind, char)] = &[
    (PacketKind::Connack, 'A'),
    (PacketKind::Puback, 'K'),
    (PacketKind::Pubrec, 'K'),
    (PacketKind::Pubrel, 'L'),
    (PacketKind::Pubcomp, 'L'),
    (PacketKind::Suback, 'S'),
    (PacketKind::Unsuback, 'U'),
    (PacketKind::Disconnect, 'D'),
    (PacketKind::Auth, 'H'),
    (PacketKind::Publish, '-'),
    (PacketKind::Pingresp, '-'),
];

fn permits(table: &[(u8, &str)], code: ReasonCode, initial: char) -> bool {
    table
        .iter()
        .any(|(number, packets)| *number == code.number() && packets.contains(initial))
}

#[test]
fn each_code_may_stand_where_the_specification_lists_it() {
    assert_eq!(ReasonCode::ALL.len(), 43);
    assert!(ReasonCode::ALL.is_sorted());
    for code in ReasonCode::ALL {
        for (kind, initial) in KINDS {
            let server = permits(SERVER, *code, *initial);
            let client = permits(CLIENT, *code, *initial);
            assert_eq!(code.server_may_send(*kind), server, "{code} {kind:?}");
            assert_eq!(code.client_may_send(*kind), client, "{code} {kind:?}");
        }
    }
}

#[test]
fn a_number_is_a_code_only_if_it_is_listed() {
    let listed = |number: u8| matches!(number, 0..=2 | 4 | 0x10 | 0x11 | 0x18 | 0x19 | 0x80..=0xa2);
    for number in 0..=u8::MAX {
        let code = ReasonCode::of(number);
        assert_eq!(code.is_some(), listed(number), "{number:#x}");
        if let Some(code) = code {
            assert_eq!(code.number(), number);
            assert_eq!(code.is_failure(), number >= 0x80);
        }
    }
}

#[test]
fn refusals_become_codes_that_the_packet_may_carry() {
    let kinds = [
        PacketKind::Connack,
        PacketKind::Puback,
        PacketKind::Pubrec,
        PacketKind::Suback,
        PacketKind::Unsuback,
        PacketKind::Disconnect,
    ];
    for refusal in RefusalCode::ALL {
        assert!(ReasonCode::of(refusal.mqtt_reason()).is_some());
        for kind in kinds {
            let code = ReasonCode::of_refusal(*refusal, kind);
            assert!(code.is_failure() && code.server_may_send(kind));
        }
    }
    for (refusal, kind, expect) in [
        (RefusalCode::Forbidden, PacketKind::Suback, 0x87),
        (RefusalCode::BadFilter, PacketKind::Suback, 0x8f),
        (RefusalCode::BadTopic, PacketKind::Puback, 0x90),
        (RefusalCode::Busy, PacketKind::Connack, 0x89),
        (RefusalCode::Busy, PacketKind::Puback, 0x80),
        (RefusalCode::ShuttingDown, PacketKind::Disconnect, 0x8b),
        (RefusalCode::TooManySubscriptions, PacketKind::Suback, 0x97),
        (RefusalCode::TooManyConnections, PacketKind::Connack, 0x97),
        (RefusalCode::RateLimited, PacketKind::Puback, 0x97),
        (RefusalCode::RateLimited, PacketKind::Suback, 0x97),
        (RefusalCode::RateLimited, PacketKind::Disconnect, 0x96),
    ] {
        assert_eq!(ReasonCode::of_refusal(refusal, kind).number(), expect);
    }
}

#[test]
fn return_codes_of_3_1_1_are_those_of_the_table() {
    for (code, expect) in [
        (ReasonCode::Success, Some(0)),
        (ReasonCode::UnsupportedProtocolVersion, Some(1)),
        (ReasonCode::ClientIdentifierNotValid, Some(2)),
        (ReasonCode::ServerUnavailable, Some(3)),
        (ReasonCode::ServerBusy, Some(3)),
        (ReasonCode::BadUserNameOrPassword, Some(4)),
        (ReasonCode::NotAuthorized, Some(5)),
        (ReasonCode::MalformedPacket, None),
        (ReasonCode::ProtocolError, None),
        (ReasonCode::PacketTooLarge, None),
    ] {
        assert_eq!(code.return_code(), expect, "{code}");
    }
    for code in ReasonCode::ALL {
        assert!(code.return_code().is_none_or(|number| number <= 5));
    }
}
