//! What the first bytes of a connection are, where they came to a listener of another protocol.

use std::ops::ControlFlow;

/// How requests begin (RFC 9110, 9): no packet of MQTT and no frame of STOMP begins with these bytes.
const METHODS: [&[u8]; 8] = [
    b"GET ",
    b"POST ",
    b"PUT ",
    b"HEAD ",
    b"DELETE ",
    b"PATCH ",
    b"OPTIONS ",
    b"PRI * ",
];

/// How STOMP begins (CONNECT or STOMP Frame): as a request of HTTP, CONNECT would have a space there.
const STOMP: [&[u8]; 4] = [b"CONNECT\n", b"CONNECT\r", b"STOMP\n", b"STOMP\r"];

/// Whether this is the beginning of a request.
pub fn is_http(bytes: &[u8]) -> bool {
    METHODS.iter().any(|method| bytes.starts_with(method))
}

/// Whether this is the beginning of a request, as soon as that is known.
pub fn judge_http(bytes: &[u8]) -> ControlFlow<bool> {
    let may_become = |method: &&[u8]| method.len() > bytes.len() && method.starts_with(bytes);
    if METHODS.iter().any(may_become) {
        ControlFlow::Continue(())
    } else {
        ControlFlow::Break(is_http(bytes))
    }
}

/// Whether this is the beginning of a CONNECT (MQTT 5, 3.1): its type, up to four bytes of length, its name.
pub fn is_mqtt(bytes: &[u8]) -> bool {
    let mut names = bytes.windows(6);
    bytes.first() == Some(&0x10) && names.any(|name| name == b"\0\x04MQTT" || name == b"\0\x06MQIs")
}

/// Whether this is the beginning of TLS: a record with a handshake, of a version that begins with 3 (RFC 8446, 5.1).
pub fn is_tls(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x16\x03")
}

/// Whether this is the beginning of the first frame of STOMP.
pub fn is_stomp(bytes: &[u8]) -> bool {
    STOMP.iter().any(|line| bytes.starts_with(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_told_from_a_packet() {
        assert!(is_http(b"GET / HTTP/1.1\r\n"));
        assert!(is_http(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
        assert!(!is_http(b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00"));
        assert!(!is_http(b"\x16\x03\x01\x02\x00"));
        assert!(!is_http(b"G"));
    }

    #[test]
    fn tls_is_none_of_the_protocols() {
        let hello = b"\x16\x03\x01\x02\x00\x01";
        assert!(is_tls(hello));
        assert!(!is_http(hello) && !is_stomp(hello) && !is_mqtt(hello));
        // A CONNECT, a request and a line end of STOMP.
        for other in [&b"\x10\x16"[..], b"GET ", b"\n", b"\x16"] {
            assert!(!is_tls(other));
        }
    }

    #[test]
    fn a_request_is_known_at_the_first_byte_that_decides() {
        for undecided in [&b""[..], b"G", b"GET", b"D", b"OPTIONS", b"PRI *"] {
            assert_eq!(judge_http(undecided), ControlFlow::Continue(()));
        }
        for request in [&b"GET "[..], b"POST /", b"OPTIONS * HTTP/1.1\r\n"] {
            assert_eq!(judge_http(request), ControlFlow::Break(true));
        }
        for frame in [&b"\n"[..], b"C", b"STOMP\n", b"DI", b"GETS", b"\x16"] {
            assert_eq!(judge_http(frame), ControlFlow::Break(false));
        }
    }
}
