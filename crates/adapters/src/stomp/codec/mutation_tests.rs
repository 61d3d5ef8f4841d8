//! Mutated frames, and the corpus of the fuzz target: no panic, nothing over the limits, and the same whatever
//! pieces the bytes come in.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use super::*;
use crate::stomp::codec::testing::{LIMITS, State, samples, violating};

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

type Seed = (State, Vec<u8>);

fn valid_seeds() -> Vec<Seed> {
    let mut seeds: Vec<Seed> = samples()
        .iter()
        .map(|sample| (sample.state, sample.bytes.to_vec()))
        .collect();
    // Whole conversations, so that a mutated CONNECT is followed by something.
    for (version, connect) in [
        (Version::V10, &b"CONNECT\n\n\0"[..]),
        (Version::V11, b"CONNECT\naccept-version:1.1\n\n\0"),
        (Version::V12, b"STOMP\naccept-version:1.2\n\n\0\n"),
    ] {
        let mut wire = connect.to_vec();
        let of_version = samples()
            .iter()
            .filter(|it| it.state == State::Client(version));
        for sample in of_version.step_by(5) {
            wire.extend_from_slice(sample.bytes);
        }
        seeds.push((State::Before, wire));
    }
    seeds
}

fn violating_seeds() -> Vec<Seed> {
    violating()
        .map(|row| (row.state, row.bytes.to_vec()))
        .collect()
}

/// Bytes that mean something.
const SPECIAL: &[u8] = b"\n\r\0:\\ncr0 \xff";

fn mutate(wire: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(3) {
        if wire.is_empty() {
            wire.push(random.below(256) as u8);
        }
        let at = random.below(wire.len());
        match random.below(8) {
            0 => wire[at] ^= 1 << random.below(8),
            1 => wire[at] = random.below(256) as u8,
            2 => drop(wire.remove(at)),
            3 => wire.truncate(at),
            4 | 5 => wire[at] = SPECIAL[random.below(SPECIAL.len())],
            6 => wire.insert(at, SPECIAL[random.below(SPECIAL.len())]),
            _ => {
                let from = random.below(wire.len());
                let copied = wire[from..wire.len().min(from + 24)].to_vec();
                wire.splice(at..at, copied);
            }
        }
    }
}

/// What a wire brings: its frames, and how it ends.
#[derive(Debug, Default, PartialEq)]
struct Brought {
    frames: Vec<Frame>,
    violation: Option<Violation>,
}

/// The version that a frame opens a connection with.
fn opened(frame: &Frame) -> Option<Version> {
    let name = match frame.command {
        Command::Connected => "version",
        Command::Connect | Command::Stomp => "accept-version",
        _ => return None,
    };
    Version::choose(frame.headers.get(name).map(|value| &**value), &Version::ALL)
}

fn check_frame(frame: &Frame, given: usize) {
    assert!(frame.headers.len() <= LIMITS.header_count_max);
    let size = |header: &crate::stomp::codec::Header| {
        assert!(!header.name.is_empty());
        header.name.len() + header.value.len() + 2
    };
    let size: usize = frame.headers.iter().map(size).sum();
    assert!(size < LIMITS.header_bytes_max);
    assert!(frame.body.len() <= LIMITS.body_bytes_max && frame.body.len() < given);
}

/// Decodes all of the wire in pieces and checks every step.
fn drive(state: State, wire: &[u8], step: usize, input: &mut BytesMut) -> Brought {
    let mut decoder = state.decoder();
    let mut brought = Brought::default();
    input.clear();
    for piece in wire.chunks(step) {
        input.extend_from_slice(piece);
        loop {
            let (before, capacity) = (input.len(), input.capacity());
            let found = decoder.decode(input);
            assert!(input.capacity() <= capacity, "the decoder reserves nothing");
            match found {
                Ok(Some(item)) => {
                    assert!(input.len() < before);
                    let Item::Frame(frame) = item else { continue };
                    check_frame(&frame, wire.len());
                    if let Some(version) = opened(&frame) {
                        decoder.set_version(version);
                    }
                    brought.frames.push(frame);
                }
                Ok(None) => break,
                Err(violation) => {
                    // Saying goodbye must work for every violation too.
                    let farewell = violation.farewell().unwrap_or_default();
                    assert!(farewell.len() <= 256 + LIMITS.header_line_bytes_max);
                    brought.violation = Some(violation);
                    return brought;
                }
            }
        }
    }
    brought
}

#[test]
fn a_million_mutated_frames_are_decoded_or_refused() {
    let seeds = [valid_seeds(), violating_seeds()];
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut input = BytesMut::new();
    let (mut refused, mut waiting, mut frames) = (0u32, 0u32, 0usize);
    let mut broken = HashSet::new();
    let mut wire = Vec::new();
    for round in 0..1_000_000 {
        let seeds = &seeds[usize::from(random.below(4) == 0)];
        let (state, seed) = &seeds[random.below(seeds.len())];
        wire.clone_from(seed);
        mutate(&mut wire, &mut random);
        let brought = drive(*state, &wire, 1 + random.below(60), &mut input);
        if round % 8 == 0 {
            let whole = drive(*state, &wire, usize::MAX, &mut input);
            assert_eq!(whole, brought, "{}", wire.escape_ascii());
        }
        frames += brought.frames.len();
        if let Some(violation) = brought.violation {
            refused += 1;
            broken.insert(violation.rule);
        } else {
            waiting += 1;
        }
    }
    // Every end is reached often, or the mutations are no test.
    assert!(
        refused > 200_000 && waiting > 200_000 && frames > 200_000,
        "{refused} refused, {waiting} waiting, {frames} frames"
    );
    assert_eq!(broken.len(), Rule::ALL.len());
}

/// Where the fuzz target's inputs are.
fn corpus_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/stomp_decode")
}

/// An input of the fuzz target: the place of the state in the list, the size of the pieces, the bytes.
fn corpus_input(state: State, bytes: &[u8]) -> Vec<u8> {
    let place = State::ALL.iter().position(|it| *it == state).unwrap();
    [&[place as u8, 7][..], bytes].concat()
}

fn file_name(name: &str) -> String {
    let word = |character: char| match character {
        character if character.is_ascii_alphanumeric() || character == '.' => {
            character.to_ascii_lowercase()
        }
        _ => '-',
    };
    name.chars().map(word).collect()
}

/// The corpus as the tables give it: each valid frame, and for each rule and state the first frame that breaks
/// it.
fn corpus() -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for sample in samples() {
        let input = corpus_input(sample.state, sample.bytes);
        let earlier = files.insert(file_name(sample.name), input);
        assert_eq!(earlier, None, "{}", sample.name);
    }
    let mut broken = HashSet::new();
    for row in violating() {
        if broken.insert((row.rule, row.state)) {
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
        let &[place, step, ref wire @ ..] = &bytes[..] else {
            continue;
        };
        let state = State::ALL[usize::from(place) % State::ALL.len()];
        let whole = drive(state, wire, usize::MAX, &mut input);
        for step in [usize::from(step).max(1), 1] {
            assert_eq!(drive(state, wire, step, &mut input), whole);
        }
        replayed += 1;
    }
    assert!(replayed >= corpus().len());
}
