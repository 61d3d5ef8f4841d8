//! Tokens as an issuer makes them, and the documents with its keys, by `openssl` alone.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::tools::{output, stdout};

/// An RSA key with a name.
pub struct SigningKey {
    kid: String,
    folder: TempDir,
}

impl SigningKey {
    /// A new one.
    #[track_caller]
    pub fn new(kid: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let key = Self {
            kid: kid.to_owned(),
            folder,
        };
        let mut command = Command::new("openssl");
        stdout(command.args(["genrsa", "-out"]).arg(key.file()).arg("2048"));
        key
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }

    /// The public half, in PEM.
    #[track_caller]
    pub fn public_pem(&self) -> String {
        let mut command = Command::new("openssl");
        stdout(command.args(["rsa", "-pubout", "-in"]).arg(self.file()))
    }

    /// The public half, as an issuer publishes it.
    #[track_caller]
    pub fn jwk(&self) -> Value {
        let mut command = Command::new("openssl");
        let text = stdout(
            command
                .args(["rsa", "-noout", "-modulus", "-in"])
                .arg(self.file()),
        );
        let modulus = bytes_of(text.trim().trim_start_matches("Modulus="));
        let n = BASE64_URL_SAFE_NO_PAD.encode(modulus);
        json!({"kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.kid, "n": n, "e": "AQAB"})
    }

    /// A token with these claims.
    #[track_caller]
    pub fn sign(&self, claims: &Value) -> String {
        let header = json!({"alg": "RS256", "typ": "JWT", "kid": self.kid});
        let signed = unsigned(&header, claims);
        let file = self.file();
        let arguments = [
            "dgst",
            "-sha256",
            "-sign",
            file.to_str().expect("a path of ASCII"),
        ];
        let signature = BASE64_URL_SAFE_NO_PAD.encode(self.digest(&signed, &arguments));
        format!("{signed}.{signature}")
    }

    /// A token that is signed with the public key as if it were a secret: the old attack.
    #[track_caller]
    pub fn confuse(&self, claims: &Value) -> String {
        let header = json!({"alg": "HS256", "typ": "JWT", "kid": self.kid});
        let signed = unsigned(&header, claims);
        let mut key = "hexkey:".to_owned();
        for byte in self.public_pem().bytes() {
            write!(key, "{byte:02x}").expect("a string takes everything");
        }
        let arguments = [
            "dgst", "-sha256", "-binary", "-mac", "HMAC", "-macopt", &key,
        ];
        let signature = BASE64_URL_SAFE_NO_PAD.encode(self.digest(&signed, &arguments));
        format!("{signed}.{signature}")
    }

    #[track_caller]
    fn digest(&self, signed: &str, arguments: &[&str]) -> Vec<u8> {
        let path = self.folder.path().join("signed");
        std::fs::write(&path, signed).expect("a file can be written");
        let said = output(Command::new("openssl").args(arguments).arg(&path));
        assert!(said.status.success(), "{said:?}");
        said.stdout
    }
}

/// A token that nobody signed.
pub fn without_signature(claims: &Value) -> String {
    format!(
        "{}.",
        unsigned(&json!({"alg": "none", "typ": "JWT"}), claims)
    )
}

fn unsigned(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", part(header), part(claims))
}

#[track_caller]
fn bytes_of(hex: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("openssl writes hexadecimal");
    (0..hex.len()).step_by(2).map(byte).collect()
}
