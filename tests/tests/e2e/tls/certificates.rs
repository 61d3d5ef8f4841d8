//! Which certificate is shown and demanded, and how that changes while the server runs.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tidings_e2e::tls::{Authority, Pair, s_client};
use tidings_e2e::tools::{output, stdout};
use tidings_e2e::{Options, PATIENCE, Server, eventually, spawn};

use super::{curl, failures};

/// The subject of the certificate that a client is shown.
#[track_caller]
fn shown(address: SocketAddr, authority: &Authority, arguments: &[&str]) -> String {
    let told = output(&mut s_client(address, authority, arguments));
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    let subject = told
        .lines()
        .find_map(|line| line.strip_prefix("Peer certificate: CN = "));
    subject
        .unwrap_or_else(|| panic!("no certificate: {told}"))
        .to_owned()
}

#[test]
fn the_name_that_is_asked_for_picks_the_certificate() {
    let authority = Authority::new();
    let pairs = [
        ("first", "DNS:first.example"),
        ("second", "DNS:second.example,DNS:*.wild.example"),
        ("third", "DNS:third.example"),
    ]
    .map(|(file, names)| authority.issue(file, names));
    let tables: Vec<String> = pairs
        .iter()
        .map(|Pair { cert, key }| format!("[[tls.certificates]]\ncert = {cert:?}\nkey = {key:?}\n"))
        .collect();
    let server = Server::start(Options::default().tls(&authority).config(&tables.concat()));
    for address in [server.https(), server.mqtts(), server.stomps()] {
        for (name, expect) in [
            ("first.example", "first"),
            ("second.example", "second"),
            ("SECOND.example", "second"),
            ("a.wild.example", "second"),
            ("third.example", "third"),
            ("a.b.wild.example", "first"),
            ("unknown.example", "first"),
        ] {
            let got = shown(address, &authority, &["-servername", name]);
            assert_eq!(got, expect, "{name}");
        }
        assert_eq!(shown(address, &authority, &["-noservername"]), "first");
    }
}

#[test]
fn clients_are_asked_for_a_certificate_where_that_is_set() {
    let authority = Authority::new();
    let clients = Authority::new();
    let good = clients.issue("client", "DNS:client.example");
    let strangers = Authority::new();
    let bad = strangers.issue("stranger", "DNS:client.example");
    let options = Options::default()
        .tls(&authority)
        .set("tls.client_ca", clients.ca_argument());
    let attempt = |server: &Server, pair: Option<&Pair>| {
        let url = server.https_url("/healthz");
        let mut command = curl(&authority, &["--fail", &url]);
        if let Some(Pair { cert, key }) = pair {
            command.arg("--cert").arg(cert).arg("--key").arg(key);
        }
        output(&mut command).status.success()
    };
    let server = Server::start(options.clone());
    assert!(attempt(&server, Some(&good)));
    assert!(!attempt(&server, None));
    assert!(!attempt(&server, Some(&bad)));
    assert!(failures(&server, "no-certificate") >= 1);
    assert!(failures(&server, "bad-certificate") >= 1);

    let server = server.restart_with(options.set("tls.client_auth", "optional"));
    assert!(attempt(&server, Some(&good)));
    assert!(attempt(&server, None));
    assert!(!attempt(&server, Some(&bad)));
}

/// Puts new files in the place of the ones that a server has, as certificate tools do.
fn replace(new: &Pair, old: &Pair) {
    fs::rename(&new.cert, &old.cert).unwrap();
    fs::rename(&new.key, &old.key).unwrap();
}

fn reloads(server: &Server, result: &str) -> u64 {
    server.metric("tidings_tls_reloads_total", &format!("\"{result}\"")) as u64
}

#[test]
fn files_that_change_are_taken_and_bad_ones_leave_the_old_in_place() {
    let authority = Authority::new();
    let pair = authority.issue("shown", "DNS:localhost");
    let options = Options::default()
        .tls(&authority)
        .argument("--tls-cert")
        .argument(&pair.as_option())
        .set("tls.watch_ms", 100);
    let server = Server::start(options);
    let subject = || shown(server.https(), &authority, &[]);
    assert_eq!(subject(), "shown");
    replace(&authority.issue("later", "DNS:localhost"), &pair);
    eventually("the new one is shown", PATIENCE, || subject() == "later");

    let log_has = |text: &str| server.log().iter().any(|line| line.contains(text));
    for (bad, what) in [
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "cannot use",
        ),
        ("nothing", "has no certificate in it"),
    ] {
        let refused = reloads(&server, "refused");
        fs::write(&pair.cert, bad).unwrap();
        eventually("the bad one is refused", PATIENCE, || {
            reloads(&server, "refused") > refused && log_has(what)
        });
        assert!(log_has("the old ones stay"));
        assert_eq!(subject(), "later");
    }
    // It is told of once, and again when somebody asks for it.
    let refused = reloads(&server, "refused");
    server.reload();
    eventually("it is looked at again", PATIENCE, || {
        reloads(&server, "refused") > refused
    });
    // A certificate with another's key.
    let other = authority.issue("other", "DNS:localhost");
    fs::copy(&other.cert, &pair.cert).unwrap();
    eventually("the keys do not match", PATIENCE, || log_has("KeyMismatch"));
    assert_eq!(subject(), "later");
    fs::rename(&other.key, &pair.key).unwrap();
    eventually("now they do", PATIENCE, || subject() == "other");
}

#[test]
fn a_hangup_takes_new_files_and_new_options() {
    let authority = Authority::new();
    let pair = authority.issue("shown", "DNS:localhost");
    let config = |more: &str| {
        let Pair { cert, key } = &pair;
        format!(
            "[tls]\nwatch_ms = \"1h\"\ncertificates = [{{ cert = {cert:?}, key = {key:?} }}]\n{more}"
        )
    };
    let server = Server::start(Options::default().tls(&authority).config(&config("")));
    replace(&authority.issue("later", "DNS:localhost"), &pair);
    assert_eq!(shown(server.https(), &authority, &[]), "shown");
    server.reload();
    eventually("the new one is shown", PATIENCE, || {
        shown(server.https(), &authority, &[]) == "later"
    });
    server.write_config(&config("version_min = \"1.3\"\n"));
    server.reload();
    eventually("the old version is refused", PATIENCE, || {
        let mut command = s_client(server.https(), &authority, &["-tls1_2"]);
        !output(&mut command).status.success()
    });
    assert_eq!(shown(server.https(), &authority, &["-tls1_3"]), "later");
}

#[test]
fn certificates_are_replaced_under_load_without_a_failure() {
    let authority = Authority::new();
    let options = Options::default().tls(&authority).set("tls.watch_ms", 100);
    let names = "DNS:localhost";
    let pair = authority.issue("shown", names);
    let options = options.argument("--tls-cert").argument(&pair.as_option());
    let server = Server::start(options);
    let to = format!("localhost:443:{}", server.https());
    let url = "https://localhost/v1/topics/load";
    let connect = ["--fail", "--connect-to", &to];

    // One that stays from the first certificate to the last, and others that come all the time.
    let stream = ["-N", "-H", "Accept: text/event-stream"];
    let stays = &mut curl(
        &authority,
        &[&connect[..], &stream, &[&format!("{url}?after=earliest")]].concat(),
    );
    let mut stays = tidings_e2e::tools::Background::start(stays);
    let done = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..2)
        .map(|_| {
            let (authority, done) = (authority.clone(), Arc::clone(&done));
            let arguments: Vec<String> = connect
                .iter()
                .chain(&["-d", "x", url])
                .map(ToString::to_string)
                .collect();
            spawn(move || {
                let mut count = 0;
                while !done.load(Relaxed) {
                    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                    stdout(&mut curl(&authority, &arguments));
                    count += 1;
                }
                count
            })
        })
        .collect();
    for round in 0..5 {
        let name = format!("round-{round}");
        replace(&authority.issue(&name, names), &pair);
        eventually("the new one is shown", PATIENCE, || {
            shown(server.https(), &authority, &[]) == name
        });
    }
    done.store(true, Relaxed);
    let sent: usize = load.into_iter().map(|thread| thread.join().unwrap()).sum();
    assert!(sent > 10, "{sent}");
    server.publish("load", "the last");
    let lines = std::io::BufReader::new(stays.child().stdout.take().unwrap());
    let lines = std::io::BufRead::lines(lines).map_while(Result::ok);
    let data = lines.filter(|line| line.starts_with("data: "));
    let came = data.take_while(|line| line != "data: the last").count();
    assert_eq!(came, sent);
    // Half a replacement may have been seen, and refused; no handshake failed by it.
    assert!(reloads(&server, "taken") >= 5);
    let failed = server.metric("tidings_tls_handshake_failures_total", "");
    assert!(failed < 1.0, "{failed}");
}

#[test]
fn files_that_cannot_be_used_end_the_start_with_their_name() {
    use tidings_e2e::server::tidings;
    let authority = Authority::new();
    let pair = authority.issue("good", "DNS:localhost");
    let other = authority.issue("other", "DNS:localhost");
    let cert = pair.cert.display();
    for (given, expect) in [
        (format!("{cert}.missing:{cert}"), "good.pem.missing"),
        (format!("{cert}:{}", other.key.display()), "KeyMismatch"),
        (cert.to_string(), "no private key"),
        (String::new(), "tls.certificates"),
    ] {
        let arguments = ["check", "--https", "127.0.0.1:0", "--tls-cert", &given];
        let result = output(&mut tidings(&arguments));
        let told = String::from_utf8_lossy(&result.stderr).into_owned();
        assert_eq!(result.status.code(), Some(2), "{told}");
        assert!(told.contains(expect), "{told}");
    }
    let arguments = [
        "check",
        "--https",
        "127.0.0.1:0",
        "--tls-cert",
        &pair.as_option(),
    ];
    stdout(&mut tidings(&arguments));
    let open = [
        "check",
        "--https",
        "0.0.0.0:0",
        "--tls-cert",
        &pair.as_option(),
    ];
    let told = output(&mut tidings(&open)).stderr;
    assert!(String::from_utf8_lossy(&told).contains("no credentials are configured"));
}
