//! Both directions of a connection at once, so that a server that stops reading until it is read from does not
//! stall it. The ground of the WebSocket and the MQTT client. All waiting can be cancelled.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::error::Lost;
use crate::stream::Stream;

/// The most bytes of one read.
const READ_BYTES: usize = 16 << 10;
/// An empty input buffer that grew beyond this is given back.
const KEPT_BYTES_MAX: usize = 64 << 20;

/// How a connection ends.
#[derive(Debug)]
pub(crate) enum Severed {
    /// Reading or writing failed.
    Io(io::Error),
    /// The server closed it.
    Closed,
}

impl From<Severed> for Lost {
    fn from(severed: Severed) -> Self {
        match severed {
            Severed::Io(error) => Self::Io(error),
            Severed::Closed => Self::Closed,
        }
    }
}

/// A connection with what was read and not taken, and what is queued and not written.
#[derive(Debug)]
pub(crate) struct Duplex {
    pub(crate) stream: Stream,
    pub(crate) input: BytesMut,
    /// Encoded, not written yet; TLS may hold a part of what is written until it is flushed.
    pub(crate) output: Vec<u8>,
    /// How much of `output` is written: `written <= output.len()`.
    written: usize,
}

impl Duplex {
    /// Over a connection of which `input` was read already.
    pub(crate) fn new(stream: Stream, input: BytesMut) -> Self {
        Self {
            stream,
            input,
            output: Vec::new(),
            written: 0,
        }
    }

    /// The bytes that wait to be written.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.output.len() - self.written
    }

    /// Writes everything that waits.
    pub(crate) async fn flush(&mut self) -> Result<(), Severed> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Ready once something was read; what waits is written meanwhile.
    pub(crate) async fn exchange(&mut self) -> Result<(), Severed> {
        poll_fn(|cx| self.poll_exchange(cx)).await
    }

    /// Ready once something was read.
    pub(crate) async fn fill(&mut self) -> Result<(), Severed> {
        poll_fn(|cx| self.poll_fill(cx)).await
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Severed>> {
        while self.written < self.output.len() {
            let stream = Pin::new(&mut self.stream);
            match stream.poll_write(cx, &self.output[self.written..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(Severed::Closed)),
                Poll::Ready(Ok(len)) => self.written += len,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Severed::Io(error))),
                Poll::Pending => {
                    // What is written is given back now and then, for a peer that never takes all of it.
                    if self.written >= READ_BYTES {
                        self.output.drain(..self.written);
                        self.written = 0;
                    }
                    return Poll::Pending;
                }
            }
        }
        self.output.clear();
        self.written = 0;
        Pin::new(&mut self.stream)
            .poll_flush(cx)
            .map_err(Severed::Io)
    }

    fn poll_exchange(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Severed>> {
        if let Poll::Ready(Err(error)) = self.poll_flush(cx) {
            // The server may have said why before it closed: that is read first.
            return match self.poll_fill(cx) {
                Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
                _ => Poll::Ready(Err(error)),
            };
        }
        self.poll_fill(cx)
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Severed>> {
        let mut bytes = [0u8; READ_BYTES];
        let mut buffer = ReadBuf::new(&mut bytes);
        match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Err(Severed::Io(error))),
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => Poll::Ready(Err(Severed::Closed)),
            Poll::Ready(Ok(())) => {
                if self.input.is_empty() && self.input.capacity() > KEPT_BYTES_MAX {
                    self.input = BytesMut::new();
                }
                self.input.extend_from_slice(buffer.filled());
                Poll::Ready(Ok(()))
            }
        }
    }
}
