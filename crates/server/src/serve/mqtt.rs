//! MQTT connections: the first packet says which session it is for, and the session has a home.
//!
//! A session lives on one shard, so that taking it over from another connection is a matter of that shard
//! alone. The shard that accepted a connection reads its first packet and, if the session's home is another
//! shard, hands over the socket with what was read. From then on the connection stays where it is.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use tidings_adapters::mqtt::{
    FirstPacket, FirstReader, MqttConversation, MqttOptions, Transport, session_name,
};
use tidings_hub::home_shard;
use tidings_ports::Credential;
use tidings_types::RefusalCode;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use super::core::Core;
use super::link::{Link, Parked};
use super::shard::{Arrival, Belongings, Place};
use super::{first_line, front, socket};

/// Bytes of one read of the first packet.
const READ_BYTES: usize = 4 << 10;
/// Bytes without a whole first packet among them; the adapter gives up long before.
const FIRST_BYTES_MAX: usize = 1 << 20;
/// A connection between two shards.
pub struct Moved {
    socket: Parked,
    belongings: Belongings,
    rest: BytesMut,
    transport: Transport,
    shown: Credential,
}

impl Moved {
    /// Registers the socket with the runtime of the shard that it has come to.
    pub fn land(self) -> io::Result<(Landed, Belongings)> {
        let landed = Landed {
            socket: self.socket.land()?,
            rest: self.rest,
            transport: self.transport,
            shown: self.shown,
            assigned_id: None,
        };
        Ok((landed, self.belongings))
    }
}

/// A connection on the shard that serves it.
pub struct Landed {
    socket: Link,
    /// What was read of it, the first packet in front.
    rest: BytesMut,
    transport: Transport,
    shown: Credential,
    assigned_id: Option<ByteString>,
}

/// A WebSocket that is to carry MQTT.
pub struct Upgraded {
    /// The socket.
    pub socket: Link,
    /// The answer to the handshake, if it is not written yet.
    pub head: Bytes,
    /// What came behind the handshake.
    pub rest: BytesMut,
    /// What the handshake showed.
    pub shown: Credential,
}

/// Reads the first packet of a connection to the MQTT listener, and has it served where it belongs.
pub async fn serve(core: Rc<Core>, socket: Link, place: Place) {
    let upgraded = Upgraded {
        socket,
        head: Bytes::new(),
        rest: BytesMut::new(),
        shown: Credential::Anonymous,
    };
    serve_from_first(core, upgraded, Transport::Tcp, place).await;
}

/// The same for a WebSocket.
pub async fn serve_upgraded(core: Rc<Core>, upgraded: Upgraded, place: Place) {
    serve_from_first(core, upgraded, Transport::WebSocket, place).await;
}

async fn serve_from_first(core: Rc<Core>, upgraded: Upgraded, transport: Transport, place: Place) {
    if let Some(landed) = open(&core, upgraded, transport, &place).await {
        serve_landed(core, landed, place).await;
    }
}

/// Serves a connection on the shard where it belongs.
pub async fn serve_landed(core: Rc<Core>, landed: Landed, place: Place) {
    let Landed {
        socket,
        rest,
        transport,
        shown,
        assigned_id,
    } = landed;
    let conversation = MqttConversation::new(MqttOptions {
        transport,
        limits: Arc::clone(&core.shared.limits),
        assigned_id,
        sign_on: core.shared.logins.sign_on(),
        shown,
        server_reference: core.shared.mqtt_server_reference.clone(),
    });
    let begin = socket::Begin {
        principal: core.shared.newcomer(),
        conversation: Box::new(conversation),
        socket,
        head: Bytes::new(),
        rest,
    };
    socket::start(core, begin, place).await;
}

/// Reads the first packet. `None` if the connection is closed, or serves elsewhere.
async fn open(
    core: &Rc<Core>,
    upgraded: Upgraded,
    transport: Transport,
    place: &Place,
) -> Option<Landed> {
    let Upgraded {
        mut socket,
        head,
        mut rest,
        shown,
    } = upgraded;
    let limit = Duration::from_millis(core.shared.limits.handshake_ms_max);
    let opening = async {
        if !head.is_empty() {
            socket
                .write_all(&head)
                .await
                .map_err(|error| Refused::broken(&error))?;
            socket
                .flush()
                .await
                .map_err(|error| Refused::broken(&error))?;
        }
        read_first(core, &mut socket, &mut rest, transport).await
    };
    let read = tokio::select! {
        read = timeout(limit, opening) => read.unwrap_or(Err(Refused(Some(RefusalCode::RequestTimeout)))),
        // Nobody has said anything yet that would call for a goodbye.
        () = core.draining() => Err(Refused(Some(RefusalCode::ShuttingDown))),
    };
    let assigned_id = match read {
        Ok(FirstPacket::Session(name)) => {
            let home = home_shard(&name, core.shared.arrivals.len());
            if home != core.index {
                let belongings = place.take_belongings()?;
                move_home(core, home, (socket, belongings), (rest, transport, shown)).await;
                return None;
            }
            None
        }
        Ok(FirstPacket::Anonymous) => Some(assigned_id(core)?),
        Ok(FirstPacket::Refused | FirstPacket::Incomplete) => {
            if transport == Transport::Tcp && first_line::is_tls(&rest) {
                front::refuse_tls(core, "mqtt");
                return None;
            }
            if transport == Transport::Tcp && first_line::is_http(&rest) {
                front::refuse_http(core, socket, "MQTT").await;
                return None;
            }
            None
        }
        Err(Refused(code)) => {
            if let Some(code) = code {
                tracing::debug!(reason = code.slug(), "an mqtt connection did not begin");
                core.shared.metrics.refused(code);
            }
            return None;
        }
    };
    Some(Landed {
        socket,
        rest,
        transport,
        shown,
        assigned_id,
    })
}

/// Why a connection ends before its conversation begins; nothing if the peer left.
struct Refused(Option<RefusalCode>);

impl Refused {
    fn broken(error: &io::Error) -> Self {
        tracing::trace!(%error, "an mqtt connection broke before its first packet");
        Self(None)
    }
}

/// Reads until it is known where the connection belongs.
async fn read_first(
    core: &Core,
    socket: &mut Link,
    bytes: &mut BytesMut,
    transport: Transport,
) -> Result<FirstPacket, Refused> {
    let mut budget = core.opening_budget();
    let mut reader = FirstReader::new(transport);
    loop {
        if !bytes.is_empty() {
            match reader.look(bytes) {
                FirstPacket::Incomplete if bytes.len() > FIRST_BYTES_MAX => {
                    return Err(Refused(Some(RefusalCode::MessageTooLarge)));
                }
                FirstPacket::Incomplete => {}
                first => return Ok(first),
            }
        }
        // No buffer is held for a peer that says nothing.
        socket
            .readable()
            .await
            .map_err(|error| Refused::broken(&error))?;
        // More at once when much has come: the packet is looked at again from its start.
        bytes.reserve(READ_BYTES.max(bytes.len()));
        match socket.try_read_buf(bytes) {
            Ok(0) => return Err(Refused(None)),
            // What nearly every client says is short, and bounded by the number of connections.
            Ok(read) if bytes.len() <= READ_BYTES || budget.take(read) => {}
            Ok(_) => return Err(Refused(Some(RefusalCode::Busy))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(Refused::broken(&error)),
        }
    }
}

/// Hands a connection over to the shard that its session lives on.
async fn move_home(
    core: &Core,
    home: usize,
    (socket, belongings): (Link, Belongings),
    (rest, transport, shown): (BytesMut, Transport, Credential),
) {
    let socket = match socket.park() {
        Ok(socket) => socket,
        Err(error) => return tracing::debug!(%error, "a connection broke before it could move"),
    };
    let moved = Arrival::Moved(Moved {
        socket,
        belongings,
        rest,
        transport,
        shown,
    });
    // A shard with too many arrivals makes them wait; nothing else waits for them.
    let limit = Duration::from_millis(core.shared.limits.handshake_ms_max);
    let refused = match timeout(limit, core.shared.arrivals[home].send(moved)).await {
        Ok(Ok(())) => return,
        // It has said its goodbyes already.
        Ok(Err(_)) => RefusalCode::ShuttingDown,
        Err(_) => RefusalCode::Busy,
    };
    core.shared.metrics.refused(refused);
}

/// A client identifier that nobody has or can guess, and whose home is this shard.
fn assigned_id(core: &Core) -> Option<ByteString> {
    let shards = core.shared.arrivals.len();
    loop {
        let random = match (getrandom::u64(), getrandom::u64()) {
            (Ok(high), Ok(low)) => u128::from(high) << 64 | u128::from(low),
            (Err(error), _) | (_, Err(error)) => {
                tracing::error!(%error, "no random numbers for a client identifier");
                core.shared.metrics.refused(RefusalCode::Internal);
                return None;
            }
        };
        let id = format!("tidings-{random:032x}");
        if home_shard(&session_name(&id), shards) == core.index {
            return Some(id.into());
        }
    }
}
