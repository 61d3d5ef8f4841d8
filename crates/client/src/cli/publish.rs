//! `tidings pub`.

use std::fmt;
use std::io::{IsTerminal as _, Read as _};
use std::process::ExitCode;
use std::time::Duration;

use tidings_types::{Topic, TopicError};

use super::PubArgs;
use super::args::NoLogin;
use super::lines;
use super::terminal::{failed, misused, runtime, say};
use crate::client::{Client, Unusable};
use crate::http::{is_header_value, is_token};
use crate::message::Outgoing;

/// The most that is read from standard input for one message; a server's limit is far below.
pub(super) const PAYLOAD_BYTES_MAX: u64 = 64 << 20;

/// What is wrong with the options.
#[derive(Debug)]
enum Misuse {
    Topic(TopicError),
    Server(Unusable),
    Login(NoLogin),
    Header(String),
    Value(&'static str),
}

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic(error) => error.fmt(f),
            Self::Server(error) => error.fmt(f),
            Self::Login(error) => error.fmt(f),
            Self::Header(text) => write!(
                f,
                "`--header {text}` is not a user property: write it as NAME=VALUE"
            ),
            Self::Value(option) => {
                write!(
                    f,
                    "`--{option}` holds a line end or another control character"
                )
            }
        }
    }
}

/// Publishes as the options say. Blocks until all is acknowledged; exit code 1 if the server refuses.
pub fn publish(args: PubArgs) -> ExitCode {
    let (client, template) = match prepare(&args) {
        Ok(prepared) => prepared,
        Err(misuse) => return misused(&misuse),
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    if args.lines {
        return runtime.block_on(lines::publish_lines(&client, &template, &args));
    }
    let payload = match payload(args.data) {
        Ok(payload) => payload,
        Err(error) => return failed(&format!("cannot read standard input: {error}")),
    };
    let outgoing = Outgoing {
        payload: payload.into(),
        ..template
    };
    runtime.block_on(publish_one(&client, &outgoing, args.quiet))
}

/// The client, and a message with everything but its payload.
fn prepare(args: &PubArgs) -> Result<(Client, Outgoing), Misuse> {
    let tls = args.tls.files();
    let client = match &args.mqtt_url {
        Some(url) => Client::mqtt(url, args.qos.into(), &tls),
        None => Client::new(&args.url, &tls),
    };
    let client = client.map_err(Misuse::Server)?;
    let client = client.with_login(args.login.login().map_err(Misuse::Login)?);
    let topic = Topic::new(args.topic.as_str()).map_err(Misuse::Topic)?;
    for (option, value) in [
        ("content-type", &args.content_type),
        ("event", &args.event),
        ("key", &args.key),
    ] {
        if value
            .as_deref()
            .is_some_and(|value| !is_header_value(value))
        {
            return Err(Misuse::Value(option));
        }
    }
    let headers = args
        .headers
        .iter()
        .map(|text| {
            text.split_once('=')
                .filter(|(name, value)| is_token(name) && is_header_value(value))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .ok_or_else(|| Misuse::Header(text.clone()))
        })
        .collect::<Result<_, _>>()?;
    let template = Outgoing {
        content_type: args.content_type.clone(),
        event: args.event.clone(),
        headers,
        ttl: args.ttl.map(Duration::from_secs),
        retain: args.retain,
        key: args.key.clone(),
        ..Outgoing::new(topic, "")
    };
    Ok((client, template))
}

fn payload(data: Option<String>) -> std::io::Result<Vec<u8>> {
    if let Some(data) = data {
        return Ok(data.into_bytes());
    }
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        say("reading the payload from the terminal; end it with Ctrl-D");
    }
    let mut payload = Vec::new();
    let read = stdin
        .lock()
        .take(PAYLOAD_BYTES_MAX + 1)
        .read_to_end(&mut payload)?;
    if read as u64 > PAYLOAD_BYTES_MAX {
        let text =
            format!("it is longer than {PAYLOAD_BYTES_MAX} bytes: use --lines for many messages");
        return Err(std::io::Error::other(text));
    }
    Ok(payload)
}

async fn publish_one(client: &Client, outgoing: &Outgoing, is_quiet: bool) -> ExitCode {
    let mut publisher = client.publisher();
    let receipt = publisher
        .publish_observed(outgoing, |retrying| {
            if !is_quiet {
                let wait_ms = retrying.retry_in.as_millis();
                say(&format!("{}; trying again in {wait_ms} ms", retrying.lost));
            }
        })
        .await;
    publisher.close().await;
    match receipt {
        Ok(receipt) => {
            if !is_quiet {
                let already = if receipt.replayed {
                    " (it was already there)"
                } else {
                    ""
                };
                let id = Some(receipt.id).filter(|id| !id.is_empty());
                let id = id.map_or(String::new(), |id| format!(" {id}"));
                say(&format!("published{id}{already}"));
            }
            ExitCode::SUCCESS
        }
        Err(refused) => failed(&refused),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        _args: PubArgs,
    }

    #[test]
    fn a_qos_is_for_mqtt_alone() {
        for (options, is_good) in [
            ("--qos 2", false),
            ("--qos 2 --url http://127.0.0.1", false),
            ("--qos 2 --mqtt-url mqtt://127.0.0.1", true),
            ("--url http://127.0.0.1", true),
        ] {
            let words = ["pub", "topic", "data"].into_iter();
            let line = Line::try_parse_from(words.chain(options.split(' ')));
            assert_eq!(line.is_ok(), is_good, "{options}");
        }
    }
}
