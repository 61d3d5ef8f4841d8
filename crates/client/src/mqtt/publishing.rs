//! Publishing over one connection: what is queued is answered under its number, whatever the `QoS`.

use std::collections::VecDeque;

use tidings_types::Qos;

use super::codec::{Ack, AckKind, Incoming, ack_packet};
use super::connection::MqttConnection;
use super::reason::refused;
use crate::client::Client;
use crate::error::{Refused, TryError};
use crate::message::Receipt;

/// What became of a publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The packet identifier that it was queued with.
    pub packet_id: u16,
    /// Success means what the `QoS` promises; with `QoS` 0, that it was handed to the network.
    pub outcome: Result<Receipt, Refused>,
}

/// A connection that is published over.
#[derive(Debug)]
pub struct MqttPublishing {
    connection: MqttConnection,
    qos: Qos,
    /// With `QoS` 0: queued, and perhaps not written yet.
    unwritten: VecDeque<u16>,
}

impl MqttPublishing {
    /// Opens a connection to a server that takes this `QoS`.
    pub(crate) async fn open(client: &Client, qos: Qos) -> Result<Self, TryError> {
        let connection = client.mqtt_connection().await?;
        connection.takes_qos(qos)?;
        Ok(Self {
            connection,
            qos,
            unwritten: VecDeque::new(),
        })
    }

    /// The connection below.
    pub fn connection(&self) -> &MqttConnection {
        &self.connection
    }

    /// What it publishes with.
    pub fn qos(&self) -> Qos {
        self.qos
    }

    /// Queues a PUBLISH that was made with this packet identifier, and of this `QoS`.
    pub fn queue(&mut self, packet_id: u16, packet: &[u8]) {
        self.connection.queue(packet);
        if self.qos == Qos::AtMostOnce {
            self.unwritten.push_back(packet_id);
        }
    }

    /// The next answer, or none for a mere sign of life. What is queued is written meanwhile.
    pub async fn receive(&mut self) -> Result<Option<Answer>, TryError> {
        if let Some(answer) = self.receive_ready()? {
            return Ok(Some(answer));
        }
        if !self.unwritten.is_empty() {
            self.connection.flush().await?;
            return self.receive_ready();
        }
        let incoming = self.connection.receive().await?;
        Ok(self.take(incoming))
    }

    /// The next answer that is already here.
    pub fn receive_ready(&mut self) -> Result<Option<Answer>, TryError> {
        while let Some(incoming) = self.connection.receive_ready()? {
            let answer = self.take(incoming);
            if answer.is_some() {
                return Ok(answer);
            }
        }
        if self.connection.queued_bytes() > 0 {
            return Ok(None);
        }
        let written = self.unwritten.pop_front();
        Ok(written.map(|packet_id| Answer {
            packet_id,
            outcome: Ok(receipt("")),
        }))
    }

    /// Ends the connection; what was queued is written.
    pub async fn close(self) {
        self.connection.close().await;
    }

    fn take(&mut self, incoming: Incoming) -> Option<Answer> {
        let Incoming::Ack(ack) = incoming else {
            return None;
        };
        let Ack {
            kind,
            packet_id,
            reason,
            properties,
        } = ack;
        let outcome = match kind {
            _ if reason >= 0x80 => Err(refused(reason, &properties)),
            AckKind::Pubrec => {
                self.connection
                    .queue(&ack_packet(AckKind::Pubrel, packet_id));
                return None;
            }
            // Of a message to this client, which subscribed to none.
            AckKind::Pubrel => return None,
            AckKind::Puback | AckKind::Pubcomp => {
                Ok(receipt(properties.cursor().unwrap_or_default()))
            }
        };
        Some(Answer { packet_id, outcome })
    }
}

fn receipt(id: &str) -> Receipt {
    Receipt {
        id: id.to_owned(),
        time_ms: 0,
        replayed: false,
    }
}
