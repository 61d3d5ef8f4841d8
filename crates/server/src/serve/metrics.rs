//! `/metrics` in Prometheus' text format (exposition format 0.0.4).
//!
//! Every number is kept by its owner; this sums the shards' and writes them down. No labels name topics or
//! peers, so the page has a bounded size.

use std::fmt::{self, Write};

use tidings_hub::Metrics;
use tidings_hub::metrics::{Count, GAP_REASONS, ProtocolMetrics};
use tidings_ports::{EngineHealth, EngineStats};
use tidings_types::{Protocol, RefusalCode};

use tidings_auth::Reason;

use super::Shared;
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
    write_tls(page, shared)?;
    one(
        page,
        "tidings_sockets",
        "gauge",
        "Open sockets.",
        shared.sockets.open() as u64,
    )?;
    write_log(page, shared)
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

fn one(page: &mut String, name: &str, kind: &str, help: &str, value: u64) -> fmt::Result {
    head(page, name, kind, help)?;
    writeln!(page, "{name} {value}")
}

fn head(page: &mut String, name: &str, kind: &str, help: &str) -> fmt::Result {
    writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}")
}
