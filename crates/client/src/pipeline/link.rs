//! The connection below a pipeline, over either protocol.

use std::time::Duration;

use tidings_types::Qos;

use super::window::Encoding;
use crate::client::{Client, Speaks};
use crate::envelope::ServerWord;
use crate::error::{Lost, Refused, TryError};
use crate::message::Receipt;
use crate::mqtt::{Answer, MqttPublishing};
use crate::websocket::{Opcode, Received, WebSocket};

/// What comes over a link. A wire id is that of [`Encoding::wire_id`].
pub(crate) enum Word {
    /// This message is durable.
    Acknowledged { id: u64, receipt: Receipt },
    /// The server will not have it, or not now.
    Refused { id: u64, refused: Refused },
    /// The server goes away.
    Drain { reconnect: Duration },
    /// A sign of life.
    Nothing,
}

/// A connection that is published over.
pub(crate) enum Link {
    Tidings(Box<WebSocket>),
    Mqtt(Box<MqttPublishing>),
}

impl Link {
    /// How requests are encoded for a client's links.
    pub(crate) fn encoding(client: &Client) -> Encoding {
        match client.speaks {
            Speaks::Http => Encoding::Tidings,
            Speaks::Mqtt(qos) => Encoding::Mqtt(qos),
        }
    }

    pub(crate) async fn open(client: &Client) -> Result<Self, TryError> {
        Ok(match client.speaks {
            Speaks::Http => Self::Tidings(Box::new(client.tidings().await?)),
            Speaks::Mqtt(qos) => Self::Mqtt(Box::new(MqttPublishing::open(client, qos).await?)),
        })
    }

    /// How many requests may be sent before the first is answered.
    pub(crate) fn unanswered_max(&self) -> usize {
        match self {
            Self::Tidings(_) => usize::MAX,
            Self::Mqtt(publishing) if publishing.qos() == Qos::AtMostOnce => usize::MAX,
            Self::Mqtt(publishing) => publishing.connection().receive_maximum().into(),
        }
    }

    /// Whether the server takes a request of so many bytes, as far as it told.
    pub(crate) fn takes(&self, request_bytes: usize) -> Result<(), Refused> {
        match self {
            Self::Tidings(_) => Ok(()),
            Self::Mqtt(publishing) => publishing.connection().takes(request_bytes),
        }
    }

    pub(crate) fn queue(&mut self, id: u64, request: &[u8]) {
        match self {
            Self::Tidings(websocket) => websocket.queue(Opcode::Text, request),
            Self::Mqtt(publishing) => publishing.queue(id as u16, request),
        }
    }

    pub(crate) fn queued_bytes(&self) -> usize {
        match self {
            Self::Tidings(websocket) => websocket.queued_bytes(),
            Self::Mqtt(publishing) => publishing.connection().queued_bytes(),
        }
    }

    /// What comes next. What is queued is written meanwhile.
    pub(crate) async fn receive(&mut self) -> Result<Word, TryError> {
        match self {
            Self::Tidings(websocket) => {
                let received = websocket.receive().await.map_err(Lost::from)?;
                tidings_word(received)
            }
            Self::Mqtt(publishing) => Ok(mqtt_word(publishing.receive().await?)),
        }
    }

    /// What is already here.
    pub(crate) fn receive_ready(&mut self) -> Result<Option<Word>, TryError> {
        match self {
            Self::Tidings(websocket) => {
                let received = websocket.receive_ready().map_err(Lost::from)?;
                received.map(tidings_word).transpose()
            }
            Self::Mqtt(publishing) => {
                let answer = publishing.receive_ready()?;
                Ok(answer.map(|answer| mqtt_word(Some(answer))))
            }
        }
    }

    /// When the server wants this client back, if it said so as it ended the connection.
    pub(crate) fn reconnect(&self) -> Option<Duration> {
        match self {
            Self::Tidings(_) => None,
            Self::Mqtt(publishing) => publishing.connection().reconnect(),
        }
    }

    pub(crate) async fn close(self) {
        match self {
            Self::Tidings(websocket) => websocket.close(1000).await,
            Self::Mqtt(publishing) => publishing.close().await,
        }
    }
}

fn tidings_word(received: Received) -> Result<Word, TryError> {
    let text = match received {
        Received::Text(text) => text,
        Received::Close(close) => return Err(Lost::ClosedWith(close).into()),
        Received::Binary(_) | Received::Ping(_) | Received::Pong(_) => return Ok(Word::Nothing),
    };
    Ok(match ServerWord::parse(&text)? {
        ServerWord::Ok {
            id: Some(id),
            receipt,
            ..
        } => Word::Acknowledged { id, receipt },
        ServerWord::Error {
            id: Some(id),
            refused,
        } => Word::Refused { id, refused },
        ServerWord::Error { id: None, refused } => return Err(Lost::Refused(refused).into()),
        ServerWord::Drain { reconnect } => Word::Drain { reconnect },
        _ => Word::Nothing,
    })
}

fn mqtt_word(answer: Option<Answer>) -> Word {
    match answer {
        None => Word::Nothing,
        Some(Answer { packet_id, outcome }) => {
            let id = packet_id.into();
            match outcome {
                Ok(receipt) => Word::Acknowledged { id, receipt },
                Err(refused) => Word::Refused { id, refused },
            }
        }
    }
}
