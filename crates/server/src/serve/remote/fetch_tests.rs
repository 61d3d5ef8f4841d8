use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::*;

/// Serves connections until the process ends; counts them.
fn serve(each: impl Fn(TcpStream) + Send + 'static) -> (SocketAddr, Arc<AtomicU32>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            counted.fetch_add(1, Relaxed);
            each(socket.unwrap());
        }
    });
    (address, count)
}

/// Reads a request's head; `false` if there is none.
fn read_head(socket: &mut TcpStream) -> bool {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match socket.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return false,
        }
    }
    true
}

/// Answers one request with these bytes, and closes.
fn answers(bytes: &'static [u8]) -> SocketAddr {
    let answer = move |mut socket: TcpStream| {
        read_head(&mut socket);
        drop(socket.write_all(bytes));
    };
    serve(answer).0
}

fn ask(client: &Client, address: SocketAddr, times: usize) -> Vec<Result<Answer, FetchError>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let url = ServerUrl::parse(&format!("http://{address}/a?b"), false).unwrap();
    let bounds = Bounds {
        time: Duration::from_millis(400),
        bytes: 1_000,
    };
    runtime.block_on(async {
        let mut said = Vec::new();
        for _ in 0..times {
            said.push(
                client
                    .send(&url, Request::new(Full::default()), bounds)
                    .await,
            );
        }
        said
    })
}

fn once(address: SocketAddr) -> Result<Answer, FetchError> {
    ask(&Client::new(None).unwrap(), address, 1).remove(0)
}

#[test]
fn an_answer_comes_whole() {
    let answer = once(answers(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")).unwrap();
    assert_eq!(
        (answer.head.status, &answer.body[..]),
        (StatusCode::OK, &b"ok"[..])
    );
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n";
    assert_eq!(&once(answers(chunked)).unwrap().body[..], b"ok");
}

#[test]
fn a_redirect_is_an_answer_like_any_other() {
    let answer = answers(
        b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n",
    );
    assert_eq!(once(answer).unwrap().head.status, StatusCode::FOUND);
    let told = FetchError::Status(StatusCode::FOUND).to_string();
    assert!(told.contains("redirects are not followed"), "{told}");
}

#[test]
fn servers_that_are_slow_endless_or_lie_cost_no_more_than_the_bounds() {
    let (silent, _) = serve(std::mem::forget);
    assert!(matches!(once(silent), Err(FetchError::Timeout)));
    // One byte at a time never ends.
    let (dripping, _) = serve(|mut socket| {
        read_head(&mut socket);
        drop(socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\n"));
        while socket.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    assert!(matches!(once(dripping), Err(FetchError::Timeout)));
    let (endless, _) = serve(|mut socket| {
        read_head(&mut socket);
        drop(socket.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"));
        while socket.write_all(&[b'x'; 4096]).is_ok() {}
    });
    assert!(matches!(once(endless), Err(FetchError::TooLarge)));
    let (heads, _) = serve(|mut socket| {
        drop(socket.write_all(b"HTTP/1.1 200 OK\r\n"));
        while socket
            .write_all(b"x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n")
            .is_ok()
        {}
    });
    assert!(matches!(once(heads), Err(FetchError::Http(_))));
    for lie in [
        &b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort"[..],
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"",
    ] {
        assert!(
            matches!(once(answers(lie)), Err(FetchError::Http(_))),
            "{lie:?}"
        );
    }
    let nobody = TcpListener::bind(("127.0.0.1", 0))
        .unwrap()
        .local_addr()
        .unwrap();
    assert!(matches!(once(nobody), Err(FetchError::Connect(_))));
}

#[test]
fn a_connection_is_used_again_and_one_that_was_closed_is_replaced() {
    let (keeping, count) = serve(|mut socket| {
        while read_head(&mut socket) {
            drop(socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"));
        }
    });
    let client = Client::new(None).unwrap();
    let said = ask(&client, keeping, 3);
    assert!(
        said.iter().all(Result::is_ok) && count.load(Relaxed) == 1,
        "{said:?}"
    );
    // Its word that the connection stays open is broken each time.
    let (closing, count) = serve(|mut socket| {
        read_head(&mut socket);
        drop(socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"));
    });
    let said = ask(&client, closing, 3);
    assert!(
        said.iter().all(Result::is_ok) && count.load(Relaxed) == 3,
        "{said:?}"
    );
}
