//! Mutated packets, and the corpus of the fuzz target: no panic, no byte beyond the announced length, no more
//! memory than the packet is worth.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use super::*;
use crate::mqtt::codec::testing::{
    LIMITS, connect_bytes, decode_pieces, decoder, samples, violating,
};

/// Small steps from a seed (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below as u64) as usize
    }
}

type Seed = (Decoder, Vec<u8>);

fn violating_seeds() -> Vec<Seed> {
    violating()
        .map(|row| (decoder(row.state), row.bytes.to_vec()))
        .collect()
}

fn valid_seeds() -> Vec<Seed> {
    let samples = samples();
    let mut seeds: Vec<Seed> = samples
        .iter()
        .map(|sample| (decoder(sample.state), sample.bytes.to_vec()))
        .collect();
    // Whole conversations, so that a mutated CONNECT is followed by something.
    for version in [Version::V3, Version::V4, Version::V5] {
        let mut wire = connect_bytes(version).to_vec();
        for sample in samples
            .iter()
            .filter(|it| it.state == Some(version))
            .step_by(5)
        {
            wire.extend_from_slice(sample.bytes);
        }
        seeds.push((decoder(None), wire));
    }
    seeds
}

fn mutate(wire: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(3) {
        if wire.is_empty() {
            wire.push(random.below(256) as u8);
        }
        let at = random.below(wire.len());
        match random.below(8) {
            0 | 1 => wire[at] ^= 1 << random.below(8),
            2 => wire[at] = random.below(256) as u8,
            3 => drop(wire.remove(at)),
            4 => wire.insert(at, random.below(256) as u8),
            5 => wire.truncate(at),
            6 => wire[at] = [0, 1, 0x26, 0x7f, 0x80, 0xff][random.below(6)],
            _ => {
                let from = random.below(wire.len());
                let copied = wire[from..wire.len().min(from + 12)].to_vec();
                wire.splice(at..at, copied);
            }
        }
    }
    // The length of the first packet is made right again, or most mutations would die there.
    if random.below(3) > 0 && (2..130).contains(&wire.len()) {
        wire[1] = (wire.len() - 2) as u8;
    }
}

/// The length that the first packet announces, read independently of the decoder.
fn announced(wire: &[u8]) -> Option<usize> {
    let mut length = 0;
    for (index, byte) in wire.iter().skip(1).take(4).enumerate() {
        length += usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some(length + index + 2);
        }
    }
    None
}

/// How many lists entries and bytes a packet holds.
fn holds(packet: &Packet) -> (usize, usize) {
    match packet {
        Packet::Publish(publish) => (
            publish.properties.user_properties.len(),
            publish.payload.len(),
        ),
        Packet::Connect(connect) => {
            let will = connect.will.as_ref();
            (
                connect.properties.user_properties.len()
                    + will.map_or(0, |will| will.properties.user_properties.len()),
                connect.client_id.len() + will.map_or(0, |will| will.payload.len()),
            )
        }
        Packet::Subscribe(subscribe) => (
            subscribe.subscriptions.len() + subscribe.user_properties.len(),
            0,
        ),
        Packet::Unsubscribe(unsubscribe) => (
            unsubscribe.filters.len() + unsubscribe.user_properties.len(),
            0,
        ),
        Packet::Ack(_, ack) => (ack.diagnostics.user_properties.len(), 0),
        Packet::Auth(auth) => (auth.diagnostics.user_properties.len(), 0),
        Packet::Disconnect(disconnect) => (disconnect.diagnostics.user_properties.len(), 0),
        Packet::Pingreq => (0, 0),
    }
}

/// Decodes all of the wire in pieces and checks every step. Whether it ended in a violation, and how many
/// packets came before.
fn drive(mut decoder: Decoder, wire: &[u8], step: usize, input: &mut BytesMut) -> (bool, usize) {
    input.clear();
    let mut packets = 0;
    for piece in wire.chunks(step) {
        input.extend_from_slice(piece);
        loop {
            let before = input.len();
            let capacity = input.capacity();
            let expect = announced(input);
            let found = decoder.decode(input);
            assert!(input.capacity() <= capacity, "the decoder reserves nothing");
            match found {
                Ok(Some(packet)) => {
                    assert_eq!(Some(before - input.len()), expect, "{wire:x?}");
                    let (items, bytes) = holds(&packet);
                    assert!(items <= 2 * LIMITS.items_max, "{wire:x?}");
                    assert!(bytes <= before, "{wire:x?}");
                    packets += 1;
                }
                Ok(None) => {
                    assert_eq!(input.len(), before, "{wire:x?}");
                    assert!(before <= LIMITS.packet_bytes_max);
                    break;
                }
                Err(violation) => {
                    // Saying goodbye must work for every violation too.
                    std::hint::black_box(violation.farewell());
                    return (true, packets);
                }
            }
        }
    }
    (false, packets)
}

#[test]
fn two_million_mutated_packets_are_decoded_or_refused() {
    let seeds = [valid_seeds(), violating_seeds()];
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut input = BytesMut::new();
    let (mut refused, mut waiting, mut packets) = (0u32, 0u32, 0usize);
    let mut wire = Vec::new();
    for _ in 0..2_000_000 {
        let seeds = &seeds[usize::from(random.below(4) == 0)];
        let (decoder, seed) = &seeds[random.below(seeds.len())];
        wire.clone_from(seed);
        mutate(&mut wire, &mut random);
        let (violated, found) = drive(*decoder, &wire, 1 + random.below(40), &mut input);
        packets += found;
        if violated {
            refused += 1;
        } else {
            waiting += 1;
        }
    }
    // Every end is reached often, or the mutations are no test.
    assert!(
        refused > 200_000 && waiting > 200_000 && packets > 200_000,
        "{refused} refused, {waiting} waiting, {packets} packets"
    );
}

/// Where the fuzz target's inputs are.
fn corpus_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/mqtt_decode")
}

/// An input of the fuzz target: the state, the size of the pieces, the bytes.
fn corpus_input(state: Option<Version>, bytes: &[u8]) -> Vec<u8> {
    let state = match state {
        None => 0,
        Some(Version::V3) => 3,
        Some(Version::V4) => 4,
        Some(Version::V5) => 5,
    };
    [&[state, 7][..], bytes].concat()
}

fn file_name(name: &str) -> String {
    let word = |character: char| match character {
        '+' => "plus".to_owned(),
        '#' => "hash".to_owned(),
        '$' => "dollar".to_owned(),
        character if character.is_ascii_alphanumeric() || character == '.' => {
            character.to_ascii_lowercase().to_string()
        }
        _ => "-".to_owned(),
    };
    name.chars().map(word).collect()
}

/// The corpus as the tables give it: each valid packet, and for each rule and version the first packet that
/// breaks it.
fn corpus() -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for sample in samples() {
        let input = corpus_input(sample.state, sample.bytes);
        let earlier = files.insert(file_name(sample.name), input);
        assert_eq!(earlier, None, "{}", sample.name);
    }
    let mut broken = HashSet::new();
    for row in violating() {
        let (_, violation, _) = decode_pieces(decoder(row.state), [row.bytes]);
        let rule = violation.map(|violation| violation.rule);
        if broken.insert((rule, row.state)) {
            let name = format!("broken-{}", file_name(row.name));
            let earlier = files.insert(name, corpus_input(row.state, row.bytes));
            assert_eq!(earlier, None, "{}", row.name);
        }
    }
    files
}

#[test]
fn the_fuzz_corpus_is_that_of_the_tables() {
    let folder = corpus_folder();
    let corpus = corpus();
    assert!(corpus.len() < 200, "{} files", corpus.len());
    // `TIDINGS_WRITE_CORPUS=1 cargo test -p tidings-adapters corpus` writes what is missing or different.
    let write = std::env::var_os("TIDINGS_WRITE_CORPUS").is_some();
    for (name, bytes) in &corpus {
        let path = folder.join(name);
        if write {
            std::fs::write(&path, bytes).unwrap();
        }
        let found = std::fs::read(&path).unwrap_or_default();
        assert_eq!(&found, bytes, "{name} in {}", folder.display());
    }
}

#[test]
fn every_file_of_the_fuzz_corpus_is_replayed() {
    let mut replayed = 0;
    let mut input = BytesMut::new();
    for entry in std::fs::read_dir(corpus_folder()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        // What a fuzzer finds is put here too, so anything is permitted.
        let &[state, step, ref wire @ ..] = &bytes[..] else {
            continue;
        };
        let version = match state {
            3 => Some(Version::V3),
            4 => Some(Version::V4),
            5 => Some(Version::V5),
            _ => None,
        };
        for step in [usize::from(step).max(1), 1, usize::MAX] {
            drive(decoder(version), wire, step, &mut input);
        }
        replayed += 1;
    }
    assert!(replayed >= corpus().len());
}
