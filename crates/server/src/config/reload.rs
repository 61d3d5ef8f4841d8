//! What SIGHUP may change in a running server.

use super::Config;
use super::given::Given;
use super::options::OPTIONS;

/// What a reload comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// The running configuration with every new value that can be applied.
    pub config: Config,
    /// Options that have a new value now.
    pub changed: Vec<&'static str>,
    /// Options whose new value needs a restart; `config` has the old one.
    pub needs_restart: Vec<&'static str>,
}

impl Config {
    /// Takes from a newly loaded configuration what can change while the server runs.
    #[must_use]
    pub fn reload(&self, new: &Self) -> Reloaded {
        let mut reloaded = Reloaded {
            config: self.clone(),
            changed: Vec::new(),
            needs_restart: Vec::new(),
        };
        let mut new = new.clone();
        // Every option one by one, so that a new one is reported without a thought.
        for spec in OPTIONS {
            let (mut current, wanted) = ((spec.slot)(&mut reloaded.config), (spec.slot)(&mut new));
            let wanted = wanted.toml();
            if current.toml() == wanted {
                continue;
            }
            if spec.reloadable && current.set(&given(&wanted), spec.range).is_ok() {
                reloaded.changed.push(spec.key);
            } else {
                reloaded.needs_restart.push(spec.key);
            }
        }
        if self.retention.rules != new.retention.rules {
            reloaded.needs_restart.push("retention");
        }
        reloaded
    }
}

/// The value of a TOML expression that a slot wrote.
fn given(toml: &str) -> Given {
    let file = super::toml_file::parse(&format!("v = {toml}")).unwrap_or_default();
    file.entries
        .into_iter()
        .next()
        .map_or_else(|| Given::Other(toml.to_owned()), |entry| entry.given)
}
