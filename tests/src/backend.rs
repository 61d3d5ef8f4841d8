//! A server that Tidings asks: an issuer of tokens, an authorization server, a backend. It says what the test has it
//! say, also nonsense, and remembers what it was asked.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;

use crate::spawn;

/// What it was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Method and path.
    pub line: String,
    /// `Authorization`, if there was one.
    pub authorization: Option<String>,
    /// The body.
    pub body: String,
}

impl Asked {
    /// The body, which is JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// What it says.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A status, more headers as lines, and a body.
    Http(u16, String, String),
    /// These bytes, whatever they are, and the end.
    Raw(Vec<u8>),
    /// Nothing for so long, then that.
    Late(Duration, Box<Reply>),
}

impl Reply {
    /// 200 with JSON.
    pub fn json(body: &Value) -> Self {
        Self::Http(200, String::new(), body.to_string())
    }

    /// A status without anything.
    pub fn status(status: u16) -> Self {
        Self::Http(status, String::new(), String::new())
    }
}

type Say = Arc<dyn Fn(&Asked) -> Reply + Send + Sync>;

#[derive(Default)]
struct State {
    by_path: HashMap<String, Say>,
    asked: Vec<Asked>,
    /// Whether connections are closed unanswered.
    is_down: bool,
}

/// The server.
pub struct Backend {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for Backend {
    fn default() -> Self {
        Self::start()
    }
}

impl Backend {
    /// Starts one that says 404 to everything.
    #[track_caller]
    pub fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let address = listener.local_addr().expect("it has an address");
        let state = Arc::new(Mutex::new(State::default()));
        let serving = Arc::clone(&state);
        spawn(move || {
            for socket in listener.incoming().flatten() {
                let state = Arc::clone(&serving);
                spawn(move || serve(socket, &state));
            }
        });
        Self { address, state }
    }

    /// Where something is.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Has it say this at a path from now on.
    pub fn on(&self, path: &str, say: impl Fn(&Asked) -> Reply + Send + Sync + 'static) {
        lock(&self.state)
            .by_path
            .insert(path.to_owned(), Arc::new(say));
    }

    /// Has it say always the same at a path from now on.
    pub fn always(&self, path: &str, reply: Reply) {
        self.on(path, move |_| reply.clone());
    }

    /// Whether it closes every connection without a word.
    pub fn set_down(&self, is_down: bool) {
        lock(&self.state).is_down = is_down;
    }

    /// What it was asked at a path.
    pub fn asked(&self, path: &str) -> Vec<Asked> {
        let is_there = |asked: &&Asked| asked.line.split(' ').nth(1) == Some(path);
        lock(&self.state)
            .asked
            .iter()
            .filter(is_there)
            .cloned()
            .collect()
    }
}

fn serve(socket: TcpStream, state: &Mutex<State>) {
    let Ok(mut writer) = socket.try_clone() else {
        return;
    };
    let mut reader = BufReader::new(socket);
    while let Some(asked) = read(&mut reader) {
        let path = asked.line.split(' ').nth(1).unwrap_or_default().to_owned();
        let say = {
            let mut state = lock(state);
            state.asked.push(asked.clone());
            if state.is_down {
                return;
            }
            state.by_path.get(&path).cloned()
        };
        let mut reply = say.map_or(Reply::status(404), |say| say(&asked));
        while let Reply::Late(pause, then) = reply {
            std::thread::sleep(pause);
            reply = *then;
        }
        let written = match reply {
            Reply::Http(status, headers, body) => {
                let length = body.len();
                let head = format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {length}");
                // At once: what is written piece by piece waits for the peer's acknowledgement of the first one.
                writer.write_all(format!("{head}\r\n\r\n{body}").as_bytes())
            }
            Reply::Raw(bytes) => {
                // The peer may be gone by then, or by the next line.
                drop(writer.write_all(&bytes));
                return;
            }
            Reply::Late(..) => Ok(()),
        };
        if written.is_err() {
            return;
        }
    }
}

fn read(reader: &mut impl BufRead) -> Option<Asked> {
    let mut line = || {
        let mut line = String::new();
        let read = reader.read_line(&mut line).ok()?;
        (read > 0).then(|| line.trim_end().to_owned())
    };
    let mut asked = Asked {
        line: line()?,
        authorization: None,
        body: String::new(),
    };
    let mut length = 0;
    loop {
        let header = line()?;
        match header.split_once(": ") {
            None => break,
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => {
                asked.authorization = Some(value.to_owned());
            }
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = value.parse().ok()?;
            }
            Some(_) => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    asked.body = String::from_utf8(body).ok()?;
    Some(asked)
}
