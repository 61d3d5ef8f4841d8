//! Publishing over HTTP, or MQTT: one message after the other on a connection that is kept.

use std::time::Duration;

use serde::Deserialize;
use tidings_types::Qos;

use crate::backoff::Backoff;
use crate::client::{Client, Speaks};
use crate::error::{Lost, Refused, TryError};
use crate::http::{HttpConnection, is_header_value, is_token, request_line};
use crate::message::{Keys, Outgoing, Receipt};
use crate::mqtt::{MqttPublishing, publish_packet};
use crate::random::Random;
use crate::url::percent_encode;

/// Publishes until the server acknowledges. Each message has an idempotency key, the same in every try, so that
/// it is appended once however often the connection fails.
#[derive(Debug)]
pub struct Publisher {
    client: Client,
    /// Idle, after a complete answer.
    connection: Option<Kept>,
    keys: Keys,
    backoff: Backoff,
}

/// An idle connection.
#[derive(Debug)]
enum Kept {
    Http(HttpConnection),
    Mqtt(Box<MqttPublishing>),
}

/// The one publish that is under way on an MQTT connection.
const PACKET_ID: u16 = 1;

/// A try failed, and the next one comes.
#[derive(Debug)]
pub struct Retrying<'a> {
    /// Why.
    pub lost: &'a Lost,
    /// The wait before the next.
    pub retry_in: Duration,
}

impl Publisher {
    pub(crate) fn new(client: Client) -> Self {
        let backoff = client.backoff();
        Self {
            client,
            connection: None,
            keys: Keys::new(&mut Random::from_system()),
            backoff,
        }
    }

    /// Publishes, and tries again until the server says that the message is durable, or that it will not have
    /// it.
    pub async fn publish(&mut self, outgoing: &Outgoing) -> Result<Receipt, Refused> {
        self.publish_observed(outgoing, |_| {}).await
    }

    /// As [`Publisher::publish`], and tells of each failed try.
    pub async fn publish_observed(
        &mut self,
        outgoing: &Outgoing,
        mut observe: impl FnMut(Retrying<'_>),
    ) -> Result<Receipt, Refused> {
        let key = outgoing.key.clone().unwrap_or_else(|| self.keys.next_key());
        loop {
            // A kept connection may have been closed by the server meanwhile, which says nothing about the
            // server: the first try on a new connection then comes at once.
            let kept = self.connection.is_some();
            match self.publish_once(outgoing, &key).await {
                Ok(receipt) => {
                    self.backoff.succeeded();
                    return Ok(receipt);
                }
                Err(TryError::Refused(refused)) => return Err(refused),
                Err(TryError::Lost(Lost::Closed | Lost::Io(_))) if kept => {}
                Err(TryError::Lost(lost)) => {
                    let retry_in = self.backoff.failed(lost.told_wait());
                    observe(Retrying {
                        lost: &lost,
                        retry_in,
                    });
                    tokio::time::sleep(retry_in).await;
                }
            }
        }
    }

    /// One try, with this key.
    pub async fn publish_once(
        &mut self,
        outgoing: &Outgoing,
        key: &str,
    ) -> Result<Receipt, TryError> {
        let client = self.client.clone();
        client
            .in_time(async {
                match self.client.speaks {
                    Speaks::Http => self.over_http(outgoing, key).await,
                    Speaks::Mqtt(qos) => self.over_mqtt(outgoing, key, qos).await,
                }
            })
            .await
    }

    /// Says goodbye. With MQTT's `QoS` 0, what was published last may not arrive without it.
    pub async fn close(self) {
        if let Some(Kept::Mqtt(publishing)) = self.connection {
            publishing.close().await;
        }
    }

    async fn over_mqtt(
        &mut self,
        outgoing: &Outgoing,
        key: &str,
        qos: Qos,
    ) -> Result<Receipt, TryError> {
        let packet = publish_packet(outgoing, qos, PACKET_ID, Some(key)).map_err(Refused::from)?;
        let mut publishing = match self.connection.take() {
            Some(Kept::Mqtt(publishing)) => publishing,
            _ => Box::new(MqttPublishing::open(&self.client, qos).await?),
        };
        publishing.connection().takes(packet.len())?;
        publishing.queue(PACKET_ID, &packet);
        let answer = loop {
            match publishing.receive().await? {
                Some(answer) if answer.packet_id == PACKET_ID => break answer,
                _ => {}
            }
        };
        self.connection = Some(Kept::Mqtt(publishing));
        Ok(answer.outcome?)
    }

    async fn over_http(&mut self, outgoing: &Outgoing, key: &str) -> Result<Receipt, TryError> {
        let request = request(&self.client, outgoing, key)?;
        // Taken, so that a connection in the middle of an exchange is never used again.
        let mut connection = match self.connection.take() {
            Some(Kept::Http(connection)) => connection,
            _ => HttpConnection::new(self.client.connect().await?),
        };
        // A server may refuse, and close, before it has read all of a large body: its answer counts.
        let written = connection.write(&request).await;
        let head = match connection.read_head().await {
            Ok(head) => head,
            Err(lost) => return Err(written.err().unwrap_or(lost).into()),
        };
        let body = connection.read_body(&head).await?;
        if head.keep_alive && written.is_ok() {
            self.connection = Some(Kept::Http(connection));
        }
        if head.status != 200 && head.status != 201 {
            return Err(Refused::from_answer(head.status, head.retry_after(), &body).into());
        }
        receipt(&body).map_err(TryError::Lost)
    }
}

fn receipt(body: &[u8]) -> Result<Receipt, Lost> {
    #[derive(Deserialize)]
    struct Answer {
        id: String,
        time: u64,
        #[serde(default)]
        replayed: bool,
    }
    let answer: Answer =
        serde_json::from_slice(body).map_err(|error| Lost::Json(error.to_string()))?;
    Ok(Receipt {
        id: answer.id,
        time_ms: answer.time,
        replayed: answer.replayed,
    })
}

/// The request as it is written; refused here if a header cannot carry its value.
fn request(client: &Client, outgoing: &Outgoing, key: &str) -> Result<Vec<u8>, Refused> {
    let mut path = "/v1/topics/".to_owned();
    percent_encode(outgoing.topic.as_str(), b"/", &mut path);
    let mut head = request_line("POST", &client.url, &path);
    let length = outgoing.payload.len().to_string();
    let ttl = outgoing.ttl.map(|ttl| ttl.as_secs().to_string());
    let retain = outgoing.retain.then_some("true");
    for (name, value) in [
        ("content-length", Some(length.as_str())),
        ("idempotency-key", Some(key)),
        ("content-type", outgoing.content_type.as_deref()),
        ("tidings-event", outgoing.event.as_deref()),
        ("tidings-ttl", ttl.as_deref()),
        ("tidings-retain", retain),
    ] {
        if let Some(value) = value {
            push_header(name, value, &mut head)?;
        }
    }
    for (name, value) in &outgoing.headers {
        if !is_token(name) {
            return Err(unsendable(&format!(
                "`{name}` cannot be the name of a header"
            )));
        }
        push_header(&format!("tidings-header-{name}"), value, &mut head)?;
    }
    head += "\r\n";
    let mut request = head.into_bytes();
    request.extend_from_slice(&outgoing.payload);
    Ok(request)
}

fn push_header(name: &str, value: &str, head: &mut String) -> Result<(), Refused> {
    if !is_header_value(value) {
        return Err(unsendable(&format!(
            "`{name}` holds a line end or another control character: remove it"
        )));
    }
    for part in [name, ": ", value, "\r\n"] {
        head.push_str(part);
    }
    Ok(())
}

fn unsendable(detail: &str) -> Refused {
    Refused::from_code("bad-parameter", detail, None)
}

#[cfg(test)]
#[path = "publisher_tests.rs"]
mod tests;
