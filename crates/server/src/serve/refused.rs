//! Telling a newcomer for whom there is no room, in the words of what it asks.

use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use tidings_types::Refusal;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::body::{OnThisShard, Reply, Rewound};
use super::core::Core;
use super::front::{self, First};
use super::link::Link;
use super::{headers, streams};

/// How long it may take to say what it wants: it gets an answer in any case.
const PATIENCE: Duration = Duration::from_secs(1);

/// Refuses a connection over HTTP. What it asks for is looked at for the form of the answer alone.
pub async fn tell(core: Rc<Core>, mut link: Link, refusal: Refusal) {
    let mut bytes = BytesMut::new();
    let read = timeout(PATIENCE, front::read_first(&core, &mut link, &mut bytes)).await;
    match read {
        Ok(Ok(First::Closed)) => core.shared.metrics.refused(refusal.code),
        Ok(Ok(First::Two)) => {
            core.shared.metrics.refused(refusal.code);
            tell_http2(core, link, bytes.freeze(), refusal).await;
        }
        Ok(Ok(First::One(parts, _))) => {
            core.shared.metrics.refused(refusal.code);
            let response = answer(&core, &parts, &refusal);
            front::answer_and_close(&core, link, response).await;
        }
        Ok(Err(_)) | Err(_) => front::refuse(&core, link, refusal).await,
    }
}

fn answer(core: &Core, parts: &Parts, refusal: &Refusal) -> Response<Bytes> {
    let mut response = streams::refused(core, parts, refusal);
    let cors = &core.shared.reloadable().cors;
    cors.apply(parts, response.headers_mut());
    response
}

/// Answers the first request over HTTP/2, and what else comes with it.
async fn tell_http2(core: Rc<Core>, link: Link, first: Bytes, refusal: Refusal) {
    let told = Rc::new(Notify::new());
    let (telling, asked) = (Rc::clone(&told), Rc::clone(&core));
    let secured = link.is_secured();
    let service = service_fn(move |request: Request<Incoming>| {
        let (parts, _) = request.into_parts();
        let mut response = answer(&asked, &parts, &refusal).map(Reply::from);
        headers::secure(&asked.shared, secured, response.headers_mut());
        telling.notify_one();
        async { Ok::<_, Infallible>(response) }
    });
    let mut builder = hyper::server::conn::http2::Builder::new(OnThisShard);
    builder.max_concurrent_streams(1);
    let mut connection = pin!(builder.serve_connection(Rewound::new(first, link), service));
    let limit = Duration::from_millis(core.shared.limits.close_ms_max);
    let ended = tokio::select! {
        biased;
        _ = connection.as_mut() => true,
        asked = timeout(PATIENCE, told.notified()) => asked.is_err(),
    };
    if !ended {
        connection.as_mut().graceful_shutdown();
        // Whether it ends in order or not: it ends.
        drop(timeout(limit, connection).await);
    }
}
