//! Renewing the credential of an event stream, which has no way in, by a request beside it.
//!
//! A stream whose credential has an end is told its name: where its connection is, under a seal that this process alone
//! can make. So nobody guesses a name, and nothing is kept of it. Whoever shows a good credential of the same user at the
//! name's path moves the stream's end.

use std::any::Any;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::Response;
use tidings_adapters::http as adapter;
use tidings_adapters::sse::SseConversation;
use tidings_hub::{ConnectionId, Renewal};
use tidings_ports::Conversation;
use tidings_types::{Principal, Refusal, RefusalCode};
use tokio::sync::oneshot;

use super::core::Core;
use super::requests::lost;

/// Bytes of a name that say where the stream is: the shard, and the connection on it.
const PLACE_BYTES: usize = 12;
/// Bytes of the seal: 128 bits are not guessed.
const SEAL_BYTES: usize = 16;

/// Where a stream is: the shard's number, and the connection on it.
type StreamPlace = (usize, ConnectionId);

/// Makes and reads the names of streams.
pub struct StreamNames {
    key: hmac::Key,
}

impl StreamNames {
    /// Names under this secret.
    pub fn new(secret: &[u8; 32]) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, secret),
        }
    }

    /// Tells a conversation that is about to begin where its peer's credential is renewed, if it is an event stream whose
    /// credential has an end.
    pub fn tell(
        &self,
        conversation: &mut dyn Conversation,
        principal: &Principal,
        place: StreamPlace,
    ) {
        let conversation: &mut dyn Any = conversation;
        let stream = conversation.downcast_mut::<SseConversation>();
        if let Some(stream) = stream.filter(|_| principal.expires.is_some()) {
            stream.set_renewal(adapter::renewal_path(&self.name(place)));
        }
    }

    fn name(&self, (shard, connection): StreamPlace) -> String {
        let mut bytes = Vec::with_capacity(PLACE_BYTES + SEAL_BYTES);
        bytes.extend_from_slice(&(shard as u32).to_be_bytes());
        bytes.extend_from_slice(&connection.to_bits().to_be_bytes());
        let seal = hmac::sign(&self.key, &bytes);
        bytes.extend_from_slice(&seal.as_ref()[..SEAL_BYTES]);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn find(&self, name: &str) -> Option<StreamPlace> {
        let bytes = URL_SAFE_NO_PAD.decode(name).ok()?;
        let (place, shown) = bytes.split_at_checked(PLACE_BYTES)?;
        let seal = hmac::sign(&self.key, place);
        verify_slices_are_equal(&seal.as_ref()[..SEAL_BYTES], shown).ok()?;
        let (shard, connection) = place.split_first_chunk()?;
        let connection = u64::from_be_bytes(connection.try_into().ok()?);
        let shard = u32::from_be_bytes(*shard) as usize;
        Some((shard, ConnectionId::from_bits(connection)))
    }
}

/// Moves the end of the stream of this name for who shows a credential now.
pub async fn renew(
    core: &Core,
    name: &str,
    principal: &Arc<Principal>,
) -> Result<Response<Bytes>, Refusal> {
    let (shard, connection) = core.shared.streams.find(name).ok_or_else(|| {
        let detail = "there is no stream of this name: it is in the stream's first lines, and in its event `expiring`";
        Refusal::new(RefusalCode::NotFound, detail)
    })?;
    let (sender, receiver) = oneshot::channel();
    let renewal = Renewal {
        principal: Arc::clone(principal),
        // The requester may be gone by then.
        outcome: Box::new(move |outcome| drop(sender.send(outcome))),
    };
    core.with(|own| own.renew(shard, connection, renewal));
    let expires = receiver.await.unwrap_or_else(|_| Err(lost()))?;
    Ok(adapter::renewed(expires))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_back_and_no_other_does() {
        let names = StreamNames::new(&[7; 32]);
        let place = (3, ConnectionId::from_bits(5 << 32 | 9));
        let name = names.name(place);
        assert_eq!(names.find(&name), Some(place));
        assert_eq!(StreamNames::new(&[8; 32]).find(&name), None);
        for at in 0..name.len() {
            for other in ["A", "B"] {
                let mut changed = name.clone();
                changed.replace_range(at..=at, other);
                if changed != name {
                    assert_eq!(names.find(&changed), None, "{changed}");
                }
            }
        }
        for text in ["", "AAAA", "not base64!", &name[1..]] {
            assert_eq!(names.find(text), None, "{text}");
        }
    }
}
