//! One server process: started on a port of its choice, killed, restarted on the same port and data.

use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::http::Response;
use crate::tls::Authority;
use crate::{PATIENCE, eventually, http, metrics, spawn};

/// How to start a server.
#[derive(Clone, Debug, Default)]
pub struct Options {
    arguments: Vec<String>,
    config: Option<String>,
    data: Option<PathBuf>,
    file_blocks_max: Option<u64>,
    authority: Option<Authority>,
}

impl Options {
    /// Sets one option of the table, as in `limits.heartbeat_ms`.
    #[must_use]
    pub fn set(self, key: &str, value: impl std::fmt::Display) -> Self {
        self.argument("--set").argument(&format!("{key}={value}"))
    }

    /// Adds an argument behind `serve`.
    #[must_use]
    pub fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// The text of the configuration file.
    #[must_use]
    pub fn config(mut self, text: &str) -> Self {
        self.config = Some(text.to_owned());
        self
    }

    /// A data directory of the caller's, instead of a fresh one.
    #[must_use]
    pub fn data(mut self, folder: &Path) -> Self {
        self.data = Some(folder.to_owned());
        self
    }

    /// Listens with TLS beside every listener, with a certificate of this authority for the server's address and for
    /// `localhost`.
    #[must_use]
    pub fn tls(mut self, authority: &Authority) -> Self {
        self.authority = Some(authority.clone());
        self
    }

    fn has(&self, argument: &str) -> bool {
        self.arguments.iter().any(|given| given == argument)
    }

    /// Whether peers have to say who they are: the metrics are then on the admin listener alone.
    fn has_credentials(&self) -> bool {
        let configured = |text: &String| text.starts_with("auth.") || text.contains("[auth]");
        let given = self.arguments.iter().chain(&self.config);
        given.into_iter().any(configured) && !self.has("--admin")
    }

    /// The largest file that the process may write (`RLIMIT_FSIZE`), in the shell's blocks of 1024 bytes.
    #[must_use]
    pub fn file_blocks_max(mut self, blocks: u64) -> Self {
        self.file_blocks_max = Some(blocks);
        self
    }
}

/// Where a server listens.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Addresses {
    http: SocketAddr,
    /// `None` if it is off.
    mqtt: Option<SocketAddr>,
    /// `None` if it is off.
    stomp: Option<SocketAddr>,
    /// `None` without TLS.
    tls: Option<TlsAddresses>,
    /// `None` if it is off, or the options say where it is.
    admin: Option<SocketAddr>,
}

/// Where it listens with TLS.
#[derive(Clone, Copy, Debug, PartialEq)]
struct TlsAddresses {
    http: SocketAddr,
    mqtt: SocketAddr,
    stomp: SocketAddr,
}

/// A running server. Dropping it kills the process; a failing test then shows the end of its log, and one that
/// had passed fails if a thread of the server panicked.
pub struct Server {
    child: Child,
    /// That of HTTP is of no use if the options say something of it.
    addresses: Addresses,
    options: Options,
    log: Arc<Mutex<Vec<String>>>,
    folder: TempDir,
}

impl Server {
    /// Starts a server and waits until it listens.
    ///
    /// Each server has a loopback address of its own, from all of 127.0.0.0/8: while it is down for a
    /// restart, no other socket can be given its port.
    #[track_caller]
    pub fn start(options: Options) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let address = SocketAddr::new(own_address(), 0);
        let addresses = Addresses {
            http: address,
            mqtt: Some(address).filter(|_| !options.has("--mqtt")),
            stomp: Some(address).filter(|_| !options.has("--stomp")),
            tls: options.authority.as_ref().map(|_| TlsAddresses {
                http: address,
                mqtt: address,
                stomp: address,
            }),
            admin: Some(address).filter(|_| options.has_credentials()),
        };
        Self::spawn(options, folder, addresses, Arc::default())
    }

    #[track_caller]
    fn spawn(
        options: Options,
        folder: TempDir,
        wanted: Addresses,
        log: Arc<Mutex<Vec<String>>>,
    ) -> Self {
        let mut child = command(&options, folder.path(), wanted)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server can be started");
        let (listening, listens) = channel();
        follow(child.stdout.take(), &log, &listening);
        follow(child.stderr.take(), &log, &listening);
        drop(listening);
        let mut listener = |name| wait_for_listener(name, &mut child, &listens, &log);
        // In the order in which the server tells of them.
        let http = if options.has("--http") {
            wanted.http
        } else {
            listener("http")
        };
        let https = wanted.tls.map(|_| listener("https"));
        let mqtt = wanted.mqtt.map(|_| listener("mqtt"));
        let mqtts = wanted.tls.map(|_| listener("mqtts"));
        let stomp = wanted.stomp.map(|_| listener("stomp"));
        let stomps = wanted.tls.map(|_| listener("stomps"));
        let admin = wanted.admin.map(|_| listener("admin"));
        let tls = https.zip(mqtts).zip(stomps);
        let addresses = Addresses {
            http,
            mqtt,
            stomp,
            tls: tls.map(|((http, mqtt), stomp)| TlsAddresses { http, mqtt, stomp }),
            admin,
        };
        assert!(
            wanted.http.port() == 0 || addresses == wanted,
            "not on the same ports"
        );
        Self {
            child,
            addresses,
            options,
            log,
            folder,
        }
    }

    /// Where HTTP is served.
    pub fn address(&self) -> SocketAddr {
        self.addresses.http
    }

    /// Where MQTT is served.
    pub fn mqtt(&self) -> SocketAddr {
        self.addresses.mqtt.expect("MQTT is not off")
    }

    /// Where STOMP is served.
    pub fn stomp(&self) -> SocketAddr {
        self.addresses.stomp.expect("STOMP is not off")
    }

    /// Where operators are served.
    pub fn admin(&self) -> SocketAddr {
        self.addresses.admin.expect("there are credentials")
    }

    /// `http://127.1.2.3:4567` and the path behind it.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addresses.http)
    }

    /// `ws://127.1.2.3:4567` and the path behind it.
    pub fn ws_url(&self, path: &str) -> String {
        format!("ws://{}{path}", self.addresses.http)
    }

    fn tls_addresses(&self) -> TlsAddresses {
        self.addresses.tls.expect("the options say so")
    }

    /// Where HTTP is served over TLS.
    pub fn https(&self) -> SocketAddr {
        self.tls_addresses().http
    }

    /// Where MQTT is served over TLS.
    pub fn mqtts(&self) -> SocketAddr {
        self.tls_addresses().mqtt
    }

    /// Where STOMP is served over TLS.
    pub fn stomps(&self) -> SocketAddr {
        self.tls_addresses().stomp
    }

    /// `https://127.1.2.3:4567` and the path behind it.
    pub fn https_url(&self, path: &str) -> String {
        format!("https://{}{path}", self.https())
    }

    /// `wss://127.1.2.3:4567` and the path behind it.
    pub fn wss_url(&self, path: &str) -> String {
        format!("wss://{}{path}", self.https())
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        data_folder(&self.options, self.folder.path())
    }

    /// What the process wrote so far, on both of its outputs.
    pub fn log(&self) -> Vec<String> {
        self.log
            .lock()
            .expect("no reader of the log panics")
            .clone()
    }

    /// Kills the process at once (SIGKILL) and waits for its end.
    pub fn kill(&mut self) {
        self.child.kill().expect("the process can be killed");
        self.child.wait().expect("the process can be waited for");
    }

    /// Asks the process to end (SIGTERM); does not wait.
    pub fn terminate(&self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM).expect("the process can be signalled");
    }

    /// Asks the process to read its configuration again (SIGHUP).
    pub fn reload(&self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::HUP).expect("the process can be signalled");
    }

    /// Writes another configuration file in the place of the one that it was started with.
    pub fn write_config(&self, text: &str) {
        let file = self.folder.path().join("tidings.toml");
        std::fs::write(file, text).expect("the configuration can be written");
    }

    /// Waits for the end of the process.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the server ends", PATIENCE, || {
            status = self
                .child
                .try_wait()
                .expect("the process can be waited for");
            status.is_some()
        });
        status.expect("`eventually` has seen it")
    }

    /// Starts the server anew on the same port and data, after it was killed or has ended.
    #[track_caller]
    #[must_use]
    pub fn restart(self) -> Self {
        let options = self.options.clone();
        self.restart_with(options)
    }

    /// Starts the server anew on the same port and data, with other options.
    #[track_caller]
    #[must_use]
    pub fn restart_with(mut self, options: Options) -> Self {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            self.kill();
        }
        let empty = TempDir::new().expect("a temporary folder can be made");
        let folder = std::mem::replace(&mut self.folder, empty);
        let addresses = self.addresses;
        Self::spawn(options, folder, addresses, Arc::clone(&self.log))
    }

    /// Resident memory in bytes, now.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))
            .expect("the process is there");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .expect("every process has a resident size");
        let kib: u64 = line
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .expect("the size is a number of KiB");
        kib * 1024
    }

    /// A size that the server told at its start, as in `memory_per_slow_peer_max`, in bytes.
    #[track_caller]
    pub fn announced_bytes(&self, name: &str) -> u64 {
        let log = self.log();
        let mut lines = log
            .iter()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let told = lines.find_map(|line| line[name].as_str().map(str::to_owned));
        let told = told.unwrap_or_else(|| panic!("the server does not tell {name}"));
        let units = [("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];
        let found = units.iter().find_map(|(unit, shift)| {
            let number: u64 = told.strip_suffix(unit)?.parse().ok()?;
            Some(number << shift)
        });
        found.unwrap_or_else(|| panic!("{name} is no size: {told}"))
    }

    /// How many file descriptors the process has open.
    pub fn open_files(&self) -> usize {
        let folder = std::fs::read_dir(format!("/proc/{}/fd", self.pid()));
        folder.expect("the process is there").count()
    }

    /// Publishes one text and gives its cursor.
    #[track_caller]
    pub fn publish(&self, topic: &str, text: &str) -> String {
        let response = http::post(
            self.addresses.http,
            &format!("/v1/topics/{topic}"),
            text.as_bytes(),
        );
        assert_eq!(response.status, 201, "{}", response.text());
        let receipt = response.json();
        receipt["id"]
            .as_str()
            .expect("a receipt has an id")
            .to_owned()
    }

    /// Publishes many texts in one batch, which is stored as a whole.
    #[track_caller]
    pub fn publish_batch(&self, topic: &str, texts: &[String]) {
        let messages: Vec<Value> = texts
            .iter()
            .map(|text| serde_json::json!({"topic": topic, "data": text}))
            .collect();
        let body = Value::Array(messages).to_string();
        let response = http::Request::post("/v1/publish")
            .header("Content-Type", "application/json")
            .body(body)
            .send(self.addresses.http);
        assert!(matches!(response.status, 200 | 201), "{}", response.text());
    }

    /// One page of a topic's history.
    #[track_caller]
    pub fn page(&self, filter: &str, query: &str) -> Response {
        let response = http::Request::get(&format!("/v1/topics/{filter}?{query}"))
            .header("Accept", "application/json")
            .send(self.addresses.http);
        assert_eq!(response.status, 200, "{}", response.text());
        response
    }

    /// Every message that is kept, page by page.
    #[track_caller]
    pub fn history(&self, filter: &str) -> Vec<Value> {
        let mut messages = Vec::new();
        let mut after = "earliest".to_owned();
        loop {
            let page = self.page(filter, &format!("after={after}")).json();
            let found = page["messages"].as_array().expect("a page has messages");
            if found.is_empty() {
                return messages;
            }
            messages.extend_from_slice(found);
            page["next"]
                .as_str()
                .expect("a page has a next")
                .clone_into(&mut after);
        }
    }

    /// The value of a metric: all its lines whose labels hold the text, added up.
    #[track_caller]
    pub fn metric(&self, name: &str, label: &str) -> f64 {
        let address = self.addresses.admin.unwrap_or(self.addresses.http);
        let text = http::get(address, "/metrics").text();
        metrics::sum(&text, name, label)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Errors mean that it is gone already.
        self.child.kill().unwrap_or_default();
        self.child.wait().map(|_| ()).unwrap_or_default();
        if std::thread::panicking() {
            let log = self.log();
            let tail = &log[log.len().saturating_sub(60)..];
            eprintln!("--- the end of the server's log\n{}\n---", tail.join("\n"));
            return;
        }
        // A thread that ended by a defect may leave a server that still looks alive.
        let log = self.log().join("\n");
        assert!(
            !log.contains("panicked at"),
            "the server has a defect:\n{log}"
        );
    }
}

/// The binary under test: `TIDINGS_BIN`, or the one that was built with the tests.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("TIDINGS_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("a test has a program");
    // target/debug/deps/e2e-0123 -> target/debug/tidings
    let profile = test.ancestors().nth(2).expect("cargo's folders");
    let binary = profile.join("tidings");
    assert!(
        binary.is_file(),
        "{} is not there: run `cargo build -p tidings`, or the tests by `cargo xtask test`",
        binary.display()
    );
    binary
}

/// A command of the binary under test, without the environment's own settings.
pub fn tidings(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments);
    clear_settings(&mut command);
    command
}

/// Ports of loopback that nobody had a moment ago, for commands that are run as somebody else wrote them.
pub fn free_ports<const N: usize>() -> [u16; N] {
    // All at once, or the same one could come twice.
    let listeners = [(); N].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port"));
    listeners.map(|listener| listener.local_addr().expect("it has an address").port())
}

fn clear_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TIDINGS_") {
            command.env_remove(name);
        }
    }
}

fn command(
    options: &Options,
    folder: &Path,
    Addresses {
        http,
        mqtt,
        stomp,
        tls,
        admin,
    }: Addresses,
) -> Command {
    let mut command = match options.file_blocks_max {
        None => Command::new(binary()),
        Some(blocks) => {
            let mut shell = Command::new("bash");
            shell
                .arg("-c")
                .arg(format!("ulimit -f {blocks}; exec \"$0\" \"$@\""))
                .arg(binary());
            shell
        }
    };
    clear_settings(&mut command);
    command.current_dir(folder).arg("serve");
    if !options.has("--http") {
        command.arg("--http").arg(http.to_string());
    }
    if let Some(mqtt) = mqtt {
        command.arg("--mqtt").arg(mqtt.to_string());
    }
    if let Some(stomp) = stomp {
        command.arg("--stomp").arg(stomp.to_string());
    }
    if let Some(admin) = admin {
        command.arg("--admin").arg(admin.to_string());
    }
    if let (Some(tls), Some(authority)) = (tls, &options.authority) {
        command
            .args(["--https", &tls.http.to_string()])
            .args(["--mqtts", &tls.mqtt.to_string()])
            .args(["--stomps", &tls.stomp.to_string()]);
        if !options.has("--tls-cert") && options.config.is_none() {
            let names = format!("DNS:localhost,IP:{}", tls.http.ip());
            let pair = authority.issue("server", &names);
            command.args(["--tls-cert", &pair.as_option()]);
        }
    }
    if !options.has("--memory") {
        command.arg("--data").arg(data_folder(options, folder));
    }
    if let Some(text) = &options.config {
        let file = folder.join("tidings.toml");
        std::fs::write(&file, text).expect("the configuration can be written");
        command.arg("--config").arg(file);
    }
    command.args(&options.arguments);
    command
}

fn data_folder(options: &Options, folder: &Path) -> PathBuf {
    options.data.clone().unwrap_or_else(|| folder.join("data"))
}

/// 127.a.b.c, different for each server of this test program and from those of others.
fn own_address() -> IpAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let index = NEXT.fetch_add(1, Ordering::Relaxed);
    let number = std::process::id().wrapping_mul(64).wrapping_add(index);
    let [_, a, b, c] = number.to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(127, a % 254 + 1, b, c % 254 + 1))
}

fn follow(
    output: Option<impl Read + Send + 'static>,
    log: &Arc<Mutex<Vec<String>>>,
    listening: &Sender<(String, SocketAddr)>,
) {
    let output = output.expect("the output is piped");
    let (log, listening) = (Arc::clone(log), listening.clone());
    spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let address = listener_in(&line);
            log.lock().expect("no reader of the log panics").push(line);
            if let Some(address) = address {
                // Nobody may wait for it.
                listening.send(address).unwrap_or_default();
            }
        }
    });
}

/// The listener and the address in `{"fields":{"message":"listening","listener":"http","address":"127.0.0.1:8080"}}`.
fn listener_in(line: &str) -> Option<(String, SocketAddr)> {
    let line: Value = serde_json::from_str(line).ok()?;
    let fields = line.get("fields").unwrap_or(&line);
    if fields["message"] != "listening" {
        return None;
    }
    let name = fields["listener"].as_str()?.to_owned();
    Some((name, fields["address"].as_str()?.parse().ok()?))
}

#[track_caller]
fn wait_for_listener(
    name: &str,
    child: &mut Child,
    listens: &Receiver<(String, SocketAddr)>,
    log: &Mutex<Vec<String>>,
) -> SocketAddr {
    // They are told in the order that they are waited for in.
    let listener = listens.recv_timeout(PATIENCE).ok();
    let address = listener.filter(|(found, _)| found == name);
    let address = address.map(|(_, address)| address);
    address.unwrap_or_else(|| {
        child.kill().unwrap_or_default();
        let status = child.wait().expect("the process can be waited for");
        let log = log.lock().expect("no reader of the log panics").join("\n");
        panic!("the server does not listen for {name} ({status}):\n{log}")
    })
}
