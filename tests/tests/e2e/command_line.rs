//! The commands around `serve`: what the operator got wrong is said, with what to do, and exit code 2.

use std::process::Output;

use tidings_e2e::server::tidings;
use tidings_e2e::tools::output;
use tidings_e2e::{Options, Server};

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_second_server_on_the_same_data_is_refused() {
    let server = Server::start(Options::default());
    let folder = server.data();
    let second = output(&mut tidings(&[
        "serve",
        "--http",
        "127.0.0.1:0",
        "--mqtt",
        "off",
        "--stomp",
        "off",
        "--data",
        folder.to_str().unwrap(),
    ]));
    assert!(!second.status.success());
    let text = errors(&second);
    assert!(text.contains(folder.to_str().unwrap()), "{text}");
    server.publish("still", "served");
}

#[test]
fn a_port_that_is_taken_is_named() {
    let server = Server::start(Options::default());
    let address = server.address().to_string();
    let second = output(&mut tidings(&[
        "serve", "--http", &address, "--mqtt", "off", "--stomp", "off", "--memory",
    ]));
    assert!(!second.status.success());
    assert!(errors(&second).contains(&address), "{}", errors(&second));
}

#[test]
fn an_mqtt_or_stomp_port_that_is_taken_is_named_with_a_way_out() {
    let server = Server::start(Options::default());
    for (name, other, address) in [
        ("mqtt", "stomp", server.mqtt()),
        ("stomp", "mqtt", server.stomp()),
    ] {
        let address = address.to_string();
        let (flag, other) = (format!("--{name}"), format!("--{other}=off"));
        let arguments = ["serve", "--http=0", &other, &flag, &address, "--memory"];
        let second = output(&mut tidings(&arguments));
        assert!(!second.status.success());
        let option = format!("{name}.listen");
        for word in [&address, &option, &format!("{flag} off")] {
            assert!(errors(&second).contains(word), "{}", errors(&second));
        }
    }
}

#[test]
fn check_names_every_error_with_its_key_and_the_nearest_known_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tidings.toml");
    std::fs::write(
        &file,
        "[http]\nlisen = \"127.0.0.1:0\"\n[limits]\nmessage_bytes_max = \"many\"\n",
    )
    .unwrap();
    let checked = output(&mut tidings(&["check", "--config", file.to_str().unwrap()]));
    assert_eq!(checked.status.code(), Some(2));
    let text = errors(&checked) + &String::from_utf8_lossy(&checked.stdout);
    for word in ["lisen", "http.listen", "limits.message_bytes_max", "many"] {
        assert!(text.contains(word), "{word} is not in:\n{text}");
    }
    std::fs::write(&file, "[http]\nlisten = \"127.0.0.1:0\"\n").unwrap();
    let checked = output(&mut tidings(&["check", "--config", file.to_str().unwrap()]));
    assert!(checked.status.success(), "{}", errors(&checked));
}

#[test]
fn print_config_says_where_each_value_came_from() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tidings.toml");
    std::fs::write(&file, "[limits]\nreads_max = 77\n").unwrap();
    let mut command = tidings(&[
        "serve",
        "--config",
        file.to_str().unwrap(),
        "--durability",
        "os",
        "--print-config",
    ]);
    command.env("TIDINGS_LIMITS_TOPICS_MAX", "88");
    let printed = output(&mut command);
    assert!(printed.status.success(), "{}", errors(&printed));
    let text = String::from_utf8_lossy(&printed.stdout);
    let line = |word: &str| {
        text.lines()
            .find(|line| line.trim_start().starts_with(word))
            .unwrap_or_default()
    };
    assert!(
        line("reads_max").contains("77") && line("reads_max").contains("tidings.toml"),
        "{text}"
    );
    assert!(
        line("topics_max").contains("88")
            && line("topics_max").contains("TIDINGS_LIMITS_TOPICS_MAX"),
        "{text}"
    );
    assert!(
        line("durability").contains("os") && line("durability").contains("--durability"),
        "{text}"
    );
    assert!(line("keys_max").contains("default"), "{text}");
}

#[test]
fn a_listener_for_other_machines_needs_credentials_or_leave() {
    for open in ["--http", "--mqtt", "--stomp"] {
        let mut arguments = vec!["serve", "--memory", open, "0.0.0.0:0"];
        for other in ["--http", "--mqtt", "--stomp"] {
            if other != open {
                arguments.extend([other, "off"]);
            }
        }
        let refused = output(&mut tidings(&arguments));
        assert_eq!(refused.status.code(), Some(2), "{}", errors(&refused));
        assert!(
            errors(&refused).contains("allow-anonymous"),
            "{}",
            errors(&refused)
        );
    }
}

#[test]
fn a_wrong_flag_says_what_is_known() {
    let refused = output(&mut tidings(&["serve", "--htp", "127.0.0.1:0"]));
    assert_eq!(refused.status.code(), Some(2));
    assert!(errors(&refused).contains("--http"), "{}", errors(&refused));
}
