//! A subscriber's connection without a stream's state of its own: read and written at once or not at all, so that all
//! receivers share one buffer.

use std::cell::RefCell;
use std::io::{self, ErrorKind, Read as _, Write as _};

use rustls::ClientConnection;
use tokio::net::TcpStream;

use crate::stream::Stream;

/// TCP, and perhaps TLS over it. One task reads; any may write in between.
pub(super) struct Socket {
    tcp: TcpStream,
    session: Option<RefCell<ClientConnection>>,
}

impl From<Stream> for Socket {
    fn from(stream: Stream) -> Self {
        let (tcp, session) = match stream {
            Stream::Plain(tcp) => (tcp, None),
            Stream::Tls(stream) => {
                let (tcp, session) = stream.into_inner();
                (tcp, Some(RefCell::new(session)))
            }
        };
        Self { tcp, session }
    }
}

impl Socket {
    /// Ready once [`Socket::try_read`] may find something.
    pub(super) async fn readable(&self) -> io::Result<()> {
        // What is decrypted already is not told of by the kernel.
        if let Some(session) = &self.session {
            let state = session.borrow_mut().process_new_packets();
            if state.map_err(io::Error::other)?.plaintext_bytes_to_read() > 0 {
                return Ok(());
            }
        }
        self.tcp.readable().await
    }

    /// Ready once [`Socket::try_write`] may take something.
    pub(super) async fn writable(&self) -> io::Result<()> {
        self.tcp.writable().await
    }

    /// Reads what is here: 0 is the end, [`ErrorKind::WouldBlock`] that there is nothing.
    pub(super) fn try_read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        let Some(session) = &self.session else {
            return self.tcp.try_read(bytes);
        };
        let mut session = session.borrow_mut();
        loop {
            match session.reader().read(bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => return read,
            }
            session.read_tls(&mut Ground(&self.tcp))?;
            session.process_new_packets().map_err(io::Error::other)?;
        }
    }

    /// Takes some of this; TLS may hold it until [`Socket::flush`], or until it is to take more.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let Some(session) = &self.session else {
            return self.tcp.try_write(bytes);
        };
        let mut session = session.borrow_mut();
        self.send(&mut session)?;
        let taken = session.writer().write(bytes)?;
        match self.send(&mut session) {
            Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }

    /// Ready once TLS holds nothing back.
    pub(super) async fn flush(&self) -> io::Result<()> {
        let Some(session) = &self.session else {
            return Ok(());
        };
        loop {
            let sent = self.send(&mut session.borrow_mut());
            match sent {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable().await?,
                sent => return sent,
            }
        }
    }

    fn send(&self, session: &mut ClientConnection) -> io::Result<()> {
        while session.wants_write() {
            session.write_tls(&mut Ground(&self.tcp))?;
        }
        Ok(())
    }
}

/// The socket as rustls takes it.
struct Ground<'a>(&'a TcpStream);

impl io::Read for Ground<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(bytes)
    }
}

impl io::Write for Ground<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
