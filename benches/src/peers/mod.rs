//! The servers that are measured: how each is configured and started, with nothing of the system's own services
//! touched. One that is not installed is left out.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::Options;
use crate::process::{Process, folder, free_port};
use crate::report::Failure;

// Debian puts servers where only root's PATH looks.
const MOSQUITTO: &str = "/usr/sbin/mosquitto";
const REDIS: &str = "/usr/bin/redis-server";
const NGINX: &str = "/usr/sbin/nginx";
const NCHAN: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";

/// A running server.
#[derive(Debug)]
pub struct Peer {
    /// Its name and version, for the notes.
    pub version: String,
    /// What it costs; dropped with this.
    pub process: Process,
    /// Where it listens.
    pub port: u16,
    /// The certificate that it shows there, if TLS is spoken.
    pub certificate: Option<PathBuf>,
}

impl Peer {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        loopback(self.port)
    }
}

/// A port on this machine.
pub fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Tidings with one shard, its log on disk, and publishes answered when they are on the disk, at its HTTP port.
pub fn tidings(options: &Options, extra_args: &[&str]) -> Result<Peer, Failure> {
    let port = free_port()?;
    let http = loopback(port).to_string();
    let listeners = ["--http", &http, "--mqtt", "off"];
    started_tidings(options, port, &[&listeners, extra_args].concat())
}

/// The same at its MQTT port, with HTTP where nobody asks for it.
pub fn tidings_mqtt(options: &Options, extra_args: &[&str]) -> Result<Peer, Failure> {
    let port = free_port()?;
    let mqtt = loopback(port).to_string();
    let listeners = ["--mqtt", &mqtt, "--http", "127.0.0.1:0"];
    started_tidings(options, port, &[&listeners, extra_args].concat())
}

/// With TLS at its HTTP port, or at its MQTT port.
pub fn tidings_tls(options: &Options, listener: &str) -> Result<Peer, Failure> {
    let folder = folder()?;
    let (certificate, key) = (
        folder.path().join("cert.pem"),
        folder.path().join("key.pem"),
    );
    let mut openssl = Command::new("openssl");
    openssl
        .args(["req", "-x509", "-nodes", "-days", "3", "-newkey", "ec"])
        .args(["-pkeyopt", "ec_paramgen_curve:P-256"])
        .args(["-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-out")
        .arg(&certificate)
        .arg("-keyout")
        .arg(&key);
    let made = openssl.output()?;
    if !made.status.success() {
        return Err(Failure::new("openssl made no certificate"));
    }
    let port = free_port()?;
    let address = loopback(port).to_string();
    let pair = format!("{}:{}", certificate.display(), key.display());
    let arguments = [
        listener,
        &address,
        "--tls-cert",
        &pair,
        "--http",
        "127.0.0.1:0",
        "--mqtt",
        "off",
    ];
    let peer = started_in(options, port, folder, &arguments)?;
    Ok(Peer {
        certificate: Some(certificate),
        ..peer
    })
}

/// Tidings with these arguments, of which some make it listen at the port.
fn started_tidings(options: &Options, port: u16, arguments: &[&str]) -> Result<Peer, Failure> {
    started_in(options, port, folder()?, arguments)
}

fn started_in(
    options: &Options,
    port: u16,
    folder: TempDir,
    arguments: &[&str],
) -> Result<Peer, Failure> {
    let mut command = Command::new(&options.tidings);
    command
        .args([
            "serve",
            "--stomp",
            "off",
            "--shards",
            "1",
            "--durability",
            "sync",
            "--log-level",
            "warn",
        ])
        .arg("--data")
        .arg(folder.path().join("data"))
        // Its goodbyes at the end are not measured: that they come at once leaves the figures as they are.
        .args(["--set", "server.shutdown_ms=100"])
        .args(arguments)
        .current_dir(folder.path());
    // What is configured for another server is not for this one.
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"TIDINGS_") {
            command.env_remove(name);
        }
    }
    Ok(Peer {
        version: first_line(Command::new(&options.tidings).arg("--version")).unwrap_or_default(),
        process: Process::start(&command, loopback(port), folder)?,
        port,
        certificate: None,
    })
}

/// Mosquitto (MQTT over TCP), without a limit to what a receiver has not acknowledged.
pub fn mosquitto(_options: &Options) -> Result<Option<Peer>, Failure> {
    let Some(version) = first_line(Command::new(MOSQUITTO).arg("-h")) else {
        return Ok(None);
    };
    let port = free_port()?;
    let folder = folder()?;
    let configuration = folder.path().join("mosquitto.conf");
    // As root it would become the user `mosquitto`, who may not exist.
    let text = format!(
        "listener {port} 127.0.0.1\nallow_anonymous true\nuser root\npersistence false\nlog_type none\n\
         set_tcp_nodelay true\nmax_queued_messages 0\nmax_inflight_messages 0\n"
    );
    fs::write(&configuration, text)?;
    let mut command = Command::new(MOSQUITTO);
    command.arg("-c").arg(configuration);
    started(version, &command, port, folder).map(Some)
}

/// nginx with nchan, one worker: subscribers of every kind at `/sub`, publishes at `/pub`.
pub fn nchan(_options: &Options) -> Result<Option<Peer>, Failure> {
    let Some(version) = first_line(Command::new(NGINX).arg("-v")) else {
        return Ok(None);
    };
    if !Path::new(NCHAN).exists() {
        return Ok(None);
    }
    let port = free_port()?;
    let folder = folder()?;
    let configuration = folder.path().join("nginx.conf");
    let place = folder.path().display();
    fs::write(
        &configuration,
        nchan_configuration(&place.to_string(), port),
    )?;
    let mut command = Command::new(NGINX);
    command
        .arg("-c")
        .arg(configuration)
        .arg("-p")
        .arg(folder.path());
    command.args(["-e", "stderr"]);
    let version = version.replace("nginx version: ", "");
    let version = format!(
        "{version} with nchan {}",
        package_version("libnginx-mod-nchan")
    );
    started(version, &command, port, folder).map(Some)
}

/// Messages are handed to who is there and not kept, which is the least that nchan can do.
fn nchan_configuration(folder: &str, port: u16) -> String {
    format!(
        "load_module {NCHAN};
user root;
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log stderr crit;
events {{ worker_connections 19000; multi_accept on; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  tcp_nodelay on;
  keepalive_requests 1000000000;
  keepalive_timeout 1h;
  nchan_shared_memory_size 512M;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location = /sub {{
      nchan_subscriber;
      nchan_channel_id bench;
      nchan_subscriber_first_message newest;
      nchan_subscriber_timeout 0;
      nchan_websocket_ping_interval 15;
      nchan_eventsource_ping_interval 15;
    }}
    location = /pub {{
      nchan_publisher http;
      nchan_channel_id bench;
      nchan_store_messages off;
    }}
  }}
}}
"
    )
}

/// nats-server, with a ping every 15 s as the others have.
pub fn nats(options: &Options) -> Result<Option<Peer>, Failure> {
    let program = options.python.with_file_name("nats-server");
    let Some(version) = first_line(Command::new(&program).arg("--version")) else {
        return Ok(None);
    };
    let port = free_port()?;
    let folder = folder()?;
    let configuration = folder.path().join("nats.conf");
    let text = format!(
        "listen: 127.0.0.1:{port}\nping_interval: 15s\nping_max: 100\nmax_connections: 100000\n"
    );
    fs::write(&configuration, text)?;
    let mut command = Command::new(program);
    command.arg("-c").arg(configuration);
    started(version, &command, port, folder).map(Some)
}

/// uWebSockets, through socketify: subscribers at `/sub`, publishes at `/pub`.
pub fn uws(options: &Options) -> Result<Option<Peer>, Failure> {
    const VERSION: &str = "import importlib.metadata, socketify; \
        print('uWebSockets in socketify', importlib.metadata.version('socketify'))";
    let mut ask = Command::new(&options.python);
    let Some(version) = first_line(ask.args(["-c", VERSION])) else {
        return Ok(None);
    };
    if !version.starts_with("uWebSockets") {
        return Ok(None);
    }
    let port = free_port()?;
    let folder = folder()?;
    let mut command = Command::new(&options.python);
    command.arg(script("uws.py")).arg(port.to_string());
    started(version, &command, port, folder).map(Some)
}

/// The floor: see [`crate::floor`].
pub fn floor() -> Result<Peer, Failure> {
    let port = free_port()?;
    // Not by its path, where another build may have put another program meanwhile.
    let mut command = Command::new(format!("/proc/{}/exe", std::process::id()));
    command.args(["floor", "--port", &port.to_string()]);
    let version = "bare writer".to_owned();
    started(version, &command, port, folder()?)
}

/// Redis with its log on the disk before each answer.
pub fn redis(_options: &Options) -> Result<Option<Peer>, Failure> {
    let Some(version) = first_line(Command::new(REDIS).arg("--version")) else {
        return Ok(None);
    };
    // `Redis server v=7.0.15 sha=.. malloc=..`
    let version = version
        .split_ascii_whitespace()
        .take(3)
        .collect::<Vec<_>>()
        .join(" ");
    let port = free_port()?;
    let folder = folder()?;
    let mut command = Command::new(REDIS);
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1"]);
    command.args(["--appendonly", "yes", "--appendfsync", "always"]);
    command.args(["--save", "", "--loglevel", "warning", "--dir"]);
    command.arg(folder.path());
    started(version, &command, port, folder).map(Some)
}

/// `ws` from npm.
pub fn ws_npm(options: &Options) -> Result<Option<Peer>, Failure> {
    let package = options.node_modules.join("ws/package.json");
    let node = first_line(Command::new("node").arg("--version"));
    let (Some(node), Ok(package)) = (node, fs::read(package)) else {
        return Ok(None);
    };
    let package: serde_json::Value = serde_json::from_slice(&package).unwrap_or_default();
    let version = package["version"].as_str().unwrap_or("of unknown version");
    let version = format!("ws {version} on node {node}");
    let port = free_port()?;
    let mut command = Command::new("node");
    command.arg(script("ws.mjs")).arg(port.to_string());
    // Modules are looked for next to the script, which has none there: it loads them from this folder.
    command.arg(&options.node_modules);
    started(version, &command, port, folder()?).map(Some)
}

/// A script of ours that is a server.
fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("peers")
        .join(name)
}

fn started(
    version: String,
    command: &Command,
    port: u16,
    folder: TempDir,
) -> Result<Peer, Failure> {
    Ok(Peer {
        version,
        process: Process::start(command, loopback(port), folder)?,
        port,
        certificate: None,
    })
}

/// The version of a Debian package.
fn package_version(package: &str) -> String {
    let mut ask = Command::new("dpkg-query");
    first_line(ask.args(["-W", "-f", "${Version}", package])).unwrap_or_default()
}

/// What a program prints first; `None` if it cannot be run.
fn first_line(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    let text = if output.stdout.is_empty() {
        output.stderr
    } else {
        output.stdout
    };
    let text = String::from_utf8_lossy(&text);
    Some(text.lines().next()?.trim().to_owned())
}
