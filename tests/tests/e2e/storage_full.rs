//! A full disk: publishers are told, subscribers are served, and nothing acknowledged is lost.

use tidings_e2e::http::{get, post};
use tidings_e2e::sse::EventStream;
use tidings_e2e::{Options, Server};

const MIB: u64 = 1 << 20;

#[test]
fn a_full_disk_refuses_publishers_and_serves_subscribers() {
    let limited = Options::default()
        .set("log.segment_bytes", 64 * MIB)
        .file_blocks_max(2 * 1024);
    let mut server = Server::start(limited.clone());
    let payload = "x".repeat(64 << 10);
    let mut stored = Vec::new();
    let refused = loop {
        let response = post(server.address(), "/v1/topics/full", payload.as_bytes());
        if response.status != 201 {
            break response;
        }
        stored.push(response.json()["id"].as_str().unwrap().to_owned());
        assert!(stored.len() < 64, "two MiB hold no 64 messages of 64 KiB");
    };
    refused.assert_problem(507, "storage-full");
    assert!(refused.header("retry-after").is_some());
    assert!(stored.len() > 16);
    assert!(server.metric("tidings_refusals_total", "\"storage-full\"") >= 1.0);

    let read_all = |server: &Server| {
        let mut stream = EventStream::open(server.address(), "/v1/topics/full?after=earliest");
        for id in &stored {
            assert_eq!(stream.event().id.as_ref(), Some(id));
        }
    };
    read_all(&server);
    assert_eq!(
        get(server.address(), "/readyz").status,
        200,
        "subscribers are served"
    );

    // With room again, it goes on where it was.
    server.kill();
    let server = server.restart_with(Options::default().set("log.segment_bytes", 64 * MIB));
    read_all(&server);
    server.publish("full", "there is room");
    assert_eq!(server.history("full").len(), stored.len() + 1);
}
