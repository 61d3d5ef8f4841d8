//! `packaging/`: that the unit, the image and the configurations say what the binary can do. No image is built and no
//! systemd runs here: what they forbid is taken away by other means, and the server has to work without it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tidings_e2e::server::{binary, free_ports, tidings};
use tidings_e2e::tls::Authority;
use tidings_e2e::tools::{Background, folder, output, stdout};
use tidings_e2e::{Options, PATIENCE, Server, eventually, http};

fn packaging(path: &str) -> PathBuf {
    folder().join("../packaging").join(path)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The most that `systemd-analyze security` may find wrong with the unit, in tenths of its points: 100 is all.
const EXPOSURE_MAX: u32 = 20;

#[test]
fn the_unit_is_one_of_systemd_and_leaves_little_open() {
    let scratch = tempfile::tempdir().unwrap();
    let unit = scratch.path().join("tidings.service");
    let text = read(&packaging("systemd/tidings.service"));
    let text = text.replace("/usr/bin/tidings", &binary().display().to_string());
    fs::write(&unit, text).unwrap();
    let verify = || {
        let verified = output(Command::new("systemd-analyze").arg("verify").arg(&unit));
        let told = String::from_utf8_lossy(&verified.stderr);
        let ours: Vec<_> = told
            .lines()
            .filter(|line| line.contains("tidings"))
            .collect();
        assert!(verified.status.success() && ours.is_empty(), "{told}");
    };
    verify();
    stdout(
        Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager"])
            .arg(format!("--threshold={EXPOSURE_MAX}"))
            .arg(&unit),
    );
    let drop_ins = scratch.path().join("tidings.service.d");
    fs::create_dir(&drop_ins).unwrap();
    let low_ports = "tidings.service.d/low-ports.conf";
    fs::copy(
        packaging("systemd").join(low_ports),
        scratch.path().join(low_ports),
    )
    .unwrap();
    verify();
}

/// The configuration for production in a folder, with files of the folder's in the place of the system's.
fn production(scratch: &Path) -> PathBuf {
    let authority = Authority::new();
    let pair = authority.issue("server", "DNS:localhost,IP:127.0.0.1");
    let place = |name: &str| scratch.join(name);
    fs::copy(&pair.cert, place("fullchain.pem")).unwrap();
    fs::copy(&pair.key, place("privkey.pem")).unwrap();
    fs::copy(packaging("permissions.toml"), place("permissions.toml")).unwrap();
    for secret in ["jwt-secret", "admin-token"] {
        let secret = place(secret).display().to_string();
        stdout(&mut tidings(&["token", "secret", &secret]));
    }
    let mut text = read(&packaging("tidings.toml"));
    for (folder, file) in [
        ("/etc/tidings/tls", "fullchain.pem"),
        ("/etc/tidings/tls", "privkey.pem"),
        ("/run/credentials/tidings.service", "jwt-secret"),
        ("/run/credentials/tidings.service", "admin-token"),
        ("/etc/tidings", "permissions.toml"),
        ("/var/lib", "tidings"),
    ] {
        let system = format!("\"{folder}/{file}\"");
        assert!(text.contains(&system), "{system}");
        text = text.replace(&system, &format!("\"{}\"", place(file).display()));
    }
    let file = place("tidings.toml");
    fs::write(&file, text).unwrap();
    file
}

#[test]
fn the_configuration_for_production_is_good_as_it_stands() {
    let scratch = tempfile::tempdir().unwrap();
    let file = production(scratch.path()).display().to_string();
    let told = stdout(&mut tidings(&["check", "--config", &file]));
    assert!(told.contains("is good"), "{told}");
    // What it names that is not there is found.
    fs::remove_file(scratch.path().join("jwt-secret")).unwrap();
    let checked = output(&mut tidings(&["check", "--config", &file]));
    assert_eq!(checked.status.code(), Some(2));
}

/// Takes what the unit takes: other users' files, capabilities, new privileges, memory that is written and then run,
/// and, for root with namespaces, every place to write to but one. The kernel may be too old for a part of it.
fn confined(program: &Path, state: &Path) -> Command {
    const NO_WRITTEN_CODE: &str = "import ctypes, os, sys\n\
        ctypes.CDLL(None).prctl(65, 1, 0, 0, 0)\n\
        os.execvp(sys.argv[1], sys.argv[1:])";
    const READ_ONLY: &str =
        "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro / && exec \"$@\"";
    let mut words: Vec<String> = Vec::new();
    let mut add = |more: &[&str]| words.extend(more.iter().map(|word| (*word).to_owned()));
    let is_root = geteuid().is_root();
    let mut namespaces = Command::new("unshare");
    if is_root
        && output(namespaces.args(["--mount", "true"]))
            .status
            .success()
    {
        let state = state.display().to_string();
        add(&["unshare", "--mount", "bash", "-c", READ_ONLY, &state]);
    }
    add(&[
        "python3",
        "-c",
        NO_WRITTEN_CODE,
        "setpriv",
        "--no-new-privs",
    ]);
    if is_root {
        add(&["--reuid=65532", "--regid=65532", "--clear-groups"]);
        add(&["--bounding-set=-all", "--inh-caps=-all"]);
    }
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).arg(program).current_dir("/");
    command
}

#[test]
fn the_server_needs_no_rights_and_no_place_to_write_but_its_state() {
    let scratch = tempfile::tempdir().unwrap();
    fs::set_permissions(scratch.path(), Permissions::from_mode(0o755)).unwrap();
    // Where the binary was built, another user may not look.
    let program = scratch.path().join("tidings");
    fs::copy(binary(), &program).unwrap();
    let state = scratch.path().join("state");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, Permissions::from_mode(0o700)).unwrap();
    let supervisor = scratch.path().join("notify");
    let notified = UnixDatagram::bind(&supervisor).unwrap();
    notified.set_read_timeout(Some(PATIENCE)).unwrap();
    fs::set_permissions(&supervisor, Permissions::from_mode(0o777)).unwrap();
    if geteuid().is_root() {
        chown(&state, Some(65532), Some(65532)).unwrap();
    }
    let [port] = free_ports();
    let listen = format!("127.0.0.1:{port}");
    let mut command = confined(&program, &state);
    command
        .args(["serve", "--mqtt", "off", "--stomp", "off"])
        .args(["--http", &listen, "--data"])
        .arg(state.join("log"))
        .env("NOTIFY_SOCKET", &supervisor);
    let mut server = Background::start(&mut command);
    let mut bytes = [0; 64];
    let len = notified.recv(&mut bytes).expect("it tells systemd");
    assert_eq!(&bytes[..len], b"READY=1");
    let url = format!("http://{listen}");
    stdout(&mut tidings(&["health", "--url", &url]));
    let posted = http::post(listen.parse().unwrap(), "/v1/topics/a", b"kept");
    assert_eq!(posted.status, 201, "{}", posted.text());
    // All the wrappers have become the server.
    let pid = server.child().id();
    let status = read(Path::new(&format!("/proc/{pid}/status")));
    for line in ["CapEff:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(status.contains(line), "{line}: {status}");
    }
    let log = fs::metadata(state.join("log")).unwrap();
    assert!(log.is_dir());
    kill_process(Pid::from_child(server.child()), Signal::TERM).unwrap();
    assert!(server.child().wait().unwrap().success());
}

#[test]
fn health_is_told_by_the_exit_code() {
    let server = Server::start(Options::default());
    let url = server.url("");
    assert_eq!(stdout(&mut tidings(&["health", "--url", &url])), "");
    let address = server.address();
    server.terminate();
    drop(server);
    eventually("nobody listens", PATIENCE, || {
        std::net::TcpStream::connect(address).is_err()
    });
    let asked = output(&mut tidings(&["health", "--url", &url]));
    assert_eq!(asked.status.code(), Some(1));
    let told = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert!(told.contains(&address.to_string()), "{told}");
    assert_eq!(
        output(&mut tidings(&["health", "--url", "ftp://a"]))
            .status
            .code(),
        Some(2)
    );
}

/// The values of an instruction, in order.
fn instructions<'a>(containerfile: &'a str, name: &str) -> Vec<&'a str> {
    let lines = containerfile.lines();
    lines
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
        .collect()
}

#[test]
fn the_image_is_built_from_what_is_there_and_does_not_run_as_root() {
    let text = read(&packaging("Containerfile"));
    let manifest = read(&folder().join("../Cargo.toml"));
    let rust = manifest
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = "))
        .unwrap()
        .trim_matches('"');
    let [build, last] = instructions(&text, "FROM")[..] else {
        panic!("there are not two stages");
    };
    assert!(build.contains(&format!("rust:{rust}-")), "{build}");
    assert!(last.ends_with(":nonroot"), "{last}");
    assert_eq!(instructions(&text, "USER"), ["65532:65532"]);
    assert!(instructions(&text, "ADD").is_empty());
    let ignored = read(&folder().join("../.containerignore"));
    for line in instructions(&text, "COPY") {
        let source = line.split(' ').find_map(|word| word.strip_prefix("/src/"));
        let Some(source) = source.filter(|source| !source.starts_with("target/")) else {
            continue;
        };
        assert!(folder().join("..").join(source).is_file(), "{source}");
        let top = source.split('/').next().unwrap();
        assert!(
            ignored.lines().any(|line| line == format!("!{top}")),
            "{top}"
        );
    }
    // Every folder of the workspace, without which cargo does not build.
    for member in ["crates", "xtask", "tests", "benches"] {
        assert!(manifest.contains(member) && ignored.contains(&format!("\n!{member}\n")));
    }
}

#[test]
fn the_image_starts_the_binary_as_it_can_be_started() {
    let text = read(&packaging("Containerfile"));
    let words = |name: &str| -> Vec<String> {
        let values = instructions(&text, name);
        let (_, list) = values[0].split_at(values[0].find('[').unwrap());
        serde_json::from_str(list).unwrap()
    };
    assert_eq!(words("ENTRYPOINT"), ["/usr/bin/tidings"]);
    assert!(text.contains("CMD [\"/usr/bin/tidings\", \"health\"]"));
    let own = packaging("container.toml").display().to_string();
    let command: Vec<String> = words("CMD")
        .iter()
        .map(|word| word.replace("/etc/tidings/tidings.toml", &own))
        .collect();
    let mut command: Vec<&str> = command.iter().map(String::as_str).collect();
    assert!(command.contains(&own.as_str()), "{command:?}");
    command.push("--print-config");
    // Other machines reach it: not without credentials.
    let refused = output(&mut tidings(&command));
    assert_eq!(refused.status.code(), Some(2));
    command.push("--allow-anonymous");
    let told = stdout(&mut tidings(&command));
    assert!(told.contains("/var/lib/tidings"), "{told}");
    // Where the health check asks, unless it is told otherwise.
    assert!(told.contains("0.0.0.0:8080"), "{told}");
}
