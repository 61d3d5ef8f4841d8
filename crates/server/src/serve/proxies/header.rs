//! The header of the PROXY protocol, versions 1 and 2 (haproxy's `proxy-protocol.txt`, sections 2.1 and 2.2), as bytes.
//!
//! [`parse`] never takes a byte that comes behind the header, and says as early as it can that there is none.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The longest header of version 1, its line end included (2.1).
const LINE_BYTES_MAX: usize = 107;
/// The longest header that is taken: addresses, and more extensions than proxies send.
pub const HEADER_BYTES_MAX: usize = 4 << 10;

const V1_START: &[u8] = b"PROXY ";
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The start, version with command, family with transport, and the length of what follows.
const V2_FIXED: usize = 16;

/// The extension with the checksum of the header (2.2.3), and how long that is.
const TYPE_CRC32C: u8 = 0x03;
const CRC32C_BYTES: usize = 4;

/// Whose a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The proxy's own, as for a health check, or of somebody whose address it does not know.
    Proxy,
    /// That of a client of the proxy, at this address.
    Client(IpAddr),
}

/// Why there is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Something else came.
    Missing,
    /// It breaks a rule of the protocol.
    Malformed,
    /// It is longer than what is taken.
    TooLong,
    /// It is for datagrams, or of a kind that is not assigned.
    Unsupported,
    /// Its checksum is another's.
    Checksum,
    /// It did not come in time.
    Timeout,
    /// The connection ended before it was whole.
    Closed,
}

impl Fault {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Missing,
        Self::Malformed,
        Self::TooLong,
        Self::Unsupported,
        Self::Checksum,
        Self::Timeout,
        Self::Closed,
    ];

    /// The name in metrics and in the log.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::TooLong => "too-long",
            Self::Unsupported => "unsupported",
            Self::Checksum => "checksum",
            Self::Timeout => "timeout",
            Self::Closed => "closed",
        }
    }
}

/// Reads the beginning of a connection: whose it is, and how many bytes the header has. `None` if it is not whole yet;
/// then every byte is of the header, or of none.
pub fn parse(bytes: &[u8]) -> Result<Option<(Sender, usize)>, Fault> {
    if let Some(rest) = bytes.strip_prefix(V1_START) {
        return parse_line(bytes, rest);
    }
    if bytes.starts_with(V2_START) {
        return parse_binary(bytes);
    }
    let may_become = |start: &[u8]| start.starts_with(bytes);
    if may_become(V1_START) || may_become(V2_START) {
        Ok(None)
    } else {
        Err(Fault::Missing)
    }
}

/// Version 1: `PROXY TCP4 192.0.2.1 192.0.2.2 56324 443` and a line end. `rest` is what comes behind `PROXY `.
fn parse_line(bytes: &[u8], rest: &[u8]) -> Result<Option<(Sender, usize)>, Fault> {
    let within = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(end) = within.windows(2).position(|two| two == b"\r\n") else {
        // A line end alone is none, and a proxy would not go on behind it.
        let may_go_on = within.len() < LINE_BYTES_MAX && !within.contains(&b'\n');
        return if may_go_on {
            Ok(None)
        } else {
            Err(Fault::Malformed)
        };
    };
    let text = &rest[..end - V1_START.len()];
    let text = std::str::from_utf8(text).map_err(|_| Fault::Malformed)?;
    let sender = line_sender(text).ok_or(Fault::Malformed)?;
    Ok(Some((sender, end + 2)))
}

fn line_sender(text: &str) -> Option<Sender> {
    let mut words = text.split(' ');
    let family = words.next()?;
    if family == "UNKNOWN" {
        // What else is in the line has to be ignored.
        return Some(Sender::Proxy);
    }
    let [from, to] = [words.next()?, words.next()?];
    let ports_are_right = words.next().is_some_and(is_port) && words.next().is_some_and(is_port);
    if !ports_are_right || words.next().is_some() {
        return None;
    }
    let from = match family {
        "TCP4" => {
            to.parse::<Ipv4Addr>().ok()?;
            IpAddr::V4(from.parse().ok()?)
        }
        "TCP6" => {
            to.parse::<Ipv6Addr>().ok()?;
            IpAddr::V6(from.parse().ok()?)
        }
        _ => return None,
    };
    Some(Sender::Client(from.to_canonical()))
}

/// A number below 65536 as one writes it.
fn is_port(text: &str) -> bool {
    let number: Option<u16> = text.parse().ok();
    number.is_some_and(|number| number.to_string() == text)
}

/// Version 2.
fn parse_binary(bytes: &[u8]) -> Result<Option<(Sender, usize)>, Fault> {
    let Some((fixed, rest)) = bytes.split_at_checked(V2_FIXED) else {
        // What is there may tell already.
        let is_wrong = bytes.get(V2_START.len()).is_some_and(|it| it >> 4 != 2);
        return if is_wrong {
            Err(Fault::Malformed)
        } else {
            Ok(None)
        };
    };
    let [version_command, family_transport] = [fixed[12], fixed[13]];
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let is_local = match version_command {
        0x20 => true,
        0x21 => false,
        _ => return Err(Fault::Malformed),
    };
    if V2_FIXED + length > HEADER_BYTES_MAX {
        return Err(Fault::TooLong);
    }
    let Some(body) = rest.get(..length) else {
        return Ok(None);
    };
    let whole = V2_FIXED + length;
    // A connection of the proxy's own: what else there is has to be thrown away.
    if is_local {
        return Ok(Some((Sender::Proxy, whole)));
    }
    let addresses = match family_transport {
        // Not told, whatever follows.
        0x00 => return Ok(Some((Sender::Proxy, whole))),
        0x11 => 12,
        0x21 => 36,
        0x31 => 216,
        _ => return Err(Fault::Unsupported),
    };
    let Some((addresses, extensions)) = body.split_at_checked(addresses) else {
        return Err(Fault::Malformed);
    };
    check_extensions(&bytes[..whole], extensions)?;
    Ok(Some((binary_sender(family_transport, addresses), whole)))
}

/// The addresses are as long as the family has them.
fn binary_sender(family_transport: u8, addresses: &[u8]) -> Sender {
    let address = match family_transport {
        0x11 => addresses.first_chunk::<4>().map(|it| IpAddr::from(*it)),
        0x21 => addresses.first_chunk::<16>().map(|it| IpAddr::from(*it)),
        // A client on the proxy's own machine has a path, and no address.
        _ => None,
    };
    address.map_or(Sender::Proxy, |it| Sender::Client(it.to_canonical()))
}

/// Goes through the extensions (2.2.1): none matters but the checksum.
fn check_extensions(header: &[u8], mut extensions: &[u8]) -> Result<(), Fault> {
    let mut sum = None;
    while let Some(([kind, length @ ..], rest)) = extensions.split_first_chunk::<3>() {
        let length = usize::from(u16::from_be_bytes(*length));
        let Some((value, next)) = rest.split_at_checked(length) else {
            return Err(Fault::Malformed);
        };
        if *kind == TYPE_CRC32C {
            let value: [u8; CRC32C_BYTES] = value.try_into().map_err(|_| Fault::Malformed)?;
            let at = header.len() - rest.len();
            if sum.replace((at, u32::from_be_bytes(value))).is_some() {
                return Err(Fault::Malformed);
            }
        }
        extensions = next;
    }
    if !extensions.is_empty() {
        return Err(Fault::Malformed);
    }
    let Some((at, given)) = sum else {
        return Ok(());
    };
    // Over the whole header, in which the sum itself is zeros.
    let (before, after) = (&header[..at], &header[at + CRC32C_BYTES..]);
    let computed = crc32c::crc32c_append(crc32c::crc32c(before), &[0; CRC32C_BYTES]);
    if crc32c::crc32c_append(computed, after) == given {
        Ok(())
    } else {
        Err(Fault::Checksum)
    }
}

#[cfg(test)]
#[path = "header_tests.rs"]
mod tests;
