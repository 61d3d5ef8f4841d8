//! The commands of `docs/security.md`, `docs/tls.md` and `docs/admin.md`, as they stand there.

use std::process::Command;

use tidings_e2e::server::{binary, free_ports};
use tidings_e2e::tools::{Background, folder, stdout};
use tidings_e2e::{PATIENCE, eventually};

const GUIDE: (&str, &str) = (
    "security.md",
    "## From nothing to TLS, tokens and permissions\n",
);

/// The shell commands of the part of a document under a heading, block by block.
fn blocks((document, heading): (&str, &str)) -> Vec<String> {
    let text = std::fs::read_to_string(folder().join("../docs").join(document)).unwrap();
    let (_, part) = text.split_once(heading).expect("the page has this part");
    let part = part.split("\n## ").next().unwrap();
    let blocks = part.split("```sh\n").skip(1);
    blocks
        .map(|block| block.split("```").next().unwrap().to_owned())
        .collect()
}

/// A reader's directory, in which `tidings` is installed.
struct Reader {
    folder: tempfile::TempDir,
    ports: [u16; 4],
}

impl Reader {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(binary(), folder.path().join("tidings")).unwrap();
        Self {
            folder,
            ports: free_ports(),
        }
    }

    /// Other processes may have the usual ports; nothing else is changed.
    fn shell(&self, text: &str) -> Command {
        let usual = ["8443", "8883", "8081", "8080"];
        let ports = usual.iter().zip(self.ports);
        let text = ports.fold(text.to_owned(), |text, (usual, port)| {
            text.replace(usual, &port.to_string())
        });
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("bash");
        command
            .args(["-euc", &text])
            .current_dir(self.folder.path())
            .env("PATH", format!("{}:{path}", self.folder.path().display()));
        command
    }

    /// Starts the server, and waits for the first of its listeners that `health` asks.
    fn serve(&self, serve: &str, health: &str) -> Background {
        let serve = serve.replace("tidings serve", "exec tidings serve");
        let server = Background::start(&mut self.shell(serve.trim_end()));
        let health = format!("tidings health {health} 2>/dev/null");
        eventually("the server is ready", PATIENCE, || {
            self.shell(&health).status().unwrap().success()
        });
        server
    }
}

#[test]
fn the_guide_leads_to_tls_tokens_and_permissions() {
    let [files, serve, clients] = &blocks(GUIDE)[..] else {
        panic!("there are not three steps");
    };
    let reader = Reader::new();
    stdout(&mut reader.shell(files));
    let _server = reader.serve(serve, "--url https://localhost:8443 --ca cert.pem");
    let told = stdout(&mut reader.shell(clients));
    assert!(told.contains("\"topic\":\"users/ann/inbox\""), "{told}");
    assert!(told.contains("may not publish to `news/today`"), "{told}");
    let came = "from curl\nfrom the command line\nfrom mqtt\n";
    assert!(told.ends_with(came), "{told}");
}

#[test]
fn the_guide_leads_to_client_certificates() {
    let [files, serve, clients] = &blocks(("tls.md", "## Client certificates\n"))[..] else {
        panic!("there are not three steps");
    };
    let reader = Reader::new();
    stdout(&mut reader.shell(&blocks(GUIDE)[0]));
    stdout(&mut reader.shell(files));
    let health = "--url https://localhost:8443 --ca cert.pem --cert pump.pem:pump.key";
    let _server = reader.serve(serve, health);
    let told = stdout(&mut reader.shell(clients));
    assert!(told.ends_with("\n7\n8\n"), "{told}");
}

#[test]
fn the_guide_leads_to_the_admin_listener() {
    let [serve] = &blocks(("admin.md", "## The admin listener\n"))[..] else {
        panic!("there is not one step");
    };
    let [revoke] = &blocks(("admin.md", "## Revoking\n"))[..] else {
        panic!("there is not one step");
    };
    let reader = Reader::new();
    stdout(&mut reader.shell(&blocks(GUIDE)[0]));
    let (secret, serve) = serve.split_once('\n').unwrap();
    stdout(&mut reader.shell(secret));
    let serve = format!(
        "{} --http 127.0.0.1:8080 --mqtt off --stomp off",
        serve.trim_end()
    );
    let _server = reader.serve(&serve, "--url http://127.0.0.1:8081");
    let told = stdout(&mut reader.shell(revoke));
    assert_eq!(told.matches("\"reason\":\"left\"").count(), 2, "{told}");
}
