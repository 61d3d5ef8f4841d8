//! The password file.

use std::time::{Duration, Instant};

use tidings_auth::passwords::{self, PasswordEditError, PasswordFile, PasswordLineError};
use tidings_auth::{Credential, Reason, Secret, Source};

use super::{NOW, Said, accepted, bearer, login, said};

fn bcrypt_line(user: &str, password: &str, cost: u32, version: bcrypt::Version) -> String {
    let hash = bcrypt::hash_with_result(password, cost).unwrap();
    format!("{user}:{}\n", hash.format_for_version(version))
}

fn errors(text: &str) -> Vec<(usize, PasswordLineError)> {
    let wrong = PasswordFile::parse(text).unwrap_err();
    wrong.iter().map(|at| (at.line, at.error)).collect()
}

#[test]
fn a_user_with_the_right_password_is_accepted() {
    let (mut text, _) =
        passwords::set("# people\n", "ada", &Secret::from("correct horse")).unwrap();
    for (user, version) in [
        ("a", bcrypt::Version::TwoA),
        ("b", bcrypt::Version::TwoB),
        ("y", bcrypt::Version::TwoY),
    ] {
        text.push_str(&bcrypt_line(user, "battery staple", 4, version));
    }
    let file = PasswordFile::parse(&text).unwrap();
    assert_eq!(file.users(), 4);
    let ada = accepted(file.verify(&login("ada", "correct horse"), NOW));
    assert_eq!((ada.name.as_str(), ada.expires), ("ada", None));
    assert_eq!(ada.grants.filters(), 0);
    for user in ["a", "b", "y"] {
        assert_eq!(
            said(&file, &login(user, "battery staple")),
            Said::Yes,
            "{user}"
        );
        assert_eq!(
            said(&file, &login(user, "battery stapl")),
            Said::No(Reason::Password),
            "{user}"
        );
    }
    assert_eq!(
        said(&file, &login("ada", "battery staple")),
        Said::No(Reason::Password)
    );
    assert_eq!(said(&file, &login("Ada", "correct horse")), Said::NotMine);
    assert_eq!(said(&file, &bearer("correct horse")), Said::NotMine);
    assert_eq!(said(&file, &Credential::Anonymous), Said::NotMine);
}

#[test]
fn what_can_be_no_login_is_nobodys_without_hashing() {
    let file = PasswordFile::parse(&bcrypt_line("a", "b", 4, bcrypt::Version::TwoY)).unwrap();
    let long = "x".repeat(1025);
    for (user, password) in [
        ("a", ""),
        ("", "b"),
        ("a\0", "b"),
        ("a\0a", "b"),
        ("a", "b\0"),
        ("a", "b\0c"),
        ("a:a", "b"),
        (" a", "b"),
        ("a\n", "b"),
        (long.as_str(), "b"),
        ("a", long.as_str()),
    ] {
        let credential = login(user, password);
        assert!(!file.is_slow(&credential), "{user:?} {password:?}");
        assert_eq!(
            said(&file, &credential),
            Said::NotMine,
            "{user:?} {password:?}"
        );
    }
    assert!(file.is_slow(&login("a", "b")));
    assert!(file.is_slow(&login("nobody", "b")));
    assert!(!file.is_slow(&bearer("b")));
}

#[test]
fn an_unknown_user_costs_what_a_known_one_costs() {
    let file = PasswordFile::parse(&bcrypt_line("a", "b", 9, bcrypt::Version::TwoY)).unwrap();
    // The least of several runs is what the machine can do; a disturbance only ever adds to it.
    let cost = |user: &str| -> Duration {
        let run = |_| {
            let start = Instant::now();
            assert!(said(&file, &login(user, "wrong")) != Said::Yes);
            start.elapsed()
        };
        (0..4).map(run).min().unwrap()
    };
    let (known, unknown) = (cost("a"), cost("nobody"));
    assert!(
        unknown * 3 > known,
        "{unknown:?} for nobody, {known:?} for a user"
    );
}

#[test]
fn a_decoy_is_never_a_way_in() {
    let file = PasswordFile::parse(&bcrypt_line("a", "b", 4, bcrypt::Version::TwoY)).unwrap();
    assert_eq!(said(&file, &login("nobody", "b")), Said::NotMine);
    let empty = PasswordFile::parse("").unwrap();
    assert_eq!(said(&empty, &login("nobody", "b")), Said::NotMine);
}

#[test]
fn every_line_that_is_not_taken_is_named() {
    let argon2 =
        "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0$bWV0aW5nIG9mIHRoZSBtaW5kcyBpbiBoYXNo";
    let good = bcrypt_line("good", "x", 4, bcrypt::Version::TwoY);
    let good = good.trim_end();
    let hash = good.split_once(':').unwrap().1;
    let lines = [
        (good.to_owned(), None),
        ("no colon".to_owned(), Some(PasswordLineError::NoColon)),
        (format!(":{hash}"), Some(PasswordLineError::User)),
        (format!("a\u{7}:{hash}"), Some(PasswordLineError::User)),
        (format!(" a:{hash}"), Some(PasswordLineError::User)),
        (
            good.to_owned(),
            Some(PasswordLineError::Duplicate { first: 1 }),
        ),
        ("b:hunter2".to_owned(), Some(PasswordLineError::Scheme)),
        ("b:".to_owned(), Some(PasswordLineError::Scheme)),
        (
            "b:{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=".to_owned(),
            Some(PasswordLineError::Scheme),
        ),
        (
            "b:$apr1$abc$def".to_owned(),
            Some(PasswordLineError::Scheme),
        ),
        ("b:$5$abc$def".to_owned(), Some(PasswordLineError::Scheme)),
        (
            format!("b:{}", hash.replace("$2y$", "$2x$")),
            Some(PasswordLineError::Scheme),
        ),
        (
            format!("b:{}", argon2.replace("2id", "2i")),
            Some(PasswordLineError::Scheme),
        ),
        ("b:$2y$10$short".to_owned(), Some(PasswordLineError::Hash)),
        (
            format!("b:{}", hash.replace("$04$", "$03$")),
            Some(PasswordLineError::Hash),
        ),
        (
            format!("b:{}", hash.replace("$04$", "$31$")),
            Some(PasswordLineError::TooExpensive),
        ),
        (
            "b:$argon2id$v=19$m=19456".to_owned(),
            Some(PasswordLineError::Hash),
        ),
        (
            "b:$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ".to_owned(),
            Some(PasswordLineError::Hash),
        ),
        (
            format!("b:{}", argon2.replace("19456", "4000000")),
            Some(PasswordLineError::TooExpensive),
        ),
        (
            format!("b:{}", argon2.replace("t=2", "t=2000")),
            Some(PasswordLineError::TooExpensive),
        ),
        (format!("c:{argon2}  "), None),
    ];
    let text: Vec<&str> = lines.iter().map(|(line, _)| line.as_str()).collect();
    let expect: Vec<(usize, PasswordLineError)> = lines
        .iter()
        .enumerate()
        .filter_map(|(index, (_, error))| error.map(|error| (index + 1, error)))
        .collect();
    assert_eq!(errors(&text.join("\n")), expect);
}

#[test]
fn an_error_says_what_to_do_and_not_the_password() {
    let wrong = PasswordFile::parse("\n# x\nb:hunter2\r\n").unwrap_err();
    let said = wrong[0].to_string();
    assert!(said.starts_with("line 3: "), "{said}");
    assert!(
        said.contains("tidings passwd") && !said.contains("hunter2"),
        "{said}"
    );
}

#[test]
fn a_file_is_edited_line_by_line() {
    let old = "# the staff\n\nada:$2y$old\nbob:$2y$bob\nada:$2y$twice\n";
    let (text, replaced) = passwords::set(old, "ada", &Secret::from("new")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(replaced);
    assert_eq!(
        (lines.len(), lines[0], lines[1], lines[3]),
        (4, "# the staff", "", "bob:$2y$bob")
    );
    assert!(
        lines[2].starts_with("ada:$argon2id$v=19$m=19456,t=2,p=1$"),
        "{}",
        lines[2]
    );
    assert_eq!(
        passwords::remove(old, "ada").unwrap(),
        "# the staff\n\nbob:$2y$bob\n"
    );
    assert_eq!(
        passwords::remove(old, "eve"),
        Err(PasswordEditError::Unknown)
    );
    let (text, replaced) = passwords::set("bob:$2y$bob", "ada", &Secret::from("new")).unwrap();
    assert!(
        !replaced && text.starts_with("bob:$2y$bob\nada:$argon2id$"),
        "{text}"
    );
    for (user, password, error) in [
        ("a:b", "x", PasswordEditError::User),
        ("#a", "x", PasswordEditError::User),
        ("a", "", PasswordEditError::Password),
        ("a", "x\0y", PasswordEditError::Password),
    ] {
        assert_eq!(
            passwords::set("", user, &Secret::from(password)),
            Err(error)
        );
    }
}

#[test]
fn the_same_password_never_gives_the_same_line() {
    let password = Secret::from("x");
    assert_ne!(
        passwords::set("", "a", &password).unwrap(),
        passwords::set("", "a", &password).unwrap()
    );
}
