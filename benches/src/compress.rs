//! Compressed fan-out: a JSON message to connections that take permessage-deflate, and to the same without.
//!
//! Tidings deflates a message once for all subscribers; `ws` does it for each connection.

mod payload;
mod receivers;

use std::time::{Duration, Instant};

use crate::link::{websocket, write_whole};
use crate::peers::{self, Peer};
use crate::process::Cpu;
use crate::report::{Failure, Table, publish_section, target};
use crate::spread::{Spread, short};
use crate::wire::websocket_text;
use crate::{Options, machine};

use payload::JSON_BYTES;
use receivers::Receivers;

pub use payload::json_message;

/// Compressed, the CPU of a delivery as a multiple of the plain one's.
const RATIO_MAX: f64 = 1.3;
/// Messages until the sockets are read: no more than the buffers of one hold.
const BURST: usize = 16;
/// What browsers offer.
const OFFER: &str = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";

/// Who sends, and whether it compresses.
const ROWS: [(Server, bool); 4] = [
    (Server::Tidings, false),
    (Server::Tidings, true),
    (Server::Ws, false),
    (Server::Ws, true),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Server {
    Tidings,
    Ws,
}

#[derive(Debug)]
struct Outcome {
    deliveries: f64,
    /// From each publish until every probe has the message, added up.
    sending: Duration,
    cpu: Cpu,
    /// Of the server's core while it sent.
    busy_s: f64,
    bytes: f64,
    pss_bytes: f64,
}

impl Outcome {
    fn cpu_us(&self) -> f64 {
        self.cpu.total_s * 1e6 / self.deliveries
    }
}

/// Runs the measurement and writes its section.
pub fn run(options: &Options) -> Result<(), Failure> {
    let mut rounds = ROWS.map(|_| Vec::new());
    let mut versions = Vec::new();
    for _ in 0..options.rounds {
        for ((server, deflate), rounds) in ROWS.iter().zip(&mut rounds) {
            let peer = match server {
                Server::Tidings => Some(peers::tidings(options, &[])?),
                Server::Ws if options.quick => None,
                Server::Ws => peers::ws_npm(options)?,
            };
            let outcome = peer
                .as_ref()
                .map(|peer| round(options, peer, *server, *deflate));
            let what = |failure| Failure::new(format!("{server:?}: {failure}"));
            rounds.push(outcome.transpose().map_err(what)?);
            let version = peer.map(|peer| peer.version);
            versions.extend(version.filter(|version| !versions.contains(version)));
        }
    }
    publish_section(options, "compress", &[table(options, &rounds, &versions)])
}

fn subscribers(options: &Options) -> usize {
    if options.quick { 50 } else { 1_000 }
}

fn round(
    options: &Options,
    peer: &Peer,
    server: Server,
    deflate: bool,
) -> Result<Outcome, Failure> {
    let (subscribe, publish) = match server {
        Server::Tidings => ("/v1/topics/bench", "/v1/topics/bench?echo=false"),
        Server::Ws => ("/sub", "/pub"),
    };
    let mut receivers = Receivers::open(subscribers(options), || {
        let (stream, head) =
            websocket(peer.address(), subscribe, if deflate { OFFER } else { "" })?;
        if head.to_ascii_lowercase().contains("permessage-deflate") != deflate {
            return Err(Failure::new(format!(
                "compression is not as agreed: {head}"
            )));
        }
        Ok(stream)
    })?;
    let (publisher, _) = websocket(peer.address(), publish, "")?;
    // A connection that publishes is subscribed on Tidings as well, but nothing comes back.
    publisher.set_nonblocking(true)?;
    let mut next = 0;
    let mut send = |bursts: usize, receivers: &mut Receivers| {
        let mut sending = Duration::ZERO;
        for _ in 0..bursts {
            for _ in 0..BURST {
                let frame = websocket_text(json_message(next).as_bytes());
                next += 1;
                let begun = Instant::now();
                write_whole(&mut &publisher, &frame)?;
                receivers.expect_one();
                receivers.wait_for_probes()?;
                sending += begun.elapsed();
            }
            receivers.drain()?;
        }
        Ok::<_, Failure>(sending)
    };
    send(1, &mut receivers)?;
    let bursts = if options.quick { 1 } else { 16 };
    let (bytes_before, cpu_before) = (receivers.bytes(), peer.process.cpu());
    let busy_before = machine::busy_s(machine::SERVER_CPU);
    let sending = send(bursts, &mut receivers)?;
    Ok(Outcome {
        deliveries: (bursts * BURST * subscribers(options)) as f64,
        sending,
        cpu: peer.process.cpu().since(cpu_before),
        busy_s: machine::busy_s(machine::SERVER_CPU) - busy_before,
        bytes: (receivers.bytes() - bytes_before) as f64,
        pss_bytes: peer.process.pss_bytes() as f64,
    })
}

type Rounds = Vec<Option<Outcome>>;

fn spread(rounds: &Rounds, figure: impl Fn(&Outcome) -> f64) -> Spread {
    Spread::of(rounds.iter().flatten().map(figure))
}

/// CPU of a delivery as a multiple of another's in the same round.
fn ratio(rounds: &Rounds, other: &Rounds) -> Spread {
    let pairs = rounds.iter().zip(other);
    Spread::of(
        pairs
            .filter_map(|(mine, theirs)| Some(mine.as_ref()?.cpu_us() / theirs.as_ref()?.cpu_us())),
    )
}

fn table(options: &Options, rounds: &[Rounds; 4], versions: &[String]) -> Table {
    let mut table = Table {
        title: format!(
            "{JSON_BYTES} bytes of JSON to {} WebSockets, message by message",
            subscribers(options)
        ),
        columns: vec![
            "server",
            "CPU, x plain tidings",
            "CPU us a delivery",
            "user",
            "system",
            "core busy us",
            "deliveries/s",
            "bytes each",
            "memory",
        ],
        ..Table::default()
    };
    for ((server, deflate), of_row) in ROWS.iter().zip(rounds) {
        if of_row.iter().all(Option::is_none) {
            continue;
        }
        let each = |seconds: fn(&Outcome) -> f64| {
            short(spread(of_row, |it| seconds(it) * 1e6 / it.deliveries).median)
        };
        let mib = spread(of_row, |it| it.pss_bytes / f64::from(1 << 20)).median;
        table.rows.push(vec![
            format!(
                "{}, {}",
                if *server == Server::Ws {
                    "ws (npm)"
                } else {
                    "tidings"
                },
                if *deflate {
                    "permessage-deflate"
                } else {
                    "plain"
                }
            ),
            ratio(of_row, &rounds[0]).to_string(),
            spread(of_row, Outcome::cpu_us).to_string(),
            each(|outcome| outcome.cpu.user_s),
            each(|outcome| outcome.cpu.system_s),
            each(|outcome| outcome.busy_s),
            short(spread(of_row, |it| it.deliveries / it.sending.as_secs_f64()).median),
            short(spread(of_row, |it| it.bytes / it.deliveries).median),
            format!("{} MiB", short(mib)),
        ]);
    }
    let found = ratio(&rounds[1], &rounds[0]);
    let text = format!("compressed at most {RATIO_MAX} x the CPU of plain");
    table.notes = vec![
        target(&text, found.median <= RATIO_MAX, &found.to_string()),
        "Every message is another one and compresses to about a third. The clients offer what browsers offer. Frames are \
         counted at every subscriber; nobody waits on the sockets while a message goes out. `ws` keeps a window of its \
         own for each connection, which takes memory and makes the bytes fewer."
            .to_owned(),
        format!("Versions: {}.", versions.join("; ")),
    ];
    if rounds[2].iter().all(Option::is_none) {
        table.notes.push("ws (npm) was left out.".to_owned());
    }
    table
}
