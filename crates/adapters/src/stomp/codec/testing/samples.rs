//! Valid frames: the examples of the specifications, and one for each liberty that they give.

use super::{Command, Sample, State, Version, state};

/// Rows of `state Command "name" b"bytes" => [headers] b"body";`.
macro_rules! samples {
    ($($state:ident $command:ident $name:literal $bytes:literal => [$($header:literal : $value:literal),*] $body:literal;)*) => {
        const ROWS: &[Sample] = &[$(Sample {
            name: $name,
            state: state!($state),
            bytes: $bytes,
            command: Command::$command,
            headers: &[$(($header, $value)),*],
            body: $body,
        },)*];
    };
}

/// Every one.
pub(in crate::stomp) const fn samples() -> &'static [Sample] {
    ROWS
}

samples! {
    // The examples of 1.0, with the spaces of its text.
    before Connect "1.0 connect" b"CONNECT\nlogin: <username>\npasscode:<passcode>\n\n\0" => ["login": "<username>", "passcode": "<passcode>"] b"";
    before Connect "1.0 connect without headers" b"CONNECT\n\n\0" => [] b"";
    before Connect "1.0 connect of a client that names its version" b"CONNECT\naccept-version:1.0\nlogin: a \n\n\0" => ["accept-version": "1.0", "login": "a"] b"";
    server_before Connected "1.0 connected" b"CONNECTED\nsession: <session-id>\n\n\0" => ["session": "<session-id>"] b"";
    v10 Send "1.0 send" b"SEND\ndestination:/queue/a\n\nhello queue a\n\0" => ["destination": "/queue/a"] b"hello queue a\n";
    v10 Subscribe "1.0 subscribe" b"SUBSCRIBE\ndestination: /queue/foo\nack: client\n\n\0" => ["destination": "/queue/foo", "ack": "client"] b"";
    v10 Unsubscribe "1.0 unsubscribe" b"UNSUBSCRIBE\ndestination: /queue/a\n\n\0" => ["destination": "/queue/a"] b"";
    v10 Begin "1.0 begin" b"BEGIN\ntransaction: <transaction-identifier>\n\n\0" => ["transaction": "<transaction-identifier>"] b"";
    v10 Commit "1.0 commit" b"COMMIT\ntransaction: <transaction-identifier>\n\n\0" => ["transaction": "<transaction-identifier>"] b"";
    v10 Ack "1.0 ack" b"ACK\nmessage-id: <message-identifier>\ntransaction: <transaction-identifier>\n\n\0" => ["message-id": "<message-identifier>", "transaction": "<transaction-identifier>"] b"";
    v10 Abort "1.0 abort" b"ABORT\ntransaction: <transaction-identifier>\n\n\0" => ["transaction": "<transaction-identifier>"] b"";
    v10 Disconnect "1.0 disconnect" b"DISCONNECT\n\n\0" => [] b"";
    v10 Send "1.0 receipt" b"SEND\ndestination:/queue/a\nreceipt:message-12345\n\nHello a!\0" => ["destination": "/queue/a", "receipt": "message-12345"] b"Hello a!";
    server_v10 Message "1.0 message" b"MESSAGE\ndestination:/queue/a\nmessage-id: <message-identifier>\n\nhello queue a\0" => ["destination": "/queue/a", "message-id": "<message-identifier>"] b"hello queue a";
    server_v10 Receipt "1.0 receipt of a server" b"RECEIPT\nreceipt-id:message-12345\n\n\0" => ["receipt-id": "message-12345"] b"";
    server_v10 Error "1.0 error" b"ERROR\nmessage: malformed packet received\n\nThe message:\n-----\n\0" => ["message": "malformed packet received"] b"The message:\n-----\n";
    // 1.0 has no escapes, trims, and ignores bodies.
    v10 Send "1.0 backslashes are as they are" b"SEND\ndestination:\\topic\\n\nc:\\c\\\\\n\n\0" => ["destination": "\\topic\\n", "c": "\\c\\\\"] b"";
    v10 Send "1.0 spaces and tabs around a value are trimmed" b"SEND\na: \t b c\t\n d :  \n\n\0" => ["a": "b c", " d ": ""] b"";
    v10 Subscribe "1.0 a body of subscribe is ignored" b"SUBSCRIBE\ndestination:/a\n\nbody\0" => ["destination": "/a"] b"";
    v10 Subscribe "1.0 a counted body of subscribe is ignored" b"SUBSCRIBE\ncontent-length:3\n\n\0b\0\0" => ["content-length": "3"] b"";
    before Connect "1.0 a body of connect is ignored" b"CONNECT\nlogin:a\n\nbody\0" => ["login": "a"] b"";
    v10 Send "1.0 a carriage return within a value" b"SEND\na:b\rc\r\n\r\n\0" => ["a": "b\rc"] b"";
    // The examples of 1.1 and 1.2.
    before Connect "1.1 connect" b"CONNECT\naccept-version:1.1\nhost:stomp.github.org\n\n\0" => ["accept-version": "1.1", "host": "stomp.github.org"] b"";
    before Connect "1.2 connect" b"CONNECT\naccept-version:1.0,1.1,2.0\nhost:stomp.github.org\n\n\0" => ["accept-version": "1.0,1.1,2.0", "host": "stomp.github.org"] b"";
    before Stomp "1.2 stomp" b"STOMP\naccept-version:1.2\nhost:stomp.github.org\n\n\0" => ["accept-version": "1.2", "host": "stomp.github.org"] b"";
    before Connect "1.2 connect with heart-beats" b"CONNECT\naccept-version:1.2\nheart-beat:10000,10000\n\n\0" => ["accept-version": "1.2", "heart-beat": "10000,10000"] b"";
    server_before Connected "1.2 connected" b"CONNECTED\nversion:1.2\n\n\0" => ["version": "1.2"] b"";
    server_before Error "1.2 no common version" b"ERROR\nversion:1.2,2.1\ncontent-type:text/plain\n\nSupported protocol versions are 1.2 2.1\0" => ["version": "1.2,2.1", "content-type": "text/plain"] b"Supported protocol versions are 1.2 2.1";
    v12 Send "1.2 send" b"SEND\ndestination:/queue/a\ncontent-type:text/plain\n\nhello queue a\n\0" => ["destination": "/queue/a", "content-type": "text/plain"] b"hello queue a\n";
    v12 Subscribe "1.2 subscribe" b"SUBSCRIBE\nid:0\ndestination:/queue/foo\nack:client\n\n\0" => ["id": "0", "destination": "/queue/foo", "ack": "client"] b"";
    v12 Unsubscribe "1.2 unsubscribe" b"UNSUBSCRIBE\nid:0\n\n\0" => ["id": "0"] b"";
    v12 Ack "1.2 ack" b"ACK\nid:12345\ntransaction:tx1\n\n\0" => ["id": "12345", "transaction": "tx1"] b"";
    v12 Nack "1.2 nack" b"NACK\nid:12345\n\n\0" => ["id": "12345"] b"";
    v11 Nack "1.1 nack" b"NACK\nsubscription:0\nmessage-id:007\n\n\0" => ["subscription": "0", "message-id": "007"] b"";
    v12 Begin "1.2 begin" b"BEGIN\ntransaction:tx1\n\n\0" => ["transaction": "tx1"] b"";
    v12 Commit "1.2 commit" b"COMMIT\ntransaction:tx1\n\n\0" => ["transaction": "tx1"] b"";
    v12 Abort "1.2 abort" b"ABORT\ntransaction:tx1\n\n\0" => ["transaction": "tx1"] b"";
    v12 Disconnect "1.2 disconnect" b"DISCONNECT\nreceipt:77\n\n\0" => ["receipt": "77"] b"";
    server_v12 Receipt "1.2 receipt" b"RECEIPT\nreceipt-id:77\n\n\0" => ["receipt-id": "77"] b"";
    server_v12 Message "1.2 message" b"MESSAGE\nsubscription:0\nmessage-id:007\ndestination:/queue/a\ncontent-type:text/plain\n\nhello queue a\0" => ["subscription": "0", "message-id": "007", "destination": "/queue/a", "content-type": "text/plain"] b"hello queue a";
    server_v12 Error "1.2 error" b"ERROR\nreceipt-id:message-12345\ncontent-length:3\nmessage:bad\n\nwhy\0" => ["receipt-id": "message-12345", "content-length": "3", "message": "bad"] b"why";
    server_v12 Message "1.2 a repeated header" b"MESSAGE\nfoo:World\nfoo:Hello\n\n\0" => ["foo": "World", "foo": "Hello"] b"";
    server_v11 Message "1.1 message" b"MESSAGE\nsubscription:0\nmessage-id:007\ndestination:/queue/a\\c1\ncontent-length:3\n\na\0b\0\n" => ["subscription": "0", "message-id": "007", "destination": "/queue/a:1", "content-length": "3"] b"a\0b";
    server_v11 Receipt "1.1 receipt" b"RECEIPT\nreceipt-id:message-12345\n\n\0" => ["receipt-id": "message-12345"] b"";
    // Lines.
    v12 Send "1.2 lines that end with cr lf" b"SEND\r\na:b\r\nc:d\r\n\r\ne\r\n\0" => ["a": "b", "c": "d"] b"e\r\n";
    v12 Send "1.2 lines that end either way" b"SEND\na:b\r\nc:d\n\r\n\0" => ["a": "b", "c": "d"] b"";
    v11 Send "1.1 lines that end with cr lf" b"SEND\r\na:b\r\n\r\n\0" => ["a": "b"] b"";
    v11 Send "1.1 a carriage return within a value" b"SEND\na:b\rc\n\n\0" => ["a": "b\rc"] b"";
    before Connect "connect whose lines end with cr lf" b"CONNECT\r\naccept-version:1.2\r\n\r\n\0" => ["accept-version": "1.2"] b"";
    // Escapes.
    v12 Send "1.2 escapes" b"SEND\na\\cb:\\r\\n\\c\\\\\nc:\\\\n\n\n\0" => ["a:b": "\r\n:\\", "c": "\\n"] b"";
    v11 Send "1.1 escapes" b"SEND\na\\cb:\\n\\c\\\\\nc:\\\\r\n\n\0" => ["a:b": "\n:\\", "c": "\\r"] b"";
    v12 Send "1.2 a colon in a value is not escaped" b"SEND\na:b:c:\n\n\0" => ["a": "b:c:"] b"";
    v12 Send "1.2 escaped text of two and four bytes" b"SEND\nna\\nme:\xc3\xa9\\c\xf0\x9f\x98\x80\n\n\0" => ["na\nme": "\u{e9}:\u{1f600}"] b"";
    before Connect "connect is not escaped" b"CONNECT\naccept-version:1.2\npasscode:a\\cb\\t:c\n\n\0" => ["accept-version": "1.2", "passcode": "a\\cb\\t:c"] b"";
    before Stomp "stomp is escaped" b"STOMP\naccept-version:1.1\npasscode:a\\cb\\r\n\n\0" => ["accept-version": "1.1", "passcode": "a:b\r"] b"";
    server_before Connected "connected is not escaped" b"CONNECTED\nversion:1.1\nserver:a\\b\n\n\0" => ["version": "1.1", "server": "a\\b"] b"";
    server_before Error "error before connected is not escaped" b"ERROR\nmessage:a\\b\n\n\0" => ["message": "a\\b"] b"";
    // Spaces, empty values, other letters.
    v11 Send "1.1 spaces stay" b"SEND\na: b \n c :\td\n\n\0" => ["a": " b ", " c ": "\td"] b"";
    v12 Send "1.2 spaces stay" b"SEND\na: b \n : \n\n\0" => ["a": " b ", " ": " "] b"";
    before Connect "spaces stay in a connect of 1.2" b"CONNECT\naccept-version:1.1,1.2\npasscode: a \n\n\0" => ["accept-version": "1.1,1.2", "passcode": " a "] b"";
    v12 Send "1.2 an empty value" b"SEND\na:\n\n\0" => ["a": ""] b"";
    v12 Send "1.2 case counts in names" b"SEND\nReceipt:a\nContent-Length:x\n\n\0" => ["Receipt": "a", "Content-Length": "x"] b"";
    v12 Send "1.2 a control character in a value" b"SEND\na:\x01\x7f\n\n\0" => ["a": "\x01\x7f"] b"";
    // Bodies.
    v12 Send "1.2 a body with nul" b"SEND\ncontent-length:5\n\na\0b\0\0\0" => ["content-length": "5"] b"a\0b\0\0";
    v10 Send "1.0 a body with nul" b"SEND\ncontent-length: 3 \n\n\0\0\0\0" => ["content-length": "3"] b"\0\0\0";
    v12 Send "1.2 spaces around content-length" b"SEND\ncontent-length: 1\t\n\nx\0" => ["content-length": " 1\t"] b"x";
    v12 Send "1.2 zeros before content-length" b"SEND\ncontent-length:0002\n\nab\0" => ["content-length": "0002"] b"ab";
    v12 Send "1.2 content-length twice the same" b"SEND\ncontent-length:1\ncontent-length:01\n\nx\0" => ["content-length": "1", "content-length": "01"] b"x";
    v12 Send "1.2 content-length 0" b"SEND\ncontent-length:0\n\n\0" => ["content-length": "0"] b"";
    v12 Subscribe "1.2 content-length 0 of a frame without body" b"SUBSCRIBE\nid:1\ncontent-length:0\n\n\0" => ["id": "1", "content-length": "0"] b"";
    v12 Send "1.2 a body that is not utf-8" b"SEND\na:b\n\n\xff\xfe\0" => ["a": "b"] b"\xff\xfe";
    v12 Send "1.2 a body that looks like a frame" b"SEND\na:b\n\n\nSEND\na:b\n\n\0" => ["a": "b"] b"\nSEND\na:b\n\n";
    v12 Send "1.2 a header of the longest line" b"SEND\na:3456789012345678901234567890123456789012345678\n\n\0" => ["a": "3456789012345678901234567890123456789012345678"] b"";
    v12 Send "1.2 the most headers" b"SEND\na:1\na:2\na:3\na:4\na:5\na:6\na:7\na:8\n\n\0" => ["a": "1", "a": "2", "a": "3", "a": "4", "a": "5", "a": "6", "a": "7", "a": "8"] b"";
    v12 Send "1.2 heart-beats before a frame" b"\n\r\n\nSEND\n\n\0" => [] b"";
    v12 Send "1.2 heart-beats after a frame" b"SEND\n\n\0\n\r\n" => [] b"";
}
