use bytes::BytesMut;
use proptest::prelude::*;

use super::*;

const ALL: [Escapes; 3] = [Escapes::None, Escapes::Three, Escapes::Four];

fn escaped(escapes: Escapes, text: &str) -> String {
    let mut out = BytesMut::new();
    escapes.put(text, &mut out);
    String::from_utf8(out.to_vec()).unwrap()
}

/// The escapes of the specification, letter by letter.
fn model(escapes: Escapes, text: &str) -> String {
    text.chars()
        .map(|letter| match (escapes, letter) {
            (Escapes::None, _) => letter.to_string(),
            (_, '\\') => "\\\\".to_owned(),
            (_, '\n') => "\\n".to_owned(),
            (_, ':') => "\\c".to_owned(),
            (Escapes::Four, '\r') => "\\r".to_owned(),
            _ => letter.to_string(),
        })
        .collect()
}

/// The way back, letter by letter.
fn model_back(escapes: Escapes, text: &str) -> Option<String> {
    let mut plain = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' || escapes == Escapes::None {
            plain.push(letter);
            continue;
        }
        plain.push(match (letters.next()?, escapes) {
            ('n', _) => '\n',
            ('c', _) => ':',
            ('\\', _) => '\\',
            ('r', Escapes::Four) => '\r',
            _ => return None,
        });
    }
    Some(plain)
}

proptest! {
    #[test]
    fn escapes_are_those_of_the_model_and_lead_back(text in "[a-c:\\\\\r\n\u{e9}\u{1f600} nr]{0,24}") {
        for escapes in ALL {
            let wire = escaped(escapes, &text);
            prop_assert_eq!(&wire, &model(escapes, &text));
            let back = escapes.unescape(&wire);
            prop_assert_eq!(back.as_deref(), Some(&*text));
        }
    }

    #[test]
    fn any_text_is_unescaped_as_by_the_model(text in "[abcnrt:\\\\\u{e9}\u{1f600}]{0,24}") {
        for escapes in ALL {
            let plain = escapes.unescape(&text).map(Cow::into_owned);
            prop_assert_eq!(plain, model_back(escapes, &text));
        }
    }
}

#[test]
fn text_without_escapes_is_not_copied() {
    for escapes in ALL {
        assert!(matches!(
            escapes.unescape("abc"),
            Some(Cow::Borrowed("abc"))
        ));
    }
}

#[test]
fn every_byte_behind_a_backslash_is_an_escape_or_undefined() {
    for byte in 1..0x80u8 {
        let text = format!("a\\{}", char::from(byte));
        let expected = match byte {
            b'n' => Some("a\n"),
            b'c' => Some("a:"),
            b'\\' => Some("a\\"),
            b'r' => Some("a\r"),
            _ => None,
        };
        assert_eq!(Escapes::Four.unescape(&text).as_deref(), expected);
        let expected = expected.filter(|_| byte != b'r');
        assert_eq!(Escapes::Three.unescape(&text).as_deref(), expected);
        assert_eq!(Escapes::None.unescape(&text).as_deref(), Some(&*text));
    }
}

#[test]
fn what_cannot_be_written_is_not_carried() {
    let table = [
        ("a", "b", [true, true, true]),
        ("", "b", [false, false, false]),
        ("a", "", [true, true, true]),
        ("a\0", "b", [false, false, false]),
        ("a", "\0", [false, false, false]),
        ("a\n", "b", [false, true, true]),
        ("a", "b\n", [false, true, true]),
        ("a:", "b", [false, true, true]),
        ("a", "b:\\", [true, true, true]),
        ("a", "\r", [true, true, true]),
    ];
    for (name, value, expected) in table {
        assert_eq!(
            ALL.map(|it| it.carries(name, value)),
            expected,
            "{name:?} {value:?}"
        );
    }
}
