//! `/metrics` in Prometheus' text format (exposition format 0.0.4).
//!
//! Every number is kept by its owner; this sums the shards' and writes them down. No labels name topics or
//! peers, so the page has a bounded size.

use std::fmt::{self, Write};
use std::sync::atomic::Ordering::Relaxed;

use tidings_hub::Metrics;
use tidings_hub::meter::Limit;
use tidings_hub::metrics::{Count, GAP_REASONS, ProtocolMetrics};
use tidings_ports::{EngineHealth, EngineStats};
use tidings_types::{Protocol, RefusalCode};

use tidings_auth::Reason;

use super::Shared;
use super::acme::{Outcome, Proof};
use super::newcomers::Full;
use super::proxies::{Fault, Ignored};
use super::remote;
use super::tls::Failure;

/// The media type of the page.
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

type OfShard = fn(&Metrics) -> &Count;
type OfLog = fn(&EngineStats) -> u64;
type OfProtocol = fn(&ProtocolMetrics) -> &Count;

const PROTOCOLS: [(&str, &str, &str, OfProtocol); 5] = [
    (
        "tidings_connections",
        "gauge",
        "Open connections by protocol.",
        |m| &m.connections,
    ),
    (
        "tidings_connections_total",
        "counter",
        "Connections opened.",
        |m| &m.connections_total,
    ),
    (
        "tidings_published_total",
        "counter",
        "Messages handed to the log.",
        |m| &m.published,
    ),
    (
        "tidings_deliveries_total",
        "counter",
        "Messages put on their way to a subscriber.",
        |m| &m.delivered,
    ),
    (
        "tidings_delivered_bytes_total",
        "counter",
        "Bytes of those, encoded.",
        |m| &m.delivered_bytes,
    ),
];

const SHARDS: [(&str, &str, &str, OfShard); 23] = [
    ("tidings_subscriptions", "gauge", "Subscriptions.", |m| {
        &m.subscriptions
    }),
    (
        "tidings_subscriptions_catching_up",
        "gauge",
        "Subscriptions that are not live.",
        |m| &m.catching_up,
    ),
    (
        "tidings_subscriptions_lagged_total",
        "counter",
        "Times that a slow reader fell back from live delivery to the log.",
        |m| &m.lagged,
    ),
    (
        "tidings_caught_up_total",
        "counter",
        "Deliveries made by catching up.",
        |m| &m.caught_up,
    ),
    (
        "tidings_inbox_overflows_total",
        "counter",
        "Times that a shard fell back from the feed to the log.",
        |m| &m.inbox_overflows,
    ),
    (
        "tidings_expired_total",
        "counter",
        "Deliveries left out because the message's time to live had passed.",
        |m| &m.expired,
    ),
    (
        "tidings_live_only_missed_total",
        "counter",
        "Slow subscriptions that missed messages of topics that are not kept.",
        |m| &m.live_only_missed,
    ),
    (
        "tidings_unframed_total",
        "counter",
        "Deliveries left out because the peer does not take such a message.",
        |m| &m.unframed,
    ),
    (
        "tidings_read_errors_total",
        "counter",
        "Reads for subscribers that failed.",
        |m| &m.read_errors,
    ),
    (
        "tidings_sessions_connected",
        "gauge",
        "Sessions with a connection.",
        |m| &m.sessions_connected,
    ),
    (
        "tidings_sessions_offline",
        "gauge",
        "Sessions without a connection.",
        |m| &m.sessions_offline,
    ),
    (
        "tidings_sessions_expired_total",
        "counter",
        "Sessions that ended because nobody came back in time.",
        |m| &m.sessions_expired,
    ),
    (
        "tidings_sessions_taken_over_total",
        "counter",
        "Sessions that a connection took from another one.",
        |m| &m.sessions_taken_over,
    ),
    (
        "tidings_sessions_unread_total",
        "counter",
        "Kept sessions that this version could not read.",
        |m| &m.sessions_unread,
    ),
    ("tidings_queues", "gauge", "Work queues.", |m| &m.queues),
    (
        "tidings_queue_redelivered_total",
        "counter",
        "Messages of work queues that were delivered again, or perhaps again.",
        |m| &m.redelivered,
    ),
    (
        "tidings_queue_missed_total",
        "counter",
        "Messages of work queues that came back when retention had removed them, and gaps in what queues had not read.",
        |m| &m.queue_missed,
    ),
    (
        "tidings_queue_late_total",
        "counter",
        "Messages of work queues that a consumer had for too long.",
        |m| &m.queue_late,
    ),
    (
        "tidings_queue_strays_total",
        "counter",
        "Verdicts on messages that were not, or not any more, their consumer's.",
        |m| &m.queue_strays,
    ),
    (
        "tidings_dead_letters_total",
        "counter",
        "Messages that work queues gave up and that are below the dead-letter topic.",
        |m| &m.dead_letters,
    ),
    (
        "tidings_dead_letters_dropped_total",
        "counter",
        "Messages that work queues gave up and that are gone.",
        |m| &m.dead_dropped,
    ),
    ("tidings_wills_total", "counter", "Wills published.", |m| {
        &m.wills
    }),
    (
        "tidings_wills_lost_total",
        "counter",
        "Wills that the log would not take.",
        |m| &m.wills_lost,
    ),
];

const LOG: [(&str, &str, &str, OfLog); 22] = [
    (
        "tidings_log_messages_total",
        "counter",
        "Messages committed.",
        |s| s.messages,
    ),
    (
        "tidings_log_batches_total",
        "counter",
        "Batches committed.",
        |s| s.batches,
    ),
    (
        "tidings_log_syncs_total",
        "counter",
        "Syncs of the storage.",
        |s| s.syncs,
    ),
    (
        "tidings_log_bytes_written_total",
        "counter",
        "Bytes written.",
        |s| s.bytes_written,
    ),
    (
        "tidings_log_commit_microseconds_total",
        "counter",
        "Time in writes and syncs.",
        |s| s.commit_us,
    ),
    (
        "tidings_log_replays_total",
        "counter",
        "Publishes answered by their idempotency key.",
        |s| s.replays,
    ),
    (
        "tidings_log_keys_evicted_total",
        "counter",
        "Idempotency keys forgotten early.",
        |s| s.keys_evicted,
    ),
    (
        "tidings_log_busy_total",
        "counter",
        "Submissions refused: queue full.",
        |s| s.busy,
    ),
    (
        "tidings_log_full_total",
        "counter",
        "Submissions refused: storage full.",
        |s| s.full,
    ),
    (
        "tidings_log_failed_total",
        "counter",
        "Submissions refused: storage failed.",
        |s| s.failed,
    ),
    (
        "tidings_log_removed_total",
        "counter",
        "Messages removed by retention.",
        |s| s.removed,
    ),
    (
        "tidings_log_pages_read_total",
        "counter",
        "Pages read.",
        |s| s.pages_read,
    ),
    (
        "tidings_log_messages_read_total",
        "counter",
        "Messages read.",
        |s| s.messages_read,
    ),
    (
        "tidings_log_read_errors_total",
        "counter",
        "Reads that failed.",
        |s| s.read_errors,
    ),
    ("tidings_log_segments", "gauge", "Segments.", |s| s.segments),
    ("tidings_log_bytes", "gauge", "Bytes stored.", |s| {
        s.bytes_stored
    }),
    (
        "tidings_log_memory_bytes",
        "gauge",
        "Bytes of topics kept in memory.",
        |s| s.bytes_memory,
    ),
    ("tidings_log_topics", "gauge", "Topics.", |s| s.topics),
    (
        "tidings_log_keys",
        "gauge",
        "Idempotency keys remembered.",
        |s| s.keys,
    ),
    (
        "tidings_log_queued",
        "gauge",
        "Messages waiting to be committed.",
        |s| s.queued,
    ),
    (
        "tidings_log_states_written_total",
        "counter",
        "States of sessions and queues written.",
        |s| s.states_written,
    ),
    (
        "tidings_log_states",
        "gauge",
        "Sessions and queues whose state is kept.",
        |s| s.states,
    ),
];

/// The page.
pub fn render(shared: &Shared) -> String {
    let mut page = String::with_capacity(16 << 10);
    let written = write_all(&mut page, shared);
    debug_assert!(written.is_ok(), "writing to a string does not fail");
    page
}

fn write_logins(page: &mut String, shared: &Shared) -> fmt::Result {
    let name = "tidings_logins_total";
    head(
        page,
        name,
        "counter",
        "Credentials judged, by protocol and outcome.",
    )?;
    for protocol in Protocol::ALL {
        let outcomes = Reason::ALL.iter().copied().map(Some).chain([None]);
        for outcome in outcomes {
            let count = shared.logins.count(protocol, outcome);
            let (protocol, outcome) = (protocol.name(), outcome.map_or("accepted", Reason::slug));
            writeln!(
                page,
                "{name}{{protocol=\"{protocol}\",outcome=\"{outcome}\"}} {count}"
            )?;
        }
    }
    Ok(())
}

fn write_remote(page: &mut String, shared: &Shared) -> fmt::Result {
    let help = "Questions to other servers, by what is asked and what it came to.";
    head(page, "tidings_auth_asks_total", "counter", help)?;
    for (kind, label) in remote::KINDS.iter().enumerate() {
        let counts = shared.remote.counts(kind);
        for (asked, result) in remote::Asked::ALL {
            let count = counts.get(asked);
            writeln!(
                page,
                "tidings_auth_asks_total{{source=\"{label}\",result=\"{result}\"}} {count}"
            )?;
        }
    }
    let (recalled, took) = (
        "tidings_auth_asks_recalled_total",
        "tidings_auth_ask_seconds",
    );
    head(
        page,
        recalled,
        "counter",
        "Questions to other servers that an earlier answer answered.",
    )?;
    for (kind, label) in remote::KINDS.iter().enumerate() {
        let count = shared.remote.counts(kind).recalled.load(Relaxed);
        writeln!(page, "{recalled}{{source=\"{label}\"}} {count}")?;
    }
    head(
        page,
        took,
        "summary",
        "How long answers of other servers took.",
    )?;
    for (kind, label) in remote::KINDS.iter().enumerate() {
        let counts = shared.remote.counts(kind);
        let (seconds, sent) = (
            counts.micros.load(Relaxed) as f64 / 1e6,
            counts.sent.load(Relaxed),
        );
        writeln!(page, "{took}_sum{{source=\"{label}\"}} {seconds}")?;
        writeln!(page, "{took}_count{{source=\"{label}\"}} {sent}")?;
    }
    if let Some(keys) = shared.remote.keys() {
        head(
            page,
            "tidings_jwks_keys",
            "gauge",
            "Keys that the issuer has and tokens are verified with.",
        )?;
        writeln!(page, "tidings_jwks_keys {keys}")?;
    }
    Ok(())
}

fn write_all(page: &mut String, shared: &Shared) -> fmt::Result {
    for (name, kind, help, number) in PROTOCOLS {
        head(page, name, kind, help)?;
        for protocol in Protocol::ALL {
            let sum: u64 = shared
                .shards
                .iter()
                .map(|shard| number(&shard.protocols[protocol.index()]).get())
                .sum();
            writeln!(page, "{name}{{protocol=\"{}\"}} {sum}", protocol.name())?;
        }
    }
    write_logins(page, shared)?;
    write_remote(page, shared)?;
    for (name, kind, help, number) in SHARDS {
        let sum: u64 = shared.shards.iter().map(|shard| number(shard).get()).sum();
        head(page, name, kind, help)?;
        writeln!(page, "{name} {sum}")?;
    }
    head(
        page,
        "tidings_gaps_total",
        "counter",
        "Gaps told to subscribers, by reason.",
    )?;
    for (index, reason) in GAP_REASONS.into_iter().enumerate() {
        let sum: u64 = shared
            .shards
            .iter()
            .map(|shard| shard.gaps[index].get())
            .sum();
        writeln!(
            page,
            "tidings_gaps_total{{reason=\"{}\"}} {sum}",
            reason.name()
        )?;
    }
    head(
        page,
        "tidings_refusals_total",
        "counter",
        "Refusals, by reason.",
    )?;
    for code in RefusalCode::ALL {
        let count = shared.metrics.refusals(*code);
        writeln!(
            page,
            "tidings_refusals_total{{reason=\"{}\"}} {count}",
            code.slug()
        )?;
    }
    write_limits(page, shared)?;
    write_tls(page, shared)?;
    super::admin::metrics::write(page, shared)?;
    write_proxies(page, shared)?;
    one(
        page,
        "tidings_sockets",
        "gauge",
        "Open sockets.",
        shared.sockets.open() as u64,
    )?;
    write_log(page, shared)
}

fn write_limits(page: &mut String, shared: &Shared) -> fmt::Result {
    let name = "tidings_limits_reached_total";
    head(
        page,
        name,
        "counter",
        "Times that connections or identities were over a limit, by its option.",
    )?;
    let newcomers = Full::ALL.map(|full| (full.name(), shared.sockets.refused(full)));
    let identities = Limit::ALL.map(|limit| (limit.name(), shared.meters.reached(limit)));
    for (limit, count) in newcomers.into_iter().chain(identities) {
        writeln!(page, "{name}{{limit=\"{limit}\"}} {count}")?;
    }
    one(
        page,
        "tidings_identities",
        "gauge",
        "Identities that limits are counted for.",
        shared.meters.known() as u64,
    )
}

fn write_tls(page: &mut String, shared: &Shared) -> fmt::Result {
    let counts = &shared.tls.counts;
    one(
        page,
        "tidings_tls_handshakes_total",
        "counter",
        "TLS handshakes made.",
        counts.handshakes(),
    )?;
    head(
        page,
        "tidings_tls_handshake_failures_total",
        "counter",
        "TLS handshakes that failed, by reason.",
    )?;
    for failure in Failure::ALL {
        let (reason, count) = (failure.name(), counts.failures(failure));
        writeln!(
            page,
            "tidings_tls_handshake_failures_total{{reason=\"{reason}\"}} {count}"
        )?;
    }
    head(
        page,
        "tidings_tls_reloads_total",
        "counter",
        "Times that certificate files were read while the server ran.",
    )?;
    for (result, count) in counts.reloads() {
        writeln!(
            page,
            "tidings_tls_reloads_total{{result=\"{result}\"}} {count}"
        )?;
    }
    write_acme(page, shared)
}

fn write_acme(page: &mut String, shared: &Shared) -> fmt::Result {
    let acme = &shared.tls.acme;
    if !acme.is_on() {
        return Ok(());
    }
    let name = "tidings_acme_orders_total";
    head(
        page,
        name,
        "counter",
        "Certificates asked for, by how that ended.",
    )?;
    for outcome in Outcome::ALL {
        let (result, count) = (outcome.name(), acme.results(outcome));
        writeln!(page, "{name}{{result=\"{result}\"}} {count}")?;
    }
    let name = "tidings_acme_challenges_total";
    head(
        page,
        name,
        "counter",
        "Challenges of a certificate authority that were answered.",
    )?;
    for proof in Proof::ALL {
        let (challenge, count) = (proof.name(), acme.challenges.answers(proof));
        writeln!(page, "{name}{{challenge=\"{challenge}\"}} {count}")?;
    }
    let now = shared.clock.now().0 / 1_000;
    one(
        page,
        "tidings_acme_certificate_seconds",
        "gauge",
        "Seconds until the automatic certificate expires; 0 if there is none.",
        acme.expires().saturating_sub(now),
    )
}

fn write_proxies(page: &mut String, shared: &Shared) -> fmt::Result {
    let counts = &shared.proxy_counts;
    let name = "tidings_proxy_headers_total";
    let help = "Headers of the PROXY protocol, by whose connection they were for.";
    head(page, name, "counter", help)?;
    for (sender, count) in counts.headers() {
        writeln!(page, "{name}{{sender=\"{sender}\"}} {count}")?;
    }
    let name = "tidings_proxy_header_failures_total";
    let help = "Connections of trusted addresses that were closed for want of a good header of the PROXY protocol, by reason.";
    head(page, name, "counter", help)?;
    for fault in Fault::ALL {
        let (reason, count) = (fault.name(), counts.faults(fault));
        writeln!(page, "{name}{{reason=\"{reason}\"}} {count}")?;
    }
    let name = "tidings_forwarded_ignored_total";
    let help =
        "Requests whose chain of forwarding addresses could not be followed to its end, by reason.";
    head(page, name, "counter", help)?;
    for ignored in Ignored::ALL {
        let (reason, count) = (ignored.name(), counts.ignored(ignored));
        writeln!(page, "{name}{{reason=\"{reason}\"}} {count}")?;
    }
    Ok(())
}

fn write_log(page: &mut String, shared: &Shared) -> fmt::Result {
    let stats = shared.engine.stats();
    for (name, kind, help, number) in LOG {
        one(page, name, kind, help, number(&stats))?;
    }
    let head = shared.engine.head().0;
    one(
        page,
        "tidings_log_head",
        "gauge",
        "The last committed offset.",
        head,
    )?;
    let writable = u64::from(shared.engine.health() == EngineHealth::Writable);
    one(
        page,
        "tidings_log_writable",
        "gauge",
        "1 if the log takes writes.",
        writable,
    )
}

/// Writes one number.
pub fn one(page: &mut String, name: &str, kind: &str, help: &str, value: u64) -> fmt::Result {
    head(page, name, kind, help)?;
    writeln!(page, "{name} {value}")
}

/// Writes what a number means.
pub fn head(page: &mut String, name: &str, kind: &str, help: &str) -> fmt::Result {
    writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}")
}
