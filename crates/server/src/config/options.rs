//! The option table: the only list of what can be set.
//!
//! To add an option, add a field to [`Config`] with its default and a row here. Its flag, its environment name,
//! its place in `--print-config` and in the documentation follow.

mod remote;

use super::slot::Slot;
use super::spec::option;
use super::{acme, rates};

pub use super::spec::{Flag, OptionSpec};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;

/// The option with this key, and its place in the table.
#[must_use]
pub fn find(key: &str) -> Option<(usize, &'static OptionSpec)> {
    OPTIONS.iter().enumerate().find(|(_, spec)| spec.key == key)
}

/// Sections with what they are about, in the order of the table.
pub static SECTIONS: &[(&str, &str)] = &[
    (
        "http",
        "The HTTP listener, which also carries SSE and WebSocket.",
    ),
    ("sse", "Event streams."),
    ("websocket", "WebSocket connections."),
    (
        "tls",
        "Certificates for every listener that speaks TLS: `http.tls`, `mqtt.tls`, `stomp.tls`. The files are read \
         again when they change, and at SIGHUP; no connection is dropped, and files that do not fit each other \
         leave the old ones in place.",
    ),
    (
        "proxy",
        "Balancers and proxies in front of the server, and how they say whose connections and requests they pass on.",
    ),
    (
        "mqtt",
        "The MQTT listener, and MQTT over WebSocket on the HTTP listener.",
    ),
    (
        "stomp",
        "The STOMP listener, and STOMP over WebSocket on the HTTP listener.",
    ),
    ("queues", "Work queues, over all protocols."),
    (
        "admin",
        "The admin listener: `/metrics`, `/healthz`, `/readyz`, and revoking credentials at run time.",
    ),
    ("page", "The built-in page."),
    ("log", "The log that every message goes into."),
    (
        "retention_default",
        "What is kept of topics that no `[[retention]]` rule matches.",
    ),
    ("server", "The server as a whole."),
    (
        "auth",
        "Who may come in, and may what. Without credentials and permissions, everybody may do everything. \
         The files are read again on SIGHUP.",
    ),
    ("log_output", "What the server writes to standard error."),
    (
        "limits",
        "What one peer, one message or the whole server may cost. Over a limit is a clear refusal.",
    ),
];

/// Every option.
pub static OPTIONS: &[OptionSpec] =
    &remote::joined::<{ FIRST.len() + remote::REMOTE.len() }>(FIRST, remote::REMOTE);

/// All but those of a file of their own, section by section.
const FIRST: &[OptionSpec] = &[
    option("http.listen", "Where HTTP listens.", |c| {
        Slot::Listener(&mut c.http)
    })
    .flags(&[Flag::Value {
        long: "http",
        name: "ADDR|off",
    }]),
    option("http.tls", "Where HTTP over TLS listens (HTTP/2 and HTTP/1.1).", |c| {
        Slot::Listener(&mut c.https)
    })
    .flags(&[Flag::Value {
        long: "https",
        name: "ADDR|off",
    }]),
    option(
        "http.cors_origins",
        "Pages of these origins may use the HTTP API from a browser; \
         `https://*.example.org` is every host below, `*` is any.",
        |c| Slot::Origins(&mut c.cors_origins),
    )
    .flags(&[Flag::Value {
        long: "cors-origin",
        name: "ORIGIN",
    }])
    .reloadable(),
    option(
        "http.compression",
        "Compress answers for clients that ask for it (gzip, br, zstd).",
        |c| Slot::Flag(&mut c.http_compression),
    ),
    option(
        "sse.gzip",
        "Compress event streams for clients that ask for it, with a flush after each event.",
        |c| Slot::Flag(&mut c.sse_gzip),
    ),
    option(
        "websocket.compression",
        "Agree to permessage-deflate.",
        |c| Slot::Flag(&mut c.websocket_compression),
    ),
    option(
        "websocket.origins",
        "Pages of these origins may open a WebSocket, besides the server's own; \
         `https://*.example.org` is every host below, `*` is any.",
        |c| Slot::Origins(&mut c.websocket_origins),
    )
    .reloadable(),
    option(
        "tls.certificates",
        "Certificate chains with their keys, as PEM files: `[{ cert = \"cert.pem\", key = \"key.pem\" }]`, or \
         `cert.pem:key.pem`. The one whose names have the host that the client asks for is shown, else the first.",
        |c| Slot::Certificates(&mut c.tls.certificates),
    )
    .flags(&[Flag::Value {
        long: "tls-cert",
        name: "CERT:KEY",
    }])
    .reloadable(),
    option(
        "tls.version_min",
        "The oldest version of TLS that is spoken.",
        |c| Slot::Choice(&mut c.tls.version_min),
    )
    .reloadable(),
    option(
        "tls.client_ca",
        "A PEM file with the certificates of those who issue certificates for clients; clients are then asked for one.",
        |c| Slot::TextOrOff(&mut c.tls.client_ca),
    )
    .range(1, 4 * KIB)
    .reloadable(),
    option(
        "tls.client_auth",
        "With `tls.client_ca`: whether a client has to show a certificate.",
        |c| Slot::Choice(&mut c.tls.client_auth),
    )
    .reloadable(),
    option(
        "tls.client_crl",
        "With `tls.client_ca`: a PEM file with the revocation lists of all authorities in its chains.",
        |c| Slot::TextOrOff(&mut c.tls.client_crl),
    )
    .range(1, 4 * KIB)
    .reloadable(),
    option(
        "tls.watch_ms",
        "How often the files of this section are looked at for changes.",
        |c| Slot::Span(&mut c.tls.watch),
    )
    .range(100, DAY)
    .reloadable(),
    acme::DOMAINS,
    acme::DIRECTORY,
    acme::CONTACT,
    acme::CHALLENGE,
    acme::CA,
    acme::EAB_KID,
    acme::EAB_KEY_FILE,
    option(
        "tls.hsts_s",
        "For how many seconds browsers are told to come back by TLS alone (`Strict-Transport-Security`); 0 tells them \
         nothing.",
        |c| Slot::Count((&mut c.tls.hsts_s).into()),
    )
    .range(0, 10 * 366 * DAY / 1_000)
    .reloadable(),
    option(
        "proxy.trusted",
        "Addresses and networks that are believed when they say whose connection or request they pass on.",
        |c| Slot::Networks(&mut c.proxy.trusted),
    )
    .reloadable(),
    option(
        "proxy.protocol",
        "Listeners where every connection of `proxy.trusted` has to begin with a header of the PROXY protocol (v1 or v2).",
        |c| Slot::Listeners(&mut c.proxy.protocol),
    )
    .reloadable(),
    option(
        "proxy.header",
        "The header in which `proxy.trusted` says whose a request is; others are not looked at.",
        |c| Slot::Choice(&mut c.proxy.header),
    )
    .reloadable(),
    option(
        "mqtt.listen",
        "Where MQTT listens (3.1, 3.1.1 and 5.0 over TCP).",
        |c| Slot::Listener(&mut c.mqtt),
    )
    .flags(&[Flag::Value {
        long: "mqtt",
        name: "ADDR|off",
    }]),
    option("mqtt.tls", "Where MQTT over TLS listens.", |c| {
        Slot::Listener(&mut c.mqtts)
    })
    .flags(&[Flag::Value {
        long: "mqtts",
        name: "ADDR|off",
    }]),
    option(
        "mqtt.websocket",
        "Serve MQTT over WebSocket at `/mqtt` of the HTTP listener.",
        |c| Slot::Flag(&mut c.mqtt_websocket),
    ),
    option(
        "mqtt.server_reference",
        "Where MQTT 5 clients are sent when this server goes down: `host`, `host:port`, or several \
         of them with spaces between.",
        |c| Slot::ServersOrOff(&mut c.mqtt_server_reference),
    )
    .range(1, KIB),
    option(
        "stomp.listen",
        "Where STOMP listens (1.0, 1.1 and 1.2 over TCP).",
        |c| Slot::Listener(&mut c.stomp),
    )
    .flags(&[Flag::Value {
        long: "stomp",
        name: "ADDR|off",
    }]),
    option("stomp.tls", "Where STOMP over TLS listens.", |c| {
        Slot::Listener(&mut c.stomps)
    })
    .flags(&[Flag::Value {
        long: "stomps",
        name: "ADDR|off",
    }]),
    option(
        "stomp.websocket",
        "Serve STOMP over WebSocket at `/stomp` of the HTTP listener.",
        |c| Slot::Flag(&mut c.stomp_websocket),
    ),
    option(
        "queues.dead_letter",
        "The topic below which messages go that a work queue gives up: those of `a/b` to \
         `dead-letter/a/b`. `off` drops them.",
        |c| Slot::TopicOrOff(&mut c.dead_letter),
    ),
    option(
        "admin.listen",
        "Where the admin listener is. It is not limited by `limits.connections_max`, and has `/metrics` in place of the \
         HTTP listener.",
        |c| Slot::Listener(&mut c.admin.listen),
    )
    .flags(&[Flag::Value {
        long: "admin",
        name: "ADDR|off",
    }]),
    option("admin.tls", "Where the admin listener is over TLS.", |c| {
        Slot::Listener(&mut c.admin.tls)
    }),
    option(
        "admin.token_file",
        "The token that the admin listener asks for, as `tidings token secret` writes one; without it, it may listen \
         on loopback alone.",
        |c| Slot::TextOrOff(&mut c.admin.token_file),
    )
    .range(1, 4 * KIB)
    .reloadable(),
    option(
        "admin.revocations_max",
        "How many subjects and credentials may be revoked at a time.",
        |c| Slot::Count((&mut c.admin.revocations_max).into()),
    )
    .range(1, 1_000_000),
    option("page.enabled", "Serve the built-in page at `/`.", |c| {
        Slot::Flag(&mut c.page)
    }),
    option(
        "log.dir",
        "The directory of the log, or `memory` to keep it in memory until the server stops \
         (`./memory` is a directory of that name).",
        |c| Slot::Place(&mut c.data),
    )
    .flags(&[
        Flag::Value {
            long: "data",
            name: "DIR",
        },
        Flag::Word {
            long: "memory",
            value: "memory",
        },
    ]),
    option(
        "log.durability",
        "When a publish is answered: `sync` once the message is on the disk (survives a power \
         cut), `os` once the operating system has it (survives a crash of the server, not a \
         power cut).",
        |c| Slot::Choice(&mut c.durability),
    )
    .flags(&[Flag::Value {
        long: "durability",
        name: "sync|os",
    }]),
    option(
        "log.segment_bytes",
        "The size at which a file of the log is closed and the next one begun.",
        |c| Slot::Bytes((&mut c.segment_bytes).into()),
    )
    .range(4 * KIB, 2 * GIB),
    option(
        "retention_default.storage",
        "Where messages are kept: `durable` on the disk, `memory` until the server stops, \
         `none` for live subscribers only.",
        |c| Slot::Choice(&mut c.retention.default.storage),
    ),
    option(
        "retention_default.age_max",
        "How long a message is kept.",
        |c| Slot::SpanOrOff(&mut c.retention.default.age_max),
    )
    .range(1_000, 100 * 366 * DAY),
    option(
        "retention_default.bytes_max",
        "How many bytes are kept, over all topics of the rule together.",
        |c| Slot::BytesOrOff(&mut c.retention.default.bytes_max),
    ),
    option(
        "retention_default.per_topic_max",
        "How many messages of each topic are kept.",
        |c| Slot::CountOrOff(&mut c.retention.default.per_topic_max),
    ),
    option(
        "server.shards",
        "Event loops; 0 is one for each core.",
        |c| Slot::Count((&mut c.shards).into()),
    )
    .flags(&[Flag::Value {
        long: "shards",
        name: "N",
    }])
    .range(0, 1_024),
    option(
        "server.shutdown_ms",
        "The time over which a shutdown spreads its goodbyes.",
        |c| Slot::Span(&mut c.drain),
    )
    .range(0, HOUR)
    .reloadable(),
    option(
        "server.allow_anonymous",
        "Let other machines connect without credentials.",
        |c| Slot::Flag(&mut c.allow_anonymous),
    )
    .flags(&[Flag::Word {
        long: "allow-anonymous",
        value: "true",
    }]),
    option(
        "auth.passwords_file",
        "Users with their hashed passwords (Argon2id or bcrypt), as `tidings passwd` and `htpasswd -B` \
         write them.",
        |c| Slot::TextOrOff(&mut c.auth.passwords_file),
    )
    .range(1, 4 * KIB)
    .reloadable(),
    option(
        "auth.keys_file",
        "API keys, as `tidings key new` writes them.",
        |c| Slot::TextOrOff(&mut c.auth.keys_file),
    )
    .range(1, 4 * KIB)
    .reloadable(),
    option(
        "auth.permissions_file",
        "Rules that say who may publish and subscribe to what. Without a rule, and without grants in \
         the credential itself, nothing is permitted.",
        |c| Slot::TextOrOff(&mut c.auth.permissions_file),
    )
    .range(1, 4 * KIB)
    .reloadable(),
    option(
        "auth.jwt_secret_file",
        "The secret that tokens (JWT) are signed with (HS256, HS384, HS512).",
        |c| Slot::TextOrOff(&mut c.auth.jwt_secret_file),
    )
    .range(1, 4 * KIB)
    .reloadable(),
    option(
        "auth.jwt_public_key_file",
        "The public key, in PEM, of the key that tokens are signed with (RS, PS, ES, EdDSA).",
        |c| Slot::TextOrOff(&mut c.auth.jwt_public_key_file),
    )
    .range(1, 4 * KIB)
    .reloadable(),
    option(
        "auth.jwt_jwks_file",
        "The public keys, as a JWKS document, of the keys that tokens are signed with.",
        |c| Slot::TextOrOff(&mut c.auth.jwt_jwks_file),
    )
    .range(1, 4 * KIB)
    .reloadable(),
    option(
        "auth.jwt_algorithm",
        "The one algorithm of the secret or the public key; `off` is HS256, or what the public key is \
         for (RS256, ES256, ES384, EdDSA).",
        |c| Slot::TextOrOff(&mut c.auth.jwt_algorithm),
    )
    .range(1, 16)
    .reloadable(),
    option(
        "auth.jwt_issuer",
        "Tokens of this issuer (`iss`) alone are accepted; `off` is any whose signature is right.",
        |c| Slot::TextOrOff(&mut c.auth.jwt_issuer),
    )
    .range(1, KIB)
    .reloadable(),
    option(
        "auth.jwt_audience",
        "Tokens must be for this audience (`aud`); `off` takes those alone that name none.",
        |c| Slot::TextOrOff(&mut c.auth.jwt_audience),
    )
    .range(1, KIB)
    .reloadable(),
    option(
        "auth.jwt_leeway_ms",
        "How wrong clocks may be: a token is good so long after its end.",
        |c| Slot::Span(&mut c.auth.jwt_leeway),
    )
    .range(0, HOUR)
    .reloadable(),
    option(
        "auth.client_certificates",
        "The name in a client certificate (`tls.client_ca`) that says who a peer is that shows nothing else.",
        |c| Slot::Choice(&mut c.auth.client_certificates),
    )
    .reloadable(),
    option(
        "auth.anonymous",
        "Let peers in that show no credential, also where there are users, keys or tokens; what they \
         may do is what the permission file grants to the source `anonymous`.",
        |c| Slot::Flag(&mut c.auth.anonymous),
    )
    .reloadable(),
    option(
        "auth.cookie",
        "The cookie that may have a token or a key, for pages of this server and of origins that are \
         listed by themselves.",
        |c| Slot::TextOrOff(&mut c.auth.cookie),
    )
    .range(1, 256)
    .reloadable(),
    option(
        "auth.expiry_notice_ms",
        "How long before its credential ends a peer is told, or half of its time if that is less; 0 never.",
        |c| Slot::Millis((&mut c.auth.expiry_notice_ms).into()),
    )
    .range(0, HOUR),
    option(
        "auth.failures_max",
        "Failed logins from one address within a minute after which further ones are slowed down, \
         each twice as long, up to 5 s; 0 never.",
        |c| Slot::Count((&mut c.auth.failures_max).into()),
    )
    .range(0, 1_000_000),
    option(
        "log_output.format",
        "One event as a line for humans, or as a JSON object; `auto` is human on a terminal \
         and JSON otherwise.",
        |c| Slot::Choice(&mut c.log_format),
    ),
    option(
        "log_output.level",
        "The least severe events to write.",
        |c| Slot::Choice(&mut c.log_level),
    )
    .flags(&[Flag::Value {
        long: "log-level",
        name: "LEVEL",
    }])
    .reloadable(),
    option(
        "limits.message_bytes_max",
        "The payload of one message.",
        |c| Slot::Bytes((&mut c.limits.message_bytes_max).into()),
    )
    .flags(&[Flag::Value {
        long: "max-message-bytes",
        name: "N",
    }])
    .range(1, 256 * MIB),
    option(
        "limits.message_headers_max",
        "User properties of one message: how many.",
        |c| Slot::Count((&mut c.limits.message_headers_max).into()),
    )
    .range(0, 1_000),
    option(
        "limits.message_header_bytes_max",
        "User properties of one message: names and values together.",
        |c| Slot::Bytes((&mut c.limits.message_header_bytes_max).into()),
    )
    .range(0, MIB),
    option("limits.key_bytes_max", "An idempotency key.", |c| {
        Slot::Bytes((&mut c.limits.key_bytes_max).into())
    })
    .range(1, 4 * KIB),
    option(
        "limits.batch_messages_max",
        "The messages of one batch.",
        |c| Slot::Count((&mut c.limits.batch_messages_max).into()),
    )
    .range(1, 100_000),
    option(
        "limits.batch_bytes_max",
        "The body of one batch request.",
        |c| Slot::Bytes((&mut c.limits.batch_bytes_max).into()),
    )
    .range(1, GIB),
    option(
        "limits.request_head_bytes_max",
        "The line and the headers of one HTTP request.",
        |c| Slot::Bytes((&mut c.limits.request_head_bytes_max).into()),
    )
    .range(KIB, MIB),
    option(
        "limits.handshake_ms_max",
        "From the start of a connection, or of a request, to the end of its head.",
        |c| Slot::Millis((&mut c.limits.handshake_ms_max).into()),
    )
    .range(100, HOUR),
    option(
        "limits.request_body_ms_max",
        "From the end of a request's head to the end of its body.",
        |c| Slot::Millis((&mut c.limits.request_body_ms_max).into()),
    )
    .range(100, HOUR),
    option(
        "limits.idle_ms_max",
        "How long an HTTP connection is kept without a request.",
        |c| Slot::Millis((&mut c.limits.idle_ms_max).into()),
    )
    .range(100, DAY),
    option(
        "limits.http2_streams_max",
        "Streams that one HTTP/2 connection may have open.",
        |c| Slot::Count((&mut c.limits.http2_streams_max).into()),
    )
    .range(1, 65_535),
    option(
        "limits.filters_per_subscription_max",
        "Topic filters in one subscription, or of one MQTT session.",
        |c| Slot::Count((&mut c.limits.filters_per_subscription_max).into()),
    )
    .range(1, 100_000),
    option(
        "limits.subscriptions_per_connection_max",
        "Subscriptions of one connection.",
        |c| Slot::Count((&mut c.limits.subscriptions_per_connection_max).into()),
    )
    .range(1, 1_000_000),
    option(
        "limits.publishes_in_flight_max",
        "Publishes of one connection that wait for their receipt; over it the connection is \
         not read.",
        |c| Slot::Count((&mut c.limits.publishes_in_flight_max).into()),
    )
    .range(1, 65_535),
    option(
        "limits.outbox_bytes_max",
        "Bytes that wait for one peer; over it its subscriptions read the log instead of \
         memory.",
        |c| Slot::Bytes((&mut c.limits.outbox_bytes_max).into()),
    )
    .range(4 * KIB, GIB),
    option(
        "limits.inbox_batches_max",
        "Committed batches that wait for one shard; over it the shard reads the log.",
        |c| Slot::Count((&mut c.limits.inbox_batches_max).into()),
    )
    .range(1, 1_000_000),
    option(
        "limits.inbox_bytes_max",
        "Bytes of committed messages that wait for one shard, over which the shard reads the \
         log; and of messages that one consumer of a work queue has unacknowledged.",
        |c| Slot::Bytes((&mut c.limits.inbox_bytes_max).into()),
    )
    .range(64 * KIB, 64 * GIB),
    option(
        "limits.tail_bytes_max",
        "The newest messages that stay in memory, for catching up without the log; 0 keeps \
         none.",
        |c| Slot::Bytes((&mut c.limits.tail_bytes_max).into()),
    )
    .range(0, 64 * GIB),
    option(
        "limits.tail_scan_max",
        "Filters tried on messages of the tail before the shard's other work gets its turn.",
        |c| Slot::Count((&mut c.limits.tail_scan_max).into()),
    )
    .range(1, 100_000_000),
    option(
        "limits.submit_messages_max",
        "Messages that wait for the log; over it publishers are told `busy`.",
        |c| Slot::Count((&mut c.limits.submit_messages_max).into()),
    )
    .range(1, 10_000_000),
    option(
        "limits.submit_bytes_max",
        "Bytes that wait for the log; over it publishers are told `busy`.",
        |c| Slot::Bytes((&mut c.limits.submit_bytes_max).into()),
    )
    .range(64 * KIB, 64 * GIB),
    option(
        "limits.reads_max",
        "Reads that wait for the log, over all subscriptions.",
        |c| Slot::Count((&mut c.limits.reads_max).into()),
    )
    .range(1, 1_000_000),
    option(
        "limits.page_messages_max",
        "Messages of one page read from the log.",
        |c| Slot::Count((&mut c.limits.page_messages_max).into()),
    )
    .range(1, 100_000),
    option(
        "limits.page_bytes_max",
        "Bytes of one page read from the log; a page holds one message in any case.",
        |c| Slot::Bytes((&mut c.limits.page_bytes_max).into()),
    )
    .range(KIB, GIB),
    option("limits.last_messages_max", "The `N` of `last=N`.", |c| {
        Slot::Count((&mut c.limits.last_messages_max).into())
    })
    .range(1, 1_000_000_000),
    option(
        "limits.poll_wait_ms_max",
        "The longest `wait` of a long-poll.",
        |c| Slot::Millis((&mut c.limits.poll_wait_ms_max).into()),
    )
    .range(0, HOUR),
    option(
        "limits.topics_max",
        "Topics that the log knows; a publish to one more is refused.",
        |c| Slot::Count((&mut c.limits.topics_max).into()),
    )
    .range(1, 1_000_000_000),
    option(
        "limits.keys_max",
        "Idempotency keys that are remembered; over it the oldest are forgotten early.",
        |c| Slot::Count((&mut c.limits.keys_max).into()),
    )
    .range(1, 1_000_000_000),
    option(
        "limits.key_window_ms",
        "How long an idempotency key is remembered.",
        |c| Slot::Millis((&mut c.limits.key_window_ms).into()),
    )
    .range(1_000, 30 * DAY),
    option(
        "limits.sessions_max",
        "Sessions in all, with and without a connection.",
        |c| Slot::Count((&mut c.limits.sessions_max).into()),
    )
    .range(1, 1_000_000_000),
    option(
        "limits.queues_max",
        "Work queues in all, with and without consumers.",
        |c| Slot::Count((&mut c.limits.queues_max).into()),
    )
    .range(1, 1_000_000_000),
    option(
        "limits.session_bytes_max",
        "What is kept of one session: its subscriptions and what it has not acknowledged.",
        |c| Slot::Bytes((&mut c.limits.session_bytes_max).into()),
    )
    .range(KIB, 64 * MIB),
    option(
        "limits.connections_max",
        "Connections in all; the open-file limit of the process may lower it.",
        |c| Slot::Count((&mut c.limits.connections_max).into()),
    )
    .range(1, 10_000_000),
    rates::CONNECTIONS_PER_ADDRESS_MAX,
    rates::CONNECTIONS_PER_ADDRESS_RATE,
    rates::CONNECTIONS_PER_ADDRESS_BURST,
    rates::CONNECTIONS_PER_IDENTITY_MAX,
    rates::PUBLISHES_PER_IDENTITY_RATE,
    rates::PUBLISHES_PER_IDENTITY_BURST,
    rates::PUBLISH_BYTES_PER_IDENTITY_RATE,
    rates::PUBLISH_BYTES_PER_IDENTITY_BURST,
    rates::REQUESTS_PER_IDENTITY_RATE,
    rates::REQUESTS_PER_IDENTITY_BURST,
    option(
        "limits.heartbeat_ms",
        "The time between two heartbeats to a peer, before jitter.",
        |c| Slot::Millis((&mut c.limits.heartbeat_ms).into()),
    )
    .range(100, HOUR),
    option(
        "limits.silence_ms_max",
        "A WebSocket peer that sent nothing for this long, not even a pong, is dead.",
        |c| Slot::Millis((&mut c.limits.silence_ms_max).into()),
    )
    .range(200, DAY),
    option(
        "limits.stall_ms_max",
        "A peer that takes none of the bytes that wait for it for this long is cut off; it \
         can resume.",
        |c| Slot::Millis((&mut c.limits.stall_ms_max).into()),
    )
    .range(1_000, DAY),
    option(
        "limits.mqtt_window_max",
        "Messages of QoS 1 and 2 that one MQTT client has unacknowledged; a client may take \
         fewer (its Receive Maximum).",
        |c| Slot::Count((&mut c.limits.mqtt_window_max).into()),
    )
    .range(1, 10_000),
    option(
        "limits.mqtt_topic_alias_max",
        "Topic aliases of one MQTT 5 connection, in each direction.",
        |c| Slot::Count((&mut c.limits.mqtt_topic_alias_max).into()),
    )
    .range(0, 65_535),
    option(
        "limits.mqtt_keep_alive_s_max",
        "The longest keep alive of an MQTT 5 client, in seconds; 0 is whatever the client \
         asks for.",
        |c| Slot::Count((&mut c.limits.mqtt_keep_alive_s_max).into()),
    )
    .range(0, 65_535),
    option(
        "limits.session_expiry_s_max",
        "How many seconds a session outlives its connection at most.",
        |c| Slot::Count((&mut c.limits.session_expiry_s_max).into()),
    )
    .range(1, 4_294_967_294),
    option(
        "limits.ack_ms_max",
        "How long a consumer of a work queue has a message before it goes to another one; a \
         consumer may ask for less.",
        |c| Slot::Millis((&mut c.limits.ack_ms_max).into()),
    )
    .range(100, 7 * DAY),
    option(
        "limits.deliveries_max",
        "How often a work queue delivers a message before it gives it up (`queues.dead_letter`); \
         0 is no limit.",
        |c| Slot::Count((&mut c.limits.deliveries_max).into()),
    )
    .range(0, 1_000_000),
    option(
        "limits.prefetch",
        "Messages that a consumer of a work queue has unacknowledged, unless it says how many.",
        |c| Slot::Count((&mut c.limits.prefetch).into()),
    )
    .range(1, 10_000),
    option(
        "limits.transaction_steps_max",
        "Messages and acknowledgements in one STOMP transaction.",
        |c| Slot::Count((&mut c.limits.transaction_steps_max).into()),
    )
    .range(1, MIB),
    option(
        "limits.stomp_headers_max",
        "Headers of one STOMP frame.",
        |c| Slot::Count((&mut c.limits.stomp_headers_max).into()),
    )
    .range(8, 1_000),
    option(
        "limits.close_ms_max",
        "From a close frame, or the last byte of a farewell, until the socket is closed.",
        |c| Slot::Millis((&mut c.limits.close_ms_max).into()),
    )
    .range(10, HOUR),
];
