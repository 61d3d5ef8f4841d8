//! One shard with the sockets behind its connections.
//!
//! A [`Core`] lives on its shard's thread and is shared by that thread's tasks. Every change goes through
//! [`Core::with`], which afterwards writes each dirty connection's outbox straight to its socket. No task is
//! woken to deliver a message, unless the kernel would not take it or the peer is on HTTP/2.

use std::cell::{Cell, RefCell};
use std::io::IoSlice;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use tidings_hub::shard::Ended;
use tidings_hub::{ConnectionId, Metrics, Outbox, Peer, Shard};
use tidings_ports::Conversation;

use super::Shared;
use super::link::Link;

/// Slices of one vectored write.
const SLICES_MAX: usize = 64;
/// Rounds of writing and refilling before other tasks get their turn.
const ROUNDS_MAX: usize = 16;
/// Bytes of one read.
const READ_BYTES: usize = 64 << 10;
/// A read that brings so much is the last one of its connection's turn. A peer that sends without end, and be it pings,
/// which cost it less than they cost the server, would otherwise have the shard for hundreds of reads.
const MUCH_BYTES: usize = 8 << 10;
/// Steps in opening connections before everybody else has a turn. With one alone, a few busy peers would keep all
/// newcomers waiting, as their turns are long.
const OPENINGS_A_TURN: usize = 8;

/// How a connection's outbox reaches its peer.
enum Wire {
    /// Written here, directly.
    Socket {
        socket: Link,
        /// The kernel took no more; the connection's task waits for room.
        blocked: bool,
        /// The task sleeps without waiting for the peer's bytes, because they are not wanted now.
        paused: bool,
        waker: Option<Waker>,
    },
    /// Taken by whoever polls: a response body, a long-poll.
    Pulled { waker: Option<Waker> },
}

impl Wire {
    fn wake(&mut self) {
        let (Self::Socket { waker, .. } | Self::Pulled { waker }) = self;
        if let Some(waker) = waker.take() {
            waker.wake();
        }
    }
}

struct State {
    shard: Shard,
    /// By [`ConnectionId::slot`].
    wires: Vec<Option<(ConnectionId, Wire)>>,
    dirty: Vec<ConnectionId>,
    read_buffer: Box<[u8]>,
}

/// What a connection's task has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// The peer's bytes can be read.
    Read,
    /// The socket takes bytes again.
    Write,
    /// The conversation is over, but something is left to write.
    Farewell,
    /// The connection is over: there is nothing more to write.
    End,
}

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Go on.
    More,
    /// Go on when others had a turn: there is probably much more.
    Much,
    /// The peer sent its last byte.
    Finished,
    /// The connection broke.
    Broken,
}

/// One shard with its sockets.
pub struct Core {
    state: RefCell<State>,
    /// The shard's number, from 0.
    pub index: usize,
    /// What all shards share.
    pub shared: Arc<Shared>,
    /// The shard's numbers, which are counted without a turn of the shard.
    pub metrics: Arc<Metrics>,
    draining: Cell<bool>,
    drain: tokio::sync::Notify,
    /// Connections of every kind, also those that speak HTTP only.
    open: Cell<usize>,
    closed: tokio::sync::Notify,
    /// Bytes of request bodies that are being read.
    bodies: Cell<usize>,
    opening: tokio::sync::Semaphore,
}

impl Core {
    /// Takes a shard, and its number.
    pub fn new(shard: Shard, index: usize, shared: Arc<Shared>) -> Self {
        let metrics = Arc::clone(shard.metrics());
        let state = State {
            shard,
            wires: Vec::new(),
            dirty: Vec::new(),
            read_buffer: vec![0; READ_BYTES].into_boxed_slice(),
        };
        Self {
            state: RefCell::new(state),
            index,
            shared,
            metrics,
            draining: Cell::new(false),
            drain: tokio::sync::Notify::new(),
            open: Cell::new(0),
            closed: tokio::sync::Notify::new(),
            bodies: Cell::new(0),
            opening: tokio::sync::Semaphore::new(OPENINGS_A_TURN),
        }
    }

    /// Does something with the shard, then writes what came of it.
    pub fn with<R>(&self, work: impl FnOnce(&mut Shard) -> R) -> R {
        let state = &mut *self.state.borrow_mut();
        state.deliver_arrivals();
        let result = work(&mut state.shard);
        state.flush_dirty();
        result
    }

    /// Opens a connection whose outbox is written to a socket.
    pub fn connect_socket(
        &self,
        conversation: Box<dyn Conversation>,
        peer: Peer,
        head: Bytes,
        socket: Link,
    ) -> ConnectionId {
        let wire = Wire::Socket {
            socket,
            blocked: false,
            paused: false,
            waker: None,
        };
        self.connect(conversation, peer, head, wire)
    }

    /// Opens a connection whose outbox is taken with [`Core::poll_frame`].
    pub fn connect_pulled(&self, conversation: Box<dyn Conversation>, peer: Peer) -> ConnectionId {
        self.connect(
            conversation,
            peer,
            Bytes::new(),
            Wire::Pulled { waker: None },
        )
    }

    fn connect(
        &self,
        mut conversation: Box<dyn Conversation>,
        peer: Peer,
        head: Bytes,
        wire: Wire,
    ) -> ConnectionId {
        let state = &mut *self.state.borrow_mut();
        state.deliver_arrivals();
        let names = &self.shared.streams;
        let next = (self.index, state.shard.next_connection());
        names.tell(&mut *conversation, &peer.principal, next);
        let id = state.shard.connect(conversation, peer, head);
        if state.wires.len() <= id.slot() {
            state.wires.resize_with(id.slot() + 1, || None);
        }
        state.wires[id.slot()] = Some((id, wire));
        state.flush_dirty();
        id
    }

    /// Forgets a connection, and gives its socket, if it has one.
    pub fn disconnect(&self, id: ConnectionId) -> Option<Link> {
        let state = &mut *self.state.borrow_mut();
        state.wire(id)?;
        let wire = state.wires[id.slot()].take();
        state.shard.disconnect(id);
        state.flush_dirty();
        match wire {
            Some((_, Wire::Socket { socket, .. })) => Some(socket),
            _ => None,
        }
    }

    /// Waits for something to do for a socket's connection.
    pub fn poll_work(&self, id: ConnectionId, finished: bool, cx: &mut Context<'_>) -> Poll<Work> {
        let state = &mut *self.state.borrow_mut();
        let ended = state.shard.ended(id);
        let wants_input = !finished && state.shard.wants_input(id);
        let empty = state
            .shard
            .outbox(id)
            .is_none_or(|outbox| outbox.is_empty());
        let Some(Wire::Socket {
            socket,
            blocked,
            paused,
            waker,
        }) = state.wire(id)
        else {
            return Poll::Ready(Work::End);
        };
        if ended == Ended::AtOnce || (ended == Ended::AfterFlush && empty) {
            return Poll::Ready(Work::End);
        }
        if ended == Ended::AfterFlush {
            return Poll::Ready(Work::Farewell);
        }
        if *blocked && socket.poll_write_ready(cx).is_ready() {
            *blocked = false;
            return Poll::Ready(Work::Write);
        }
        if wants_input && socket.poll_read_ready(cx).is_ready() {
            return Poll::Ready(Work::Read);
        }
        *paused = !wants_input;
        *waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Waits until everything for a connection is written, writing on.
    pub fn poll_written(&self, id: ConnectionId, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let state = &mut *self.state.borrow_mut();
            if state
                .shard
                .outbox(id)
                .is_none_or(|outbox| outbox.is_empty())
            {
                return Poll::Ready(());
            }
            let Some(Wire::Socket {
                socket, blocked, ..
            }) = state.wire(id)
            else {
                return Poll::Ready(());
            };
            if socket.poll_write_ready(cx).is_pending() {
                return Poll::Pending;
            }
            *blocked = false;
            state.flush(id);
        }
    }

    /// Writes what waits for a connection.
    pub fn flush(&self, id: ConnectionId) {
        let state = &mut *self.state.borrow_mut();
        state.flush(id);
        state.flush_dirty();
    }

    /// Reads once from a socket and passes it on. `rest` holds what the conversation left.
    pub fn receive(&self, id: ConnectionId, rest: &mut BytesMut) -> Received {
        let state = &mut *self.state.borrow_mut();
        state.deliver_arrivals();
        let Some((
            _,
            Wire::Socket {
                socket, blocked, ..
            },
        )) = state.wires.get_mut(id.slot()).and_then(Option::as_mut)
        else {
            return Received::Broken;
        };
        let read = socket.try_read(&mut state.read_buffer);
        // What TLS had to answer by itself goes on when the kernel takes it.
        *blocked |= socket.has_unsent();
        let received = match read {
            Ok(0) => {
                state.shard.peer_finished(id);
                Received::Finished
            }
            Ok(n) => {
                rest.extend_from_slice(&state.read_buffer[..n]);
                state.shard.receive(id, rest);
                if n < MUCH_BYTES {
                    Received::More
                } else {
                    Received::Much
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Received::More,
            Err(_) => Received::Broken,
        };
        if rest.is_empty() {
            // An idle connection holds no buffer.
            *rest = BytesMut::new();
        }
        state.flush_dirty();
        received
    }

    /// Passes on bytes that arrived with the request head.
    pub fn receive_rest(&self, id: ConnectionId, rest: &mut BytesMut) {
        if !rest.is_empty() {
            self.with(|shard| shard.receive(id, rest));
        }
        if rest.is_empty() {
            *rest = BytesMut::new();
        }
    }

    /// The next frame for a pulled connection; `None` when it has ended and everything was taken.
    pub fn poll_frame(&self, id: ConnectionId, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let state = &mut *self.state.borrow_mut();
        let frame = state.shard.outbox(id).and_then(Outbox::pop);
        if let Some(frame) = frame {
            state.shard.drained(id);
            state.flush_dirty();
            return Poll::Ready(Some(frame));
        }
        if state.shard.ended(id) != Ended::No {
            return Poll::Ready(None);
        }
        if let Some(Wire::Pulled { waker }) = state.wire(id) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// A step in opening a connection. After every [`OPENINGS_A_TURN`] of them everybody else runs before the next
    /// ones, so that thousands that come at once do not stand between those that are there and their messages.
    pub async fn step_of_opening<R>(&self, step: impl FnOnce() -> R) -> R {
        let turn = self.opening.acquire().await;
        let result = step();
        tokio::task::yield_now().await;
        drop(turn);
        result
    }

    /// Counts an open socket until the guard is dropped.
    pub fn open(self: &Rc<Self>) -> Open {
        self.open.set(self.open.get() + 1);
        Open(Rc::clone(self))
    }

    /// A share of what request bodies may take together on this shard, given back when it is dropped.
    pub fn body_budget(&self) -> BodyBudget<'_> {
        BodyBudget {
            core: self,
            max: self.shared.limits.submit_bytes_max,
            taken: 0,
        }
    }

    /// A share of the same for a peer that has not said yet who it is: such peers together leave half of it to those
    /// who have.
    pub fn opening_budget(&self) -> BodyBudget<'_> {
        BodyBudget {
            core: self,
            max: self.shared.limits.submit_bytes_max / 2,
            taken: 0,
        }
    }

    /// What operators send, who get in when the server is full: it is bounded by their connections.
    pub fn admin_budget(&self) -> BodyBudget<'_> {
        BodyBudget {
            core: self,
            max: usize::MAX,
            taken: 0,
        }
    }

    /// Begins the farewell: HTTP connections finish their request, streams are told to come back later.
    pub fn begin_drain(&self) {
        self.draining.set(true);
        self.drain.notify_waiters();
    }

    /// Whether the farewell has begun.
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Waits for the farewell.
    pub async fn draining(&self) {
        let notified = self.drain.notified();
        if !self.draining.get() {
            notified.await;
        }
    }

    /// Waits until no socket is open.
    pub async fn all_closed(&self) {
        while self.open.get() > 0 {
            self.closed.notified().await;
        }
    }
}

/// The bytes of one request body.
pub struct BodyBudget<'a> {
    core: &'a Core,
    /// What all may hold before no more is taken on this budget.
    max: usize,
    taken: usize,
}

impl BodyBudget<'_> {
    /// Takes more; `false` if all bodies together are at their bound, which follows from `limits.submit_bytes_max`.
    pub fn take(&mut self, bytes: usize) -> bool {
        let sum = self.core.bodies.get() + bytes;
        if sum > self.max {
            return false;
        }
        self.core.bodies.set(sum);
        self.taken += bytes;
        true
    }
}

impl Drop for BodyBudget<'_> {
    fn drop(&mut self) {
        self.core.bodies.set(self.core.bodies.get() - self.taken);
    }
}

/// Counts a socket as open.
pub struct Open(Rc<Core>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
        if self.0.open.get() == 0 {
            self.0.closed.notify_one();
        }
    }
}

/// Writes what the kernel takes now of an outbox, and what TLS still has of it.
fn write_from(outbox: &mut Outbox, socket: &mut Link) -> std::io::Result<()> {
    if outbox.is_empty() {
        return socket.try_flush();
    }
    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
    let mut count = 0;
    for (slice, frame) in slices.iter_mut().zip(outbox.frames()) {
        *slice = IoSlice::new(frame);
        count += 1;
    }
    outbox.advance(socket.try_write_vectored(&slices[..count])?);
    Ok(())
}

impl State {
    fn wire(&mut self, id: ConnectionId) -> Option<&mut Wire> {
        match self.wires.get_mut(id.slot()) {
            Some(Some((owner, wire))) if *owner == id => Some(wire),
            _ => None,
        }
    }

    /// Delivers what is committed before anything else is done: thousands of peers that connect, or publish, at
    /// once are thousands of tasks, and the one that delivers would wait for its turn behind all of them.
    fn deliver_arrivals(&mut self) {
        if self.shard.has_arrivals() {
            self.shard.take_inbox();
            self.flush_dirty();
        }
    }

    /// Writes every dirty outbox. Writing makes room, and room lets subscriptions that catch up go on, so this
    /// goes in rounds; what is left after the last one goes on when its own task runs.
    fn flush_dirty(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for round in 0..ROUNDS_MAX {
            dirty.clear();
            self.shard.take_dirty(&mut dirty);
            if dirty.is_empty() {
                break;
            }
            for id in &dirty {
                if round + 1 == ROUNDS_MAX {
                    self.postpone(*id);
                } else {
                    self.flush(*id);
                }
            }
        }
        dirty.clear();
        self.dirty = dirty;
    }

    /// Leaves the writing to the connection's own task.
    fn postpone(&mut self, id: ConnectionId) {
        if let Some(wire) = self.wire(id) {
            if let Wire::Socket { blocked, .. } = wire {
                *blocked = true;
            }
            wire.wake();
        }
    }

    fn flush(&mut self, id: ConnectionId) {
        let ended = self.shard.ended(id) != Ended::No;
        let Some(Some((owner, wire))) = self.wires.get_mut(id.slot()) else {
            return;
        };
        if *owner != id {
            return;
        }
        let Wire::Socket {
            socket,
            blocked,
            paused,
            waker,
        } = wire
        else {
            return wire.wake();
        };
        let Some(outbox) = self.shard.outbox(id) else {
            return;
        };
        let (waited, was_blocked) = (outbox.bytes(), *blocked);
        let mut broken = false;
        while !*blocked && (!outbox.is_empty() || socket.has_unsent()) {
            match write_from(outbox, socket) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => *blocked = true,
                Err(_) => {
                    // The task finds the broken socket when it reads.
                    outbox.clear();
                    broken = true;
                }
            }
        }
        let made_room = outbox.bytes() < waited;
        // The task sleeps on what it last knew, and is woken only when that changed.
        let newly_blocked = *blocked && !was_blocked;
        if newly_blocked || ended || broken || (*paused && self.shard.wants_input(id)) {
            *paused = false;
            if let Some(waker) = waker.take() {
                waker.wake();
            }
        }
        if made_room {
            self.shard.drained(id);
        }
    }
}
