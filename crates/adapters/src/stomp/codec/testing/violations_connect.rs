//! Frames before the connection has a version, that break a rule.

use super::{Outcome, Rule, State, Violating, state, violations};

violations! {
    before UnknownCommand close "an http request" b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    before UnknownCommand close "an http proxy request" b"CONNECT a:443 HTTP/1.1\r\n\r\n";
    before UnknownCommand close "a tls hello" b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    before UnknownCommand close "an mqtt connect" b"\x10\x0c\x00\x04MQTT\x04\x02\x00<\x00\x00";
    before UnknownCommand close "connect in small letters" b"connect\n\n\0";
    before UnknownCommand close "a space after connect" b"CONNECT \n\n\0";
    before UnknownCommand close "a space before connect" b" CONNECT\n\n\0";
    before UnknownCommand close "connect with headers on its line" b"CONNECT accept-version:1.2\n\n\0";
    before UnknownCommand close "connect cut short" b"CONN\n\n\0";
    before UnknownCommand close "connect that nul ends" b"CONNECT\0";
    before UnknownCommand close "nul at first" b"\0CONNECT\n\n\0";
    before UnknownCommand close "a byte order mark at first" b"\xef\xbb\xbfCONNECT\n\n\0";
    before UnknownCommand close "two carriage returns after connect" b"CONNECT\r\r\n\n\0";
    before StrayCarriageReturn close "a carriage return at first" b"\rCONNECT\n\n\0";
    before StrayCarriageReturn close "a carriage return after a heart-beat at first" b"\n\r\r\n";
    before FirstNotConnect error "send at first" b"SEND\ndestination:/a\n\n\0";
    before FirstNotConnect error "send with a receipt at first" b"SEND\nreceipt:1\n\n\0";
    before FirstNotConnect error "nack at first" b"NACK\n\n\0";
    before FirstNotConnect error "disconnect at first" b"DISCONNECT\n\n\0";
    before ServerCommand error "connected from a client" b"CONNECTED\n\n\0";
    before ServerCommand error "error from a client at first" b"ERROR\n\n\0";
    before NulInHeaders error "connect without an empty line" b"CONNECT\naccept-version:1.2\n\0";
    before NulInHeaders error "connect without a line" b"CONNECT\n\0";
    before NulInHeaders error "connect with nul in the passcode" b"CONNECT\npasscode:a\0b\n\n\0";
    before HeaderWithoutColon error "connect with a header without colon" b"CONNECT\naccept-version\n\n\0";
    before HeaderWithoutColon error "connect with a receipt and a header without colon" b"CONNECT\nreceipt:1\nx\n\n\0";
    before EmptyHeaderName error "connect with a header without name" b"CONNECT\n:1.2\n\n\0";
    before StrayCarriageReturn error "connect with a carriage return in a value" b"CONNECT\naccept-version:1.2\nhost:a\rb\n\n\0";
    before StrayCarriageReturn error "connect of 1.0 with a carriage return in a value" b"CONNECT\nlogin:a\rb\n\n\0";
    before IllFormedText error "connect with a login that is not utf-8" b"CONNECT\nlogin:\xff\n\n\0";
    before UndefinedEscape error "stomp with an undefined escape" b"STOMP\naccept-version:1.2\npasscode:a\\tb\n\n\0";
    before UndefinedEscape error "stomp that ends a value with a backslash" b"STOMP\npasscode:a\\\n\n\0";
    before ContentLength error "connect with a bad content-length" b"CONNECT\ncontent-length:x\n\n\0";
    before BodyNotAllowed error "connect with a body" b"CONNECT\naccept-version:1.2\n\nbody\0";
    before BodyNotAllowed error "connect with a counted body" b"CONNECT\naccept-version:1.1\ncontent-length:4\n\nbody\0";
    before BodyNotAllowed error "connect of a version of the future with a body" b"CONNECT\naccept-version:2.0\n\nbody\0";
    before BodyNotAllowed error "connect with a receipt and a body" b"CONNECT\naccept-version:1.2\nreceipt:1\n\nbody\0";
    before BodyTooLarge error "connect of 1.0 with a body over the limit" b"CONNECT\ncontent-length:32769\n\n";
    before TooManyHeaders error "connect with too many headers" b"CONNECT\na:1\na:2\na:3\na:4\na:5\na:6\na:7\na:8\na:9\n\n\0";
    before HeaderTooLong error "connect with a header over the limit" b"CONNECT\na:34567890123456789012345678901234567890123456789\n\n\0";
    before HeaderTooLong error "connect with a header that does not end" b"CONNECT\naaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    before HeadersTooLarge error "connect with headers over the limit" b"CONNECT\na:345678901234567890123456789012345678901234567\nb:345678901234567890123456789012345678901234567\nc:345678901234567890123456789012345678901234567\n\n\0";
}
