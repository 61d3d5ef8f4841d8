//! Attacks on who people are.

use std::collections::VecDeque;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use tidings_e2e::http::{Opened, Request};
use tidings_e2e::mqtt::{Client as Mqtt, Connect};
use tidings_e2e::stomp::Client as Stomp;

use super::attacks::PAUSE;
use super::{Target, stdout, tidings};

/// Who is known to the server, and who was.
#[derive(Clone)]
pub struct Secrets {
    /// May publish and read `news`, and read `x/#`.
    pub token: String,
    /// Users who have not signed in yet. Their passwords are their names.
    pub users: Vec<String>,
    pub revoked: String,
    pub expired: String,
}

/// Users, of which each signs in once.
const USERS: usize = 6;
/// Addresses that passwords are guessed from.
const ADDRESSES: usize = 48;
/// Attempts that wait for their answers.
const IN_FLIGHT: usize = 300;

impl Secrets {
    /// Makes the files that the server is started with.
    pub fn make(folder: &Path) -> Self {
        let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
        let tell = |arguments: &[&str]| stdout(&mut tidings(arguments)).trim().to_owned();
        let users: Vec<String> = (0..USERS).map(|number| format!("user-{number}")).collect();
        for user in &users {
            crate::auth::set_password(&folder.join("users"), user, user);
        }
        tell(&["token", "secret", &path("secret")]);
        let secret_file = format!("--secret-file={}", path("secret"));
        let mint = |span| tell(&["token", "mint", "somebody", &secret_file, span]);
        let revoked = tell(&["key", "new", &path("keys"), "leaver"]);
        let id = revoked.split('_').nth(1).unwrap();
        tell(&["key", "revoke", &path("keys"), id]);
        Self {
            token: mint("--expires-in=1h"),
            users,
            revoked,
            expired: mint("--expires-in=1s"),
        }
    }
}

/// Connects from an address of one's own, within 127.0.0.0/8.
fn connect_from(from: Ipv4Addr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddr::new(IpAddr::V4(from), 0))?;
    connect(&socket, &to)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.set_write_timeout(Some(Duration::from_secs(30)))?;
    Ok(stream)
}

fn attempt(user: &str, password: &str) -> String {
    let pair = STANDARD.encode(format!("{user}:{password}"));
    format!(
        "GET /v1/topics/news?as=json HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Basic {pair}\r\n\r\n"
    )
}

/// A user signs in with the right password, which the server sees for the first time; from an address that has done
/// nothing wrong.
#[track_caller]
pub fn log_in(target: &Target, user: &str) {
    let mut stream = connect_from(Ipv4Addr::new(127, 200, 0, 1), target.http).unwrap();
    stream.write_all(attempt(user, user).as_bytes()).unwrap();
    let answer = Opened::read(stream).unwrap().finish().unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// Guesses from many addresses, each with as much at once as it can.
pub fn wrong_passwords(target: &Target) -> usize {
    let mut waiting: VecDeque<TcpStream> = VecDeque::new();
    let (mut sent, mut told) = (0_usize, 0);
    while target.goes_on() {
        let host = u8::try_from(sent % ADDRESSES).unwrap();
        let user = format!("user-{}", sent % (2 * USERS));
        let stream = connect_from(Ipv4Addr::new(127, 201, 0, host + 1), target.http);
        if let Ok(mut stream) = stream
            && stream
                .write_all(attempt(&user, &format!("guess-{sent}")).as_bytes())
                .is_ok()
        {
            waiting.push_back(stream);
        }
        sent += 1;
        std::thread::sleep(Duration::from_millis(1));
        if waiting.len() >= IN_FLIGHT
            && let Some(first) = waiting.pop_front()
            && let Ok(answer) = Opened::read(first)
        {
            assert!(
                matches!(answer.status, 401 | 408 | 503),
                "{}",
                answer.status
            );
            told += 1;
        }
    }
    told
}

/// Tokens and keys that were good, or never were; nothing at all; and what is not granted.
pub fn bad_tokens(target: &Target) -> usize {
    let Secrets {
        token,
        revoked,
        expired,
        ..
    } = &target.secrets;
    let mut forged = token.clone();
    forged.truncate(token.len() - 8);
    forged.push_str("AAAAAAAA");
    let mut times = 0;
    while target.goes_on() {
        for secret in [revoked, expired, &forged] {
            let request = Request::post("/v1/topics/news").body("x");
            times += expect(target, request, secret, 401);
            let connect = Connect::v5("bad").login("", secret);
            if let Ok((_, answer)) = Mqtt::try_open(target.mqtt, &connect) {
                assert_eq!(answer.reason(), 0x86);
                times += 1;
            }
            let opened = Stomp::try_open(target.stomp, "1.2", &[("passcode", secret)]);
            if let Ok((_, answer)) = opened {
                assert_eq!(answer.expect("tidings-code"), "unauthorized");
                times += 1;
            }
            std::thread::sleep(PAUSE);
        }
        times += expect(
            target,
            Request::post("/v1/topics/elsewhere").body("x"),
            token,
            403,
        );
        if let Ok(answer) = Request::get("/v1/topics/news").try_send(target.http) {
            assert!(matches!(answer.status, 401 | 408), "{}", answer.status);
        }
    }
    times
}

/// Sends a request that is refused so, unless there was no time for it; one that was counts.
fn expect(target: &Target, request: Request, secret: &str, status: u16) -> usize {
    let request = request.header("Authorization", &format!("Bearer {secret}"));
    match request.try_send(target.http) {
        Ok(answer) if answer.status != 408 => {
            assert_eq!(answer.status, status, "{}", answer.text());
            1
        }
        _ => 0,
    }
}

/// Whether nobody is let in who shows this.
pub fn is_refused(target: &Target, secret: &str) -> bool {
    let request = Request::get("/v1/topics/news?as=json");
    let request = request.header("Authorization", &format!("Bearer {secret}"));
    request.send(target.http).status == 401
}
