//! The admin listener: who gets in, and what is where.

use std::io::Write as _;
use std::net::SocketAddr;

use serde_json::json;
use tidings_e2e::http::{Request, connect, get};
use tidings_e2e::server::{free_ports, tidings};
use tidings_e2e::tls::Authority;
use tidings_e2e::tools::{curl, output, stdout};
use tidings_e2e::{Options, PATIENCE, Server, eventually, metrics};

use super::Guarded;

/// A server with nothing but an admin listener beside HTTP, and where that is.
fn with_admin(options: Options) -> (Server, SocketAddr) {
    let [port] = free_ports();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let options = options.argument("--admin").argument(&address.to_string());
    (Server::start(options), address)
}

fn token_file(folder: &tempfile::TempDir) -> (String, String) {
    let file = folder.path().join("token").display().to_string();
    stdout(&mut tidings(&["token", "secret", &file]));
    let token = std::fs::read_to_string(&file).unwrap();
    (file, format!("Bearer {}", token.trim()))
}

#[test]
fn metrics_are_where_they_can_be_had_without_being_everybodys() {
    let open = Server::start(Options::default());
    assert_eq!(get(open.address(), "/metrics").status, 200);
    let (server, admin) = with_admin(Options::default());
    let guarded = Guarded::start();
    for (server, admin) in [(&server, admin), (&guarded.server, guarded.server.admin())] {
        let refused = get(server.address(), "/metrics");
        refused.assert_problem(404, "not-found");
        assert!(
            refused.text().contains("admin.listen"),
            "{}",
            refused.text()
        );
        assert!(get(admin, "/metrics").text().contains("tidings_sockets "));
        for address in [server.address(), admin] {
            assert_eq!(get(address, "/healthz").status, 200);
            assert_eq!(get(address, "/readyz").status, 200);
        }
        let other = get(server.address(), "/v1/admin/revocations");
        other.assert_problem(404, "not-found");
    }
}

#[test]
fn without_a_token_no_page_in_a_browser_gets_in() {
    let (server, admin) = with_admin(Options::default());
    let body = json!({"subject": "ann"}).to_string();
    let post = || Request::post("/v1/admin/revocations").body(body.clone());
    for (name, value, code) in [
        // By DNS rebinding, a page of evil.example reads from its own name.
        ("Host", "evil.example:8081", "forbidden"),
        ("Origin", "http://evil.example", "bad-origin"),
        ("Origin", "null", "bad-origin"),
        ("Sec-Fetch-Site", "cross-site", "bad-origin"),
        ("Sec-Fetch-Site", "same-origin", "bad-origin"),
    ] {
        for request in [post(), Request::get("/metrics")] {
            let answer = if name == "Host" {
                let url = format!("http://{admin}/metrics");
                let command = &mut curl(&["-H", &format!("Host: {value}"), &url]);
                assert!(stdout(command).contains(code));
                continue;
            } else {
                request.header(name, value).send(admin)
            };
            answer.assert_problem(403, code);
        }
    }
    let listed = Request::get("/v1/admin/revocations").send(admin).json();
    assert_eq!(listed, json!({"revocations": []}));
    let typed = Request::get("/metrics").header("Sec-Fetch-Site", "none");
    let page = typed.send(admin).text();
    assert!(
        page.contains("tidings_admin_requests_total{outcome=\"foreign\"} 10"),
        "{page}"
    );
    drop(server);
}

#[test]
fn with_a_token_whoever_shows_it_gets_in_and_guessing_is_slowed() {
    let folder = tempfile::tempdir().unwrap();
    let (file, bearer) = token_file(&folder);
    let options = Options::default().config(&format!(
        "[admin]\ntoken_file = \"{file}\"\n[auth]\nfailures_max = 2\n"
    ));
    let (server, admin) = with_admin(options);
    let ask = |bearer: &str| {
        Request::get("/metrics")
            .header("Authorization", bearer)
            .send(admin)
    };
    let missing = get(admin, "/metrics");
    missing.assert_problem(401, "unauthorized");
    assert_eq!(
        missing.header("www-authenticate"),
        Some("Bearer realm=\"tidings-admin\"")
    );
    let in_the_url = format!("/metrics?access_token={}", &bearer[7..]);
    get(admin, &in_the_url).assert_problem(401, "unauthorized");
    let started = std::time::Instant::now();
    for _ in 0..3 {
        ask("Bearer wrong-wrong-wrong").assert_problem(401, "unauthorized");
    }
    assert!(started.elapsed().as_millis() >= 250, "the third one waits");
    assert_eq!(ask(&bearer).status, 200);
    assert_eq!(get(admin, "/healthz").status, 200);
    // A name is no matter, for a page does not know the token.
    let url = format!("http://{admin}/metrics");
    let by_name = &mut curl(&[
        "--fail",
        "-H",
        "Host: ops.example",
        "-H",
        &format!("Authorization: {bearer}"),
        &url,
    ]);
    stdout(by_name);
    std::fs::remove_file(&file).unwrap();
    let (_, renewed) = token_file(&folder);
    server.reload();
    eventually("the token is the new one", PATIENCE, || {
        ask(&renewed).status == 200
    });
    ask(&bearer).assert_problem(401, "unauthorized");
    let log = server.log().join("\n");
    assert!(!log.contains(&bearer[7..]) && !log.contains(&renewed[7..]));
}

#[test]
fn where_others_can_reach_it_it_needs_a_token_that_nobody_guesses() {
    let folder = tempfile::tempdir().unwrap();
    let (file, _) = token_file(&folder);
    let short = folder.path().join("short").display().to_string();
    std::fs::write(&short, "changeme\n").unwrap();
    let set = |file: &str| format!("admin.token_file={file}");
    for (listen, token, expect) in [
        ("0.0.0.0:8081", None, Some("admin.token_file")),
        ("[::]:8081", None, Some("admin.token_file")),
        ("0.0.0.0:8081", Some(set(&file)), None),
        ("127.0.0.1:8081", None, None),
        ("127.0.0.1:8081", Some(set(&short)), Some("can be guessed")),
        (
            "127.0.0.1:8081",
            Some(set("/nowhere")),
            Some("cannot read the file"),
        ),
        ("127.0.0.1:8080", None, Some("has the same address")),
    ] {
        let mut command = tidings(&["check", "--admin", listen]);
        if let Some(token) = &token {
            command.args(["--set", token]);
        }
        let checked = output(&mut command);
        let told = String::from_utf8_lossy(&checked.stderr);
        match expect {
            None => assert!(checked.status.success(), "{listen}: {told}"),
            Some(expect) => {
                assert_eq!(checked.status.code(), Some(2), "{listen}");
                assert!(told.contains(expect), "{listen}: {told}");
            }
        }
    }
}

#[test]
fn an_operator_gets_in_when_the_server_is_full_and_over_tls() {
    let [port] = free_ports();
    let authority = Authority::new();
    let options = Options::default()
        .tls(&authority)
        .set("limits.connections_max", 2)
        .set("admin.tls", format!("127.0.0.1:{port}"))
        .argument("--tls-cert")
        .argument(
            &authority
                .issue("both", "DNS:localhost,IP:127.0.0.1")
                .as_option(),
        );
    let (server, admin) = with_admin(options);
    let held = [(); 2].map(|()| connect(server.address()).unwrap());
    eventually("the server is full", PATIENCE, || {
        get(server.address(), "/healthz").status == 503
    });
    assert!(get(admin, "/metrics").text().contains("at-capacity"));
    let url = format!("https://localhost:{port}/metrics");
    let page = stdout(&mut curl(&[
        "--fail",
        "--cacert",
        &authority.ca_argument(),
        &url,
    ]));
    assert!(page.contains("tidings_tls_handshakes_total"), "{page}");
    drop(held);
}

#[test]
fn the_api_says_what_is_wrong() {
    let (server, admin) = with_admin(Options::default().set("admin.revocations_max", 1));
    let path = "/v1/admin/revocations";
    let post = |body: &str| Request::post(path).body(body).send(admin);
    post("{").assert_problem(400, "bad-json");
    post("{}").assert_problem(400, "bad-parameter");
    post(&"x".repeat(9 << 10)).assert_problem(413, "message-too-large");
    let made = post(r#"{"subject":"ann"}"#);
    assert_eq!(made.status, 201);
    assert_eq!(made.header("location"), Some("/v1/admin/revocations/1"));
    assert_eq!(post(r#"{"subject":"ann","reason":"again"}"#).status, 200);
    let full = post(r#"{"subject":"eve"}"#);
    full.assert_problem(403, "forbidden");
    assert!(
        full.text().contains("admin.revocations_max"),
        "{}",
        full.text()
    );
    Request::new("DELETE", "/v1/admin/revocations/7")
        .send(admin)
        .assert_problem(404, "not-found");
    let wrong = Request::new("PUT", path).send(admin);
    wrong.assert_problem(405, "method-not-allowed");
    assert_eq!(wrong.header("allow"), Some("GET, HEAD, POST"));
    get(admin, "/v1/topics/a").assert_problem(404, "not-found");
    drop(server);
}

#[test]
fn operators_are_heard_when_bodies_have_taken_all_there_is_for_them() {
    let options = Options::default()
        .set("server.shards", 1)
        .set("limits.message_bytes_max", 65_536)
        .set("limits.batch_bytes_max", 65_536)
        .set("limits.submit_bytes_max", 65_536);
    let (server, admin) = with_admin(options);
    let mut slow = connect(server.address()).unwrap();
    let head = "POST /v1/topics/a HTTP/1.1\r\nHost: x\r\nContent-Length: 65536\r\n\r\n";
    slow.write_all(head.as_bytes()).unwrap();
    slow.write_all(&vec![b'x'; 65_000]).unwrap();
    eventually("there is no room for another body", PATIENCE, || {
        let other = Request::post("/v1/topics/a").body([b'x'; 4_000]);
        let answer = other.send(server.address());
        answer.status == 503 && answer.text().contains("\"busy\"")
    });
    let body = json!({"subject": "ann"}).to_string() + &" ".repeat(4_000);
    let told = Request::post("/v1/admin/revocations")
        .body(body)
        .send(admin);
    assert_eq!(told.status, 201, "{}", told.text());
}

#[test]
fn one_address_does_not_take_every_place_of_the_admin_listener() {
    let (server, admin) = with_admin(Options::default());
    let held: Vec<_> = (0..80).map(|_| connect(admin).unwrap()).collect();
    let from = ["--interface", "127.0.0.2", "--fail"];
    let url = format!("http://{admin}/metrics");
    let mut page = String::new();
    eventually("they are refused", PATIENCE, || {
        page = stdout(curl(&from).arg(&url));
        metrics::sum(&page, "tidings_admin_sockets_refused_total", "per_address") >= 64.0
    });
    drop(held);
    eventually("their places are free", PATIENCE, || {
        let page = stdout(curl(&from).arg(&url));
        metrics::sum(&page, "tidings_admin_sockets", "") <= 1.0
    });
    drop(server);
}

#[test]
fn a_shutdown_does_not_wait_for_admin_connections_that_say_nothing() {
    let (mut server, admin) = with_admin(Options::default());
    let _silent: Vec<_> = (0..4).map(|_| connect(admin).unwrap()).collect();
    eventually("they are there", PATIENCE, || {
        let page = get(admin, "/metrics").text();
        metrics::sum(&page, "tidings_admin_sockets", "") >= 5.0
    });
    server.terminate();
    assert!(server.wait().success());
    let log = server.log().join("\n");
    assert!(!log.contains("did not close in time"), "{log}");
}

#[test]
fn every_answer_has_the_security_headers() {
    let authority = Authority::new();
    let options = Options::default().tls(&authority).set("tls.hsts_s", 86_400);
    let (server, admin) = with_admin(options);
    let checked = |address: SocketAddr, method: &str, target: &str| {
        let request = Request::new(method, target).header("Accept", "*/*");
        let answer = request.open(address).unwrap();
        let shown = format!("{method} {target}");
        let header = |name: &str| {
            answer
                .header(name)
                .unwrap_or_else(|| panic!("{shown}: {name}"))
                .to_owned()
        };
        let policy = header("content-security-policy");
        assert!(
            policy.starts_with("default-src 'none'"),
            "{shown}: {policy}"
        );
        assert!(
            policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"),
            "{shown}: {policy}"
        );
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("referrer-policy"), "no-referrer");
        assert_eq!(header("cross-origin-resource-policy"), "same-origin");
        assert_eq!(answer.header("strict-transport-security"), None, "{shown}");
    };
    for (method, target) in [
        ("GET", "/"),
        ("GET", "/console.js"),
        ("GET", "/nothing"),
        ("GET", "/v1/nothing"),
        ("GET", "/healthz"),
        ("HEAD", "/readyz"),
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
        ("GET", "/v1/topics"),
        ("GET", "/v1/topics/a?as=json"),
        ("GET", "/v1/topics/a?as=sse"),
        ("HEAD", "/v1/topics/a?as=sse"),
        ("GET", "/v1/topics/a%2"),
        ("GET", "/v1/subscribe?topic=a"),
        ("GET", "/v1/ws"),
        ("GET", "/mqtt"),
        ("POST", "/v1/topics/a"),
        ("POST", "/v1/publish"),
        ("PATCH", "/v1/topics/a"),
        ("OPTIONS", "/v1/topics/a"),
    ] {
        checked(server.address(), method, target);
    }
    for (method, target) in [
        ("GET", "/metrics"),
        ("GET", "/nothing"),
        ("GET", "/v1/admin/revocations"),
        ("DELETE", "/v1/admin/revocations/1"),
    ] {
        checked(admin, method, target);
    }
    for target in ["/", "/v1/topics/a?as=json", "/v1/nothing"] {
        let head = stdout(&mut curl(&[
            "--cacert",
            &authority.ca_argument(),
            "-D",
            "-",
            "-o",
            "/dev/null",
            &server.https_url(target),
        ]));
        assert!(
            head.to_lowercase()
                .contains("strict-transport-security: max-age=86400"),
            "{head}"
        );
    }
}
