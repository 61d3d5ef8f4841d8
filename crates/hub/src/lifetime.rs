//! How long something without a connection is kept, and since when it has none, as bytes: the same in the
//! records of sessions and of work queues.

use std::time::Duration;

use tidings_ports::Expiry;
use tidings_types::Timestamp;
use tidings_types::codec::{Input, put_varint};

/// Appends both.
pub(crate) fn put(out: &mut Vec<u8>, expiry: Expiry, since: Option<Timestamp>) {
    match expiry {
        Expiry::WithConnection => out.push(0),
        Expiry::After(expiry) => {
            out.push(1);
            put_varint(out, millis(expiry));
        }
        Expiry::Never => out.push(2),
    }
    out.push(u8::from(since.is_some()));
    if let Some(since) = since {
        put_varint(out, since.0);
    }
}

/// Reads both back; `None` if they are not there.
pub(crate) fn read(input: &mut Input<'_>) -> Option<(Expiry, Option<Timestamp>)> {
    let expiry = match input.u8()? {
        0 => Expiry::WithConnection,
        1 => Expiry::After(Duration::from_millis(input.varint()?)),
        2 => Expiry::Never,
        _ => return None,
    };
    let since = match input.u8()? {
        0 => None,
        1 => Some(Timestamp(input.varint()?)),
        _ => return None,
    };
    Some((expiry, since))
}

pub(crate) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
