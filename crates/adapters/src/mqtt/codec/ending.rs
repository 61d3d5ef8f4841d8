//! DISCONNECT (3.14) and AUTH (3.15).

use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;

use super::connect::Authentication;
use super::packet::Diagnostics;
use super::property::{self, Place, Property, id};
use super::reader::Reader;
use super::reason::ReasonCode;
use super::response::{PacketTooLarge, Wire};
use super::rule::Rule;
use super::version::{PacketKind, Version};
use super::writer::{self, Body, put_binary_property, put_text_property};

/// A client's goodbye.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect {
    /// `Success` before 5.0. With anything else the will is published.
    pub reason: ReasonCode,
    /// How long the session stays, in seconds; `None` is as CONNECT said. That it does not rise from 0 is for
    /// the conversation to check (3.14.2.2.2).
    pub session_expiry_s: Option<u32>,
    /// Empty before 5.0.
    pub diagnostics: Diagnostics,
}

/// A step of enhanced authentication (4.12), in both directions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth {
    /// Which step.
    pub reason: ReasonCode,
    /// The method and its data.
    pub authentication: Authentication,
    /// For people.
    pub diagnostics: Diagnostics,
}

/// A server's goodbye (5.0).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Farewell {
    /// Why.
    pub reason: ReasonCode,
    /// Where to go instead (`UseAnotherServer`, `ServerMoved`).
    pub server_reference: Option<ByteString>,
    /// For people.
    pub diagnostics: Diagnostics,
}

impl Disconnect {
    pub(super) fn read(
        reader: &mut Reader<'_>,
        version: Version,
        items_max: usize,
    ) -> Result<Self, Rule> {
        let mut found = Self {
            reason: ReasonCode::Success,
            session_expiry_s: None,
            diagnostics: Diagnostics::default(),
        };
        if version != Version::V5 || reader.left() == 0 {
            return Ok(found);
        }
        found.reason = ReasonCode::of(reader.byte()?)
            .filter(|reason| reason.client_may_send(PacketKind::Disconnect))
            .ok_or(Rule::DisconnectReason)?;
        if reader.left() > 0 {
            let place = Place::Packet(PacketKind::Disconnect);
            property::read(reader, place, items_max, |property| match property {
                Property::SessionExpiry(seconds) => {
                    found.session_expiry_s = Some(seconds);
                    Ok(())
                }
                // Permitted by the table, without a meaning from a client.
                Property::ServerReference => Ok(()),
                property => found.diagnostics.take(property),
            })?;
        }
        Ok(found)
    }
}

impl Auth {
    pub(super) fn read(reader: &mut Reader<'_>, items_max: usize) -> Result<Self, Rule> {
        // An empty AUTH says success (3.15.2.1), which only a server may.
        if reader.left() == 0 {
            return Err(Rule::AuthReason);
        }
        let reason = ReasonCode::of(reader.byte()?)
            .filter(|reason| reason.client_may_send(PacketKind::Auth))
            .ok_or(Rule::AuthReason)?;
        let mut method = None;
        let mut data = None;
        let mut diagnostics = Diagnostics::default();
        if reader.left() > 0 {
            let place = Place::Packet(PacketKind::Auth);
            property::read(reader, place, items_max, |property| {
                match property {
                    Property::AuthenticationMethod(name) => method = Some(name),
                    Property::AuthenticationData(bytes) => data = Some(bytes),
                    property => diagnostics.take(property)?,
                }
                Ok(())
            })?;
        }
        Ok(Self {
            reason,
            authentication: Authentication {
                method: method.ok_or(Rule::AuthWithoutMethod)?,
                data,
            },
            diagnostics,
        })
    }

    /// Appends the packet; nothing before 5.0, which has none.
    pub fn encode(&self, wire: Wire, out: &mut BytesMut) -> Result<(), PacketTooLarge> {
        debug_assert!(self.reason.server_may_send(PacketKind::Auth));
        if wire.version != Version::V5 {
            return Ok(());
        }
        let mut body = Body::default();
        body.before.put_u8(self.reason.number());
        put_authentication(&mut body.properties, &self.authentication);
        let first_byte = PacketKind::Auth.first_byte();
        writer::packet(first_byte, &body, &self.diagnostics, wire, out)
    }
}

/// Appends the method and its data.
pub(super) fn put_authentication(out: &mut BytesMut, authentication: &Authentication) {
    put_text_property(out, id::AUTHENTICATION_METHOD, &authentication.method);
    let data: Option<&Bytes> = authentication.data.as_ref();
    if let Some(data) = data {
        put_binary_property(out, id::AUTHENTICATION_DATA, data);
    }
}

impl Farewell {
    /// One that says just this.
    #[must_use]
    pub fn new(reason: ReasonCode) -> Self {
        Self {
            reason,
            server_reference: None,
            diagnostics: Diagnostics::default(),
        }
    }

    /// Appends the packet; nothing before 5.0, where servers have no DISCONNECT and just close.
    pub fn encode(&self, wire: Wire, out: &mut BytesMut) -> Result<(), PacketTooLarge> {
        debug_assert!(self.reason.server_may_send(PacketKind::Disconnect));
        if wire.version != Version::V5 {
            return Ok(());
        }
        let mut body = Body::default();
        body.omit_success(self.reason);
        if let Some(reference) = &self.server_reference {
            put_text_property(&mut body.properties, id::SERVER_REFERENCE, reference);
        }
        let first_byte = PacketKind::Disconnect.first_byte();
        writer::packet(first_byte, &body, &self.diagnostics, wire, out)
    }
}
