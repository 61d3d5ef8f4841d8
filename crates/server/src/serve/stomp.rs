//! STOMP connections over TCP. They stay on the shard that accepted them: what outlives one is a queue of the hub,
//! which has its home by itself.

use std::io;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidings_adapters::stomp::{StompConversation, StompOptions, Transport};
use tidings_ports::Credential;
use tidings_types::RefusalCode;
use tokio::time::timeout;

use super::core::Core;
use super::link::Link;
use super::shard::Place;
use super::{first_line, front, socket};

/// Bytes of the first read.
const READ_BYTES: usize = 4 << 10;

/// Serves a connection to the STOMP listener until it ends.
pub async fn serve(core: Rc<Core>, socket: Link, place: Place) {
    if let Some((socket, rest)) = open(&core, socket).await {
        let conversation = StompConversation::new(StompOptions {
            transport: Transport::Tcp,
            limits: Arc::clone(&core.shared.limits),
            sign_on: core.shared.logins.sign_on(),
            shown: Credential::Anonymous,
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
}

/// Reads until it is known that this is no request of HTTP. `None` if the connection is closed.
async fn open(core: &Core, mut socket: Link) -> Option<(Link, BytesMut)> {
    let mut bytes = BytesMut::new();
    let limit = Duration::from_millis(core.shared.limits.handshake_ms_max);
    let read = tokio::select! {
        read = timeout(limit, read_first(&mut socket, &mut bytes)) => read,
        // Nobody has said anything yet that would call for a goodbye.
        () = core.draining() => {
            core.shared.metrics.refused(RefusalCode::ShuttingDown);
            return None;
        }
    };
    match read {
        Ok(Ok(false)) if first_line::is_tls(&bytes) => {
            front::refuse_tls(core, "stomp");
            None
        }
        Ok(Ok(false)) => Some((socket, bytes)),
        Ok(Ok(true)) => {
            front::refuse_http(core, socket, "STOMP").await;
            None
        }
        Ok(Err(error)) => {
            tracing::trace!(%error, "a stomp connection broke before its first frame");
            None
        }
        Err(_) => {
            tracing::debug!("a stomp connection said nothing");
            core.shared.metrics.refused(RefusalCode::RequestTimeout);
            None
        }
    }
}

/// Reads until it is known whether this is a request of HTTP.
async fn read_first(socket: &mut Link, bytes: &mut BytesMut) -> io::Result<bool> {
    loop {
        // No buffer is held for a peer that says nothing.
        socket.readable().await?;
        bytes.reserve(READ_BYTES);
        match socket.try_read_buf(bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        if let ControlFlow::Break(is_http) = first_line::judge_http(bytes) {
            return Ok(is_http);
        }
    }
}
