//! Log lines to standard error: for humans on a terminal, JSON otherwise.
//!
//! Lines say what happened to the server and its connections. They never hold payloads, credentials or whole
//! requests.

use std::io::{self, IsTerminal as _};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use tracing_subscriber::{Layer as _, Registry, fmt, reload};

use crate::config::{LogFormat, LogLevel};

/// Changes the level of a running server.
#[derive(Clone)]
pub struct LevelSwitch(reload::Handle<Targets, Registry>);

impl LevelSwitch {
    /// From now on, write this level and the more severe ones. `false` if logging has ended.
    #[must_use]
    pub fn set(&self, level: LogLevel) -> bool {
        self.0.reload(targets(level)).is_ok()
    }
}

/// Starts logging. An error is that the process logs already.
pub fn init_logging(format: LogFormat, level: LogLevel) -> Result<LevelSwitch, TryInitError> {
    let (filter, handle) = reload::Layer::new(targets(level));
    let terminal = io::stderr().is_terminal();
    let human = match format {
        LogFormat::Auto => terminal,
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    // Colours are for eyes: not in a file, and not where the user asked for none (no-color.org).
    let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let layer = fmt::layer().with_writer(io::stderr);
    let layer = if human {
        layer.with_ansi(colours).with_target(false).boxed()
    } else {
        layer.json().flatten_event(true).with_ansi(false).boxed()
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(layer)
        .try_init()?;
    Ok(LevelSwitch(handle))
}

/// Tidings' own lines at the level; libraries only when they warn, unless everything is asked for.
fn targets(level: LogLevel) -> Targets {
    let own = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let libraries = match level {
        LogLevel::Trace => LevelFilter::TRACE,
        _ => own.min(LevelFilter::WARN),
    };
    Targets::new()
        .with_default(libraries)
        .with_target("tidings", own)
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn own_lines_follow_the_level_and_libraries_stay_quiet() {
        for (level, own_info, own_debug, library_info, library_warn) in [
            (LogLevel::Error, false, false, false, false),
            (LogLevel::Warn, false, false, false, true),
            (LogLevel::Info, true, false, false, true),
            (LogLevel::Debug, true, true, false, true),
            (LogLevel::Trace, true, true, true, true),
        ] {
            let targets = targets(level);
            let enabled = |target, at| targets.would_enable(target, &at);
            assert_eq!(
                enabled("tidings_server::serve", Level::INFO),
                own_info,
                "{level:?}"
            );
            assert_eq!(enabled("tidings_hub", Level::DEBUG), own_debug, "{level:?}");
            assert_eq!(enabled("hyper", Level::INFO), library_info, "{level:?}");
            assert_eq!(enabled("hyper", Level::WARN), library_warn, "{level:?}");
        }
    }
}
