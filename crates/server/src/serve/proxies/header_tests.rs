use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

fn client(address: &str) -> Sender {
    Sender::Client(address.parse().unwrap())
}

/// A header of version 2.
fn binary(version_command: u8, family_transport: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    let fixed = [version_command, family_transport, length[0], length[1]];
    [V2_START, &fixed, body].concat()
}

const FOUR: [u8; 12] = [192, 0, 2, 1, 192, 0, 2, 2, 0xdc, 4, 1, 0xbb];

fn six() -> Vec<u8> {
    let from = "2001:db8::1".parse::<Ipv6Addr>().unwrap().octets();
    [&from[..], &[0; 16], &[0xdc, 4, 1, 0xbb]].concat()
}

fn extension(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap().to_be_bytes();
    [&[kind, length[0], length[1]], value].concat()
}

/// The same header with its checksum, which stands `behind` so many bytes from its end.
fn summed(mut header: Vec<u8>, behind: usize) -> Vec<u8> {
    let sum = crc32c::crc32c(&header).to_be_bytes();
    let at = header.len() - behind - CRC32C_BYTES;
    header[at..at + CRC32C_BYTES].copy_from_slice(&sum);
    header
}

#[test]
fn headers_say_whose_a_connection_is() {
    let longest = "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
    assert_eq!(longest.len(), LINE_BYTES_MAX);
    let many = [
        &FOUR[..],
        &extension(0x01, b"h2"),
        &extension(0xee, &[7; 300]),
    ]
    .concat();
    for (header, expect) in [
        (
            b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n".to_vec(),
            client("192.0.2.1"),
        ),
        (
            b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 0\r\n".to_vec(),
            client("255.255.255.255"),
        ),
        (
            b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n".to_vec(),
            client("2001:db8::1"),
        ),
        (
            b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n".to_vec(),
            client("192.0.2.1"),
        ),
        (b"PROXY UNKNOWN\r\n".to_vec(), Sender::Proxy),
        (longest.into(), Sender::Proxy),
        (binary(0x21, 0x11, &FOUR), client("192.0.2.1")),
        (binary(0x21, 0x21, &six()), client("2001:db8::1")),
        (binary(0x21, 0x11, &many), client("192.0.2.1")),
        (binary(0x21, 0x31, &[b'/'; 216]), Sender::Proxy),
        (binary(0x21, 0x00, &[9; 7]), Sender::Proxy),
        (binary(0x20, 0x00, &[]), Sender::Proxy),
        // Thrown away, whatever it is.
        (binary(0x20, 0x11, &FOUR), Sender::Proxy),
        (binary(0x20, 0xff, &[1, 2, 3]), Sender::Proxy),
    ] {
        for rest in [
            &b""[..],
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01",
            b"\r\n",
        ] {
            let bytes = [&header, rest].concat();
            assert_eq!(
                parse(&bytes),
                Ok(Some((expect, header.len()))),
                "{header:?}"
            );
        }
        for end in 0..header.len() {
            assert_eq!(parse(&header[..end]), Ok(None), "{end} of {header:?}");
        }
    }
}

#[test]
fn what_breaks_the_rules_is_refused() {
    let long_line = [b"PROXY UNKNOWN ", &[b'x'; 92][..], b"\r\n"].concat();
    for (bytes, expect) in [
        (b"GET / HTTP/1.1\r\n".to_vec(), Fault::Missing),
        (b"\x16\x03\x01\x02\x00".to_vec(), Fault::Missing),
        (b"\x10\x0c\x00\x04MQTT".to_vec(), Fault::Missing),
        (
            b"proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n".to_vec(),
            Fault::Missing,
        ),
        (b"\r\n\r\n\0\r\nQUIT\r".to_vec(), Fault::Missing),
        (long_line, Fault::Malformed),
        (
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n".to_vec(),
            Fault::Malformed,
        ),
        (b"PROXY\tTCP4".to_vec(), Fault::Missing),
        (binary(0x11, 0x11, &FOUR), Fault::Malformed),
        (binary(0x22, 0x11, &FOUR), Fault::Malformed),
        ([V2_START, b"\x31"].concat(), Fault::Malformed),
        (binary(0x21, 0x12, &FOUR), Fault::Unsupported),
        (binary(0x21, 0x22, &six()), Fault::Unsupported),
        (binary(0x21, 0x41, &FOUR), Fault::Unsupported),
        (binary(0x21, 0x11, &FOUR[..11]), Fault::Malformed),
        (binary(0x21, 0x21, &FOUR), Fault::Malformed),
        (binary(0x21, 0x31, &[0; 215]), Fault::Malformed),
        (
            binary(0x21, 0x11, &[&FOUR[..], &[4, 0]].concat()),
            Fault::Malformed,
        ),
        (
            binary(0x21, 0x11, &[&FOUR[..], &[4, 0, 1]].concat()),
            Fault::Malformed,
        ),
        (binary(0x21, 0x11, &[0; HEADER_BYTES_MAX]), Fault::TooLong),
        ([V2_START, b"\x20\x00\xff\xff"].concat(), Fault::TooLong),
    ] {
        assert_eq!(parse(&bytes), Err(expect), "{bytes:?}");
    }
    for line in [
        "TCP4 192.0.2.1 192.0.2.2 1",
        "TCP4 192.0.2.1 192.0.2.2 1 2 3",
        "TCP4 192.0.2.1 192.0.2.2 1 65536",
        "TCP4 192.0.2.1 192.0.2.2 01 2",
        "TCP4 192.0.2.1 192.0.2.2 +1 2",
        "TCP4  192.0.2.1 192.0.2.2 1 2",
        "TCP4 192.0.2.1 192.0.2.2 1 2 ",
        "TCP4 192.0.2.01 192.0.2.2 1 2",
        "TCP4 192.0.2.1 ::1 1 2",
        "TCP4 2001:db8::1 ::1 1 2",
        "TCP6 192.0.2.1 ::1 1 2",
        "TCP6 fe80::1%eth0 ::1 1 2",
        "UDP4 192.0.2.1 192.0.2.2 1 2",
        "tcp4 192.0.2.1 192.0.2.2 1 2",
        "UNKNOWNS",
        "TCP4 192.0.2.1\0 192.0.2.2 1 2",
        "",
    ] {
        assert_eq!(
            parse(format!("PROXY {line}\r\n").as_bytes()),
            Err(Fault::Malformed),
            "{line}"
        );
    }
    let not_text = parse(b"PROXY TCP4 \xff 192.0.2.2 1 2\r\n");
    assert_eq!(not_text, Err(Fault::Malformed));
}

#[test]
fn a_checksum_has_to_be_right_if_there_is_one() {
    let sum = extension(TYPE_CRC32C, &[0; 4]);
    let after = extension(0x02, b"push.example");
    let body = [&FOUR[..], &extension(0x04, &[0; 5]), &sum, &after].concat();
    let good = summed(binary(0x21, 0x11, &body), after.len());
    assert_eq!(parse(&good), Ok(Some((client("192.0.2.1"), good.len()))));
    let kind = good.len() - after.len() - CRC32C_BYTES - 3;
    for at in V2_FIXED..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        // Of another kind it is no checksum.
        assert_eq!(parse(&bad).is_err(), at != kind, "the byte {at}");
    }
    let twice = binary(0x21, 0x11, &[&FOUR[..], &sum, &sum].concat());
    assert_eq!(parse(&twice), Err(Fault::Malformed));
    let short = binary(
        0x21,
        0x11,
        &[&FOUR[..], &extension(TYPE_CRC32C, &[0; 3])].concat(),
    );
    assert_eq!(parse(&short), Err(Fault::Malformed));
}

proptest! {
    #[test]
    fn whatever_comes_is_judged_the_same_in_pieces(
        start in prop::sample::select(vec![&b""[..], b"PROXY ", b"PROXY TCP4 ", V2_START,
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x40"]),
        tail in vec(any::<u8>(), 0..300),
    ) {
        let bytes = [start, &tail].concat();
        let whole = parse(&bytes);
        for end in 0..bytes.len() {
            match parse(&bytes[..end]) {
                Ok(None) => {}
                // Once it is known, more bytes change nothing.
                known => { prop_assert_eq!(known, whole); break; }
            }
        }
        if let Ok(Some((_, length))) = whole {
            prop_assert!(length <= bytes.len() && length <= HEADER_BYTES_MAX);
            prop_assert_eq!(parse(&bytes[..length]), whole);
        }
        if bytes.len() >= HEADER_BYTES_MAX {
            prop_assert_ne!(whole, Ok(None));
        }
    }

    #[test]
    fn a_changed_byte_never_makes_another_client_of_a_sum(at in any::<Index>(), bit in 0_u8..8) {
        let body = [&FOUR[..], &extension(TYPE_CRC32C, &[0; 4])].concat();
        let mut header = summed(binary(0x21, 0x11, &body), 0);
        let at = at.index(header.len());
        header[at] ^= 1 << bit;
        // Or it is a header that says nothing (LOCAL, UNSPEC), or has no sum any more.
        let is_another = |sender| sender != client("192.0.2.1") && sender != Sender::Proxy;
        prop_assert!(!parse(&header).is_ok_and(|it| it.is_some_and(|(it, _)| is_another(it))));
    }
}
