//! Certificates for tests, made by `openssl`, and what speaks TLS besides the client libraries.

use std::fs;
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

impl Authority {
    /// Issues a certificate with this subject (`/CN=ann`), an extension such as `subjectAltName=email:ann@example.org` or
    /// none, and an end in so many seconds.
    #[track_caller]
    pub fn issue_to(&self, file: &str, subject: &str, extension: &str, seconds: u32) -> Pair {
        let pair = Pair {
            cert: self.file(&format!("{file}.pem")),
            key: self.file(&format!("{file}.key")),
        };
        let (wish, extensions) = (self.file("wish.csr"), self.file("wish.ext"));
        fs::write(&extensions, extension).expect("the folder is there");
        let mut command = Command::new("openssl");
        command
            .args([
                "req", "-new", "-nodes", "-newkey", "ec", "-utf8", "-subj", subject,
            ])
            .args(["-pkeyopt", "ec_paramgen_curve:P-256", "-out"])
            .arg(&wish)
            .arg("-keyout")
            .arg(&pair.key);
        stdout(&mut command);
        let seconds = format!("+{seconds} seconds");
        let end = stdout(Command::new("date").args(["-u", "-d", &seconds, "+%Y%m%d%H%M%SZ"]));
        let mut command = self.office();
        command
            .args(["-notext", "-enddate", end.trim(), "-in"])
            .arg(&wish)
            .arg("-extfile")
            .arg(&extensions)
            .arg("-out")
            .arg(&pair.cert);
        stdout(&mut command);
        pair
    }

    /// Takes a certificate back.
    #[track_caller]
    pub fn revoke(&self, pair: &Pair) {
        stdout(self.office().arg("-revoke").arg(&pair.cert));
    }

    /// Writes the list of those that were taken back, which is in force for some seconds, and gives its file.
    #[track_caller]
    pub fn revocation_list(&self, seconds: u32) -> PathBuf {
        let list = self.file("list.crl");
        let mut command = self.office();
        command
            .args(["-gencrl", "-crlsec", &seconds.to_string(), "-out"])
            .arg(&list);
        stdout(&mut command);
        list
    }

    /// `openssl ca`, which remembers what it issued.
    fn office(&self) -> Command {
        let config = self.file("ca.cnf");
        if !config.exists() {
            let folder = self.0.path().display();
            let text = format!(
                "[ca]\ndefault_ca = it\n[it]\ndatabase = {folder}/index\nnew_certs_dir = {folder}\nrand_serial = yes\n\
                 default_md = sha256\ncrlnumber = {folder}/crlnumber\ncrl_extensions = list\ndefault_days = 3\nunique_subject = no\npolicy = any\nemail_in_dn = yes\n\
                 [any]\ncommonName = optional\norganizationName = optional\n[list]\nauthorityKeyIdentifier = keyid:always\n"
            );
            fs::write(&config, text).expect("the folder is there");
            fs::write(self.file("index"), "").expect("the folder is there");
            fs::write(self.file("crlnumber"), "01\n").expect("the folder is there");
        }
        let mut command = Command::new("openssl");
        command
            .args(["ca", "-batch", "-utf8", "-config"])
            .arg(config)
            .arg("-cert")
            .arg(self.ca())
            .arg("-keyfile")
            .arg(self.file("ca.key"));
        command
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
