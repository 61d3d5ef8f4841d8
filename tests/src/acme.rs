//! A certificate authority that speaks ACME: Let's Encrypt's own double for tests, `pebble`, and the names that it looks up.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::json;

use crate::server::free_ports;
use crate::tls::{Authority, Pair};
use crate::tools::{Background, curl, output, stdout};
use crate::{PATIENCE, eventually, spawn};

/// Where it will be, and what it will be like; it runs once it is started.
#[derive(Debug)]
pub struct Acme {
    /// Who vouches for the server of the authority, which has nothing to do with what it issues.
    pub authority: Authority,
    own: Pair,
    api: u16,
    management: u16,
    validity_s: u64,
    binding: Option<(&'static str, &'static str)>,
}

/// One that runs. Dropping it ends it, and it forgets everything.
pub struct Running {
    _program: Background,
    root: PathBuf,
}

impl Default for Acme {
    fn default() -> Self {
        Self::new()
    }
}

impl Acme {
    /// One that issues certificates for a long time to anybody.
    pub fn new() -> Self {
        let authority = Authority::new();
        let own = authority.issue("pebble", "DNS:localhost");
        let [api, management] = free_ports();
        Self {
            authority,
            own,
            api,
            management,
            validity_s: 90 * 86_400,
            binding: None,
        }
    }

    /// Issues certificates that are good for so many seconds.
    #[must_use]
    pub fn validity_s(mut self, seconds: u64) -> Self {
        self.validity_s = seconds;
        self
    }

    /// Makes accounts for those alone who know this key, which is in base64url.
    #[must_use]
    pub fn binding(mut self, kid: &'static str, key: &'static str) -> Self {
        self.binding = Some((kid, key));
        self
    }

    /// A configuration for these names, and what else is in the section `tls`.
    pub fn config(&self, domains: &[&str], more: &str) -> String {
        format!(
            "[tls]\nacme_domains = {domains:?}\nacme_directory = \"https://localhost:{}/dir\"\nacme_ca = {:?}\n{more}\n",
            self.api,
            self.authority.ca_argument()
        )
    }

    /// Starts it. It looks for names where the resolver says, at the ports of these two addresses.
    #[track_caller]
    pub fn start(&self, names: &Names, http: SocketAddr, https: SocketAddr) -> Running {
        let folder = self.own.cert.parent().expect("it is in a folder");
        let mut pebble = json!({
            "listenAddress": format!("127.0.0.1:{}", self.api),
            "managementListenAddress": format!("127.0.0.1:{}", self.management),
            "certificate": self.own.cert,
            "privateKey": self.own.key,
            "httpPort": http.port(),
            "tlsPort": https.port(),
            "certificateValidityPeriod": self.validity_s,
        });
        if let Some((kid, key)) = self.binding {
            pebble["externalAccountBindingRequired"] = true.into();
            pebble["externalAccountMACKeys"] = json!({kid: key});
        }
        let config = folder.join("pebble.json");
        fs::write(&config, json!({"pebble": pebble}).to_string()).expect("it can be written");
        let log = fs::File::create(folder.join("pebble.log")).expect("it can be written");
        let mut command = Command::new("pebble");
        command
            .arg("-config")
            .arg(&config)
            .args(["-strict", "-dnsserver", &names.address.to_string()])
            .env("PEBBLE_VA_NOSLEEP", "1")
            .env("PEBBLE_WFE_NONCEREJECT", "5")
            .env("PEBBLE_AUTHZREUSE", "0");
        let program = Background::start_into(&mut command, Stdio::from(log));
        let root = folder.join("root.pem");
        let url = format!("https://localhost:{}/roots/0", self.management);
        let ca = self.authority.ca_argument();
        eventually("the authority listens", PATIENCE, || {
            output(&mut curl(&["--cacert", &ca, &url])).status.success()
        });
        let text = stdout(&mut curl(&["--fail", "--cacert", &ca, &url]));
        fs::write(&root, text).expect("it can be written");
        Running {
            _program: program,
            root,
        }
    }
}

impl Running {
    /// The file to trust for what it issues.
    pub fn root(&self) -> String {
        self.root.display().to_string()
    }
}

/// Says of every name that it is at one address (DNS over UDP, RFC 1035).
pub struct Names {
    address: SocketAddr,
    all_at: Arc<Mutex<IpAddr>>,
}

impl Names {
    /// Answers until the test program ends.
    pub fn at(ip: IpAddr) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = socket.local_addr().expect("it has an address");
        let all_at = Arc::new(Mutex::new(ip));
        let now_at = Arc::clone(&all_at);
        spawn(move || {
            let mut query = [0; 512];
            while let Ok((length, peer)) = socket.recv_from(&mut query) {
                let ip = *now_at.lock().expect("nobody panics with it");
                let answer = answer(&query[..length], ip);
                socket.send_to(&answer, peer).unwrap_or_default();
            }
        });
        Self { address, all_at }
    }

    /// Changes the address.
    pub fn move_to(&self, ip: IpAddr) {
        *self.all_at.lock().expect("nobody panics with it") = ip;
    }
}

/// The answer to a question: an address of the fourth version, and no other record.
fn answer(query: &[u8], ip: IpAddr) -> Vec<u8> {
    const HEAD: usize = 12;
    let name = query[HEAD..].iter().position(|byte| *byte == 0);
    let end = HEAD + name.expect("a question has a name") + 1 + 4;
    let is_address = query[end - 4..end] == [0, 1, 0, 1];
    let count = u8::from(is_address);
    // An answer to this query, authoritative, with recursion, without an error.
    let mut answer = [&query[..2], &[0x85, 0x80, 0, 1, 0, count, 0, 0, 0, 0]].concat();
    answer.extend_from_slice(&query[HEAD..end]);
    if let (true, IpAddr::V4(ip)) = (is_address, ip) {
        // The name in the question, an address, of the internet, for no time, of four bytes.
        answer.extend_from_slice(&[0xc0, HEAD as u8, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend_from_slice(&ip.octets());
    }
    answer
}
