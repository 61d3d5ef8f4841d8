//! The task of one connection that the server reads and writes by itself: WebSocket, and SSE over HTTP/1.1.
//!
//! An idle task holds no buffer and no timer; its conversation's timers are on the shard's wheel.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tidings_ports::Conversation;
use tidings_types::{Refusal, RefusalCode};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::core::{Core, Received, Work};

/// Runs a conversation on a socket until it ends.
///
/// `head` is written first; `rest` arrived behind the request's head.
pub async fn run(
    core: Rc<Core>,
    conversation: Box<dyn Conversation>,
    socket: TcpStream,
    head: Bytes,
    rest: BytesMut,
) {
    let socket = Rc::new(socket);
    let principal = core.shared.anonymous();
    let connect = || Disconnect {
        core: &core,
        id: core.connect_socket(conversation, principal, head, Rc::clone(&socket)),
    };
    let connection = core.step_of_opening(connect).await;
    let id = connection.id;
    if core.is_draining() {
        // It was upgraded after the goodbyes had begun.
        core.with(|shard| {
            let detail = "the server restarts: reconnect in a moment";
            let refusal = Refusal::new(RefusalCode::ShuttingDown, detail);
            shard.drain(id, Duration::from_secs(2), refusal);
        });
    }
    let orderly = converse(&connection, rest).await;
    drop(connection);
    if let (Ok(socket), true) = (Rc::try_unwrap(socket), orderly) {
        Box::pin(linger(socket, core.shared.limits.close_ms_max)).await;
    }
}

struct Disconnect<'a> {
    core: &'a Core,
    id: tidings_hub::ConnectionId,
}

impl Drop for Disconnect<'_> {
    fn drop(&mut self) {
        self.core.disconnect(self.id);
    }
}

/// Returns whether everything was written.
async fn converse(connection: &Disconnect<'_>, mut rest: BytesMut) -> bool {
    let Disconnect { core, id } = connection;
    let mut finished = false;
    core.receive_rest(*id, &mut rest);
    loop {
        match poll_fn(|cx| core.poll_work(*id, finished, cx)).await {
            Work::Read => match core.receive(*id, &mut rest) {
                Received::More => {}
                Received::Finished => finished = true,
                Received::Broken => return false,
            },
            Work::Write => core.flush(*id),
            Work::Farewell => return Box::pin(say_goodbye(core, *id)).await,
            Work::End => return true,
        }
    }
}

/// Writes what is left for a peer whose conversation has ended, for as long as a farewell may take.
async fn say_goodbye(core: &Core, id: tidings_hub::ConnectionId) -> bool {
    let written = poll_fn(|cx| core.poll_written(id, cx));
    timeout(
        Duration::from_millis(core.shared.limits.close_ms_max),
        written,
    )
    .await
    .is_ok()
}

/// Closes a socket so that its last bytes arrive: what the peer still sends is read and thrown away, or its
/// bytes would make the kernel reset the connection (RFC 9112, 9.6).
pub async fn linger(mut socket: TcpStream, close_ms_max: u64) {
    let discard = async {
        socket.shutdown().await?;
        let mut scratch = [0u8; 512];
        loop {
            socket.readable().await?;
            match socket.try_read(&mut scratch) {
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
