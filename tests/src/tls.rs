//! Certificates for tests, made by `openssl`, and what speaks TLS besides the client libraries.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tempfile::TempDir;

use crate::tools::{Background, stdout};

/// Somebody who issues certificates, with a folder for them.
#[derive(Clone, Debug)]
pub struct Authority(Arc<TempDir>);

/// A certificate with its key, in PEM files.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Pair {
    /// Both, as options take them.
    pub fn as_option(&self) -> String {
        format!("{}:{}", self.cert.display(), self.key.display())
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    /// A new one, which nobody trusts who is not told to.
    #[track_caller]
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let authority = Self(Arc::new(folder));
        let (cert, key) = (authority.ca(), authority.file("ca.key"));
        let mut command = request(&cert, &key, "/CN=Tidings test CA");
        stdout(command.args(["-addext", "keyUsage=critical,keyCertSign,cRLSign"]));
        authority
    }

    /// The file to trust.
    pub fn ca(&self) -> PathBuf {
        self.file("ca.pem")
    }

    /// The same, as an argument of a program.
    pub fn ca_argument(&self) -> String {
        self.ca().display().to_string()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Issues a certificate with alternative names such as `DNS:localhost,IP:127.0.0.1`, in files of this name.
    #[track_caller]
    pub fn issue(&self, file: &str, names: &str) -> Pair {
        let pair = Pair {
            cert: self.file(&format!("{file}.pem")),
            key: self.file(&format!("{file}.key")),
        };
        let mut command = request(&pair.cert, &pair.key, &format!("/CN={file}"));
        command
            .arg("-CA")
            .arg(self.ca())
            .arg("-CAkey")
            .arg(self.file("ca.key"))
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .args(["-addext", &format!("subjectAltName={names}")]);
        stdout(&mut command);
        pair
    }
}

/// A self-signed certificate, or with `-CA` one that is not.
fn request(cert: &Path, key: &Path, subject: &str) -> Command {
    let mut command = Command::new("openssl");
    command
        .args(["req", "-x509", "-nodes", "-days", "3", "-newkey", "ec"])
        .args(["-pkeyopt", "ec_paramgen_curve:P-256", "-subj", subject])
        .arg("-out")
        .arg(cert)
        .arg("-keyout")
        .arg(key);
    command
}

/// `openssl s_client`, which says what it finds out and leaves.
pub fn s_client(address: SocketAddr, authority: &Authority, arguments: &[&str]) -> Command {
    let mut command = Command::new("openssl");
    command
        .args(["s_client", "-connect", &address.to_string()])
        .arg("-CAfile")
        .arg(authority.ca())
        .args(["-verify_return_error", "-brief"])
        .args(arguments);
    command
}

/// A peer that writes bytes and reads text over `openssl s_client`, whatever the protocol is.
pub struct Pipe(Background);

impl Pipe {
    /// Connects.
    #[track_caller]
    pub fn open(address: SocketAddr, authority: &Authority, arguments: &[&str]) -> Self {
        let mut command = s_client(address, authority, arguments);
        Self(Background::start(command.args(["-quiet", "-ign_eof"])))
    }

    /// Sends this, then reads to the end that the server makes; gives that, and what `openssl` has to say.
    #[track_caller]
    pub fn exchange(mut self, bytes: &[u8]) -> (Vec<u8>, String) {
        let mut input = self.0.stdin();
        input.write_all(bytes).expect("openssl takes what is sent");
        input.flush().expect("openssl takes what is sent");
        let child = self.0.child();
        let mut stdout = child.stdout.take().expect("the output is piped");
        let mut stderr = child.stderr.take().expect("the errors are piped");
        let mut output = Vec::new();
        stdout.read_to_end(&mut output).expect("openssl ends");
        let mut told = String::new();
        stderr.read_to_string(&mut told).expect("openssl ends");
        (output, told)
    }
}
