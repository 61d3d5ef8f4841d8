//! Other servers that are asked who peers are, and what they may do: issuers, authorization servers, backends.

mod callouts;
mod introspection;
mod keys;
mod permissions;
mod reloads;

use serde_json::{Value, json};
use tidings_e2e::backend::{Backend, Reply};
use tidings_e2e::http::{Request, Response};
use tidings_e2e::{Options, Server};

/// A backend with a server that asks it.
struct World {
    backend: Backend,
    server: Server,
}

impl World {
    /// With these options set so; `{url}` is the backend's.
    #[track_caller]
    fn start(backend: Backend, settings: &[(&str, &str)]) -> Self {
        let mut options = Options::default()
            .set("auth.failures_max", 0)
            .set("auth.jwt_leeway_ms", 0)
            .set("log_output.level", "trace");
        for (key, value) in settings {
            options = options.set(
                key,
                value.replace("{url}", backend.url("").trim_end_matches('/')),
            );
        }
        let server = Server::start(options);
        Self { backend, server }
    }

    /// Publishes with a bearer token.
    #[track_caller]
    fn publish(&self, topic: &str, token: &str) -> Response {
        Request::post(&format!("/v1/topics/{topic}"))
            .header("Authorization", &format!("Bearer {token}"))
            .body("x")
            .send(self.server.address())
    }

    #[track_caller]
    fn status(&self, token: &str) -> u16 {
        self.publish("own/a", token).status
    }

    /// How many questions of a kind came to something.
    fn asks(&self, source: &str, result: &str) -> u64 {
        let label = format!(r#"source="{source}",result="{result}""#);
        self.server.metric("tidings_auth_asks_total", &label) as u64
    }
}

/// What a token, or a backend, grants.
fn grants() -> Value {
    json!({"publish": ["own/#"], "subscribe": ["own/#"], "deny": {"publish": ["own/locked"]}})
}

fn now_s() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap().as_secs()
}

/// Everything that a server can say which makes no sense.
fn lies() -> [Reply; 9] {
    let raw = |bytes: &[u8]| Reply::Raw(bytes.to_vec());
    let mut huge = b"HTTP/1.1 200 OK\r\n\r\n{\"keys\":[\"".to_vec();
    huge.resize(600_000, b'x');
    [
        Reply::status(500),
        Reply::status(204),
        Reply::Http(302, "Location: /elsewhere\r\n".to_owned(), String::new()),
        Reply::Http(200, String::new(), "<html>not here</html>".to_owned()),
        Reply::json(&json!({"keys": []})),
        Reply::json(&json!([])),
        Reply::Raw(huge),
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{\"keys\""),
        raw(b""),
    ]
}
