//! The newest batches, in memory: where a subscription that is only a little behind catches up without
//! reading the log, and where catching up meets live delivery.

use std::collections::VecDeque;
use std::sync::Arc;

use tidings_types::{Batch, Offset};

/// Invariant: every message after `floor` and up to `head` that the feed delivered is in `batches`.
#[derive(Debug)]
pub(crate) struct Tail {
    batches: VecDeque<Arc<Batch>>,
    bytes: usize,
    bytes_max: usize,
    floor: Offset,
    head: Offset,
}

impl Tail {
    /// An empty tail at a position.
    pub fn new(head: Offset, bytes_max: usize) -> Self {
        Self {
            batches: VecDeque::new(),
            bytes: 0,
            bytes_max,
            floor: head,
            head,
        }
    }

    /// Everything after this position is here.
    pub fn floor(&self) -> Offset {
        self.floor
    }

    /// The newest position.
    pub fn head(&self) -> Offset {
        self.head
    }

    /// Takes the next batch, and lets the oldest go to stay within the bound.
    pub fn push(&mut self, batch: Arc<Batch>) {
        debug_assert!(batch.first() > self.head, "batches come in order");
        self.head = batch.last();
        self.bytes += batch.bytes;
        self.batches.push_back(batch);
        while self.bytes > self.bytes_max {
            let Some(oldest) = self.batches.pop_front() else {
                break;
            };
            self.bytes -= oldest.bytes;
            self.floor = oldest.last();
        }
    }

    /// Forgets everything up to a position that the feed skipped to.
    pub fn reset(&mut self, head: Offset) {
        *self = Self::new(head, self.bytes_max);
    }

    /// The batch with the first message after a position, which is not below the floor.
    pub fn batch_after(&self, offset: Offset) -> Option<Arc<Batch>> {
        debug_assert!(
            offset >= self.floor,
            "what is below the floor is in the log only"
        );
        let at = self.batches.partition_point(|batch| batch.last() <= offset);
        self.batches.get(at).cloned()
    }
}
