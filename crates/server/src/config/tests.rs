//! The configuration as an operator meets it: files, variables and flags in, values or errors out.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;
use std::time::Duration;

use tidings_types::{Durability, Limits, Storage};

use super::options::{OPTIONS, SECTIONS};
use super::*;

/// One configuration: the text of a file, variables, and flags.
#[derive(Clone, Copy, Default)]
struct Case<'a> {
    file: Option<&'a str>,
    env: &'a [(&'a str, &'a str)],
    flags: &'a [(&'a str, &'a str)],
}

impl Case<'_> {
    /// The directory has to live as long as the inputs are used.
    fn inputs(&self) -> (tempfile::TempDir, Inputs) {
        let dir = tempfile::tempdir().unwrap();
        let usual_file = dir.path().join("tidings.toml");
        if let Some(text) = self.file {
            std::fs::write(&usual_file, text).unwrap();
        }
        let env = self.env.iter();
        let settings = self.flags.iter().map(|(key, value)| Setting {
            key: (*key).to_owned(),
            value: Some((*value).to_owned()),
            flag: format!("--set {key}"),
        });
        let inputs = Inputs {
            file: None,
            usual_file,
            env: env
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            settings: settings.collect(),
        };
        (dir, inputs)
    }

    fn load(&self) -> Loaded {
        let (_dir, inputs) = self.inputs();
        inputs.load().unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// `key: reason` of each error.
    fn errors(&self) -> Vec<String> {
        let (_dir, inputs) = self.inputs();
        let errors = inputs.load().expect_err("this configuration is wrong").0;
        errors
            .iter()
            .map(|e| format!("{}: {}", e.key, e.reason))
            .collect()
    }
}

fn file(text: &str) -> Case<'_> {
    Case {
        file: Some(text),
        ..Case::default()
    }
}

#[test]
fn nothing_set_is_the_default() {
    let loaded = Case::default().load();
    assert_eq!(loaded.config, Config::default());
    assert_eq!(loaded.file, None);
}

#[test]
fn later_layer_wins_and_is_remembered() {
    let text = "\n[server]\nshards = 1\n";
    let env = [("TIDINGS_SERVER_SHARDS", "2")];
    let flags = [("server.shards", "3")];
    for (case, shards, source) in [
        (Case::default(), 0, "default"),
        (file(text), 1, "tidings.toml:3"),
        (
            Case {
                env: &env,
                ..file(text)
            },
            2,
            "environment TIDINGS_SERVER_SHARDS",
        ),
        (
            Case {
                env: &env,
                flags: &flags,
                ..file(text)
            },
            3,
            "flag --set server.shards",
        ),
        (
            Case {
                flags: &flags,
                ..file(text)
            },
            3,
            "flag --set server.shards",
        ),
    ] {
        let loaded = case.load();
        assert_eq!(loaded.config.shards, shards);
        let found = loaded.provenance.of("server.shards").to_string();
        assert!(found.ends_with(source), "{found} is not {source}");
    }
}

#[test]
fn named_file_replaces_the_usual_one() {
    let (dir, mut inputs) = file("server.shards = 1").inputs();
    let (by_env, by_flag) = (dir.path().join("env.toml"), dir.path().join("flag.toml"));
    std::fs::write(&by_env, "server.shards = 2").unwrap();
    std::fs::write(&by_flag, "server.shards = 3").unwrap();
    assert_eq!(inputs.load().unwrap().config.shards, 1);
    inputs.env.push(("TIDINGS_CONFIG".into(), by_env.into()));
    assert_eq!(inputs.load().unwrap().config.shards, 2);
    inputs.file = Some(by_flag.clone());
    let loaded = inputs.load().unwrap();
    assert_eq!(loaded.config.shards, 3);
    assert_eq!(loaded.file, Some(by_flag));
}

#[test]
fn every_kind_of_value_is_taken_from_a_file() {
    let config = file(
        r#"
        http.listen = "[::1]:9000"
        http.cors_origins = ["HTTPS://App.Example:443", "http://localhost:3000"]
        websocket.origins = ["https://*.example.org"]
        log = { dir = "memory", durability = "os", segment_bytes = 65_536 }
        limits.message_bytes_max = "2MiB"
        limits.heartbeat_ms = "20s"
        limits.idle_ms_max = 500
        sse.gzip = false
        server.shutdown_ms = "1m"
        retention_default.age_max = "off"
        log_output.level = "debug"
        "#,
    )
    .load()
    .config;
    assert_eq!(config.http, "[::1]:9000".parse().ok());
    assert_eq!(
        config.cors_origins,
        ["https://app.example", "http://localhost:3000"]
    );
    assert_eq!(config.websocket_origins, ["https://*.example.org"]);
    assert_eq!(config.data, DataPlace::Memory);
    assert_eq!(config.durability, Durability::Os);
    assert_eq!(config.segment_bytes, 65_536);
    assert_eq!(config.limits.message_bytes_max, 2 << 20);
    assert_eq!(config.limits.heartbeat_ms, 20_000);
    assert_eq!(config.limits.idle_ms_max, 500);
    assert!(!config.sse_gzip);
    assert_eq!(config.drain, Duration::from_mins(1));
    assert_eq!(config.retention.default.age_max, None);
    assert_eq!(config.log_level, LogLevel::Debug);
}

#[test]
fn words_of_the_environment_are_taken_by_the_options_type() {
    let config = Case {
        env: &[
            ("TIDINGS_HTTP_LISTEN", "localhost:0"),
            ("TIDINGS_HTTP_CORS_ORIGINS", "http://a, http://b"),
            ("TIDINGS_SSE_GZIP", "off"),
            ("TIDINGS_LIMITS_TOPICS_MAX", "1_000"),
            ("TIDINGS_LOG_DIR", "/var/lib/tidings"),
            ("HOME", "/"),
        ],
        ..Case::default()
    }
    .load()
    .config;
    assert_eq!(config.http, "127.0.0.1:0".parse().ok());
    assert_eq!(config.cors_origins, ["http://a", "http://b"]);
    assert!(!config.sse_gzip);
    assert_eq!(config.limits.topics_max, 1_000);
    assert_eq!(
        config.data,
        DataPlace::Dir(PathBuf::from("/var/lib/tidings"))
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn what_is_wrong_is_refused_with_the_reason() {
    for (text, expect) in [
        ("htpp.listen = 'x'", "htpp.listen: there is no such option"),
        ("[wrong]", "wrong: there is no such option"),
        (
            "http.listen = '8.8.8.8'",
            "http.listen: not a value that this option takes",
        ),
        (
            "http.listen = 8080",
            "http.listen: not a value that this option takes",
        ),
        (
            "http.cors_origins = 'http://a'",
            "http.cors_origins: not a value that this option takes",
        ),
        (
            "http.cors_origins = ['http://a/']",
            "http.cors_origins: `http://a/` is not an origin",
        ),
        (
            "websocket.origins = ['null']",
            "websocket.origins: `null` is not an origin",
        ),
        (
            "websocket.origins = ['http://*a']",
            "websocket.origins: `http://*a` is not an origin",
        ),
        (
            "http.cors_origins = ['https://:443']",
            "http.cors_origins: `https://:443` is not an origin",
        ),
        (
            "sse.gzip = 'yes'",
            "sse.gzip: not a value that this option takes",
        ),
        ("sse = true", "sse: there is no such option"),
        (
            "log.durability = 'always'",
            "log.durability: not a value that this option takes",
        ),
        (
            "log.dir = ''",
            "log.dir: not a value that this option takes",
        ),
        (
            "server.shards = -1",
            "server.shards: not a value that this option takes",
        ),
        (
            "server.shards = 1.5",
            "server.shards: not a value that this option takes",
        ),
        (
            "server.shards = 5000",
            "server.shards: above the greatest value, 1024",
        ),
        (
            "limits.topics_max = 0",
            "limits.topics_max: below the least value, 1",
        ),
        (
            "limits.page_bytes_max = 0",
            "limits.page_bytes_max: below the least value, 1KiB",
        ),
        (
            "limits.heartbeat_ms = '1x'",
            "limits.heartbeat_ms: not a value that this option takes",
        ),
        (
            "limits.silence_ms_max = '15s'",
            "limits.silence_ms_max: not above limits.heartbeat_ms, which is \"15s\" (default)",
        ),
        (
            "limits.batch_bytes_max = '1KiB'",
            "limits.batch_bytes_max: below limits.message_bytes_max, which is \"1MiB\" (default)",
        ),
        (
            "limits.submit_messages_max = 10",
            "limits.submit_messages_max: below limits.batch_messages_max, which is 1000 (default)",
        ),
        (
            "http.listen = 'off'\nmqtt.listen = 'off'\nstomp.listen = 'off'",
            "http.listen: nothing would listen",
        ),
        (
            "mqtt.listen = '1883'\nhttp.listen = '1883'",
            "mqtt.listen: http.listen has the same address",
        ),
        (
            "stomp.listen = '1883'",
            "stomp.listen: mqtt.listen has the same address",
        ),
        (
            "queues.dead_letter = 'dead/#'",
            "queues.dead_letter: `+` and `#` are wildcards",
        ),
        (
            "queues.dead_letter = ''",
            "queues.dead_letter: the topic is empty",
        ),
        (
            "limits.prefetch = 10001",
            "limits.prefetch: above the greatest value, 10000",
        ),
        (
            "mqtt.server_reference = ''",
            "mqtt.server_reference: below the least value, 1 bytes",
        ),
        (
            "mqtt.server_reference = \"a\\nb\"",
            "mqtt.server_reference: not a value that this option takes",
        ),
        (
            "mqtt.server_reference = 'b.example  c.example'",
            "mqtt.server_reference: not a value that this option takes",
        ),
        (
            "mqtt.server_reference = 'not a server!'",
            "mqtt.server_reference: not a value that this option takes",
        ),
        (
            "mqtt.server_reference = 'b.example:0'",
            "mqtt.server_reference: not a value that this option takes",
        ),
        (
            "mqtt.server_reference = '::1'",
            "mqtt.server_reference: not a value that this option takes",
        ),
        ("retention = 5", "retention: there is no such option"),
        ("retention = [5]", "retention.: there is no such option"),
        (
            "[[retention]]",
            "retention.topics: the rule does not say which topics it is for",
        ),
        (
            "[[retention]]\ntopics = 5",
            "retention.topics: not a value that this option takes",
        ),
        (
            "[[retention]]\ntopics = 'a'\nage = 5",
            "retention.age: there is no such option",
        ),
        (
            "[[retention]]\ntopics = 'a'\nper_topic_max = 0",
            "retention.per_topic_max: below the least value, 1",
        ),
        (
            "[[retention]]\ntopics = 'a/#'\n[[retention]]\ntopics = 'a/+/b'",
            "retention.topics: the rule never applies: `a/#` above it takes all of its topics",
        ),
    ] {
        let errors = file(text).errors();
        let found = errors.iter().any(|error| error.starts_with(expect));
        assert!(found, "{text}: {errors:?}");
    }
}

#[test]
fn syntax_error_names_its_line() {
    let (_dir, inputs) = file("[http]\nlisten = \n").inputs();
    let errors = inputs.load().unwrap_err().0;
    let source = errors[0].source.to_string();
    assert!(source.ends_with("tidings.toml:2"), "{source}");
}

#[test]
fn file_that_is_named_and_not_there_is_an_error() {
    let (dir, mut inputs) = Case::default().inputs();
    inputs.file = Some(dir.path().join("none.toml"));
    let errors = inputs.load().unwrap_err().0;
    assert!(
        matches!(errors[0].reason, Reason::Unreadable(_)),
        "{errors:?}"
    );
}

#[test]
fn all_errors_are_reported_at_once_in_the_order_of_the_layers() {
    let errors = Case {
        file: Some("server.shards = 'many'\nlog.dri = 'x'\n"),
        env: &[("TIDINGS_PAGE_ENABLED", "maybe"), ("TIDINGS_LOG_DRI", "x")],
        flags: &[("http.listen", "0.0.0.0:80"), ("http.listen", "off")],
    }
    .errors();
    let keys: Vec<&str> = errors
        .iter()
        .filter_map(|error| error.split(": ").next())
        .collect();
    let expect = [
        "server.shards",
        "log.dri",
        "TIDINGS_LOG_DRI",
        "page.enabled",
        "http.listen",
        "http.listen",
    ];
    assert_eq!(keys, expect, "{errors:#?}");
}

#[test]
fn error_says_key_value_source_reason_and_hint() {
    let (_dir, inputs) = Case {
        env: &[("TIDINGS_HTTP_LISEN", "x")],
        flags: &[("http.listen", "0.0.0.0:80")],
        ..Case::default()
    }
    .inputs();
    let expect = "\
the configuration has 2 errors:

  TIDINGS_HTTP_LISEN  (environment TIDINGS_HTTP_LISEN)
    there is no such option
    hint: did you mean `TIDINGS_HTTP_LISTEN`?

  http.listen = \"0.0.0.0:80\"  (flag --set http.listen)
    refused: other machines can reach this address, and no credentials are configured
    hint: listen on 127.0.0.1 behind a proxy, configure credentials (auth.passwords_file, auth.keys_file, auth.jwt_secret_file, auth.oidc_issuer or another of the section auth), or let anyone in with server.allow_anonymous = true (--allow-anonymous)";
    assert_eq!(inputs.load().unwrap_err().to_string(), expect);
}

#[test]
fn variable_that_is_not_utf8_is_refused() {
    let (_dir, mut inputs) = Case::default().inputs();
    let value = OsString::from_vec(vec![0xff]);
    inputs.env.push(("TIDINGS_LOG_DIR".into(), value));
    let errors = inputs.load().unwrap_err().0;
    assert!(matches!(errors[0].reason, Reason::NotUtf8), "{errors:?}");
}

#[test]
fn listener_for_other_machines_needs_the_word_of_the_operator() {
    for (address, allow, accepted) in [
        ("127.0.0.1:80", "false", true),
        ("127.9.9.9:80", "false", true),
        ("[::1]:80", "false", true),
        ("[::ffff:127.0.0.1]:80", "false", true),
        ("9999", "false", true),
        ("0.0.0.0:80", "false", false),
        ("[::]:80", "false", false),
        ("192.168.1.1:80", "false", false),
        ("0.0.0.0:80", "true", true),
    ] {
        for listener in ["http.listen", "mqtt.listen", "stomp.listen"] {
            let flags = [(listener, address), ("server.allow_anonymous", allow)];
            let (_dir, inputs) = Case {
                flags: &flags,
                ..Case::default()
            }
            .inputs();
            assert_eq!(
                inputs.load().is_ok(),
                accepted,
                "{listener} {address} {allow}"
            );
        }
    }
}

#[test]
fn other_machines_are_let_in_by_each_source_of_credentials_and_by_nothing_else() {
    let url = "https://a.example/";
    let flags: [(&[(&str, &str)], bool); 11] = [
        (
            &[
                ("auth.client_certificates", "san-dns"),
                ("tls.client_ca", "ca.pem"),
            ],
            true,
        ),
        (&[("auth.callout_connect_url", url)], true),
        (&[("auth.introspection_url", url)], true),
        (&[("auth.jwt_jwks_url", url)], true),
        (
            &[("auth.oidc_issuer", url), ("auth.jwt_audience", "a")],
            true,
        ),
        (&[("auth.callout_permission_url", url)], false),
        (&[("auth.anonymous", "true")], false),
        (&[("auth.cookie", "session")], false),
        (&[("tls.client_ca", "ca.pem")], false),
        (&[("proxy.trusted", "0.0.0.0/0")], false),
        (&[("admin.listen", "127.0.0.1:1")], false),
    ];
    for (given, accepted) in flags {
        let flags = [&[("http.listen", "0.0.0.0:80")], given].concat();
        let (_dir, inputs) = Case {
            flags: &flags,
            ..Case::default()
        }
        .inputs();
        let loaded = inputs.load();
        assert_eq!(loaded.is_ok(), accepted, "{given:?}");
        let Ok(loaded) = loaded else { continue };
        let authenticator = loaded.config.auth.authenticator();
        assert!(!authenticator.unwrap().anonymous, "{given:?}");
    }
}

#[test]
fn retention_rules_keep_their_order_and_take_the_rest_from_the_default() {
    let rules = file(
        r#"
        [[retention]]
        topics = "chat/#"
        age_max = "7d"
        bytes_max = "off"
        [[retention]]
        topics = "live/+"
        storage = "none"
        per_topic_max = 1
        [retention_default]
        age_max = "1h"
        "#,
    )
    .load()
    .config
    .retention;
    assert_eq!(rules.default.age_max, Some(Duration::from_hours(1)));
    let (chat, live) = (&rules.rules[0], &rules.rules[1]);
    assert_eq!((chat.0.as_str(), live.0.as_str()), ("chat/#", "live/+"));
    assert_eq!(chat.1.age_max, Some(Duration::from_hours(24 * 7)));
    assert_eq!(chat.1.bytes_max, None);
    assert_eq!(live.1.storage, Storage::None);
    assert_eq!(live.1.age_max, Some(Duration::from_hours(1)));
    assert_eq!(live.1.bytes_max, rules.default.bytes_max);
    assert_eq!(live.1.per_topic_max, Some(1));
}

#[test]
fn printed_configuration_parses_back_to_the_same() {
    let changed = r##"
        http = { listen = "[::1]:1", cors_origins = ["*", "http://a"], compression = false }
        mqtt = { listen = "off", websocket = false, server_reference = "b.example:1883 c.example [::1]:1883" }
        stomp = { listen = "[::1]:61614", websocket = false }
        queues = { dead_letter = "off" }
        log = { dir = 'a "quoted" \path', durability = "os" }
        limits = { message_bytes_max = 1001, heartbeat_ms = 15_001, tail_bytes_max = 0 }
        retention_default = { storage = "memory", age_max = "off", bytes_max = "off", per_topic_max = 7 }
        server = { shards = 3, shutdown_ms = 0 }
        log_output = { format = "json", level = "trace" }
        [[retention]]
        topics = "a/#"
        per_topic_max = 5
        [[retention]]
        topics = "#"
        "##;
    for text in ["", changed] {
        let loaded = file(text).load();
        let printed = print(&loaded);
        assert_eq!(file(&printed).load().config, loaded.config, "{printed}");
    }
}

#[test]
fn printed_configuration_says_where_each_value_came_from() {
    let printed = print(
        &Case {
            file: Some("\nsse.gzip = false"),
            env: &[("TIDINGS_SERVER_SHARDS", "2")],
            flags: &[("log.dir", "memory")],
        }
        .load(),
    );
    for (line, source) in [
        ("gzip = false # ", "tidings.toml:2"),
        ("shards = 2 # ", "environment TIDINGS_SERVER_SHARDS"),
        ("dir = \"memory\" # ", "flag --set log.dir"),
        ("listen = \"127.0.0.1:8080\" # ", "default"),
        ("listen = \"127.0.0.1:1883\" # ", "default"),
        ("listen = \"127.0.0.1:61613\" # ", "default"),
    ] {
        let found = printed.lines().find(|found| found.starts_with(line));
        assert!(
            found.is_some_and(|found| found.ends_with(source)),
            "{line}: {found:?}"
        );
    }
}

#[test]
fn reload_applies_what_it_can_and_names_the_rest() {
    let old = Config::default();
    let new = file(
        r##"
        http.listen = "127.0.0.1:1"
        http.cors_origins = ["http://a"]
        log_output.level = "warn"
        server.shutdown_ms = 7
        [[retention]]
        topics = "#"
        "##,
    )
    .load()
    .config;
    let reloaded = old.reload(&new);
    assert_eq!(
        reloaded.changed,
        [
            "http.cors_origins",
            "server.shutdown_ms",
            "log_output.level"
        ]
    );
    assert_eq!(reloaded.needs_restart, ["http.listen", "retention"]);
    let expect = Config {
        cors_origins: new.cors_origins,
        log_level: LogLevel::Warn,
        drain: Duration::from_millis(7),
        ..old
    };
    assert_eq!(reloaded.config, expect);
    let again = expect.reload(&expect);
    assert!(again.changed.is_empty() && again.needs_restart.is_empty());
}

#[test]
fn every_limit_is_in_the_table_and_every_option_in_a_section() {
    let limits = format!("{:#?}", Limits::default());
    for line in limits.lines().filter(|line| line.starts_with("    ")) {
        let field = line.trim().split(':').next().unwrap();
        assert!(
            options::find(&format!("limits.{field}")).is_some(),
            "{field}"
        );
    }
    for spec in OPTIONS {
        let (section, _) = spec.section_and_name();
        assert!(
            SECTIONS.iter().any(|(name, _)| *name == section),
            "{}",
            spec.key
        );
        let same = OPTIONS
            .iter()
            .filter(|other| other.key == spec.key || other.env() == spec.env());
        assert_eq!(same.count(), 1, "{}", spec.key);
    }
}

#[test]
fn options_set_the_field_that_they_show() {
    // Two rows that point at one field would show here: each default, set alone, changes nothing.
    let mut slots = Config::default();
    for spec in OPTIONS {
        let text = (spec.slot)(&mut slots).toml();
        let loaded = file(&format!("{} = {text}", spec.key)).load();
        assert_eq!(loaded.config, Config::default(), "{}", spec.key);
        assert_ne!(
            loaded.provenance.of(spec.key),
            &Source::Default,
            "{}",
            spec.key
        );
    }
}

#[test]
fn configuration_reference_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        written == docs(),
        "docs/configuration.md is old: run `cargo xtask docs`"
    );
}
