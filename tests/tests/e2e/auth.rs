//! Who may come in, and may what: every protocol with every kind of credential.

mod admin;
mod checker;
mod clients;
mod cookie;
mod doors;
mod end;
mod files;
mod grants;
mod http;
mod mqtt;
mod renewal;
mod revoked;
mod stomp;
mod subprotocol;
mod tidings;
mod who;

use std::fs;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;
use tidings_e2e::server::tidings;
use tidings_e2e::tools::stdout;
use tidings_e2e::{Options, Server};

const PASSWORD: &str = "pw-Sesame-77";
/// What every good credential grants, however it does so.
const PERMISSIONS: &str = r#"
[[rule]]
subject = "ann"
publish = ["own/#"]
subscribe = ["own/#"]
deny = { publish = ["own/locked"] }
"#;

/// A kind of credential.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Password,
    Key,
    Token,
}

const KINDS: [Kind; 3] = [Kind::Password, Kind::Key, Kind::Token];

/// A server with users, keys and tokens, made as an operator makes them.
struct Guarded {
    server: Server,
    folder: TempDir,
    key: String,
    token: String,
}

impl Guarded {
    #[track_caller]
    fn start() -> Self {
        Self::start_with(&[])
    }

    /// With these options set so.
    #[track_caller]
    fn start_with(settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let text = |name: &str| path(name).to_str().unwrap().to_owned();
        set_password(&path("users"), "ann", PASSWORD);
        let key = stdout(&mut tidings(&["key", "new", &text("keys"), "ann"]));
        stdout(&mut tidings(&["token", "secret", &text("secret")]));
        fs::write(path("permissions"), PERMISSIONS).unwrap();
        let token = mint(&path("secret"), "ann", "1h");
        let usual = [
            ("auth.passwords_file", text("users")),
            ("auth.keys_file", text("keys")),
            ("auth.jwt_secret_file", text("secret")),
            ("auth.permissions_file", text("permissions")),
            ("auth.jwt_leeway_ms", "0".to_owned()),
            ("auth.failures_max", "0".to_owned()),
            ("auth.expiry_notice_ms", "0".to_owned()),
            ("log_output.level", "trace".to_owned()),
        ];
        let mut options = Options::default();
        for (key, value) in usual {
            if settings.iter().all(|(other, _)| *other != key) {
                options = options.set(key, value);
            }
        }
        for (key, value) in settings {
            options = options.set(key, value);
        }
        Self {
            server: Server::start(options),
            key: key.trim().to_owned(),
            token,
            folder,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A user name and a password, as protocols take them that have both.
    fn login(&self, kind: Kind) -> (&str, &str) {
        match kind {
            Kind::Password => ("ann", PASSWORD),
            Kind::Key => ("whoever", &self.key),
            Kind::Token => ("whoever", &self.token),
        }
    }

    /// The value of `Authorization`.
    fn authorization(&self, kind: Kind) -> String {
        match kind {
            Kind::Password => format!("Basic {}", STANDARD.encode(format!("ann:{PASSWORD}"))),
            Kind::Key => format!("Bearer {}", self.key),
            Kind::Token => format!("Bearer {}", self.token),
        }
    }

    /// Whether nothing secret is in the log, which has everything.
    #[track_caller]
    fn assert_log_is_clean(&self, secrets: &[&str]) {
        for line in self.server.log() {
            for secret in secrets
                .iter()
                .chain([&self.key.as_str(), &self.token.as_str()])
            {
                assert!(!line.contains(*secret), "{line}");
            }
        }
    }

    /// A token of the same user that ends soon.
    fn short(&self, span: &str) -> String {
        mint(&self.path("secret"), "ann", span)
    }
}

#[track_caller]
fn mint(secret: &std::path::Path, subject: &str, span: &str) -> String {
    let secret = secret.to_str().unwrap();
    let arguments = [
        "token",
        "mint",
        subject,
        "--secret-file",
        secret,
        "--expires-in",
        span,
    ];
    stdout(&mut tidings(&arguments)).trim().to_owned()
}

#[track_caller]
pub(crate) fn set_password(file: &std::path::Path, user: &str, password: &str) {
    let mut command = std::process::Command::new("sh");
    command
        .args(["-c", r#"printf '%s\n' "$0" | "$@""#, password])
        .arg(tidings_e2e::server::binary())
        .args(["passwd", file.to_str().unwrap(), user]);
    stdout(&mut command);
}
