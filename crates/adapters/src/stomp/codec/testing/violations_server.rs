//! Frames of a server, that break a rule; a client has no ERROR to answer with.

use super::{Outcome, Rule, State, Version, Violating, state, violations};

violations! {
    server_before FirstNotConnected close "message before connected" b"MESSAGE\n\n\0";
    server_before FirstNotConnected close "receipt before connected" b"RECEIPT\nreceipt-id:1\n\n\0";
    server_before ClientCommand close "connect from a server" b"CONNECT\n\n\0";
    server_before UnknownCommand close "an http response" b"HTTP/1.1 400 Bad Request\r\n\r\n";
    server_before BodyNotAllowed close "connected with a body" b"CONNECTED\nversion:1.2\n\nbody\0";
    server_before StrayCarriageReturn close "connected with a carriage return" b"CONNECTED\nserver:a\rb\n\n\0";
    server_v12 SecondConnect close "1.2 second connected" b"CONNECTED\nversion:1.2\n\n\0";
    server_v12 ClientCommand close "1.2 send from a server" b"SEND\n\n\0";
    server_v12 UndefinedEscape close "1.2 message with an undefined escape" b"MESSAGE\na:\\t\n\n\0";
    server_v11 UndefinedEscape close "1.1 message with an escape of 1.2" b"MESSAGE\na:\\r\n\n\0";
    server_v12 BodyNotAllowed close "1.2 receipt with a body" b"RECEIPT\nreceipt-id:1\n\nbody\0";
    server_v12 BodyNotTerminated close "1.2 message with a wrong length" b"MESSAGE\ncontent-length:1\n\nbody\0";
    server_v10 NulInHeaders close "1.0 error without an empty line" b"ERROR\nmessage:a\n\0";
}
