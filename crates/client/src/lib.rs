//! A client of Tidings that reconnects and resumes by itself.
//!
//! [`Client`] knows a server's address. From it come a [`Publisher`] (one message after the other over HTTP), a
//! [`Pipeline`] (many at once, in order, over `tidings.v1`) and a [`Subscription`]. All three try again until the
//! server refuses for good: a publish carries an idempotency key and so is appended once however often it is
//! tried, and a subscription resumes after the last message that it gave out, or takes part in its work queue again.
//!
//! The codecs ([`websocket`], [`sse`], [`http`], [`envelope`], [`mqtt`]) do no I/O of their own and are there for tests and
//! measurements too. [`cli`] is what the command line's `pub`, `sub`, `bench` and `health` do.

pub mod backoff;
mod bench;
pub mod cli;
mod client;
mod duplex;
pub mod envelope;
mod error;
pub mod http;
mod login;
mod message;
pub mod mqtt;
mod pipeline;
mod publisher;
mod random;
pub mod sse;
pub mod stream;
mod subscription;
pub mod tls;
pub mod url;
pub mod websocket;

#[cfg(test)]
mod testing;

pub use backoff::RetryPolicy;
pub use client::{Client, Unusable};
pub use error::{Lost, Refused, TryError};
pub use login::{Login, TokenFile};
pub use message::{Gap, Keys, Message, Outgoing, PayloadForm, Receipt, Start, Verdict, WorkQueue};
pub use pipeline::{Pipeline, PipelineEnded, PipelineStatus, Ticket};
pub use publisher::{Publisher, Retrying};
pub use random::Random;
pub use subscription::{Item, Subscription, Wire};
pub use tls::TlsFiles;
