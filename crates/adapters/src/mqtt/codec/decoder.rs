//! Bytes from a client become packets (2.1, 2.2).
//!
//! A packet is judged as early as it can be: its kind and flags by the first byte, its size by the announced
//! length, before a byte of its body is waited for. It is parsed once it is complete, so the caller's input
//! holds at most one packet of the permitted size; the decoder itself keeps nothing but the version.

use bytes::{Buf, BytesMut};

use super::acknowledge::{Ack, AckKind};
use super::connect::{self, Connect};
use super::ending::{Auth, Disconnect};
use super::packet::Packet;
use super::publish::{Publish, PublishFlags};
use super::reader::{Reader, VarintError, varint};
use super::rule::{Rule, Violation};
use super::subscribe::{Subscribe, Unsubscribe};
use super::version::{PacketKind, Version};

/// A message at least this long keeps the read buffer that it lies in, if it is most of it; any other is copied out,
/// so that it does not hold a whole buffer for as long as it stays in memory.
const SHARE_BYTES_MIN: usize = 16 << 10;

/// What a connection's packets are judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketLimits {
    /// A whole packet: the server's Maximum Packet Size.
    pub packet_bytes_max: usize,
    /// Filters, and user properties, of one packet. Each costs more in memory than on the wire.
    pub items_max: usize,
}

/// One client's packets. See the head of the file. After a violation the connection ends; a decoder that is
/// asked again nevertheless judges the same bytes again.
#[derive(Clone, Copy, Debug)]
pub struct Decoder {
    /// [`PacketLimits`], in less room: there is one of this for each connection.
    packet_bytes_max: u32,
    items_max: u32,
    /// Of the CONNECT, once it was there.
    version: Option<Version>,
}

/// A fixed header (2.1.1).
#[derive(Clone, Copy, Debug)]
struct Header {
    kind: PacketKind,
    flags: u8,
    /// Of the header itself.
    size: usize,
    /// Of the whole packet; within the limits.
    packet_size: usize,
}

impl Decoder {
    /// Awaits a CONNECT.
    #[must_use]
    pub fn new(limits: PacketLimits) -> Self {
        Self {
            // No packet has more than its length can say (2.1.4).
            packet_bytes_max: u32::try_from(limits.packet_bytes_max).unwrap_or(u32::MAX),
            items_max: u32::try_from(limits.items_max).unwrap_or(u32::MAX),
            version: None,
        }
    }

    /// The largest packet that is taken.
    #[must_use]
    pub const fn packet_bytes_max(&self) -> usize {
        self.packet_bytes_max as usize
    }

    /// The version, once there was a CONNECT.
    #[must_use]
    pub const fn version(&self) -> Option<Version> {
        self.version
    }

    /// Takes the next packet off the front of the input; `None` if more bytes are needed, and then nothing
    /// is taken.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Packet>, Violation> {
        let Some(header) = self.header(input).map_err(|rule| self.violation(rule))? else {
            return Ok(None);
        };
        if input.len() < header.packet_size {
            return Ok(None);
        }
        let is_message = header.kind == PacketKind::Publish;
        let is_most = header.packet_size.saturating_mul(2) >= input.capacity();
        if is_message && is_most && header.packet_size >= SHARE_BYTES_MIN {
            let mut packet = input.split_to(header.packet_size).freeze();
            packet.advance(header.size);
            return self.body(header, &mut Reader::sharing(&packet)).map(Some);
        }
        let body = &input[header.size..header.packet_size];
        let mut reader = if is_message {
            Reader::copying(body)
        } else {
            Reader::owning(body)
        };
        let packet = self.body(header, &mut reader)?;
        input.advance(header.packet_size);
        Ok(Some(packet))
    }

    fn violation(&self, rule: Rule) -> Violation {
        match self.version {
            Some(version) => Violation::connected(rule, version),
            None => Violation::at_connect(rule, None),
        }
    }

    fn header(&self, input: &[u8]) -> Result<Option<Header>, Rule> {
        let &[first, ref rest @ ..] = input else {
            return Ok(None);
        };
        let kind = PacketKind::of(first >> 4).ok_or(Rule::ReservedType)?;
        let flags = first & 0x0f;
        match self.version {
            None if kind != PacketKind::Connect => return Err(Rule::FirstNotConnect),
            None if flags != 0 => return Err(Rule::ReservedFlags),
            None => {}
            Some(version) => judge_first_byte(kind, flags, version)?,
        }
        let (remaining, size) = match varint(rest) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(None),
            Err(VarintError::Padded) => return Err(Rule::PaddedRemainingLength),
            Err(VarintError::TooLong) => return Err(Rule::LongRemainingLength),
        };
        let packet_size = 1 + size + remaining as usize;
        if packet_size > self.packet_bytes_max() {
            return Err(Rule::PacketTooLarge);
        }
        Ok(Some(Header {
            kind,
            flags,
            size: 1 + size,
            packet_size,
        }))
    }

    fn body(&mut self, header: Header, reader: &mut Reader<'_>) -> Result<Packet, Violation> {
        let Some(version) = self.version else {
            return self.connect(reader);
        };
        self.later(header, version, reader)
            .map_err(|rule| Violation::connected(rule, version))
    }

    fn connect(&mut self, reader: &mut Reader<'_>) -> Result<Packet, Violation> {
        let version = connect::read_version(reader)?;
        let judge = |rule| Violation::at_connect(rule, Some(version));
        let connect = Connect::read(reader, version, self.items_max as usize).map_err(judge)?;
        reader.finish().map_err(judge)?;
        self.version = Some(version);
        Ok(Packet::Connect(Box::new(connect)))
    }

    /// Reads anything but a CONNECT.
    fn later(
        &self,
        header: Header,
        version: Version,
        reader: &mut Reader<'_>,
    ) -> Result<Packet, Rule> {
        let items_max = self.items_max as usize;
        let ack = |kind, reader: &mut Reader<'_>| {
            Ack::read(reader, kind, version, items_max).map(|ack| Packet::Ack(kind, ack))
        };
        let packet = match header.kind {
            PacketKind::Publish => Packet::Publish(Box::new(Publish::read(
                reader,
                header.flags,
                version,
                items_max,
            )?)),
            PacketKind::Puback => ack(AckKind::Puback, reader)?,
            PacketKind::Pubrec => ack(AckKind::Pubrec, reader)?,
            PacketKind::Pubrel => ack(AckKind::Pubrel, reader)?,
            PacketKind::Pubcomp => ack(AckKind::Pubcomp, reader)?,
            PacketKind::Subscribe => {
                Packet::Subscribe(Subscribe::read(reader, version, items_max)?)
            }
            PacketKind::Unsubscribe => {
                Packet::Unsubscribe(Unsubscribe::read(reader, version, items_max)?)
            }
            PacketKind::Pingreq => Packet::Pingreq,
            PacketKind::Disconnect => {
                Packet::Disconnect(Disconnect::read(reader, version, items_max)?)
            }
            PacketKind::Auth => Packet::Auth(Auth::read(reader, items_max)?),
            // The first byte was judged before.
            PacketKind::Connect => return Err(Rule::SecondConnect),
            PacketKind::Connack
            | PacketKind::Suback
            | PacketKind::Unsuback
            | PacketKind::Pingresp => return Err(Rule::ServerPacket),
        };
        reader.finish()?;
        Ok(packet)
    }
}

/// Whether a connected client may begin a packet so (2.1.2, 2.1.3).
fn judge_first_byte(kind: PacketKind, flags: u8, version: Version) -> Result<(), Rule> {
    // SUBSCRIBE, UNSUBSCRIBE and PUBREL have the flags of QoS 1; in 3.1 also DUP, when they are sent again.
    let marked = flags == 2 || (version == Version::V3 && flags == 0x0a);
    let (permitted, rule) = match kind {
        PacketKind::Connect => (false, Rule::SecondConnect),
        PacketKind::Connack | PacketKind::Suback | PacketKind::Unsuback | PacketKind::Pingresp => {
            (false, Rule::ServerPacket)
        }
        PacketKind::Publish => return PublishFlags::read(flags, version).map(|_| ()),
        PacketKind::Pubrel => (marked, Rule::PubrelFlags),
        PacketKind::Subscribe => (marked, Rule::SubscribeFlags),
        PacketKind::Unsubscribe => (marked, Rule::UnsubscribeFlags),
        PacketKind::Auth if version != Version::V5 => (false, Rule::ReservedType),
        PacketKind::Auth => (flags == 0, Rule::AuthFlags),
        PacketKind::Disconnect => (flags == 0, Rule::DisconnectFlags),
        PacketKind::Puback | PacketKind::Pubrec | PacketKind::Pubcomp | PacketKind::Pingreq => {
            (flags == 0, Rule::ReservedFlags)
        }
    };
    if permitted { Ok(()) } else { Err(rule) }
}

#[cfg(test)]
#[path = "decoder_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "mutation_tests.rs"]
mod mutation_tests;

#[cfg(test)]
#[path = "wire_tests.rs"]
mod wire_tests;
