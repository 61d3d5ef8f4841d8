//! The command line: what the words and flags of `tidings` mean. Carries nothing out.

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches, Parser, Subcommand};
use tidings_client::cli::{BenchArgs, HealthArgs, PubArgs, SubArgs};

use crate::config::options::{Flag, OPTIONS, OptionSpec};
use crate::config::{Config, Inputs, Setting};
use crate::secrets::{KeyCommand, PasswdArgs, TokenCommand};

/// A message push server: one durable log, every protocol.
#[derive(Debug, Parser)]
#[command(name = "tidings", version, about, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What `tidings` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the server.
    Serve(ServeArgs),
    /// Publish a message, or one for each line of standard input.
    Pub(PubArgs),
    /// Print the messages of topics as they come.
    Sub(SubArgs),
    /// Measure a running server.
    Bench(BenchArgs),
    /// Ask a running server whether it is ready: exit code 0 if it is.
    Health(HealthArgs),
    /// Set a user's password in a password file.
    Passwd(PasswdArgs),
    /// Make and revoke API keys.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Make tokens, and look into them.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Check the configuration; with --data also every byte of a log that no server has open.
    Check(CheckArgs),
    /// Print the configuration reference.
    #[command(hide = true)]
    Docs,
}

/// `tidings serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Where the configuration comes from.
    #[command(flatten)]
    pub inputs: InputArgs,
    /// Print every option with its value and where that came from, and stop.
    #[arg(long)]
    pub print_config: bool,
}

/// `tidings check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Where the configuration comes from.
    #[command(flatten)]
    pub inputs: InputArgs,
}

/// The file and the flags that set options.
#[derive(Debug, Args)]
pub struct InputArgs {
    /// Read this TOML file [default: ./tidings.toml if it is there].
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// One flag for each that the option table names.
    #[command(flatten)]
    pub options: OptionFlags,
    /// Set any option, as in --set http.compression=false; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

impl InputArgs {
    /// These flags over this process's environment.
    #[must_use]
    pub fn inputs(&self) -> Inputs {
        let mut settings = self.options.0.clone();
        settings.extend(self.set.iter().map(|text| assignment(text)));
        Inputs::from_process(self.config.clone(), settings)
    }

    /// Whether `--data` or `--memory` said where the log is.
    #[must_use]
    pub fn names_log(&self) -> bool {
        self.options
            .0
            .iter()
            .any(|setting| setting.key == "log.dir")
    }
}

fn assignment(text: &str) -> Setting {
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key.trim(), Some(value.trim().to_owned())),
        None => (text, None),
    };
    Setting {
        key: key.to_owned(),
        value,
        flag: "--set".to_owned(),
    }
}

/// The flags that the option table names, as settings.
#[derive(Clone, Debug, Default)]
pub struct OptionFlags(pub Vec<Setting>);

impl Args for OptionFlags {
    fn augment_args(mut command: clap::Command) -> clap::Command {
        for spec in OPTIONS {
            for flag in spec.flags {
                command = command.arg(argument(spec, *flag));
            }
        }
        command
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for OptionFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut settings = Vec::new();
        for spec in OPTIONS {
            for flag in spec.flags {
                if let Some(value) = value_of(matches, *flag)? {
                    settings.push(Setting {
                        key: spec.key.to_owned(),
                        value: Some(value),
                        flag: format!("--{}", flag.long()),
                    });
                }
            }
        }
        Ok(Self(settings))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn argument(spec: &'static OptionSpec, flag: Flag) -> Arg {
    let arg = Arg::new(flag.long()).long(flag.long());
    let mut defaults = Config::default();
    let slot = (spec.slot)(&mut defaults);
    match flag {
        Flag::Word { value, .. } => arg
            .action(ArgAction::SetTrue)
            .help(format!("{} = {value}", spec.key)),
        Flag::Value { name, .. } if slot.is_list() => arg
            .action(ArgAction::Append)
            .value_name(name)
            .help(format!("{} May be repeated", spec.doc)),
        Flag::Value { name, .. } => arg.action(ArgAction::Set).value_name(name).help(format!(
            "{} [default: {}]",
            spec.doc,
            slot.toml().replace('"', "")
        )),
    }
}

/// The value as the configuration takes it; a repeated flag is a list.
fn value_of(matches: &ArgMatches, flag: Flag) -> Result<Option<String>, clap::Error> {
    let wrong = |_| clap::Error::raw(ErrorKind::InvalidValue, format!("--{}", flag.long()));
    match flag {
        Flag::Word { long, value } => {
            let given = matches.try_get_one::<bool>(long).map_err(wrong)?;
            Ok(given.copied().unwrap_or(false).then(|| value.to_owned()))
        }
        Flag::Value { long, .. } => {
            let given = matches.try_get_many::<String>(long).map_err(wrong)?;
            Ok(given.map(|values| values.cloned().collect::<Vec<_>>().join(",")))
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn settings(flags: &[&str]) -> Vec<(String, Option<String>, String)> {
        let line = ["tidings", "serve"].iter().chain(flags);
        let Command::Serve(args) = Cli::try_parse_from(line).unwrap().command else {
            panic!("not serve");
        };
        let settings = args.inputs.inputs().settings.into_iter();
        settings.map(|s| (s.key, s.value, s.flag)).collect()
    }

    fn setting(key: &str, value: &str, flag: &str) -> (String, Option<String>, String) {
        (key.to_owned(), Some(value.to_owned()), flag.to_owned())
    }

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_become_settings_of_their_options() {
        for (flags, expect) in [
            (vec![], vec![]),
            (
                vec!["--http", "off"],
                vec![setting("http.listen", "off", "--http")],
            ),
            (
                vec!["--memory"],
                vec![setting("log.dir", "memory", "--memory")],
            ),
            (
                vec!["--data", "d", "--durability=os"],
                vec![
                    setting("log.dir", "d", "--data"),
                    setting("log.durability", "os", "--durability"),
                ],
            ),
            (
                vec!["--cors-origin", "http://a", "--cors-origin", "http://b"],
                vec![setting(
                    "http.cors_origins",
                    "http://a,http://b",
                    "--cors-origin",
                )],
            ),
            (
                vec!["--set", "sse.gzip = false", "--set", "page.enabled=false"],
                vec![
                    setting("sse.gzip", "false", "--set"),
                    setting("page.enabled", "false", "--set"),
                ],
            ),
            (
                vec!["--max-message-bytes", "2MiB"],
                vec![setting(
                    "limits.message_bytes_max",
                    "2MiB",
                    "--max-message-bytes",
                )],
            ),
        ] {
            assert_eq!(settings(&flags), expect, "{flags:?}");
        }
    }

    #[test]
    fn set_without_a_value_is_kept_for_the_configuration_to_refuse() {
        assert_eq!(
            settings(&["--set", "sse.gzip"]),
            [("sse.gzip".to_owned(), None, "--set".to_owned())]
        );
    }

    #[test]
    fn unknown_flag_is_refused() {
        assert!(Cli::try_parse_from(["tidings", "serve", "--htp", "off"]).is_err());
    }
}
