//! Pages of the log for peers that do not subscribe, and what pages say besides their messages.

use tidings_ports::{Gap, GapReason, Page, ReadError, ReadFrom, ReadRequest, ReplyTo, Start};
use tidings_types::{Cursor, Epoch, Offset, Refusal, RefusalCode, Storage};

use super::Shard;
use super::connection::Peer;
use super::pending::{PageReply, ReadReply, Waiter};
use crate::gate::{self, Wanted};

impl Shard {
    /// Reads one page for a peer without a conversation. The reply is called once, later or now.
    pub fn read(&mut self, peer: &Peer, wanted: Wanted, messages_max: usize, reply: ReadReply) {
        let now = self.clock.tick();
        let admitted = self
            .meters
            .request_once(peer, now)
            .and_then(|()| gate::subscribe(&peer.principal, wanted, &self.limits));
        let wanted = match admitted {
            Ok(wanted) => wanted.into_inner(),
            Err(refusal) => {
                self.refused(refusal.code);
                return reply(Err(refusal));
            }
        };
        let (offset, unknown) = self.locate(&wanted.start);
        let from = match wanted.start {
            Start::Last(n) => ReadFrom::Last(n),
            Start::Retained => ReadFrom::Retained {
                after: Offset::ZERO,
            },
            Start::After(_) if !unknown => ReadFrom::After {
                offset,
                resume: true,
            },
            _ => ReadFrom::After {
                offset,
                resume: false,
            },
        };
        let request = ReadRequest {
            filters: wanted.filters.into(),
            from,
            messages_max: messages_max.clamp(1, self.limits.page_messages_max),
            bytes_max: self.limits.page_bytes_max,
        };
        let claimed = match wanted.start {
            Start::After(cursor) => Some(cursor),
            _ => None,
        };
        let epoch = self.engine.epoch();
        let reply: PageReply = Box::new(move |result| {
            reply(result.map(|page| {
                let gap = if unknown {
                    let resume = Cursor {
                        epoch,
                        offset: Offset::ZERO,
                    };
                    Some(Gap {
                        reason: GapReason::UnknownCursor,
                        after: claimed,
                        resume,
                    })
                } else {
                    gap_of(&page, claimed, epoch)
                };
                (page, gap)
            }));
        });
        let token = self.pending.add(Waiter::LocalRead(reply));
        let reply_to = ReplyTo {
            shard: self.index,
            token,
        };
        if self.engine.read(request, reply_to).is_err()
            && let Waiter::LocalRead(reply) = self.pending.take(token)
        {
            self.refused(RefusalCode::Busy);
            reply(Err(busy_reads()));
        }
    }

    pub(super) fn read_refusal(&self, error: ReadError) -> Refusal {
        self.metrics.read_errors.add(1);
        match error {
            ReadError::Busy => busy_reads(),
            ReadError::Storage => Refusal::new(
                RefusalCode::StorageFailed,
                "messages could not be read from the log; the server's own log names the file: try again, or start at `latest`",
            ),
        }
    }
}

fn busy_reads() -> Refusal {
    Refusal::new(
        RefusalCode::Busy,
        "too many reads wait for the log: try again in a moment",
    )
}

/// The gap that a page tells of, for a reader that claimed to be at `after`.
pub(super) fn gap_of(page: &Page, after: Option<Cursor>, epoch: Epoch) -> Option<Gap> {
    let first = page.gap?;
    let reason = match page.gap_storage {
        Storage::Durable => GapReason::Retention,
        Storage::Memory => GapReason::Restart,
        Storage::None => GapReason::LiveOnly,
    };
    let offset = Offset(first.0.saturating_sub(1));
    Some(Gap {
        reason,
        after,
        resume: Cursor { epoch, offset },
    })
}
