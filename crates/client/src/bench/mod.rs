//! `tidings bench`: drives a server and measures it.
//!
//! Everything runs on one thread, so that the other cores are the server's. Receivers search what they read for
//! a marker and parse nothing else, because whatever they cost is taken from the machine that is measured.

mod fanout;
mod figures;
mod idle;
mod load;
mod marker;
mod mqtt;
mod publish;
mod server;
mod socket;

use std::fmt;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tidings_types::Qos;

use crate::cli::terminal::{failed, misused, runtime, say};
use crate::cli::{BenchArgs, BenchWhat, Load, MQTT_URL_DEFAULT, URL_DEFAULT, Wire};
use crate::client::{Client, Unusable};
use crate::error::{Lost, TryError};

use figures::Figures;
use server::Server;

/// Files besides the connections: standard streams, the runtime's, and those that measuring opens.
const FILES_SPARE: u64 = 64;
/// A measurement during which nothing arrives for so long has failed.
const STALL_MAX: Duration = Duration::from_secs(30);

/// Why there are no figures.
#[derive(Debug)]
pub(crate) enum BenchError {
    /// A connection could not be opened, or was lost.
    Connection(TryError),
    /// So many messages did not arrive in time.
    Stalled {
        /// Deliveries, or acknowledgements, that came.
        arrived: u64,
        /// That were due.
        due: u64,
    },
    /// Connections ended while they were measured.
    Ended(u64),
    /// There is no server to be reached like this.
    Unusable(Unusable),
    /// The options contradict each other.
    Misused(&'static str),
}

impl From<TryError> for BenchError {
    fn from(error: TryError) -> Self {
        Self::Connection(error)
    }
}

impl From<Lost> for BenchError {
    fn from(lost: Lost) -> Self {
        Self::Connection(TryError::Lost(lost))
    }
}

impl fmt::Display for BenchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connection(error) => error.fmt(f),
            Self::Stalled { arrived, due } => write!(
                f,
                "nothing arrived for {} s: {arrived} of {due} are there",
                STALL_MAX.as_secs()
            ),
            Self::Ended(count) => write!(f, "{count} connections ended while they were measured"),
            Self::Unusable(error) => error.fmt(f),
            Self::Misused(what) => f.write_str(what),
        }
    }
}

/// Measures what the options say, and prints the figures on standard output.
#[expect(
    clippy::needless_pass_by_value,
    reason = "as the other commands, which consume their options"
)]
pub fn bench(args: BenchArgs) -> ExitCode {
    let (BenchWhat::Fanout(load) | BenchWhat::Publish(load) | BenchWhat::Idle(load)) = &args.what;
    let client = match client(load) {
        Ok(client) => client,
        Err(error) => return misused(&error),
    };
    if load.connections == 0 || load.messages == 0 || load.in_flight == 0 || load.topics == 0 {
        return misused(&"connections, messages, in-flight and topics are at least 1");
    }
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    raise_file_limit(load.connections as u64 + FILES_SPARE);
    let server = Server::find(load, client.url());
    if server.is_none() {
        say(
            "the server's process is not found on this machine: its CPU and memory are not measured",
        );
    }
    let local = tokio::task::LocalSet::new();
    let measured = local.block_on(&runtime, async {
        match &args.what {
            BenchWhat::Fanout(load) => {
                Box::pin(fanout::measure(&client, load, server.as_ref())).await
            }
            BenchWhat::Publish(load) => {
                Box::pin(publish::measure(&client, load, server.as_ref())).await
            }
            BenchWhat::Idle(load) => Box::pin(idle::measure(&client, load, server.as_ref())).await,
        }
    });
    match measured {
        Ok(figures) => print(&figures, load),
        Err(BenchError::Misused(what)) => misused(&what),
        Err(error) => failed(&error),
    }
}

fn client(load: &Load) -> Result<Client, BenchError> {
    let tls = load.tls.files();
    let client = match (load.protocol, &load.mqtt_url) {
        (Wire::Mqtt, None) if load.url != URL_DEFAULT => {
            let what = "--protocol mqtt takes --mqtt-url and not --url";
            return Err(BenchError::Misused(what));
        }
        (Wire::Mqtt, url) => {
            let url = url.as_deref().unwrap_or(MQTT_URL_DEFAULT);
            Client::mqtt(url, Qos::AtLeastOnce, &tls)
        }
        (_, None) => Client::new(&load.url, &tls),
        (_, Some(_)) => return Err(BenchError::Misused("--mqtt-url goes with --protocol mqtt")),
    };
    client.map_err(BenchError::Unusable)
}

fn print(figures: &Figures, load: &Load) -> ExitCode {
    let text = if load.json {
        figures.json(load)
    } else {
        figures.text(load)
    };
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

/// Raises the soft limit of open files as far as needed and allowed; what is missing shows when it is missing.
fn raise_file_limit(needed: u64) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return;
    }
    let current = limit.maximum.map_or(needed, |maximum| maximum.min(needed));
    let raised = Rlimit {
        current: Some(current),
        maximum: limit.maximum,
    };
    if current < needed || setrlimit(Resource::Nofile, raised).is_err() {
        say(&format!(
            "this process may open {current} files, fewer than the {needed} that it needs"
        ));
    }
}
