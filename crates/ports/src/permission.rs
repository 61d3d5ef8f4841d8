//! Who is asked whether a principal may do what its grants do not decide.

use std::net::IpAddr;
use std::sync::Arc;

use tidings_types::{Grants, Principal, Protocol, Refusal, TopicFilter};

/// What is to be done with a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Publish to it.
    Publish,
    /// Read it. The filter is judged as a whole.
    Subscribe,
}

impl Action {
    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
        }
    }
}

/// What a principal wants to do and has no grant for.
#[derive(Clone, Debug)]
pub struct Petition {
    /// Who.
    pub principal: Arc<Principal>,
    /// How it came.
    pub protocol: Protocol,
    /// The peer's address, where there is one.
    pub address: Option<IpAddr>,
    /// What, each once.
    pub wants: Vec<(Action, TopicFilter)>,
}

/// What a petition comes to: grants for what of it is permitted, or why nobody could say.
pub type Permission = Result<Grants, Refusal>;

/// Takes the outcome of a [`Petition`].
pub type Granted = Box<dyn FnOnce(Permission) + Send>;

/// Decides what grants do not, without blocking whoever asks.
pub trait Permitter: Send + Sync {
    /// Whether there is anybody to ask. Where there is nobody, what is not granted is denied.
    fn is_asked(&self) -> bool;

    /// What is known without asking; `None` if not all of it is.
    fn recall(&self, petition: &Petition) -> Option<Permission>;

    /// Finds out. The outcome is told once: before this returns, or later by another thread. With too much to ask
    /// it is `Busy`, at once.
    fn ask(&self, petition: Petition, granted: Granted);
}

/// Nobody is asked: for a hub whose grants say everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct GrantsAlone;

impl Permitter for GrantsAlone {
    fn is_asked(&self) -> bool {
        false
    }

    fn recall(&self, _petition: &Petition) -> Option<Permission> {
        Some(Ok(Grants::default()))
    }

    fn ask(&self, _petition: Petition, granted: Granted) {
        granted(Ok(Grants::default()));
    }
}
