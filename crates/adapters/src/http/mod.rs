//! Plain HTTP: requests to routes and drafts, answers to responses.
//!
//! The server calls [`route`] with the head of a request, reads as much of a body as [`body_bytes_max`] says,
//! turns it into drafts with [`draft`] or [`batch`] or into a subscription with [`stream_from_body`], and answers
//! with one of the response functions, [`Cors::apply`] and [`compress`]. All of it is a function of its
//! arguments: permissions, the log and the clock are elsewhere. The rules with their sources and tests are in
//! `WIRE.md` beside this file.

mod accept;
mod batch;
mod compress;
mod cookie;
mod cors;
mod credential;
mod draft;
mod history;
mod openapi;
mod params;
mod response;
mod route;
#[cfg(test)]
pub(crate) mod testing;

pub use batch::batch;
pub use compress::compress;
pub use cookie::{admit_cookie, cookie, is_cookie_name};
pub use cors::{Cors, CorsError};
pub use credential::{credential, is_shown_in_subprotocol};
pub use draft::draft;
pub(crate) use draft::is_binary_type;
pub use history::{Caching, Found, History, history};
pub use openapi::OPENAPI;
pub(crate) use response::write_gap;
pub use response::{
    health, page, page_headers, problem, published, published_batch, ready, refused, renewal_path,
    renewed, secure, topics,
};
pub(crate) use response::{json_response, page_body, page_signals};
pub use route::{RawSocket, Route, body_bytes_max, redact, route, stream_from_body};
