//! API keys.

use tidings_auth::keys::{self, Created, KeyEditError, KeyFile, KeyFileError, NewKey, is_key};
use tidings_auth::{DenyText, GrantsText, Reason, Source};
use tidings_types::{Timestamp, Topic};

use super::{NOW, Said, accepted, bearer, login, said, shown, text};

fn billing(expires: Option<Timestamp>) -> NewKey {
    NewKey {
        name: "billing".to_owned(),
        grants: GrantsText {
            publish: vec!["orders/#".to_owned()],
            subscribe: vec!["orders/+".to_owned()],
            deny: DenyText::Both(vec!["orders/secret".to_owned()]),
        },
        expires,
    }
}

fn created(file: &str, expires: Option<Timestamp>) -> Created {
    keys::create(file, &billing(expires), NOW).unwrap()
}

/// The key with its secret changed and its checksum right, as somebody would forge it.
fn forged(key: &str) -> String {
    let alphabet = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut body = key[..key.len() - 6].to_owned();
    let last = if body.pop() == Some('a') { 'b' } else { 'a' };
    body.push(last);
    let mut sum = crc32c::crc32c(body.as_bytes());
    let mut digits = Vec::new();
    for _ in 0..6 {
        digits.push(char::from(alphabet[(sum % 62) as usize]));
        sum /= 62;
    }
    body.extend(digits.iter().rev());
    body
}

#[test]
fn a_key_is_its_holder() {
    let end = Timestamp(NOW.0 + 5_000);
    let key = created("", Some(end));
    let file = KeyFile::parse(&key.text).unwrap();
    let who = accepted(file.verify(&shown(&key.key), NOW));
    assert_eq!(who.name, "billing");
    assert_eq!(who.expires, Some(end));
    assert_eq!(who.credential.as_deref(), Some(key.id.as_str()));
    for (topic, expect) in [("orders/1/x", true), ("orders/secret", false), ("x", false)] {
        assert_eq!(
            who.grants.may_publish(&Topic::new(topic).unwrap()),
            expect,
            "{topic}"
        );
    }
    // A client that can show a password only shows the key as one.
    assert_eq!(said(&file, &login("whoever", text(&key.key))), Said::Yes);
    assert!(!file.is_slow(&shown(&key.key)));
}

#[test]
fn a_key_has_a_shape_that_scanners_find_and_its_secret_is_not_kept() {
    let key = created("", None);
    let shown = text(&key.key);
    let parts: Vec<&str> = shown.split('_').collect();
    assert_eq!((parts[0], parts[1].len(), parts[2].len()), ("tdg", 12, 49));
    assert_eq!(parts[1], key.id);
    assert!(is_key(shown));
    assert!(!key.text.contains(&parts[2][..20]), "{}", key.text);
    assert!(!format!("{key:?}").contains(&parts[2][..20]));
    for at in 0..shown.len() {
        let mut other = shown.to_owned().into_bytes();
        other[at] = if other[at] == b'x' { b'y' } else { b'x' };
        assert!(
            !is_key(&String::from_utf8(other).unwrap()),
            "a typing error at {at}"
        );
    }
}

#[test]
fn what_is_no_good_key_is_refused() {
    let one = created("", None);
    let two = created(&one.text, Some(NOW));
    let three = created(&two.text, None);
    let revoked = keys::revoke(&three.text, &three.id).unwrap();
    let file = KeyFile::parse(&revoked).unwrap();
    assert_eq!(file.keys(), 3);
    let unknown = created("", None);
    for (name, credential, expect) in [
        ("good", shown(&one.key), Said::Yes),
        ("at its end", shown(&two.key), Said::No(Reason::Expired)),
        ("revoked", shown(&three.key), Said::No(Reason::Revoked)),
        ("unknown", shown(&unknown.key), Said::No(Reason::Key)),
        (
            "forged",
            bearer(&forged(text(&one.key))),
            Said::No(Reason::Key),
        ),
        // Whoever does not hold the key does not learn that it is revoked.
        (
            "forged, revoked",
            bearer(&forged(text(&three.key))),
            Said::No(Reason::Key),
        ),
        ("a password", login("a", "b"), Said::NotMine),
        ("cut off", bearer(&text(&one.key)[..50]), Said::NotMine),
        ("not ASCII", bearer("tdg_äöü_ßßß"), Said::NotMine),
        ("the prefix", bearer("tdg_"), Said::NotMine),
    ] {
        assert_eq!(said(&file, &credential), expect, "{name}");
    }
}

#[test]
fn a_key_is_revoked_without_touching_the_rest_of_the_file() {
    let one = created("# our keys\n", None);
    let two = created(&one.text, None);
    let text = two.text.replace("name =", "# who has it\nname =");
    let changed = keys::revoke(&text, &one.id).unwrap();
    let before: Vec<&str> = text.lines().collect();
    let mut after: Vec<&str> = changed.lines().collect();
    let at = after
        .iter()
        .position(|line| *line == "revoked = true")
        .unwrap();
    after.remove(at);
    assert_eq!(before, after);
    let file = KeyFile::parse(&changed).unwrap();
    assert_eq!(said(&file, &shown(&one.key)), Said::No(Reason::Revoked));
    assert_eq!(said(&file, &shown(&two.key)), Said::Yes);
    assert_eq!(keys::revoke(&changed, &one.id).unwrap(), changed);
    let restored = changed.replace("revoked = true", "revoked = false");
    assert_eq!(keys::revoke(&restored, &one.id).unwrap(), changed);
    assert_eq!(
        keys::revoke(&text, "nosuchkey000"),
        Err(KeyEditError::Unknown)
    );
    let inline = format!(
        "key = [{{ id = \"{}\", name = \"a\", sha256 = \"{}\" }}]\n",
        one.id,
        "0".repeat(64)
    );
    // TOML 1.1 has line ends in inline tables, but no value without a comma before it.
    assert_eq!(
        keys::revoke(&inline, &one.id),
        Err(KeyEditError::Unwritable)
    );
}

#[test]
fn everything_wrong_in_a_key_file_is_named_with_its_line() {
    let sum = "0".repeat(64);
    let key = |id: &str, name: &str, sum: &str, rest: &str| {
        format!("[[key]]\nid = \"{id}\"\nname = \"{name}\"\nsha256 = \"{sum}\"\n{rest}\n")
    };
    let text = [
        key("AAAAAAAAAAAA", "a", &sum, ""),
        key("AAAAAAAAAAAA", "a", &sum, ""),
        key("short", "a", &sum, ""),
        key("BBBBBBBBBBBB", "", &sum, ""),
        key("CCCCCCCCCCCC", "c", "00", ""),
        key("DDDDDDDDDDDD", "d", &sum, "publish = [\"a/#/b\"]"),
        key("EEEEEEEEEEEE", "e", &"+0".repeat(32), ""),
    ]
    .concat();
    let wrong = KeyFile::parse(&text).unwrap_err();
    let lines: Vec<usize> = wrong.iter().map(|at| at.line).collect();
    assert_eq!(lines, [7, 12, 17, 22, 27, 32]);
    assert!(matches!(
        wrong.iter().map(|at| &at.error).collect::<Vec<_>>()[..],
        [
            KeyFileError::Duplicate,
            KeyFileError::Id,
            KeyFileError::Name,
            KeyFileError::Digest,
            KeyFileError::Grant(_),
            KeyFileError::Digest,
        ]
    ));
    for (text, line) in [
        (key("AAAAAAAAAAAA", "a", &sum, "grant = []"), 5),
        (key("AAAAAAAAAAAA", "a", &sum, "revoked = 1"), 5),
        (key("AAAAAAAAAAAA", "a", &sum, "deny = 1"), 5),
        ("\n\n[[keys]]\n".to_owned(), 3),
        ("[[key]\n".to_owned(), 1),
    ] {
        let wrong = KeyFile::parse(&text).unwrap_err();
        assert_eq!(wrong.len(), 1, "{text}");
        assert!(matches!(wrong[0].error, KeyFileError::Toml(_)), "{wrong:?}");
        assert_eq!(wrong[0].line, line, "{wrong:?}");
    }
}
