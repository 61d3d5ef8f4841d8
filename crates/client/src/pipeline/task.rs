//! The task behind a pipeline: connects, sends, takes answers, comes back.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::link::{Link, Word};
use super::window::Window;
use super::{Order, PipelineStatus};
use crate::backoff::Backoff;
use crate::client::Client;
use crate::error::{Lost, Refused, TryError};

/// Encoded frames that may wait for the socket: enough to fill a write, little enough to be resent.
const QUEUED_BYTES_MAX: usize = 256 << 10;

pub(super) struct Task {
    client: Client,
    window: Window,
    orders: mpsc::Receiver<Order>,
    /// No more orders come.
    closing: bool,
    status: watch::Sender<PipelineStatus>,
    backoff: Backoff,
    pace: Pace,
}

/// Whether new messages are sent.
enum Pace {
    Flowing,
    /// The server was too busy: nothing is sent until what was is answered.
    PutOff {
        told: Option<Duration>,
    },
    /// All of it is answered: the wait before sending again.
    Waiting {
        until: Instant,
    },
    /// The server goes away, and said when to come back.
    Draining {
        reconnect: Duration,
    },
}

/// Why a connection ended.
enum Ended {
    Failed(TryError),
    /// Everything is answered, and no more comes.
    Finished,
}

impl Task {
    pub(super) fn new(
        client: Client,
        window: usize,
        orders: mpsc::Receiver<Order>,
        status: watch::Sender<PipelineStatus>,
    ) -> Self {
        let backoff = client.backoff();
        let window = Window::new(window, Link::encoding(&client));
        Self {
            client,
            window,
            orders,
            closing: false,
            status,
            backoff,
            pace: Pace::Flowing,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            self.pace = Pace::Flowing;
            let error = match Link::open(&self.client).await {
                Ok(link) => match self.converse(link).await {
                    Ended::Finished => return,
                    Ended::Failed(error) => error,
                },
                Err(error) => error,
            };
            let lost = match error {
                TryError::Lost(lost) => lost,
                TryError::Refused(refused) => return self.give_up(&refused),
            };
            self.window.connection_lost();
            let told = match self.pace {
                Pace::Draining { reconnect } => Some(reconnect),
                _ => lost.told_wait(),
            };
            let wait = self.backoff.failed(told);
            self.status.send_modify(|status| {
                status.connected = false;
                status.failures += 1;
                status.trouble = Some((lost.to_string(), wait.as_millis() as u64));
            });
            if self.wait_to_reconnect(wait).await.is_break() {
                return;
            }
        }
    }

    /// Takes orders into the window while it waits, so that their number shows; breaks if there is nothing left
    /// to reconnect for.
    async fn wait_to_reconnect(&mut self, wait: Duration) -> std::ops::ControlFlow<()> {
        let until = Instant::now() + wait;
        loop {
            if self.closing && self.window.is_empty() {
                return std::ops::ControlFlow::Break(());
            }
            tokio::select! {
                () = sleep_until(until) => return std::ops::ControlFlow::Continue(()),
                order = self.orders.recv(), if self.takes_orders() => self.take(order),
            }
        }
    }

    fn takes_orders(&self) -> bool {
        !self.closing && self.window.has_room()
    }

    fn take(&mut self, order: Option<Order>) {
        match order {
            Some(order) => self.accept(order),
            None => self.closing = true,
        }
        while self.takes_orders() {
            match self.orders.try_recv() {
                Ok(order) => self.accept(order),
                Err(mpsc::error::TryRecvError::Empty) => break,
                Err(mpsc::error::TryRecvError::Disconnected) => self.closing = true,
            }
        }
        self.status
            .send_modify(|status| status.in_flight = self.window.len());
    }

    fn accept(&mut self, order: Order) {
        if let Err(refused) = self.window.accept(order) {
            self.note_refusal(refused);
        }
    }

    fn note_refusal(&self, refused: Refused) {
        self.status.send_modify(|status| {
            status.refused += 1;
            status.first_refusal.get_or_insert(refused);
        });
    }

    async fn converse(&mut self, mut link: Link) -> Ended {
        self.window.connected(link.unanswered_max());
        self.status.send_modify(|status| {
            status.connected = true;
            status.connections += 1;
            status.trouble = None;
        });
        let mut heard = Instant::now();
        loop {
            self.send_waiting(&mut link);
            if self.closing && self.window.is_empty() {
                link.close().await;
                return Ended::Finished;
            }
            let wake = match self.pace {
                Pace::Waiting { until } => until,
                _ => heard + self.client.silence,
            };
            tokio::select! {
                // Answers first: they make room, and pings among them must not starve.
                biased;
                word = link.receive() => {
                    heard = Instant::now();
                    if let Err(error) = self.received(word, &mut link) {
                        if let Some(reconnect) = link.reconnect() {
                            self.pace = Pace::Draining { reconnect };
                        }
                        return Ended::Failed(error);
                    }
                }
                order = self.orders.recv(), if self.takes_orders() => self.take(order),
                () = sleep_until(wake) => match self.pace {
                    Pace::Waiting { .. } => self.pace = Pace::Flowing,
                    _ => return Ended::Failed(Lost::Silent(self.client.silence).into()),
                },
            }
        }
    }

    fn send_waiting(&mut self, link: &mut Link) {
        if let Pace::PutOff { told } = self.pace
            && self.window.sent() == 0
        {
            let wait = self.backoff.failed(told);
            self.pace = Pace::Waiting {
                until: Instant::now() + wait,
            };
        }
        if !matches!(self.pace, Pace::Flowing) {
            return;
        }
        while link.queued_bytes() < QUEUED_BYTES_MAX {
            let Some((id, request)) = self.window.next_to_send() else {
                break;
            };
            match link.takes(request.len()) {
                Ok(()) => link.queue(id, request),
                Err(refused) => self.refused(id, refused),
            }
        }
    }

    /// Takes what was received, and everything that came with it.
    fn received(&mut self, first: Result<Word, TryError>, link: &mut Link) -> Result<(), TryError> {
        let mut next = first.map(Some);
        let mut acknowledged = 0;
        let mut last_id = None;
        let outcome = loop {
            match next {
                Ok(Some(word)) => {
                    if let Some(id) = self.word(word) {
                        acknowledged += 1;
                        last_id = Some(id).filter(|id| !id.is_empty()).or(last_id);
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
            next = link.receive_ready();
        };
        self.status.send_modify(|status| {
            status.in_flight = self.window.len();
            status.acknowledged += acknowledged;
            status.last_id = last_id.or_else(|| status.last_id.take());
        });
        outcome
    }

    /// One word of the server; the message's id if it acknowledges one.
    fn word(&mut self, word: Word) -> Option<String> {
        match word {
            Word::Acknowledged { id, receipt } => {
                self.backoff.succeeded();
                let cursor = receipt.id.clone();
                return self.window.answered(id, Ok(receipt)).then_some(cursor);
            }
            Word::Refused { id, refused } => self.refused(id, refused),
            Word::Drain { reconnect } => self.pace = Pace::Draining { reconnect },
            Word::Nothing => {}
        }
        None
    }

    fn refused(&mut self, id: u64, refused: Refused) {
        if !refused.is_permanent() {
            if self.window.put_off(id) && !matches!(self.pace, Pace::Draining { .. }) {
                let told = refused.retry_after;
                self.pace = Pace::PutOff { told };
            }
        } else if self.window.answered(id, Err(refused.clone())) {
            self.note_refusal(refused);
        }
    }

    fn give_up(&mut self, refused: &Refused) {
        // Orders that are still in the channel get the answer too.
        self.orders.close();
        while let Ok(order) = self.orders.try_recv() {
            self.accept(order);
        }
        let count = self.window.len() as u64;
        self.window.fail(refused);
        self.status.send_modify(|status| {
            status.refused += count;
            status.in_flight = 0;
            status.first_refusal.get_or_insert_with(|| refused.clone());
        });
    }
}
