//! Response bodies, and the pieces that hyper needs.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tidings_hub::ConnectionId;

use super::core::Core;
use super::link::Link;
use super::shard::Place;

/// A response's body.
pub enum Reply {
    /// All of it is there.
    Full(Option<Bytes>),
    /// The outbox of a connection, until it ends.
    Stream(Stream),
}

impl From<Bytes> for Reply {
    fn from(bytes: Bytes) -> Self {
        Self::Full((!bytes.is_empty()).then_some(bytes))
    }
}

/// A connection whose frames are a response's body. It is forgotten when the body is dropped.
pub struct Stream {
    core: Rc<Core>,
    id: ConnectionId,
    place: Option<Place>,
}

impl Stream {
    /// Takes over a connection that was opened with [`Core::connect_pulled`].
    pub fn new(core: Rc<Core>, id: ConnectionId) -> Self {
        let place = None;
        Self { core, id, place }
    }

    /// Holds a place for as long as it is there.
    pub fn at(mut self, place: Place) -> Self {
        self.place = Some(place);
        self
    }

    /// Its connection.
    pub fn id(&self) -> ConnectionId {
        self.id
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        drop(self.core.disconnect(self.id));
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = match self.get_mut() {
            Self::Full(bytes) => Poll::Ready(bytes.take()),
            Self::Stream(stream) => stream.core.poll_frame(stream.id, cx),
        };
        next.map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Full(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

/// A socket of which the first bytes were read already.
pub struct Rewound {
    first: Bytes,
    socket: TokioIo<Link>,
}

impl Rewound {
    /// Puts bytes back in front of a socket.
    pub fn new(first: Bytes, socket: Link) -> Self {
        Self {
            first,
            socket: TokioIo::new(socket),
        }
    }

    /// The bytes that nobody took, and the socket.
    pub fn into_parts(self) -> (Bytes, Link) {
        (self.first, self.socket.into_inner())
    }
}

impl Read for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.socket).poll_read(cx, buffer);
        }
        let count = self.first.len().min(buffer.remaining());
        buffer.put_slice(&self.first[..count]);
        self.first.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl Write for Rewound {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
    }
}

/// Runs hyper's tasks on the shard that they belong to.
#[derive(Clone)]
pub struct OnThisShard;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for OnThisShard {
    fn execute(&self, future: F) {
        drop(tokio::task::spawn_local(future));
    }
}
