//! From a checked configuration to a running server: logging, descriptors, signals, and what SIGHUP does.

use super::{ServeError, Shared, control};
use crate::config::{Config, Inputs, Loaded};
use crate::process::sd::{State, notify};
use crate::process::{LevelSwitch, ignore_sigxfsz, init_logging, raise_nofile};

/// Runs the server with a configuration until it is told to end.
///
/// `inputs` is where the configuration came from; SIGHUP reads it again.
pub fn launch(inputs: &Inputs, loaded: Loaded) -> Result<(), ServeError> {
    let mut config = loaded.config;
    let levels = init_logging(config.log_format, config.log_level).map_err(|error| {
        let source = std::io::Error::other(error);
        ServeError::System {
            what: "logging",
            source,
        }
    })?;
    end_at_panics();
    if let Some(file) = &loaded.file {
        tracing::info!(file = %file.display(), "configuration read");
    }
    // A write past a file size limit is an error of that write, not the end of the process.
    ignore_sigxfsz().map_err(|source| ServeError::System {
        what: "signals",
        source,
    })?;
    let mut running = config.clone();
    fit_to_descriptors(&mut config);
    control::run(&config, &mut |shared| {
        reload(inputs, &mut running, (shared, &levels));
    })
}

/// A panic is a bug, and the thread that it ends may be a shard or the log's. Half a server would hang its
/// clients; a supervisor starts a whole one again, and the log is safe at any moment.
fn end_at_panics() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tracing::error!(%panic, "a bug: the server ends");
        report(panic);
        std::process::abort();
    }));
}

fn fit_to_descriptors(config: &mut Config) {
    let (nofile, raised) = raise_nofile();
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit on open files could not be raised");
    }
    let connections = nofile.connections();
    tracing::info!(
        before = nofile.soft_before,
        now = nofile.soft,
        ceiling = nofile.hard,
        "open files permitted"
    );
    if connections < config.limits.connections_max {
        tracing::info!(
            connections_max = connections,
            configured = config.limits.connections_max,
            "the limit on open files (ulimit -n) is the limit on connections"
        );
        config.limits.connections_max = connections;
    }
}

fn reload(inputs: &Inputs, running: &mut Config, (shared, levels): (&Shared, &LevelSwitch)) {
    tell_supervisor(State::Reloading);
    match inputs.load() {
        Ok(loaded) => {
            let reloaded = running.reload(&loaded.config);
            if !levels.set(reloaded.config.log_level) {
                tracing::error!("the log level could not be changed");
            }
            if let Err(error) = shared.reload(&reloaded.config) {
                tracing::error!(%error, "the configuration could not be applied");
            }
            shared.tls.reload(&reloaded.config.tls);
            if !reloaded.changed.is_empty() {
                tracing::info!(
                    options = reloaded.changed.join(", "),
                    "configuration reloaded"
                );
            }
            if !reloaded.needs_restart.is_empty() {
                tracing::warn!(
                    options = reloaded.needs_restart.join(", "),
                    "these options changed and need a restart"
                );
            }
            if reloaded.changed.is_empty() && reloaded.needs_restart.is_empty() {
                tracing::info!("configuration reloaded: nothing changed");
            }
            *running = reloaded.config;
        }
        Err(errors) => {
            tracing::error!("configuration not reloaded, the old one stays:\n{errors}");
        }
    }
    tell_supervisor(State::Ready);
}

/// Tells systemd, if it is there.
pub(super) fn tell_supervisor(state: State) {
    if let Err(error) = notify(state) {
        tracing::debug!(%error, "the supervisor could not be told");
    }
}
