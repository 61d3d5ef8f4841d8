//! The layers: defaults, file, environment, flags. A later one wins, and every value remembers its source.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Config;
use super::check;
use super::error::{ConfigError, ConfigErrors, Reason};
use super::given::{Given, quoted};
use super::nearest::nearest;
use super::options::{OPTIONS, SECTIONS, find};
use super::retention;
use super::toml_file::{self, FileEntries};

/// Environment variables of Tidings that are not options.
pub const OTHER_VARIABLES: &[(&str, &str)] = &[
    (
        "TIDINGS_CONFIG",
        "the configuration file, where `--config` is not given",
    ),
    (
        "TIDINGS_TOKEN",
        "the token or key of `tidings pub` and `tidings sub`",
    ),
    (
        "TIDINGS_USER",
        "`user:password` of `tidings pub` and `tidings sub`",
    ),
];

/// Where a value came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// Nobody set it.
    #[default]
    Default,
    /// A file.
    File {
        /// As it was named.
        path: Arc<Path>,
        /// From 1; 0 is the file as a whole.
        line: usize,
    },
    /// An environment variable.
    Env(String),
    /// A flag.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line: 0 } => write!(f, "{}", path.display()),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Env(name) => write!(f, "environment {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// A value that a flag gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The option.
    pub key: String,
    /// The value; `None` is `--set` without `=`.
    pub value: Option<String>,
    /// The flag as it is written.
    pub flag: String,
}

/// What a configuration is made from. Kept by a running server, which reads the file again at SIGHUP.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// The file that `--config` names.
    pub file: Option<PathBuf>,
    /// The file that is read if it is there and no other is named.
    pub usual_file: PathBuf,
    /// The environment.
    pub env: Vec<(OsString, OsString)>,
    /// The flags.
    pub settings: Vec<Setting>,
}

impl Inputs {
    /// The flags, over this process's environment.
    #[must_use]
    pub fn from_process(file: Option<PathBuf>, settings: Vec<Setting>) -> Self {
        Self {
            file,
            usual_file: PathBuf::from("tidings.toml"),
            env: std::env::vars_os().collect(),
            settings,
        }
    }
}

/// Where each value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provenance {
    /// By place in the option table.
    options: Vec<Source>,
    /// By place among the retention rules.
    pub(super) rules: Vec<Source>,
}

impl Provenance {
    fn new() -> Self {
        Self {
            options: vec![Source::Default; OPTIONS.len()],
            rules: Vec::new(),
        }
    }

    /// Where the option's value came from; `Default` if there is no such option.
    #[must_use]
    pub fn of(&self, key: &str) -> &Source {
        find(key).map_or(&Source::Default, |(index, _)| &self.options[index])
    }
}

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// Where they came from.
    pub provenance: Provenance,
    /// The file that was read, for the banner.
    pub file: Option<PathBuf>,
}

impl Inputs {
    /// Reads all layers and checks the result. On error, everything that is wrong.
    pub fn load(&self) -> Result<Loaded, ConfigErrors> {
        let mut layers = Layers {
            config: Config::default(),
            provenance: Provenance::new(),
            errors: Vec::new(),
        };
        let file = self.named_file();
        let entries = file
            .as_deref()
            .map(|path| layers.read(path))
            .unwrap_or_default();
        layers.environment(&self.env);
        layers.flags(&self.settings);
        // After every other layer: a rule takes from the default what it does not say itself.
        if let Some(path) = &file {
            layers.rules(entries, &Arc::from(path.as_path()));
        }
        layers.finish(file)
    }

    fn named_file(&self) -> Option<PathBuf> {
        let from_env = || {
            let (_, path) = self.env.iter().find(|(name, _)| name == "TIDINGS_CONFIG")?;
            Some(PathBuf::from(path))
        };
        let usual = || self.usual_file.exists().then(|| self.usual_file.clone());
        self.file.clone().or_else(from_env).or_else(usual)
    }
}

/// A configuration while its layers are laid on it.
pub(super) struct Layers {
    pub config: Config,
    pub provenance: Provenance,
    pub errors: Vec<ConfigError>,
}

impl Layers {
    /// Applies the file's options and returns what is for later.
    fn read(&mut self, path: &Path) -> FileEntries {
        let shared: Arc<Path> = Arc::from(path);
        let at = |line| Source::File {
            path: Arc::clone(&shared),
            line,
        };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                self.wrong(
                    path.display().to_string(),
                    None,
                    at(0),
                    Reason::Unreadable(error),
                );
                return FileEntries::default();
            }
        };
        let mut file = match toml_file::parse(&text) {
            Ok(file) => file,
            Err(errors) => {
                for error in errors {
                    let reason = Reason::Syntax(error.message);
                    self.wrong(path.display().to_string(), None, at(error.line), reason);
                }
                return FileEntries::default();
            }
        };
        for entry in std::mem::take(&mut file.entries) {
            let empty_section = entry.given == Given::Other("{}".to_owned())
                && SECTIONS.iter().any(|(name, _)| *name == entry.key);
            if !empty_section {
                self.set(&entry.key, &entry.given, at(entry.line));
            }
        }
        file
    }

    fn environment(&mut self, env: &[(OsString, OsString)]) {
        let names: HashMap<String, &'static str> =
            OPTIONS.iter().map(|spec| (spec.env(), spec.key)).collect();
        let mut ours: Vec<(&str, &OsStr)> = env
            .iter()
            .filter_map(|(name, value)| Some((name.to_str()?, value.as_os_str())))
            .filter(|(name, _)| name.starts_with("TIDINGS_"))
            .filter(|(name, _)| OTHER_VARIABLES.iter().all(|(other, _)| other != name))
            .collect();
        // The environment has no order of its own; errors are reported in the same one every time.
        ours.sort_unstable();
        for (name, value) in ours {
            let source = Source::Env(name.to_owned());
            let Some(key) = names.get(name) else {
                let known = names.keys().map(String::as_str);
                let nearest = nearest(name, known).map(str::to_owned);
                self.wrong(
                    name.to_owned(),
                    None,
                    source,
                    Reason::UnknownKey { nearest },
                );
                continue;
            };
            match value.to_str() {
                Some(text) => self.set(key, &Given::Word(text.to_owned()), source),
                None => self.wrong((*key).to_owned(), None, source, Reason::NotUtf8),
            }
        }
    }

    fn flags(&mut self, settings: &[Setting]) {
        for (index, setting) in settings.iter().enumerate() {
            let source = Source::Flag(setting.flag.clone());
            let Some(value) = &setting.value else {
                self.wrong(setting.key.clone(), None, source, Reason::NotAnAssignment);
                continue;
            };
            if let Some(other) = settings[..index]
                .iter()
                .find(|other| other.key == setting.key)
            {
                let other = other.flag.clone();
                let value = Some(quoted(value));
                self.wrong(
                    setting.key.clone(),
                    value,
                    source,
                    Reason::SetTwice { other },
                );
                continue;
            }
            self.set(&setting.key, &Given::Word(value.clone()), source);
        }
    }

    fn rules(&mut self, entries: FileEntries, path: &Arc<Path>) {
        for rule in entries.rules {
            let line = rule.line;
            let Some(rule) = retention::rule(rule, path, self) else {
                continue;
            };
            self.config.retention.rules.push(rule);
            self.provenance.rules.push(Source::File {
                path: Arc::clone(path),
                line,
            });
        }
    }

    /// Sets one option, or records why not.
    fn set(&mut self, key: &str, given: &Given, source: Source) {
        let Some((index, spec)) = find(key) else {
            let nearest = nearest(key, OPTIONS.iter().map(|spec| spec.key)).map(str::to_owned);
            let reason = Reason::UnknownKey { nearest };
            self.wrong(key.to_owned(), Some(given.to_string()), source, reason);
            return;
        };
        match (spec.slot)(&mut self.config).set(given, spec.range) {
            Ok(()) => self.provenance.options[index] = source,
            Err(reason) => self.wrong(key.to_owned(), Some(given.to_string()), source, reason),
        }
    }

    pub fn wrong(&mut self, key: String, value: Option<String>, source: Source, reason: Reason) {
        self.errors.push(ConfigError {
            key,
            value,
            source,
            reason,
        });
    }

    fn finish(mut self, file: Option<PathBuf>) -> Result<Loaded, ConfigErrors> {
        check::check(&mut self);
        if !self.errors.is_empty() {
            return Err(ConfigErrors(self.errors));
        }
        Ok(Loaded {
            config: self.config,
            provenance: self.provenance,
            file,
        })
    }
}
