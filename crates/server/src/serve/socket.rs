//! The task of one connection that the server reads and writes by itself: WebSocket, and SSE over HTTP/1.1.
//!
//! An idle task holds no buffer and no timer; its conversation's timers are on the shard's wheel.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidings_hub::ConnectionId;
use tidings_ports::Conversation;
use tidings_types::{Principal, Refusal, RefusalCode};
use tokio::time::timeout;

use super::core::{Core, Received, Work};
use super::link::Link;
use super::shard::Place;

/// What a conversation begins with.
pub struct Begin {
    /// Who the peer is, as far as that is known.
    pub principal: Arc<Principal>,
    /// The conversation.
    pub conversation: Box<dyn Conversation>,
    /// The socket, which is its own from now on.
    pub socket: Link,
    /// Written first.
    pub head: Bytes,
    /// What arrived behind the request's head.
    pub rest: BytesMut,
}

/// Begins a conversation on a socket and serves it until it ends, in a task of its own: the caller's, with all
/// that opening needed, is over before the connection's long idle life begins.
pub async fn start(core: Rc<Core>, begin: Begin, place: Place) {
    let Begin {
        principal,
        conversation,
        socket,
        head,
        rest,
    } = begin;
    let protocol = conversation.protocol().name();
    let connect = || {
        let peer = place.peer(principal);
        let id = core.connect_socket(conversation, peer, head, socket);
        place.tell(core.index, id, protocol);
        Connection {
            core: Rc::clone(&core),
            id,
            rest,
            finished: false,
            _place: place,
        }
    };
    let mut connection = core.step_of_opening(connect).await;
    if core.is_draining() {
        // It was upgraded after the goodbyes had begun.
        core.with(|shard| {
            let detail = "the server restarts: reconnect in a moment";
            let refusal = Refusal::new(RefusalCode::ShuttingDown, detail);
            shard.drain(connection.id, Duration::from_secs(2), refusal);
        });
    }
    // By reference, as what an `async fn` takes by value is in its future twice: this task is what an idle
    // connection has here.
    tokio::task::spawn_local(async move { connection.serve().await });
}

/// A connection with a conversation; dropped, it is closed.
struct Connection {
    core: Rc<Core>,
    id: ConnectionId,
    /// What the conversation left of the peer's bytes.
    rest: BytesMut,
    /// The peer sent its last byte.
    finished: bool,
    _place: Place,
}

impl Drop for Connection {
    fn drop(&mut self) {
        drop(self.core.disconnect(self.id));
    }
}

impl Connection {
    /// Serves it until it ends.
    async fn serve(&mut self) {
        self.core.receive_rest(self.id, &mut self.rest);
        loop {
            match poll_fn(|cx| self.core.poll_work(self.id, self.finished, cx)).await {
                Work::Read => match self.core.receive(self.id, &mut self.rest) {
                    Received::More => {}
                    Received::Much => tokio::task::yield_now().await,
                    Received::Finished => self.finished = true,
                    Received::Broken => return,
                },
                Work::Write => self.core.flush(self.id),
                Work::Farewell => return Box::pin(self.say_goodbye()).await,
                Work::End => return Box::pin(self.close()).await,
            }
        }
    }

    /// Writes what is left for a peer whose conversation has ended, for as long as a farewell may take.
    async fn say_goodbye(&self) {
        let limit = Duration::from_millis(self.core.shared.limits.close_ms_max);
        let written = poll_fn(|cx| self.core.poll_written(self.id, cx));
        if timeout(limit, written).await.is_ok() {
            self.close().await;
        }
    }

    /// Closes it: everything is written.
    async fn close(&self) {
        if let Some(socket) = self.core.disconnect(self.id) {
            linger(socket, self.core.shared.limits.close_ms_max).await;
        }
    }
}

/// Closes a socket so that its last bytes arrive: what the peer still sends is read and thrown away, or its
/// bytes would make the kernel reset the connection (RFC 9112, 9.6).
pub async fn linger(link: Link, close_ms_max: u64) {
    let discard = async {
        let socket = link.finish().await?;
        loop {
            socket.readable().await?;
            match socket.try_read(&mut [0; 512]) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    };
    // Whether the peer closed, broke, or took too long: the socket is closed all the same.
    let result: Result<io::Result<()>, _> =
        timeout(Duration::from_millis(close_ms_max), discard).await;
    if let Ok(Err(error)) = result {
        tracing::trace!(%error, "the peer did not close in order");
    }
}
