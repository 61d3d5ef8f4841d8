//! The values in memory. They can be lent to who writes a snapshot without being copied, and changed meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use tidings_ports::StateChange;

use crate::record::FRAME_LEN;

/// Values by name. A tree, as it grows without ever being copied as a whole.
pub(crate) type Values = BTreeMap<ByteString, Bytes>;

/// Every name with its newest value.
#[derive(Debug, Default)]
pub(crate) struct StateMap {
    settled: Arc<Values>,
    /// What changed while `settled` was lent; wins over it.
    fresh: BTreeMap<ByteString, Option<Bytes>>,
    names: u64,
    bytes: u64,
}

/// About what a value takes in a snapshot.
fn cost(name: &str, value: &Bytes) -> u64 {
    (FRAME_LEN + 3 + name.len() + value.len()) as u64
}

impl StateMap {
    pub(crate) fn get(&self, name: &str) -> Option<&Bytes> {
        match self.fresh.get(name) {
            Some(value) => value.as_ref(),
            None => self.settled.get(name),
        }
    }

    pub(crate) fn apply(&mut self, change: StateChange) {
        let StateChange { name, value } = change;
        if let Some(old) = self.get(&name) {
            self.bytes -= cost(&name, old);
            self.names -= 1;
        }
        if let Some(value) = &value {
            self.bytes += cost(&name, value);
            self.names += 1;
        }
        match Arc::get_mut(&mut self.settled) {
            None => {
                self.fresh.insert(name, value);
            }
            Some(settled) => {
                self.fresh.remove(&name);
                put(settled, name, value);
            }
        }
    }

    /// Moves up to so many changes to where they belong, if that is not lent any more. Called with every batch,
    /// so that no batch pays for all that changed during a snapshot.
    pub(crate) fn settle(&mut self, limit: usize) {
        let Some(settled) = Arc::get_mut(&mut self.settled) else {
            return;
        };
        for _ in 0..limit {
            let Some((name, value)) = self.fresh.pop_first() else {
                return;
            };
            put(settled, name, value);
        }
    }

    /// Whether the values can be lent.
    pub(crate) fn is_settled(&self) -> bool {
        self.fresh.is_empty() && Arc::strong_count(&self.settled) == 1
    }

    /// The values as they are now and stay for the borrower; `None` if they are lent already.
    pub(crate) fn lend(&self) -> Option<Arc<Values>> {
        self.is_settled().then(|| Arc::clone(&self.settled))
    }

    /// How many names there are.
    pub(crate) fn names(&self) -> u64 {
        self.names
    }

    /// About the size of a snapshot.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Every name with its value.
    pub(crate) fn all(&self) -> Vec<(ByteString, Bytes)> {
        let settled = self.settled.iter();
        let settled = settled.filter(|(name, _)| !self.fresh.contains_key(*name));
        let fresh = self.fresh.iter();
        let fresh = fresh.filter_map(|(name, value)| Some((name, value.as_ref()?)));
        settled
            .chain(fresh)
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }
}

fn put(values: &mut Values, name: ByteString, value: Option<Bytes>) {
    match value {
        Some(value) => values.insert(name, value),
        None => values.remove(&name),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_a_map_whatever_is_lent_and_what_is_lent_stays(
            steps in prop::collection::vec((0..8u8, prop::option::of(any::<u8>()), 0..8u8), 0..80),
        ) {
            let mut map = StateMap::default();
            let mut model: BTreeMap<String, Vec<u8>> = BTreeMap::new();
            let mut lent = None;
            for (name, value, luck) in steps {
                let name = format!("n{name}");
                match luck {
                    0 if lent.is_none() => lent = map.lend().map(|values| (values, model.clone())),
                    1 => lent = None,
                    2 => map.settle(2),
                    _ => {}
                }
                let value = value.map(|len| vec![1; usize::from(len)]);
                map.apply(StateChange {
                    name: name.clone().into(),
                    value: value.clone().map(Bytes::from),
                });
                match value {
                    Some(value) => model.insert(name.clone(), value),
                    None => model.remove(&name),
                };
                let listed: BTreeMap<String, Vec<u8>> =
                    map.all().into_iter().map(|(name, value)| (name.to_string(), value.to_vec())).collect();
                prop_assert_eq!(&listed, &model);
                prop_assert_eq!(map.names(), model.len() as u64);
                let bytes: u64 = map.all().iter().map(|(name, value)| cost(name, value)).sum();
                prop_assert_eq!(map.bytes(), bytes);
                prop_assert_eq!(map.get(&name).map(|v| v.to_vec()), model.get(&name).cloned());
                if let Some((values, then)) = &lent {
                    let values: BTreeMap<String, Vec<u8>> =
                        values.iter().map(|(name, value)| (name.to_string(), value.to_vec())).collect();
                    prop_assert_eq!(&values, then);
                }
            }
        }
    }
}
