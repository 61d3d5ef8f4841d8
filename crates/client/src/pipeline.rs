//! Publishing many messages at once over `tidings.v1`, or MQTT, in order and each exactly once.
//!
//! A task owns the connection and a window of unacknowledged messages, oldest first. When the connection is
//! lost, the next one starts with the oldest of them, each under the idempotency key that it had: what the
//! server has committed already is answered from the log and not appended again, and the server takes a
//! connection's publishes in order, so order holds over any number of connections. The one exception is a
//! server that is too busy for a message in the middle of the window: later ones may be ahead of it.

mod link;
mod task;
mod window;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::client::Client;
use crate::error::Refused;
use crate::message::{Keys, Outgoing, Receipt};
use crate::random::Random;

pub(crate) use link::{Link, Word};
use task::Task;
pub(crate) use window::Encoding;

/// Orders that wait to enter the window.
const ORDERS_MAX: usize = 64;

/// A publish in the pipeline.
#[derive(Debug)]
pub(crate) struct Order {
    outgoing: Outgoing,
    key: String,
    ticket: oneshot::Sender<Result<Receipt, Refused>>,
}

/// How a pipeline is getting on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PipelineStatus {
    /// Whether a connection is open.
    pub connected: bool,
    /// Connections that were opened.
    pub connections: u64,
    /// Connections that were lost, or could not be opened.
    pub failures: u64,
    /// Why the last one was, and in how many ms the next try comes; cleared when connected.
    pub trouble: Option<(String, u64)>,
    /// Messages that the server has made durable.
    pub acknowledged: u64,
    /// Messages that the server will not have.
    pub refused: u64,
    /// Messages without an answer.
    pub in_flight: usize,
    /// The first refusal.
    pub first_refusal: Option<Refused>,
    /// The newest acknowledged message's id.
    pub last_id: Option<String>,
}

impl PipelineStatus {
    /// Connections that were opened after the first.
    pub fn reconnects(&self) -> u64 {
        self.connections.saturating_sub(1)
    }
}

/// Publishes through a window. Dropped, it still delivers what it was given as long as the runtime lives;
/// [`Pipeline::finish`] waits for that.
#[derive(Debug)]
pub struct Pipeline {
    orders: mpsc::Sender<Order>,
    status: watch::Receiver<PipelineStatus>,
    keys: Keys,
    task: JoinHandle<()>,
}

/// The pipeline ended: the server refuses the connection itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PipelineEnded;

/// The answer to come for one message.
#[derive(Debug)]
pub struct Ticket(oneshot::Receiver<Result<Receipt, Refused>>);

impl Future for Ticket {
    /// `None` if the runtime, or the pipeline, ended before there was an answer.
    type Output = Option<Result<Receipt, Refused>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(Result::ok)
    }
}

impl Pipeline {
    pub(crate) fn start(client: Client, window: usize) -> Self {
        let (orders, taken) = mpsc::channel(ORDERS_MAX);
        let (status, watched) = watch::channel(PipelineStatus::default());
        let task = Task::new(client, window, taken, status);
        Self {
            orders,
            status: watched,
            keys: Keys::new(&mut Random::from_system()),
            task: tokio::spawn(task.run()),
        }
    }

    /// Hands a message over; waits while the window is full. Messages are published in the order of these calls.
    pub async fn send(&mut self, outgoing: Outgoing) -> Result<Ticket, PipelineEnded> {
        let (ticket, answer) = oneshot::channel();
        let key = self.keys.next_key();
        let order = Order {
            outgoing,
            key,
            ticket,
        };
        self.orders.send(order).await.map_err(|_| PipelineEnded)?;
        Ok(Ticket(answer))
    }

    /// How it is getting on, now and at each change.
    pub fn status(&self) -> watch::Receiver<PipelineStatus> {
        self.status.clone()
    }

    /// Waits until every message has its answer, and closes.
    pub async fn finish(self) -> PipelineStatus {
        drop(self.orders);
        // A task that was cancelled with its runtime leaves the status as it was last.
        self.task.await.ok();
        self.status.borrow().clone()
    }
}

#[cfg(test)]
#[path = "pipeline/tests.rs"]
mod tests;
