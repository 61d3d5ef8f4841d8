//! The commands, and who sends them.

use std::fmt;

use super::rule::Rule;
use super::version::Version;

/// Who writes the frames of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// What a server reads.
    Client,
    /// What a client reads.
    Server,
}

macro_rules! commands {
    ($($name:ident $text:literal $sender:ident,)*) => {
        /// The command of a frame.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Command {
            $(#[doc = concat!("`", $text, "`")] $name,)*
        }

        impl Command {
            /// Every command.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// As it is on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Who sends it.
            #[must_use]
            pub const fn sender(self) -> Sender {
                match self { $(Self::$name => Sender::$sender,)* }
            }
        }
    };
}

commands! {
    Connect "CONNECT" Client,
    Stomp "STOMP" Client,
    Send "SEND" Client,
    Subscribe "SUBSCRIBE" Client,
    Unsubscribe "UNSUBSCRIBE" Client,
    Ack "ACK" Client,
    Nack "NACK" Client,
    Begin "BEGIN" Client,
    Commit "COMMIT" Client,
    Abort "ABORT" Client,
    Disconnect "DISCONNECT" Client,
    Connected "CONNECTED" Server,
    Message "MESSAGE" Server,
    Receipt "RECEIPT" Server,
    Error "ERROR" Server,
}

/// The longest command with CR LF.
const LINE_BYTES_MAX: usize = "UNSUBSCRIBE\r\n".len();

impl Command {
    /// Whether a frame may have a body (Body).
    #[must_use]
    pub const fn has_body(self) -> bool {
        matches!(self, Self::Send | Self::Message | Self::Error)
    }

    /// Whether the frame opens a connection, from the one side or the other.
    pub(super) const fn is_opening(self) -> bool {
        matches!(self, Self::Connect | Self::Stomp | Self::Connected)
    }

    /// Whether its headers may ask for a receipt (Header receipt).
    pub(super) const fn has_receipt(self) -> bool {
        !self.is_opening()
    }

    /// Reads a command at the front, and the length of its line. `None` while the line may still become one;
    /// it is refused at the first byte with which it cannot.
    pub(super) fn read(
        input: &[u8],
        sender: Sender,
        version: Option<Version>,
    ) -> Result<Option<(Self, usize)>, Rule> {
        let line = &input[..input.len().min(LINE_BYTES_MAX)];
        let Some(end) = memchr::memchr(b'\n', line) else {
            let may_become = |command: &Self| {
                let name = command.as_str().as_bytes();
                name.starts_with(line) || line.strip_suffix(b"\r") == Some(name)
            };
            return if Self::ALL.iter().any(may_become) {
                Ok(None)
            } else {
                Err(Rule::UnknownCommand)
            };
        };
        let name = line[..end].strip_suffix(b"\r").unwrap_or(&line[..end]);
        let command = Self::ALL
            .iter()
            .copied()
            .find(|it| it.as_str().as_bytes() == name)
            // 1.0 has no NACK.
            .filter(|it| !(*it == Self::Nack && version == Some(Version::V10)))
            .ok_or(Rule::UnknownCommand)?;
        command.judge(sender, version.is_some())?;
        Ok(Some((command, end + 1)))
    }

    /// Whether this side may send it at this point.
    fn judge(self, sender: Sender, is_connected: bool) -> Result<(), Rule> {
        match (sender, self.sender()) {
            (Sender::Client, Sender::Server) => return Err(Rule::ServerCommand),
            (Sender::Server, Sender::Client) => return Err(Rule::ClientCommand),
            _ => {}
        }
        if is_connected {
            return if self.is_opening() {
                Err(Rule::SecondConnect)
            } else {
                Ok(())
            };
        }
        match (sender, self) {
            // A server may refuse the connection (CONNECT or STOMP Frame).
            (_, Self::Connect | Self::Stomp | Self::Connected | Self::Error) => Ok(()),
            (Sender::Client, _) => Err(Rule::FirstNotConnect),
            (Sender::Server, _) => Err(Rule::FirstNotConnected),
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
