//! Bytes that wait for one peer.

use std::collections::VecDeque;

use bytes::{Buf, Bytes};

/// Frames in the order in which they go out. Holds memory only while something waits.
#[derive(Debug, Default)]
pub struct Outbox {
    frames: VecDeque<Bytes>,
    /// The sum of the frames' lengths.
    bytes: usize,
}

/// A slot in the queue, which may be half empty, and the frame's allocation.
const FRAME_COST: usize = 96;

impl Outbox {
    /// Appends a frame; an empty one is dropped.
    pub fn push(&mut self, frame: Bytes) {
        if !frame.is_empty() {
            self.bytes += frame.len();
            self.frames.push_back(frame);
        }
    }

    /// The bytes that wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What the wait costs in memory: the bytes, and a slot and an allocation for each frame, so that a flood
    /// of tiny frames is bounded too.
    #[must_use]
    pub fn cost(&self) -> usize {
        self.bytes + FRAME_COST * self.frames.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// The frames from the front, for one vectored write.
    pub fn frames(&self) -> impl Iterator<Item = &Bytes> {
        self.frames.iter()
    }

    /// Takes the first frame, for writers that keep it (HTTP/2).
    pub fn pop(&mut self) -> Option<Bytes> {
        let frame = self.frames.pop_front();
        self.bytes -= frame.as_ref().map_or(0, Bytes::len);
        self.release();
        frame
    }

    /// Removes bytes that were written. `written <= self.bytes()`.
    pub fn advance(&mut self, mut written: usize) {
        assert!(written <= self.bytes, "more was written than waited");
        self.bytes -= written;
        while let Some(front) = self.frames.front_mut() {
            if written < front.len() {
                front.advance(written);
                break;
            }
            written -= front.len();
            self.frames.pop_front();
        }
        self.release();
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    fn release(&mut self) {
        if self.frames.is_empty() {
            self.frames = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partial_writes_leave_the_rest_in_order() {
        let mut outbox = Outbox::default();
        for frame in ["abc", "", "de", "fghi"] {
            outbox.push(Bytes::from_static(frame.as_bytes()));
        }
        assert_eq!(outbox.bytes(), 9);
        outbox.advance(4);
        let rest: Vec<u8> = outbox.frames().flatten().copied().collect();
        assert_eq!(rest, b"efghi");
        assert_eq!(outbox.pop().as_deref(), Some(b"e".as_slice()));
        outbox.advance(4);
        assert!(outbox.is_empty());
        assert_eq!(outbox.bytes(), 0);
    }
}
