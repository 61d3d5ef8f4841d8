//! Every limit with its name, unit and default. The configuration reference is generated from the option
//! table in the server, which fills this struct.

/// What one peer, one message or the whole server may cost. The unit is the last part of a name but `max`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The payload of one message.
    pub message_bytes_max: usize,
    /// User properties of one message: how many.
    pub message_headers_max: usize,
    /// User properties of one message: names and values together.
    pub message_header_bytes_max: usize,
    /// An idempotency key.
    pub key_bytes_max: usize,
    /// The messages of one batch.
    pub batch_messages_max: usize,
    /// The body of one batch request.
    pub batch_bytes_max: usize,
    /// An HTTP request's line and headers.
    pub request_head_bytes_max: usize,
    /// From the start of a connection, or of a request, to the end of its head.
    pub handshake_ms_max: u64,
    /// From the end of a request's head to the end of its body.
    pub request_body_ms_max: u64,
    /// A keep-alive HTTP connection without a request.
    pub idle_ms_max: u64,
    /// Streams that one HTTP/2 connection may have open.
    pub http2_streams_max: u32,
    /// Filters in one subscription (an SSE stream over several topics), or of one MQTT session.
    pub filters_per_subscription_max: usize,
    /// Subscriptions of one connection.
    pub subscriptions_per_connection_max: usize,
    /// Publishes of one connection that wait for their receipt; over it the connection is not read.
    pub publishes_in_flight_max: usize,
    /// Bytes that wait for one peer; over it its subscriptions fall back to reading the log.
    pub outbox_bytes_max: usize,
    /// Committed batches that wait for one shard; over it the shard falls back to reading the log.
    pub inbox_batches_max: usize,
    /// Bytes of committed messages that wait for one shard.
    pub inbox_bytes_max: usize,
    /// The newest messages that stay in memory for catching up without the log.
    pub tail_bytes_max: usize,
    /// Filters tried on messages of the tail before the shard's other work gets its turn.
    pub tail_scan_max: usize,
    /// Messages that wait for the log; over it publishers are told `busy`.
    pub submit_messages_max: usize,
    /// Bytes that wait for the log.
    pub submit_bytes_max: usize,
    /// Reads that wait for the log, over all subscriptions.
    pub reads_max: usize,
    /// Messages of one page read from the log.
    pub page_messages_max: usize,
    /// Bytes of one page read from the log.
    pub page_bytes_max: usize,
    /// The `N` of `last=N`.
    pub last_messages_max: u64,
    /// The longest `wait` of a long-poll.
    pub poll_wait_ms_max: u64,
    /// Topics that the log knows; a publish to one more is refused.
    pub topics_max: usize,
    /// Idempotency keys that are remembered; over it the oldest are forgotten early, and counted.
    pub keys_max: usize,
    /// How long an idempotency key is remembered.
    pub key_window_ms: u64,
    /// Sessions in all, with and without a connection.
    pub sessions_max: usize,
    /// Work queues in all, with and without consumers.
    pub queues_max: usize,
    /// What is kept of one session.
    pub session_bytes_max: usize,
    /// Connections in all.
    pub connections_max: usize,
    /// Connections from one address (one /64 of IPv6); 0 is no limit.
    pub connections_per_address_max: usize,
    /// New connections from one address in a second; 0 is no limit.
    pub connections_per_address_rate: u64,
    /// New connections from one address at once, after a pause; 0 is what the rate gives in a second.
    pub connections_per_address_burst: u64,
    /// Open connections of one identity, which showed a credential; 0 is no limit.
    pub connections_per_identity_max: usize,
    /// Messages that one identity publishes in a second; 0 is no limit.
    pub publishes_per_identity_rate: u64,
    /// Messages that one identity publishes at once; 0 is what the rate gives in a second.
    pub publishes_per_identity_burst: u64,
    /// Bytes of payloads and properties that one identity publishes in a second; 0 is no limit.
    pub publish_bytes_per_identity_rate: u64,
    /// Bytes that one identity publishes at once; 0 is what the rate gives in a second, and at least one message.
    pub publish_bytes_per_identity_burst: u64,
    /// Subscriptions and reads that one identity asks for in a second; 0 is no limit.
    pub requests_per_identity_rate: u64,
    /// Subscriptions and reads at once; 0 is what the rate gives in a second.
    pub requests_per_identity_burst: u64,
    /// Between two heartbeats to a peer, before jitter.
    pub heartbeat_ms: u64,
    /// A WebSocket peer that sent nothing, not even a pong, for this long is dead.
    pub silence_ms_max: u64,
    /// A peer that takes none of the bytes that wait for it for this long is cut off; it can resume.
    pub stall_ms_max: u64,
    /// After a close frame, or the last byte of a farewell, until the socket is closed.
    pub close_ms_max: u64,
    /// Messages of `QoS` 1 and 2 that one MQTT client has unacknowledged; a client may take fewer.
    pub mqtt_window_max: usize,
    /// Topic aliases of one MQTT connection, in each direction.
    pub mqtt_topic_alias_max: u32,
    /// The longest keep alive of an MQTT 5 client; 0 is whatever the client asks for.
    pub mqtt_keep_alive_s_max: u32,
    /// How long a session outlives its connection at most.
    pub session_expiry_s_max: u32,
    /// How long a consumer of a work queue has a message before it goes to another one; a consumer may ask for
    /// less.
    pub ack_ms_max: u64,
    /// How often a work queue delivers a message before it gives it up to the dead-letter topic; 0 is no limit.
    pub deliveries_max: u32,
    /// Messages that a consumer of a work queue has unacknowledged unless it says how many; at most 10,000.
    pub prefetch: u32,
    /// Verdicts and messages of one STOMP transaction.
    pub transaction_steps_max: usize,
    /// Headers of one STOMP frame.
    pub stomp_headers_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes_max: 1 << 20,
            message_headers_max: 32,
            message_header_bytes_max: 8 << 10,
            key_bytes_max: 256,
            batch_messages_max: 1_000,
            batch_bytes_max: 8 << 20,
            request_head_bytes_max: 16 << 10,
            handshake_ms_max: 10_000,
            request_body_ms_max: 30_000,
            idle_ms_max: 75_000,
            http2_streams_max: 256,
            filters_per_subscription_max: 256,
            subscriptions_per_connection_max: 1_000,
            publishes_in_flight_max: 64,
            outbox_bytes_max: 256 << 10,
            inbox_batches_max: 1_024,
            inbox_bytes_max: 32 << 20,
            tail_bytes_max: 16 << 20,
            tail_scan_max: 65_536,
            submit_messages_max: 65_536,
            submit_bytes_max: 64 << 20,
            reads_max: 1_024,
            page_messages_max: 1_000,
            page_bytes_max: 1 << 20,
            last_messages_max: 10_000,
            poll_wait_ms_max: 55_000,
            topics_max: 1_000_000,
            keys_max: 1_000_000,
            key_window_ms: 10 * 60 * 1_000,
            sessions_max: 1_000_000,
            queues_max: 100_000,
            session_bytes_max: 256 << 10,
            connections_max: 100_000,
            connections_per_address_max: 0,
            connections_per_address_rate: 0,
            connections_per_address_burst: 0,
            connections_per_identity_max: 0,
            publishes_per_identity_rate: 0,
            publishes_per_identity_burst: 0,
            publish_bytes_per_identity_rate: 0,
            publish_bytes_per_identity_burst: 0,
            requests_per_identity_rate: 0,
            requests_per_identity_burst: 0,
            heartbeat_ms: 15_000,
            silence_ms_max: 45_000,
            stall_ms_max: 300_000,
            close_ms_max: 5_000,
            mqtt_window_max: 128,
            mqtt_topic_alias_max: 32,
            mqtt_keep_alive_s_max: 0,
            session_expiry_s_max: 30 * 24 * 3_600,
            ack_ms_max: 30 * 60 * 1_000,
            deliveries_max: 20,
            prefetch: 64,
            transaction_steps_max: 1_000,
            stomp_headers_max: 64,
        }
    }
}
