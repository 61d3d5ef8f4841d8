//! The bytes between the server and a peer: a TCP socket, bare or with TLS over it.
//!
//! A [`Link`] is read and written like a non-blocking socket, and what it says of readiness counts for the plaintext.
//! With TLS it holds at most [`UNSENT_MAX`] bytes that the kernel has not taken and what is left of one record, so that
//! bytes wait in the outbox and in the kernel, not here; an idle one has nothing of either.

use std::future::poll_fn;
use std::io::{self, IoSlice, Read as _, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use rustls::pki_types::CertificateDer;
use rustls::{IoState, ServerConnection};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, Interest, ReadBuf};
use tokio::net::TcpStream;

/// Encrypted bytes that wait for the kernel: two records of the greatest size (RFC 8446, 5.1).
const UNSENT_MAX: usize = 32 << 10;

/// The most that TLS holds of one peer's bytes: besides those, the rest of a record that is not whole, in a buffer that
/// has room for a handshake message.
pub const TLS_BYTES_MAX: usize = UNSENT_MAX + (64 << 10);

/// A peer's socket, and the TLS session over it if there is one.
pub struct Link {
    socket: TcpStream,
    tls: Option<Box<Session>>,
}

/// A link on its way from one shard's runtime to another's.
pub struct Parked {
    socket: std::net::TcpStream,
    tls: Option<Box<Session>>,
}

impl Parked {
    /// Registers the socket with this runtime.
    pub fn land(self) -> io::Result<Link> {
        Ok(Link {
            socket: TcpStream::from_std(self.socket)?,
            tls: self.tls,
        })
    }
}

impl From<TcpStream> for Link {
    fn from(socket: TcpStream) -> Self {
        Self { socket, tls: None }
    }
}

impl Link {
    /// A socket over which a TLS handshake has been made.
    pub fn secured(socket: TcpStream, session: Box<Session>) -> Self {
        Self {
            socket,
            tls: Some(session),
        }
    }

    /// Whether there is TLS over it.
    pub fn is_secured(&self) -> bool {
        self.tls.is_some()
    }

    /// The certificate that the peer proved to have, in the handshake or in the one that this resumes.
    pub fn client_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.tls.as_ref()?.connection.peer_certificates()?.first()
    }

    /// Takes the socket out of this runtime.
    pub fn park(self) -> io::Result<Parked> {
        Ok(Parked {
            socket: self.socket.into_std()?,
            tls: self.tls,
        })
    }

    /// Waits until a read may bring something.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.tls.as_ref().is_some_and(|session| session.waiting) {
            return Poll::Ready(Ok(()));
        }
        self.socket.poll_read_ready(cx)
    }

    /// Waits until the kernel takes bytes.
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_write_ready(cx)
    }

    /// Waits until a read may bring something.
    pub async fn readable(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_read_ready(cx)).await
    }

    /// Waits until the kernel takes bytes.
    pub async fn writable(&self) -> io::Result<()> {
        self.socket.writable().await
    }

    /// Reads what is there; 0 is the peer's end. A record that is not whole yet is `WouldBlock`.
    pub fn try_read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => read_socket(&self.socket, buffer),
            Some(session) => session.read(&self.socket, buffer),
        }
    }

    /// Reads into the room that the buffer has.
    pub fn try_read_buf(&mut self, bytes: &mut BytesMut) -> io::Result<usize> {
        let Some(session) = &mut self.tls else {
            return self.socket.try_read_buf(bytes);
        };
        let filled = bytes.len();
        bytes.resize(bytes.capacity(), 0);
        let read = session.read(&self.socket, &mut bytes[filled..]);
        bytes.truncate(filled + read.as_ref().map_or(0, |read| *read));
        read
    }

    /// Writes what the kernel takes, and with TLS a little more: see [`Link::has_unsent`].
    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.try_write_vectored(&[IoSlice::new(bytes)])
    }

    /// Writes the slices one after the other; with TLS, in as few records as they fit.
    pub fn try_write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.socket.try_write_vectored(slices),
            Some(session) => session.write(&self.socket, slices),
        }
    }

    /// Whether something that was written, or that TLS has to say by itself, has not reached the kernel.
    pub fn has_unsent(&self) -> bool {
        let tls = self.tls.as_ref();
        tls.is_some_and(|session| session.connection.wants_write())
    }

    /// Writes what has not reached the kernel.
    pub fn try_flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            None => Ok(()),
            Some(session) => session.send(&self.socket),
        }
    }

    /// Sends the last byte, and with TLS the word that it is the last (RFC 8446, 6.1). Gives the bare socket, from which
    /// the peer's own last bytes may be read and thrown away.
    pub async fn finish(mut self) -> io::Result<TcpStream> {
        self.shutdown().await?;
        Ok(self.socket)
    }
}

impl AsyncRead for Link {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let link = self.get_mut();
        if link.tls.is_none() {
            return Pin::new(&mut link.socket).poll_read(cx, buffer);
        }
        loop {
            ready!(link.poll_read_ready(cx))?;
            match link.try_read(buffer.initialize_unfilled()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read.map(|count| buffer.advance(count))),
            }
        }
    }
}

impl AsyncWrite for Link {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let link = self.get_mut();
        loop {
            match link.try_write_vectored(slices) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(link.poll_write_ready(cx))?;
                }
                written => return Poll::Ready(written),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let link = self.get_mut();
        loop {
            match link.try_flush() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(link.poll_write_ready(cx))?;
                }
                flushed => return Poll::Ready(flushed),
            }
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(session) = &mut self.tls {
            session.connection.send_close_notify();
        }
        ready!(self.as_mut().poll_flush(cx))?;
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}

/// One side of TLS, without a socket.
pub struct Session {
    connection: ServerConnection,
    /// A read brings something though nothing more comes from the socket: plaintext, the peer's end, or an error.
    waiting: bool,
}

impl Session {
    /// Before the handshake.
    pub fn new(mut connection: ServerConnection) -> Box<Self> {
        connection.set_buffer_limit(Some(UNSENT_MAX));
        Box::new(Self {
            connection,
            waiting: false,
        })
    }

    /// Whether the handshake goes on.
    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Whether this application protocol was agreed on (RFC 7301).
    pub fn speaks(&self, protocol: &[u8]) -> bool {
        self.connection.alpn_protocol() == Some(protocol)
    }

    /// Whether something is to be sent.
    pub fn wants_write(&self) -> bool {
        self.connection.wants_write()
    }

    /// Takes in what the peer sent in the handshake. The error's alert is then to be sent.
    pub fn take_in(&mut self, mut raw: &[u8]) -> Result<(), rustls::Error> {
        while !raw.is_empty() {
            let taken = self.connection.read_tls(&mut raw);
            let state = self.connection.process_new_packets()?;
            self.waiting = state.plaintext_bytes_to_read() > 0 || state.peer_has_closed();
            if !matches!(taken, Ok(1..)) {
                // The peer has said that it ends: what comes behind that counts for nothing.
                return Ok(());
            }
        }
        Ok(())
    }

    /// Writes everything that is encrypted.
    pub fn send(&mut self, socket: &TcpStream) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(&mut Kernel(socket))?;
        }
        Ok(())
    }

    fn write(&mut self, socket: &TcpStream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        // First, or there would be no bound on what waits here.
        self.send(socket)?;
        let taken = self.connection.writer().write_vectored(slices)?;
        or_later(self.send(socket))?;
        Ok(taken)
    }

    fn read(&mut self, socket: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        if std::mem::take(&mut self.waiting) {
            let state = self.connection.process_new_packets().map_err(misbehaved)?;
            let read = self.read_plaintext(&state, buffer)?;
            if read > 0 || state.peer_has_closed() {
                return Ok(read);
            }
        }
        loop {
            let raw = read_socket(socket, buffer)?;
            if raw == 0 {
                // Without a word (RFC 8446, 6.1); every protocol here knows by itself whether something is missing.
                return Ok(0);
            }
            let read = self.decrypt(buffer, raw);
            // What TLS answers by itself: a new key, or what was wrong.
            or_later(self.send(socket))?;
            match read? {
                0 if !self.waiting => {}
                read => return Ok(read),
            }
        }
    }

    /// Replaces the raw bytes in front of the buffer by the plaintext in them: what is read never overtakes what was
    /// taken, and is shorter. Only the rest of an earlier record can be left over, and waits.
    fn decrypt(&mut self, buffer: &mut [u8], raw: usize) -> io::Result<usize> {
        let (mut taken, mut read) = (0, 0);
        while taken < raw {
            let step = self.connection.read_tls(&mut &buffer[taken..raw])?;
            taken += step;
            let state = match self.connection.process_new_packets() {
                Ok(state) => state,
                Err(_) if read > 0 => {
                    // It is found again by the next read; what came before it counts.
                    self.waiting = true;
                    return Ok(read);
                }
                Err(error) => return Err(misbehaved(error)),
            };
            read += self.read_plaintext(&state, &mut buffer[read..taken])?;
            if step == 0 {
                break;
            }
        }
        Ok(read)
    }

    fn read_plaintext(&mut self, state: &IoState, buffer: &mut [u8]) -> io::Result<usize> {
        let there = state.plaintext_bytes_to_read();
        let read = match there {
            0 => 0,
            _ => self.connection.reader().read(buffer)?,
        };
        self.waiting = read < there || state.peer_has_closed();
        Ok(read)
    }
}

fn misbehaved(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// What the kernel does not take now is sent with what comes next, or when it takes bytes again.
fn or_later(sent: io::Result<()>) -> io::Result<()> {
    match sent {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        sent => sent,
    }
}

/// Reads what is there; 0 is the peer's end.
pub fn read_socket(socket: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let read = socket.try_read(buffer)?;
    if read > 0 && read < buffer.len() {
        mark_drained(socket);
    }
    Ok(read)
}

/// Tells the runtime that everything there was has been read, which it would otherwise find out by another read.
/// What comes later is a new event, and the peer's end stays visible.
fn mark_drained(socket: &TcpStream) {
    let drained = socket.try_io(Interest::READABLE, || {
        Err::<(), _>(io::ErrorKind::WouldBlock.into())
    });
    debug_assert!(drained.is_err());
}

/// The socket, for the encrypted side.
struct Kernel<'a>(&'a TcpStream);

impl io::Write for Kernel<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
