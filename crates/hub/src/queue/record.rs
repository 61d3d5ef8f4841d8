//! A queue's record as bytes:
//!
//! ```text
//! version: u8 = 2 | expiry | since | position | suspect to | filters | outstanding
//! expiry:      0 = with its last member | 1, milliseconds: varint | 2 = never
//! since:       0 = it had members when this was written | 1, wall clock of its end in milliseconds: varint
//! position:    varint; everything up to here is done, or outstanding
//! suspect to:  varint; messages up to here may have been delivered before
//! filters:     count: varint | each behind its length
//! outstanding: count: varint | each: offset less the one before: varint, deliveries times 2, and 1 if rejected: varint
//! ```

use std::collections::BTreeMap;

use bytes::Bytes;
use tidings_ports::Expiry;
use tidings_types::codec::{Input, put_bytes, put_varint};
use tidings_types::{Offset, Timestamp, TopicFilter};

use crate::lifetime;

const VERSION: u8 = 2;

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub expiry: Expiry,
    pub since: Option<Timestamp>,
    pub position: Offset,
    pub suspect_to: Offset,
    pub filters: Vec<TopicFilter>,
    pub outstanding: BTreeMap<Offset, Outstanding>,
}

/// A message that is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outstanding {
    /// How often it was delivered.
    pub count: u32,
    /// Whether a member rejected it: it goes to the dead-letter topic, and to no member.
    pub is_rejected: bool,
}

impl Record {
    pub fn encode(&self) -> Bytes {
        let mut out = vec![VERSION];
        lifetime::put(&mut out, self.expiry, self.since);
        put_varint(&mut out, self.position.0);
        put_varint(&mut out, self.suspect_to.0);
        put_varint(&mut out, self.filters.len() as u64);
        for filter in &self.filters {
            put_bytes(&mut out, filter.as_str().as_bytes());
        }
        put_varint(&mut out, self.outstanding.len() as u64);
        let mut before = 0;
        for (offset, it) in &self.outstanding {
            put_varint(&mut out, offset.0 - before);
            put_varint(
                &mut out,
                u64::from(it.count) << 1 | u64::from(it.is_rejected),
            );
            before = offset.0;
        }
        out.into()
    }

    /// Reads a record; `None` if it is not one that this version writes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut input = Input::new(bytes);
        if input.u8()? != VERSION {
            return None;
        }
        let (expiry, since) = lifetime::read(&mut input)?;
        let position = Offset(input.varint()?);
        let suspect_to = Offset(input.varint()?);
        let mut filters = Vec::new();
        for _ in 0..input.varint()? {
            filters.push(TopicFilter::new(input.text()?.to_owned()).ok()?);
        }
        let mut outstanding = BTreeMap::new();
        let mut offset = 0u64;
        for _ in 0..input.varint()? {
            offset = offset.checked_add(input.varint()?)?;
            let number = input.varint()?;
            let it = Outstanding {
                count: u32::try_from(number >> 1).ok()?,
                is_rejected: number & 1 == 1,
            };
            outstanding.insert(Offset(offset), it);
        }
        let whole = input.rest.is_empty();
        whole.then_some(Self {
            expiry,
            since,
            position,
            suspect_to,
            filters,
            outstanding,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn records_read_back_and_cut_ones_are_not_read() {
        let it = |count, is_rejected| Outstanding { count, is_rejected };
        let mut record = Record {
            expiry: Expiry::After(Duration::from_mins(1)),
            since: Some(Timestamp(5)),
            position: Offset(300),
            suspect_to: Offset(400),
            filters: vec![TopicFilter::new("a/#").unwrap(), TopicFilter::all()],
            outstanding: BTreeMap::from([(Offset(7), it(1, true)), (Offset(299), it(0, false))]),
        };
        for (expiry, since) in [
            (Expiry::WithConnection, None),
            (Expiry::Never, None),
            (record.expiry, record.since),
        ] {
            record.expiry = expiry;
            record.since = since;
            let bytes = record.encode();
            assert_eq!(Record::decode(&bytes).as_ref(), Some(&record));
            for cut in 0..bytes.len() {
                assert_eq!(Record::decode(&bytes[..cut]), None, "{cut}");
            }
        }
    }
}
