//! Retained messages: the last of each topic, for whoever asks, also after a restart.

use serde_json::{Value, json};
use tidings_e2e::http::Request;
use tidings_e2e::websocket::WebSocket;
use tidings_e2e::{Options, Server};

fn retain(server: &Server, topic: &str, text: &str) {
    let answer = Request::post(&format!("/v1/topics/{topic}"))
        .header("Tidings-Retain", "true")
        .body(text)
        .send(server.address());
    assert_eq!(answer.status, 201);
}

fn retained(server: &Server) -> Vec<(String, String)> {
    let page = server.page("r/%23", "after=retained").json();
    let messages = page["messages"].as_array().expect("messages");
    let text = |message: &Value, field: &str| message[field].as_str().expect("text").to_owned();
    messages
        .iter()
        .map(|message| (text(message, "topic"), text(message, "data")))
        .collect()
}

fn pairs(expect: &[(&str, &str)]) -> Vec<(String, String)> {
    expect
        .iter()
        .map(|(topic, data)| ((*topic).to_owned(), (*data).to_owned()))
        .collect()
}

#[test]
fn the_last_retained_message_of_each_topic_is_kept_until_it_is_cleared() {
    let server = Server::start(Options::default());
    retain(&server, "r/a", "old");
    retain(&server, "r/b", "b");
    retain(&server, "r/a", "new");
    server.publish("r/a", "not retained");
    let expect = pairs(&[("r/b", "b"), ("r/a", "new")]);
    assert_eq!(retained(&server), expect);
    let mut server = server;
    server.kill();
    let server = server.restart();
    assert_eq!(retained(&server), expect);

    let mut socket = WebSocket::tidings(server.address());
    socket.ask(&json!({"op": "subscribe", "id": 1, "topic": "r/#", "after": "retained"}));
    assert_eq!(socket.json()["op"], "ok");
    assert_eq!(socket.json()["data"], "b");
    assert_eq!(socket.json()["data"], "new");
    // And then live, whether retained or not, each once.
    server.publish("r/b", "live");
    assert_eq!(socket.json()["data"], "live");
    retain(&server, "r/b", "retained and live");
    assert_eq!(socket.json()["data"], "retained and live");
    retain(&server, "r/a", "");
    assert_eq!(socket.json()["data"], "");
    let expect = pairs(&[("r/b", "retained and live")]);
    assert_eq!(retained(&server), expect);
    let server = server.restart();
    assert_eq!(retained(&server), expect);
}
