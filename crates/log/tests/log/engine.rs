//! The log with its threads.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use tidings_log::storage::{Faults, SimStorage};
use tidings_log::{EmbeddedEngine, LogConfig};
use tidings_ports::{
    Answer, Commit, Engine, EngineHealth, Feed, Page, PublishError, ReadError, ReplyTo, Submission,
    SubmitError, SystemClock,
};
use tidings_types::Offset;

use super::common::*;

/// Hands everything to the test.
struct Channel {
    commits: Mutex<Sender<Commit>>,
    pages: Mutex<Sender<Result<Page, ReadError>>>,
}

impl Feed for Channel {
    fn committed(&self, commit: Commit) {
        // A test that is over does not listen any more.
        self.commits.lock().unwrap().send(commit).ok();
    }

    fn read(&self, _reply: ReplyTo, result: Result<Page, ReadError>) {
        self.pages.lock().unwrap().send(result).ok();
    }
}

struct Running {
    engine: Arc<EmbeddedEngine>,
    commits: Receiver<Commit>,
    pages: Receiver<Result<Page, ReadError>>,
}

fn run(disk: &SimStorage, config: LogConfig) -> Running {
    let (commit_to, commits) = channel();
    let (page_to, pages) = channel();
    let feed = Arc::new(Channel {
        commits: Mutex::new(commit_to),
        pages: Mutex::new(page_to),
    });
    let clock = Arc::new(SystemClock::default());
    let engine = EmbeddedEngine::open_on(Arc::new(disk.clone()), config, clock, feed).unwrap();
    Running {
        engine,
        commits,
        pages,
    }
}

#[test]
fn commits_come_in_order_with_all_answers_and_can_be_read_at_once() {
    let disk = SimStorage::default();
    let running = run(&disk, config(10_000));
    let publishers: Vec<_> = (0..4)
        .map(|number| {
            let engine = Arc::clone(&running.engine);
            std::thread::spawn(move || {
                for at in 0..200u64 {
                    let mut wanted = submission(vec![draft(&format!("t/{number}"), "x")]);
                    wanted.reply = Some(ReplyTo { token: at, ..REPLY });
                    engine.submit(wanted).unwrap();
                }
            })
        })
        .collect();
    let (mut answers, mut last) = (0, Offset::ZERO);
    while answers < 800 {
        let commit = running.commits.recv().unwrap();
        answers += commit.answers.len();
        let batch = commit.batch.unwrap();
        assert!(batch.first() > last);
        last = batch.last();
        assert!(running.engine.head() >= last);
    }
    for publisher in publishers {
        publisher.join().unwrap();
    }
    assert_eq!(last, Offset(800));
    running
        .engine
        .read(request(&["t/+"], earliest(0)), REPLY)
        .unwrap();
    let page = running.pages.recv().unwrap().unwrap();
    assert_eq!(offsets(&page), (1..=800).collect::<Vec<_>>());
    running.engine.close();
    let refused = running.engine.submit(submission(vec![draft("t", "x")]));
    assert_eq!(refused, Err(SubmitError::Failed));
    drop(running);
    let again = run(&disk, config(10_000));
    assert_eq!(again.engine.head(), Offset(800));
}

#[test]
fn a_replay_alone_is_answered_without_a_batch() {
    let running = run(&SimStorage::default(), config(10_000));
    for round in 0..2 {
        running
            .engine
            .submit(submission(vec![keyed("t", "x", "k")]))
            .unwrap();
        let commit = running.commits.recv().unwrap();
        assert_eq!(commit.batch.is_some(), round == 0);
        assert_eq!(receipts(commit).unwrap()[0].replayed, round == 1);
    }
}

/// A feed that holds the commit thread until the test lets it go on.
struct Gate {
    entered: Mutex<Sender<()>>,
    go_on: Mutex<Receiver<()>>,
}

impl Feed for Gate {
    fn committed(&self, _commit: Commit) {
        self.entered.lock().unwrap().send(()).ok();
        self.go_on.lock().unwrap().recv().ok();
    }

    fn read(&self, _reply: ReplyTo, _result: Result<Page, ReadError>) {
        self.entered.lock().unwrap().send(()).ok();
        self.go_on.lock().unwrap().recv().ok();
    }
}

#[test]
fn over_the_bound_is_busy_at_once() {
    let (entered_to, entered) = channel();
    let (go_on, go_on_from) = channel();
    let feed = Arc::new(Gate {
        entered: Mutex::new(entered_to),
        go_on: Mutex::new(go_on_from),
    });
    let mut config = config(10_000);
    config.limits.submit_messages_max = 3;
    config.limits.reads_max = 2;
    let disk = Arc::new(SimStorage::default());
    let clock = Arc::new(SystemClock::default());
    let engine = EmbeddedEngine::open_on(disk, config, clock, feed).unwrap();
    let one = || submission(vec![draft("t", "x")]);
    engine.submit(one()).unwrap();
    entered.recv().unwrap();
    for _ in 0..3 {
        engine.submit(one()).unwrap();
    }
    assert_eq!(engine.submit(one()), Err(SubmitError::Busy));
    assert_eq!(engine.stats().busy, 1);
    assert_eq!(engine.stats().queued, 3);
    // One reading thread waits for the commit to leave the gate, the other for it: two more fill the queue.
    let read = || engine.read(request(&["t"], earliest(0)), REPLY);
    let mut accepted = 0;
    while read().is_ok() {
        accepted += 1;
        assert!(accepted < 100);
    }
    assert_eq!(read(), Err(ReadError::Busy));
    drop(go_on);
    engine.close();
}

#[test]
fn changes_of_states_count_for_the_bound() {
    let (entered_to, entered) = channel();
    let (go_on, go_on_from) = channel();
    let feed = Arc::new(Gate {
        entered: Mutex::new(entered_to),
        go_on: Mutex::new(go_on_from),
    });
    let mut config = config(10_000);
    config.limits.submit_messages_max = 4;
    config.limits.submit_bytes_max = 1_000;
    let disk = Arc::new(SimStorage::default());
    let clock = Arc::new(SystemClock::default());
    let engine = EmbeddedEngine::open_on(disk, config, clock, feed).unwrap();
    let states = |states| {
        engine.submit(Submission {
            states,
            ..submission(Vec::new())
        })
    };
    states(vec![set("a", "1")]).unwrap();
    entered.recv().unwrap();
    states(vec![set("a", &"x".repeat(500))]).unwrap();
    let large = states(vec![set("b", &"x".repeat(500))]);
    assert_eq!(large, Err(SubmitError::Busy), "bytes");
    states(vec![set("b", "x"), forget("a")]).unwrap();
    let many = states(vec![set("b", "x"), forget("a")]);
    assert_eq!(many, Err(SubmitError::Busy), "count");
    let draft = engine.submit(submission(vec![draft("t", "x")]));
    assert_eq!(draft, Ok(()));
    assert_eq!(engine.stats().queued, 4);
    assert_eq!(engine.stats().busy, 2);
    drop(go_on);
    engine.close();
    assert_eq!(engine.states(), [("b".into(), "x".into())]);
}

#[test]
fn states_are_replaced_by_snapshots_under_load_and_all_is_there_afterwards() {
    const NAMES: u64 = 50;
    const ROUNDS: u64 = 100;
    let disk = SimStorage::default();
    let config = LogConfig {
        states_slack_bytes: 1_000,
        ..config(1 << 20)
    };
    let running = run(&disk, config.clone());
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let engine = Arc::clone(&running.engine);
            std::thread::spawn(move || {
                for at in 0..NAMES * ROUNDS {
                    let name = format!("{writer}/{}", at % NAMES);
                    let wanted = Submission {
                        drafts: Vec::new(),
                        states: vec![set(&name, &at.to_string())],
                        // Only the last of each writer is waited for.
                        reply: (at + 1 == NAMES * ROUNDS).then_some(REPLY),
                    };
                    engine.submit(wanted).unwrap();
                }
            })
        })
        .collect();
    let mut answered = 0;
    while answered < 4 {
        let commit = running.commits.recv().unwrap();
        assert!(commit.batch.is_none() && !commit.answers.is_empty());
        answered += commit.answers.len();
        assert_eq!(receipts(commit), Ok(Vec::new()));
    }
    for writer in writers {
        writer.join().unwrap();
    }
    let expect: Vec<(String, String)> = (0..4)
        .flat_map(|writer| (0..NAMES).map(move |name| (writer, name)))
        .map(|(writer, name)| {
            let newest = NAMES * (ROUNDS - 1) + name;
            (format!("{writer}/{name}"), newest.to_string())
        })
        .collect();
    let states = |engine: &EmbeddedEngine| {
        let states = engine.states().into_iter();
        let text = |value: &[u8]| str::from_utf8(value).unwrap().to_owned();
        let mut states: Vec<_> = states.map(|(n, v)| (n.to_string(), text(&v))).collect();
        states.sort();
        states
    };
    let mut expect = expect;
    expect.sort();
    assert_eq!(states(&running.engine), expect);
    assert_eq!(running.engine.stats().states, 4 * NAMES);
    drop(running);
    disk.reboot(1);
    let again = run(&disk, config);
    assert_eq!(states(&again.engine), expect);
}

#[test]
fn after_a_failed_write_publishers_are_told_and_the_health_says_why() {
    let disk = SimStorage::default();
    let running = run(&disk, config(1 << 16));
    running
        .engine
        .submit(submission(vec![draft("t", "x")]))
        .unwrap();
    receipts(running.commits.recv().unwrap()).unwrap();
    disk.set_faults(Faults {
        syncs_left: Some(0),
        ..Faults::default()
    });
    running
        .engine
        .submit(submission(vec![draft("t", "y")]))
        .unwrap();
    let commit = running.commits.recv().unwrap();
    assert!(commit.batch.is_none());
    let Answer::Published(answer) = &commit.answers[0].1 else {
        panic!("an answer to a read");
    };
    assert_eq!(answer.as_ref().unwrap_err(), &PublishError::Failed);
    assert!(matches!(running.engine.health(), EngineHealth::Failed(why) if why.contains("sync")));
    let refused = running.engine.submit(submission(vec![draft("t", "z")]));
    assert_eq!(refused, Err(SubmitError::Failed));
    running
        .engine
        .read(request(&["t"], earliest(0)), REPLY)
        .unwrap();
    let page = running.pages.recv().unwrap().unwrap();
    assert_eq!(payloads(&page), ["x"]);
}
