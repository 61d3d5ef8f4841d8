//! Opening what outlives a request: event streams, and every kind of WebSocket.

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use tidings_adapters::http as adapter;
use tidings_adapters::http::{RawSocket, Route};
use tidings_adapters::mqtt;
use tidings_adapters::sse::{self, SseConversation, SseRequest};
use tidings_adapters::stomp::{self, StompConversation, StompOptions};
use tidings_adapters::websocket::{
    self, HandshakeOptions, RawConversation, RawOptions, TidingsConversation,
};
use tidings_hub::Shard;
use tidings_hub::gate::{self, Wanted};
use tidings_ports::{Conversation, Start};
use tidings_ports::{Credential, SignOn};
use tidings_types::{Principal, Refusal, RefusalCode, TopicFilter};

use super::core::Core;
use super::shard::Place;

/// A stream that is about to be opened: its response head, and who takes over.
pub struct OpenStream {
    /// Status and headers.
    pub head: http::response::Parts,
    /// Who takes over.
    pub serves: Serves,
}

/// Who takes over when a stream is open.
pub enum Serves {
    /// A conversation, on this shard.
    Conversation(Box<dyn Conversation>),
    /// MQTT, on the shard that its first packet asks for, and what the handshake showed.
    Mqtt(Credential),
}

/// Whether the route is one that [`open`] opens.
pub fn is_stream(route: &Route) -> bool {
    matches!(
        route,
        Route::Stream(_)
            | Route::RawSocket(_)
            | Route::TidingsSocket
            | Route::MqttSocket
            | Route::StompSocket
    )
}

/// Who opens a stream. What signs on by itself, or may still do so, is nobody until then.
pub async fn opener(
    core: &Core,
    parts: &Parts,
    place: &Place,
    route: &Route,
) -> Result<Arc<Principal>, Refusal> {
    let shared = &core.shared;
    if shared.logins.sign_on() == SignOn::Open {
        return Ok(shared.newcomer());
    }
    let signs_on = matches!(route, Route::MqttSocket | Route::StompSocket);
    if !signs_on && !matches!(route, Route::TidingsSocket) {
        let requester = place.peer(shared.requester(parts, place).await?);
        let filters = match route {
            Route::Stream(request) => &request.filters[..],
            Route::RawSocket(raw) => std::slice::from_ref(&raw.filter),
            _ => &[],
        };
        let permitted = shared.permit_read(&requester, filters).await?;
        return Ok(permitted.principal);
    }
    let is_shown = !matches!(shared.shown(parts, place)?, Credential::Anonymous);
    // What a page cannot help but show in the handshake counts for its CONNECT.
    let is_explicit = !matches!(adapter::credential(parts)?, Credential::Anonymous);
    if signs_on && is_explicit && !adapter::is_shown_in_subprotocol(parts) {
        let detail = "a credential is shown in CONNECT here: leave it away from the handshake";
        return Err(Refusal::new(RefusalCode::BadRequest, detail));
    }
    if signs_on {
        return Ok(shared.newcomer());
    }
    match shared.requester(parts, place).await {
        Err(refusal) if is_shown => Err(refusal),
        Err(_) => Ok(shared.newcomer()),
        opener => opener,
    }
}

/// The answer to a request that is refused. An event stream that may be there later is put off in a way that an
/// `EventSource` survives.
pub fn refused(core: &Core, parts: &Parts, refusal: &Refusal) -> Response<Bytes> {
    let routed = adapter::route(parts, &core.shared.limits);
    let is_event_stream = parts.method == Method::GET && matches!(routed, Ok(Route::Stream(_)));
    if is_event_stream && refusal.retry_after().is_some() {
        return sse::come_back(refusal, core.with(Shard::next_random));
    }
    adapter::refused(parts, refusal)
}

/// Prepares a stream or WebSocket for a request, or says why not.
pub fn open(
    core: &Core,
    (parts, place): (&Parts, &Place),
    principal: &Principal,
    route: Route,
) -> Result<OpenStream, Refusal> {
    if core.is_draining() {
        let detail = "the server is going down: come back in a moment";
        return Err(Refusal::new(RefusalCode::ShuttingDown, detail));
    }
    match route {
        Route::Stream(request) => event_stream(core, parts, principal, request),
        Route::RawSocket(socket) => raw_socket(core, parts, principal, socket),
        Route::MqttSocket => mqtt_socket(core, parts, place),
        Route::StompSocket => stomp_socket(core, parts, place),
        _ => tidings_socket(core, parts),
    }
}

fn event_stream(
    core: &Core,
    parts: &Parts,
    principal: &Principal,
    request: SseRequest,
) -> Result<OpenStream, Refusal> {
    admit(core, principal, &request.filters, &request.start)?;
    let (head, ()) = event_stream_head(core, parts, &request).into_parts();
    let gzip = is_gzip(core, &request);
    let limits = Arc::clone(&core.shared.limits);
    let conversation = SseConversation::new(request, gzip, limits);
    Ok(OpenStream {
        head,
        serves: Serves::Conversation(Box::new(conversation)),
    })
}

fn raw_socket(
    core: &Core,
    parts: &Parts,
    principal: &Principal,
    socket: RawSocket,
) -> Result<OpenStream, Refusal> {
    let RawSocket {
        filter,
        start,
        echo,
    } = socket;
    admit(core, principal, std::slice::from_ref(&filter), &start)?;
    let deflate = core.shared.websocket_compression;
    let accepted = handshake(core, parts, &[websocket::RAW_SUBPROTOCOL], deflate)?;
    let options = RawOptions {
        filter,
        start,
        echo,
        deflate: accepted.deflate,
    };
    let conversation = RawConversation::new(options, Arc::clone(&core.shared.limits));
    Ok(OpenStream {
        head: switching(&accepted)?,
        serves: Serves::Conversation(Box::new(conversation)),
    })
}

fn tidings_socket(core: &Core, parts: &Parts) -> Result<OpenStream, Refusal> {
    let deflate = core.shared.websocket_compression;
    let accepted = handshake(core, parts, &[websocket::SUBPROTOCOL], deflate)?;
    let limits = Arc::clone(&core.shared.limits);
    let conversation = TidingsConversation::new(accepted.deflate, limits)
        .with_sign_on(core.shared.logins.sign_on());
    Ok(OpenStream {
        head: switching(&accepted)?,
        serves: Serves::Conversation(Box::new(conversation)),
    })
}

fn mqtt_socket(core: &Core, parts: &Parts, place: &Place) -> Result<OpenStream, Refusal> {
    if !core.shared.mqtt_websocket {
        let detail = "MQTT over WebSocket is turned off (mqtt.websocket)";
        return Err(Refusal::new(RefusalCode::NotFound, detail));
    }
    let accepted = handshake(core, parts, &mqtt::SUBPROTOCOLS, false)?;
    // MQTT-6.0.0-3: a client offers it. Without it, both sides may take the other for something else.
    if accepted.subprotocol.is_none() {
        let detail =
            "MQTT is spoken here: offer the subprotocol `mqtt` (`Sec-WebSocket-Protocol: mqtt`)";
        return Err(Refusal::new(RefusalCode::BadRequest, detail));
    }
    Ok(OpenStream {
        head: switching(&accepted)?,
        serves: Serves::Mqtt(in_handshake(core, parts, place)?),
    })
}

fn stomp_socket(core: &Core, parts: &Parts, place: &Place) -> Result<OpenStream, Refusal> {
    if !core.shared.stomp_websocket {
        let detail = "STOMP over WebSocket is turned off (stomp.websocket)";
        return Err(Refusal::new(RefusalCode::NotFound, detail));
    }
    // Without a subprotocol the versions are agreed on in CONNECT alone, as over TCP.
    let accepted = handshake(core, parts, &stomp::SUBPROTOCOLS, false)?;
    let conversation = StompConversation::new(StompOptions {
        transport: stomp::Transport::websocket(accepted.subprotocol),
        limits: Arc::clone(&core.shared.limits),
        sign_on: core.shared.logins.sign_on(),
        shown: in_handshake(core, parts, place)?,
    });
    Ok(OpenStream {
        head: switching(&accepted)?,
        serves: Serves::Conversation(Box::new(conversation)),
    })
}

/// What a handshake shows for a CONNECT that shows nothing.
fn in_handshake(core: &Core, parts: &Parts, place: &Place) -> Result<Credential, Refusal> {
    match core.shared.logins.sign_on() {
        SignOn::Open => Ok(Credential::Anonymous),
        SignOn::Judged => core.shared.shown(parts, place),
    }
}

/// The hub admits every subscription itself; asked before, a refusal can still be an HTTP status.
fn admit(
    core: &Core,
    principal: &Principal,
    filters: &[TopicFilter],
    start: &Start,
) -> Result<(), Refusal> {
    let wanted = Wanted {
        filters: filters.to_vec(),
        start: start.clone(),
    };
    gate::subscribe(principal, wanted, &core.shared.limits).map(drop)
}

fn handshake(
    core: &Core,
    parts: &Parts,
    subprotocols: &[&'static str],
    deflate: bool,
) -> Result<websocket::Accepted, Refusal> {
    let reloadable = core.shared.reloadable();
    let options = HandshakeOptions {
        subprotocols,
        origins: &reloadable.origins,
        deflate,
    };
    websocket::accept(&Request::from_parts(parts.clone(), ()), options)
}

fn is_gzip(core: &Core, request: &SseRequest) -> bool {
    core.shared.sse_gzip && request.gzip
}

/// The response head of an event stream.
pub fn event_stream_head(core: &Core, parts: &Parts, request: &SseRequest) -> Response<()> {
    let mut head = request.response_head(is_gzip(core, request));
    core.shared
        .reloadable()
        .cors
        .apply(parts, &mut head.headers);
    Response::from_parts(head, ())
}

fn switching(accepted: &websocket::Accepted) -> Result<http::response::Parts, Refusal> {
    let mut builder = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
    for (name, value) in &accepted.headers {
        builder = builder.header(name, value);
    }
    let response = builder.body(()).map_err(|error| {
        Refusal::new(
            RefusalCode::Internal,
            format!("the handshake's answer is no response: {error}"),
        )
    })?;
    Ok(response.into_parts().0)
}
