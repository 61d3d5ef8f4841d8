//! Automatic certificates, by an authority that checks every signature: Let's Encrypt's `pebble`.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tidings_e2e::acme::{Acme, Names};
use tidings_e2e::http::{connect, get};
use tidings_e2e::server::{free_ports, tidings};
use tidings_e2e::tls::{Authority, s_client};
use tidings_e2e::tools::{Background, curl, output, stdout};
use tidings_e2e::{Options, PATIENCE, Server, eventually, spawn};

use super::failures;

const NAME: &str = "push.example.org";
/// A pause after a failure and an order, on a machine with much to do.
const LONG: Duration = Duration::from_mins(1);

fn orders(server: &Server, result: &str) -> u64 {
    server.metric("tidings_acme_orders_total", &format!("\"{result}\"")) as u64
}

fn challenges(server: &Server, kind: &str) -> u64 {
    server.metric("tidings_acme_challenges_total", &format!("\"{kind}\"")) as u64
}

/// A server whose listeners with TLS have no certificate but an automatic one.
#[track_caller]
fn serve(acme: &Acme, more: &str) -> Server {
    let config = acme.config(&[NAME], more);
    Server::start(Options::default().tls(&acme.authority).config(&config))
}

/// curl to a name at this address, which trusts what is in the file and nothing else.
fn ask(root: &str, name: &str, address: SocketAddr, arguments: &[&str]) -> Command {
    let to = format!("{name}:443:{address}");
    let mut command = curl(&["--fail", "--cacert", root, "--connect-to", &to]);
    command.args(arguments);
    command
}

#[track_caller]
fn until_served(server: &Server, root: &str, name: &str) {
    let url = format!("https://{name}/healthz");
    eventually("the certificate is served", LONG, || {
        output(&mut ask(root, name, server.https(), &[&url]))
            .status
            .success()
    });
}

/// What the log says of the orders that failed.
fn complaints(server: &Server) -> Vec<serde_json::Value> {
    let lines = server.log();
    let lines = lines
        .iter()
        .filter_map(|line| serde_json::from_str(line).ok());
    lines
        .map(|line: serde_json::Value| line.get("fields").unwrap_or(&line).clone())
        .filter(|fields| fields["message"] == "no certificate was issued")
        .collect()
}

/// The account and the certificate are on the disk, for the server alone.
#[track_caller]
fn assert_kept(server: &Server) {
    let folder = server.data().join("acme");
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    let own = fs::read_dir(&folder)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let mut files: Vec<_> = fs::read_dir(&own).unwrap().collect();
    files.sort_by_key(|file| file.as_ref().unwrap().file_name());
    let files: Vec<_> = files.into_iter().map(|file| file.unwrap().path()).collect();
    assert!(files[0].ends_with("account.json") && files[1].ends_with("certificate.pem"));
    assert_eq!(
        (files.len(), mode(&files[0]), mode(&files[1])),
        (2, 0o600, 0o600)
    );
    let stored = fs::read_to_string(&files[1]).unwrap();
    let key = stored.lines().nth(1).unwrap();
    assert!(!server.log().iter().any(|line| line.contains(key)));
}

#[test]
fn a_certificate_comes_by_tls_once_the_authority_is_there_and_outlives_the_server() {
    let acme = Acme::new();
    let server = serve(&acme, "");
    // Without it everything else is served, and whoever wants TLS is told that there is none.
    assert_eq!(get(server.address(), "/healthz").status, 200);
    server.publish("news", "plain");
    let told = output(&mut s_client(server.https(), &acme.authority, &[]));
    assert!(!told.status.success());
    assert_eq!(failures(&server, "no-certificate-yet"), 1);
    eventually("the authority is missed", PATIENCE, || {
        orders(&server, "unreachable") >= 1
    });

    let names = Names::at(server.https().ip());
    let running = acme.start(&names, server.address(), server.https());
    let root = running.root();
    until_served(&server, &root, NAME);
    assert_eq!(orders(&server, "issued"), 1);
    assert!(challenges(&server, "tls-alpn-01") >= 1);
    assert_eq!(challenges(&server, "http-01"), 0);
    let left = server.metric("tidings_acme_certificate_seconds", "");
    assert!(
        (89.0 * 86_400.0..=90.0 * 86_400.0).contains(&left),
        "{left}"
    );
    let url = format!("https://{NAME}/v1/topics/news?after=earliest");
    for version in ["--http1.1", "--http2"] {
        let told = stdout(&mut ask(&root, NAME, server.https(), &[version, &url]));
        assert!(told.contains("plain"), "{told}");
    }
    for address in [server.mqtts(), server.stomps()] {
        let mut command = s_client(address, &acme.authority, &[]);
        // The last one counts.
        command.args([
            "-CAfile",
            &root,
            "-verify_hostname",
            NAME,
            "-servername",
            NAME,
        ]);
        stdout(&mut command);
    }
    // Nobody is shown the authority's proof any more.
    let proof = ["-alpn", "acme-tls/1", "-servername", NAME];
    let told = output(&mut s_client(server.https(), &acme.authority, &proof));
    assert!(!told.status.success());
    assert_eq!(failures(&server, "incompatible"), 1);

    assert_kept(&server);
    // The authority is gone, and nobody misses it.
    drop(running);
    let server = server.restart();
    stdout(&mut ask(
        &root,
        NAME,
        server.https(),
        &[&format!("https://{NAME}/healthz")],
    ));
    for result in ["issued", "unreachable", "refused", "failed"] {
        assert_eq!(orders(&server, result), 0, "{result}");
    }
}

#[test]
fn a_certificate_comes_by_http_past_credentials_and_stands_beside_files() {
    let acme = Acme::new();
    let files = Authority::new();
    let pair = files.issue("file", "DNS:localhost");
    let secret = pair.cert.with_file_name("secret");
    fs::write(&secret, "0123456789abcdef0123456789abcdef").unwrap();
    let config = |domains: &[&str]| {
        let more = "acme_challenge = \"http-01\"\nacme_contact = \"ops@example.org\"";
        let auth = format!("[auth]\njwt_secret_file = {secret:?}\n");
        acme.config(domains, more) + &auth
    };
    let options = Options::default()
        .tls(&acme.authority)
        .argument("--tls-cert")
        .argument(&pair.as_option())
        .config(&config(&[NAME, "b.example.org"]));
    let server = Server::start(options);
    // Credentials are asked for, and nothing is there until somebody has to look.
    assert_eq!(get(server.address(), "/v1/topics/x").status, 401);
    let path = "/.well-known/acme-challenge/x";
    assert_eq!(get(server.address(), path).status, 404);
    let names = Names::at(server.https().ip());
    let running = acme.start(&names, server.address(), server.https());
    let root = running.root();
    for name in [NAME, "b.example.org"] {
        until_served(&server, &root, name);
    }
    assert!(challenges(&server, "http-01") >= 2);
    assert_eq!(challenges(&server, "tls-alpn-01"), 0);
    assert_eq!(get(server.address(), path).status, 404);
    let by_file = ["https://localhost/healthz"];
    stdout(&mut ask(
        &files.ca_argument(),
        "localhost",
        server.https(),
        &by_file,
    ));

    // An authority that has forgotten the account, and other names.
    drop(running);
    let running = acme.start(&names, server.address(), server.https());
    server.write_config(&config(&[NAME, "c.example.org"]));
    server.reload();
    let root = running.root();
    until_served(&server, &root, "c.example.org");
    until_served(&server, &root, NAME);
    assert_eq!(orders(&server, "issued"), 2);
    assert_eq!(orders(&server, "refused"), 0);
}

#[test]
fn the_authority_needs_no_certificate_where_clients_need_one() {
    let acme = Acme::new();
    let more = format!("client_ca = {:?}", acme.authority.ca());
    let server = serve(&acme, &more);
    let names = Names::at(server.https().ip());
    let running = acme.start(&names, server.address(), server.https());
    eventually("the certificate is issued", LONG, || {
        orders(&server, "issued") == 1
    });
    let client = acme.authority.issue("client", "DNS:client.example");
    let (cert, key) = (
        client.cert.display().to_string(),
        client.key.display().to_string(),
    );
    let url = format!("https://{NAME}/healthz");
    let arguments = ["--cert", &cert, "--key", &key, &url];
    stdout(&mut ask(&running.root(), NAME, server.https(), &arguments));
    let without = output(&mut ask(&running.root(), NAME, server.https(), &[&url]));
    assert!(!without.status.success());
}

#[test]
fn certificates_are_renewed_under_load_without_a_failure() {
    let acme = Acme::new().validity_s(15);
    let server = serve(&acme, "");
    let names = Names::at(server.https().ip());
    let running = acme.start(&names, server.address(), server.https());
    let root = running.root();
    until_served(&server, &root, NAME);
    let failed = || server.metric("tidings_tls_handshake_failures_total", "");
    let (failed_before, url) = (failed(), format!("https://{NAME}/v1/topics/load"));

    let follow = format!("{url}?after=earliest");
    let stream = ["-N", "-H", "Accept: text/event-stream", &follow];
    let mut stays = Background::start(&mut ask(&root, NAME, server.https(), &stream));
    let done = Arc::new(AtomicBool::new(false));
    let load = {
        let (done, address) = (Arc::clone(&done), server.https());
        let (root, url) = (root.clone(), url.clone());
        spawn(move || {
            let mut count = 0;
            while !done.load(Relaxed) {
                stdout(&mut ask(&root, NAME, address, &["-d", "x", &url]));
                count += 1;
            }
            count
        })
    };
    eventually("it is renewed, and again", LONG, || {
        orders(&server, "issued") >= 3
    });
    done.store(true, Relaxed);
    let sent: usize = load.join().unwrap();
    assert!(sent > 10, "{sent}");
    server.publish("load", "the last");
    let lines = BufReader::new(stays.child().stdout.take().unwrap()).lines();
    let data = lines
        .map_while(Result::ok)
        .filter(|line| line.starts_with("data: "));
    assert_eq!(
        data.take_while(|line| line != "data: the last").count(),
        sent
    );
    assert!((failed() - failed_before).abs() < 0.5, "{}", failed());
    for result in ["refused", "failed"] {
        assert_eq!(orders(&server, result), 0, "{result}");
    }
}

#[test]
fn a_name_that_is_elsewhere_is_refused_and_not_asked_for_at_once_again() {
    let acme = Acme::new();
    let server = serve(&acme, "");
    // Nobody listens there at these ports.
    let names = Names::at(IpAddr::V4(Ipv4Addr::new(127, 255, 255, 254)));
    let _running = acme.start(&names, server.address(), server.https());
    eventually("it is refused", LONG, || orders(&server, "refused") == 1);
    let complaint = complaints(&server).pop().unwrap();
    let error = complaint["error"].as_str().unwrap();
    assert!(error.starts_with(&format!("{NAME}: ")), "{error}");
    assert!(
        error.contains("connect") && error.contains("urn:ietf:params:acme:error:"),
        "{error}"
    );
    let next_s = complaint["next_s"].as_u64().unwrap();
    assert!((59..=66).contains(&next_s), "{next_s}");
    assert_eq!(get(server.address(), "/healthz").status, 200);

    // Whoever puts it right need not wait.
    names.move_to(server.https().ip());
    server.reload();
    eventually("it is issued", LONG, || orders(&server, "issued") == 1);
    assert_eq!(orders(&server, "refused"), 1);
}

/// Bytes that came for the first of two connected addresses, and that nobody has read yet.
fn unread(of: SocketAddr, from: SocketAddr) -> Option<u64> {
    let hex = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => format!(
            "{:08X}:{:04X}",
            u32::from_le_bytes(ip.octets()),
            address.port()
        ),
        IpAddr::V6(_) => unreachable!("the tests use the fourth version"),
    };
    let ends = format!(" {} {} ", hex(of), hex(from));
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let line = table.lines().find(|line| line.contains(&ends))?;
    let queues = line.split_whitespace().nth(4)?;
    u64::from_str_radix(queues.split_once(':')?.1, 16).ok()
}

/// Passes one connection on; of what the client says first, the second half follows when the first has been read.
fn halve(to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut server = connect(to).unwrap();
        let mut hello = vec![0; 4_096];
        let length = client.read(&mut hello).unwrap();
        server.write_all(&hello[..length / 2]).unwrap();
        let own = server.local_addr().unwrap();
        eventually("the first half is read", PATIENCE, || {
            unread(to, own) == Some(0)
        });
        server.write_all(&hello[length / 2..length]).unwrap();
        let (mut back, mut forth) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        spawn(move || std::io::copy(&mut client, &mut server).unwrap_or_default());
        std::io::copy(&mut back, &mut forth).unwrap_or_default();
        forth.shutdown(std::net::Shutdown::Both).unwrap_or_default();
    });
    address
}

#[test]
fn while_the_authority_looks_its_handshake_is_answered_and_ended() {
    let acme = Acme::new();
    let server = serve(&acme, "");
    // The authority looks at somebody who says nothing, and waits.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let names = Names::at(address.ip());
    let _running = acme.start(&names, server.address(), address);
    let (waiting, _) = silent.accept().unwrap();

    for address in [server.https(), halve(server.https())] {
        let mut proof = Command::new("timeout");
        proof.args([
            "20",
            "openssl",
            "s_client",
            "-connect",
            &address.to_string(),
        ]);
        proof.args(["-alpn", "acme-tls/1", "-servername", NAME, "-ign_eof"]);
        let told = stdout(&mut proof);
        assert!(told.contains("ALPN protocol: acme-tls/1"), "{told}");
        let file = acme.authority.ca().with_file_name("proof.pem");
        fs::write(&file, told).unwrap();
        let mut read = Command::new("openssl");
        let text = stdout(read.args(["x509", "-noout", "-text", "-in"]).arg(&file));
        assert!(text.contains("1.3.6.1.5.5.7.1.31: critical"), "{text}");
        assert!(text.contains(&format!("DNS:{NAME}\n")), "{text}");
    }
    assert_eq!(challenges(&server, "tls-alpn-01"), 2);
    // It is shown to nobody else.
    for arguments in [
        &["-alpn", "http/1.1", "-servername", NAME][..],
        &["-alpn", "acme-tls/1,http/1.1", "-servername", NAME],
        &["-alpn", "acme-tls/1", "-servername", "b.example.org"],
    ] {
        let before = failures(&server, "no-certificate-yet");
        let told = output(&mut s_client(server.https(), &acme.authority, arguments));
        assert!(!told.status.success(), "{arguments:?}");
        assert_eq!(failures(&server, "no-certificate-yet"), before + 1);
    }
    drop(waiting);
    eventually("it is refused", LONG, || orders(&server, "refused") == 1);
}

#[test]
fn an_account_is_bound_to_one_that_the_authority_knows() {
    let acme = Acme::new().binding(
        "kid-1",
        "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W",
    );
    let server = serve(&acme, "");
    let names = Names::at(server.https().ip());
    let _running = acme.start(&names, server.address(), server.https());
    eventually("it is refused", LONG, || orders(&server, "refused") == 1);
    let error = complaints(&server).pop().unwrap()["error"].to_string();
    assert!(error.contains("externalAccountRequired"), "{error}");
    let file = acme.authority.ca().with_file_name("hmac");
    let key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W\n";
    fs::write(&file, key).unwrap();
    let more = format!("acme_eab_kid = \"kid-1\"\nacme_eab_key_file = {file:?}");
    server.write_config(&acme.config(&[NAME], &more));
    server.reload();
    eventually("it is issued", LONG, || orders(&server, "issued") == 1);
    assert!(!server.log().join("\n").contains(key.trim()));
}

#[test]
fn an_authority_that_is_busy_is_left_alone_for_as_long_as_it_says() {
    let acme = Acme::new();
    let own = acme.authority.issue("busy", "DNS:localhost");
    let folder = tempfile::tempdir().unwrap();
    let answer =
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7200\r\nContent-Length: 0\r\n\r\n";
    fs::write(folder.path().join("dir"), answer).unwrap();
    let [port] = free_ports();
    let mut busy = Command::new("openssl");
    busy.args(["s_server", "-quiet", "-HTTP", "-accept", &port.to_string()])
        .arg("-cert")
        .arg(&own.cert)
        .arg("-key")
        .arg(&own.key)
        .current_dir(folder.path());
    let _busy = Background::start(&mut busy);
    let url = format!("https://localhost:{port}/dir");
    let ca = acme.authority.ca_argument();
    eventually("the authority listens", PATIENCE, || {
        let told = output(&mut curl(&["-i", "--cacert", &ca, &url])).stdout;
        String::from_utf8_lossy(&told).contains("7200")
    });
    let config = acme.config(&[NAME], "");
    let options = Options::default().tls(&acme.authority).config(&config);
    let server = Server::start(options.set("tls.acme_directory", &url));
    eventually("it has said so", PATIENCE, || {
        complaints(&server).len() == 1
    });
    let complaint = complaints(&server).pop().unwrap();
    assert!(
        complaint["error"].to_string().contains("503"),
        "{complaint}"
    );
    let next_s = complaint["next_s"].as_u64().unwrap();
    assert!((7_190..=7_200).contains(&next_s), "{next_s}");
    assert_eq!(orders(&server, "unreachable"), 1);
}

#[test]
fn what_is_wrong_with_the_options_is_told_without_a_start() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing").display().to_string();
    let bad = folder.path().join("bad").display().to_string();
    fs::write(&bad, "not a key!").unwrap();
    let https = ["--https", "127.0.0.1:0"];
    for (arguments, expect) in [
        (&["--acme", NAME][..], "no listener has TLS"),
        (&["--acme", "*.example.org"], "without a wildcard"),
        (&["--set", &format!("tls.acme_ca={missing}")], "cannot read"),
        (&["--set", "tls.acme_eab_kid=k"], "tls.acme_eab_key_file"),
        (
            &[
                "--set",
                "tls.acme_eab_kid=k",
                "--set",
                &format!("tls.acme_eab_key_file={bad}"),
            ],
            "no key in base64url",
        ),
        (
            &["--set", "tls.acme_directory=http://example.org/"],
            "write https://",
        ),
    ] {
        let rest: &[&str] = match arguments[0] {
            "--acme" if arguments[1] == NAME => &[],
            "--acme" => &https,
            _ => &["--https", "127.0.0.1:0", "--acme", NAME],
        };
        let arguments = [&["check"], arguments, rest].concat();
        let result = output(&mut tidings(&arguments));
        let told = String::from_utf8_lossy(&result.stderr).into_owned();
        assert_eq!(result.status.code(), Some(2), "{told}");
        assert!(told.contains(expect), "{told}");
    }
    let two = ["check", "--acme", NAME, "--acme", "b.example.org"];
    stdout(tidings(&two).args(https));
}
