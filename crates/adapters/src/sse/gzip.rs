//! Compressed event streams whose events are compressed once for all subscribers.
//!
//! A stream is one gzip member (RFC 1952) that never ends: its header once, then for every event a chunk of
//! deflate blocks (RFC 1951) that was made with an empty window and ends with a sync flush, that is on a byte
//! boundary. Such a chunk refers to nothing before it, so that chunks of any origin may follow each other, and
//! the reader can decode each at once. One member per event would be simpler, but browsers stop after the first
//! member of a stream. The stream has no trailer: it ends as connections do, and its reader comes back.

use std::cell::RefCell;

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress, Status};
use tidings_types::{FormatId, FrameFormat, Message};

use super::event::{envelope, raw};

/// The header of the member: deflate, no name, no time, unknown system.
pub const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// `sse/raw+gzip`: [`SseRaw`](super::event::SseRaw) as a chunk.
#[derive(Debug)]
pub struct SseRawGzip;

impl FrameFormat for SseRawGzip {
    fn id(&self) -> FormatId {
        "sse/raw+gzip"
    }

    fn encode(&self, message: &Message) -> Bytes {
        Bytes::from(chunk(&raw(message)))
    }
}

/// `sse/envelope+gzip`: [`SseEnvelope`](super::event::SseEnvelope) as a chunk.
#[derive(Debug)]
pub struct SseEnvelopeGzip;

impl FrameFormat for SseEnvelopeGzip {
    fn id(&self) -> FormatId {
        "sse/envelope+gzip"
    }

    fn encode(&self, message: &Message) -> Bytes {
        Bytes::from(chunk(&envelope(message)))
    }
}

thread_local! {
    // One compressor for each shard, as its tables are about 270 KiB. It is reset for every chunk.
    static COMPRESS: RefCell<Compress> = RefCell::new(Compress::new(Compression::new(4), false));
}

/// Compresses the bytes as a chunk that can follow any other.
#[must_use]
pub fn chunk(bytes: &[u8]) -> Vec<u8> {
    COMPRESS.with_borrow_mut(|compress| {
        compress.reset();
        // Stored blocks are the worst case, 5 bytes in 16 KiB; the flush takes 5 more.
        let mut out = Vec::with_capacity(bytes.len() / 2 + 64);
        loop {
            let read = compress.total_in() as usize;
            let status = compress
                .compress_vec(&bytes[read..], &mut out, FlushCompress::Sync)
                .expect("deflate into memory does not fail");
            debug_assert_ne!(status, Status::StreamEnd);
            let all_read = compress.total_in() as usize == bytes.len();
            // Room left over means that the flush was written in full.
            if all_read && out.len() < out.capacity() {
                return out;
            }
            out.reserve(bytes.len() / 2 + 64);
        }
    })
}
