use super::*;

fn decoded(input: &[u8]) -> Result<Vec<Received>, FrameError> {
    let mut outcomes = Vec::new();
    // Whole, and byte by byte: the same.
    for step in [input.len().max(1), 1] {
        let mut decoder = Decoder::new(70_000);
        let mut buffer = BytesMut::new();
        let mut received = Vec::new();
        let mut outcome = Ok(());
        'all: for part in input.chunks(step) {
            buffer.extend_from_slice(part);
            loop {
                match decoder.decode(&mut buffer) {
                    Ok(Some(one)) => received.push(one),
                    Ok(None) => break,
                    Err(error) => {
                        outcome = Err(error);
                        break 'all;
                    }
                }
            }
        }
        outcomes.push(outcome.map(|()| received));
    }
    assert_eq!(outcomes[0], outcomes[1], "{:?}", input.escape_ascii());
    outcomes.remove(0)
}

fn text(text: &str) -> Received {
    Received::Text(Bytes::copy_from_slice(text.as_bytes()))
}

#[test]
fn frames_of_a_server_are_read() {
    let long = [&[0x82, 126, 0x01, 0x00][..], &[7; 256]].concat();
    let longer = [&[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0][..], &vec![7; 65_536]].concat();
    for (input, expect) in [
        (&b"\x81\x02hi"[..], vec![text("hi")]),
        (b"\x81\x00", vec![text("")]),
        (b"\x81\x01a\x81\x01b", vec![text("a"), text("b")]),
        (b"\x01\x01a\x00\x01b\x80\x01c", vec![text("abc")]),
        // A control frame between fragments.
        (
            b"\x01\x01a\x89\x01p\x80\x01c",
            vec![Received::Ping(Bytes::from_static(b"p")), text("ac")],
        ),
        // A character cut by fragments.
        (b"\x01\x01\xc3\x80\x01\xa4", vec![text("\u{e4}")]),
        (b"\x8a\x00", vec![Received::Pong(Bytes::new())]),
        (&long, vec![Received::Binary(Bytes::from(vec![7; 256]))]),
        (
            &longer,
            vec![Received::Binary(Bytes::from(vec![7; 65_536]))],
        ),
        (
            b"\x88\x05\x03\xf4bye",
            vec![Received::Close(CloseFrame {
                code: 1012,
                reason: "bye".into(),
            })],
        ),
        (
            b"\x88\x00",
            vec![Received::Close(CloseFrame {
                code: 1005,
                reason: String::new(),
            })],
        ),
        (b"\x81\x05hal", vec![]),
    ] {
        assert_eq!(
            decoded(input).unwrap(),
            expect,
            "{:?}",
            input.escape_ascii()
        );
    }
}

#[test]
fn a_server_that_breaks_the_protocol_is_found_out() {
    for (input, expect) in [
        (&b"\xc1\x00"[..], FrameError::Reserved),
        (b"\x81\x80\0\0\0\0", FrameError::Masked),
        (b"\x83\x00", FrameError::Opcode),
        (b"\x80\x00", FrameError::Opcode),
        (b"\x01\x00\x01\x00", FrameError::Opcode),
        (b"\x09\x00", FrameError::Control),
        (b"\x89\x7e\x00\x7e", FrameError::Control),
        (b"\x82\x7e\x00\x01x", FrameError::Length),
        (
            b"\x82\x7f\x00\x00\x00\x00\x00\x00\x00\x01x",
            FrameError::Length,
        ),
        (
            b"\x82\x7f\x80\x00\x00\x00\x00\x00\x00\x00",
            FrameError::Length,
        ),
        (
            b"\x82\x7f\x00\x00\x00\x00\x00\x02\x00\x00",
            FrameError::TooLarge,
        ),
        (b"\x81\x01\xff", FrameError::Text),
        (b"\x88\x01x", FrameError::Close),
        (b"\x88\x02\x03\xed", FrameError::Close),
        (b"\x88\x03\x03\xe8\xff", FrameError::Text),
    ] {
        assert_eq!(decoded(input), Err(expect), "{:?}", input.escape_ascii());
    }
}

#[test]
fn fragments_together_are_limited() {
    let half = [&[0x01, 126, 0x9c, 0x40][..], &vec![b'x'; 40_000]].concat();
    let rest = [&[0x80, 126, 0x9c, 0x40][..], &vec![b'x'; 40_000]].concat();
    assert_eq!(decoded(&[half, rest].concat()), Err(FrameError::TooLarge));
}

#[test]
fn frames_out_are_masked_with_the_shortest_length() {
    let mut out = Vec::new();
    // RFC 6455, 5.7: a masked "Hello".
    encode_frame(Opcode::Text, b"Hello", [0x37, 0xfa, 0x21, 0x3d], &mut out);
    assert_eq!(out, b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58");
    for (len, head) in [
        (125, &[0x82, 0xfd][..]),
        (126, &[0x82, 0xfe, 0, 126]),
        (65_535, &[0x82, 0xfe, 0xff, 0xff]),
        (65_536, &[0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0]),
    ] {
        let mut out = Vec::new();
        encode_frame(Opcode::Binary, &vec![0; len], [1, 2, 3, 4], &mut out);
        assert_eq!(&out[..head.len()], head, "{len}");
        assert_eq!(out.len(), head.len() + 4 + len);
        assert_eq!(out[head.len() + 4..].first(), Some(&1));
    }
}
