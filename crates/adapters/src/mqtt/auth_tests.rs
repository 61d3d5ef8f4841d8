//! Enhanced authentication, with a method of the tests.

use bytes::Bytes;
use tidings_ports::Ending;

use super::auth::{Method, Verdict};
use super::testing::*;

/// Accepts "yes", asks again for "more".
struct Riddle;

impl Method for Riddle {
    fn step(&mut self, data: Option<&Bytes>) -> Verdict {
        match data.map(|data| &data[..]) {
            Some(b"yes") => Verdict::Accept(Some(Bytes::from_static(b"ok"))),
            Some(b"more") => Verdict::Continue(Some(Bytes::from_static(b"?"))),
            _ => Verdict::Reject,
        }
    }
}

fn riddles(name: &str) -> Option<Box<dyn Method>> {
    (name == "riddle").then(|| Box::new(Riddle) as Box<dyn Method>)
}

fn auth(reason: u8, method: &str, data: &str) -> Vec<u8> {
    let props = [&[0x15][..], &text(method), &[0x16], &text(data)].concat();
    packet(0xf0, &[&[reason], &properties(&[&props])])
}

fn riddle_connect(data: &str) -> Vec<u8> {
    let props = [&[0x15][..], &text("riddle"), &[0x16], &text(data)].concat();
    connect5("a", true, &[&props])
}

fn riddle_peer(world: &mut World) -> Peer {
    let mut peer = world.open();
    let opening = peer.conversation.opening.as_mut();
    opening.expect("there was no CONNECT").methods = riddles;
    peer
}

#[test]
fn authentication_takes_as_many_steps_as_its_method_wants() {
    let mut world = World::new();
    let mut peer = riddle_peer(&mut world);
    let out = world.receive(&mut peer, &riddle_connect("more"));
    assert_eq!(hex(&out), hex(&auth(0x18, "riddle", "?")));
    let out = world.receive(&mut peer, &auth(0x18, "riddle", "more"));
    assert_eq!(hex(&out), hex(&auth(0x18, "riddle", "?")));
    let out = world.receive(&mut peer, &auth(0x18, "riddle", "yes"));
    assert_eq!((out[0], out[3]), (0x20, 0));
    assert!(out.ends_with(&[&[0x15][..], &text("riddle"), &[0x16], &text("ok")].concat()));
    // Again, on the open connection.
    let out = world.receive(&mut peer, &auth(0x19, "riddle", "more"));
    assert_eq!(hex(&out), hex(&auth(0x18, "riddle", "?")));
    assert_eq!(
        hex(&world.receive(&mut peer, &[0xc0, 0])),
        "d0 00",
        "the connection goes on meanwhile"
    );
    let out = world.receive(&mut peer, &auth(0x18, "riddle", "yes"));
    assert_eq!(hex(&out), hex(&auth(0, "riddle", "ok")));
}

#[test]
fn authentication_that_fails_ends_the_connection() {
    for (steps, first, reason) in [
        (vec![riddle_connect("no")], 0x20, 0x87),
        (
            vec![riddle_connect("more"), auth(0x18, "riddle", "no")],
            0x20,
            0x87,
        ),
        (
            vec![riddle_connect("more"), auth(0x18, "other", "yes")],
            0x20,
            0x82,
        ),
        (
            vec![riddle_connect("more"), auth(0x19, "riddle", "yes")],
            0x20,
            0x82,
        ),
        (
            vec![riddle_connect("yes"), auth(0x18, "riddle", "yes")],
            0xe0,
            0x82,
        ),
        (
            vec![riddle_connect("yes"), auth(0x19, "riddle", "no")],
            0xe0,
            0x87,
        ),
        (vec![riddle_connect("more"), vec![0xc0, 0]], 0x20, 0x82),
        (vec![riddle_connect("more"), vec![0xc1, 0]], 0x20, 0x81),
    ] {
        let mut world = World::new();
        let mut peer = riddle_peer(&mut world);
        let mut out = Vec::new();
        for step in &steps {
            out = world.receive(&mut peer, step);
        }
        let said = if first == 0x20 { out[3] } else { out[2] };
        assert_eq!((out[0], said), (first, reason));
        assert_eq!(peer.ending, Some(Ending::AfterFlush));
    }
}
