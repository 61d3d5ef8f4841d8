//! Other servers that are asked who peers are, and what they may do.
//!
//! Everything here runs on one thread of its own, with one client, and never on a shard. What is asked is bounded
//! ([`endpoint`]), what was answered is remembered for a while ([`book`]).

mod book;
mod callout;
mod endpoint;
mod fetch;
mod introspection;
mod keys;
mod seal;

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tidings_auth::jwt::JwtRules;
use tidings_auth::{Authenticator, Source};
use tidings_ports::{Clock, Granted, Permission, Permitter, Petition};
use tidings_types::Grants;
use tokio::runtime::{Builder, Handle};

use crate::config::remote::{CalloutPlan, KeysPlan, RemotePlan};
use callout::{Backend, ConnectCalls, PermissionCalls};
use endpoint::Endpoint;
pub use endpoint::{Asked, Counts};
use fetch::Client;
use introspection::Introspection;
use keys::IssuerKeys;
use seal::Seal;

/// What is asked, by metrics label.
pub const KINDS: [&str; 4] = [
    keys::LABEL,
    introspection::LABEL,
    callout::LABEL,
    "permission",
];

/// Asks other servers.
pub struct Remote {
    clock: Arc<dyn Clock>,
    counts: [Arc<Counts>; KINDS.len()],
    state: Mutex<State>,
    permissions: RwLock<Option<Arc<PermissionCalls>>>,
    /// Whether that is set.
    is_asked: AtomicBool,
}

#[derive(Default)]
struct State {
    runtime: Option<Handle>,
    keys: Option<Kept>,
}

/// Keys that stay over a reload, with what they were made of.
struct Kept {
    plan: KeysPlan,
    rules: JwtRules,
    ca: Option<Vec<u8>>,
    keys: IssuerKeys,
}

/// What everything that is asked shares.
struct Means<'a> {
    plan: &'a RemotePlan,
    client: Arc<Client>,
    runtime: Handle,
    clock: Arc<dyn Clock>,
}

impl Means<'_> {
    fn backend(&self, plan: &CalloutPlan, counts: &Arc<Counts>) -> Backend {
        let time_max = self.plan.callout_time_max;
        Backend {
            endpoint: Endpoint::new(
                Arc::clone(&self.client),
                plan.url.clone(),
                time_max,
                Arc::clone(counts),
            ),
            token: plan.token.clone(),
            runtime: self.runtime.clone(),
            clock: Arc::clone(&self.clock),
        }
    }
}

impl Remote {
    /// Asks nobody yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            counts: std::array::from_fn(|_| Arc::default()),
            state: Mutex::default(),
            permissions: RwLock::default(),
            is_asked: AtomicBool::new(false),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What questions of a kind came to, by the place in [`KINDS`].
    pub fn counts(&self, kind: usize) -> &Counts {
        &self.counts[kind]
    }

    /// How many of an issuer's keys there are; `None` if none are fetched.
    pub fn keys(&self) -> Option<usize> {
        self.state().keys.as_ref().map(|kept| kept.keys.len())
    }

    /// Asks these from now on: adds them to the sources. What was remembered of earlier ones is forgotten, but for an
    /// issuer's keys if nothing changed that they depend on.
    pub fn apply(
        &self,
        plan: &RemotePlan,
        rules: &JwtRules,
        authenticator: &mut Authenticator,
    ) -> io::Result<()> {
        if !plan.is_some() {
            self.state().keys = None;
            self.permit(None);
            return Ok(());
        }
        let client = Client::new(plan.ca.as_deref()).map_err(io::Error::other)?;
        let means = Means {
            plan,
            client: Arc::new(client),
            runtime: self.runtime()?,
            clock: Arc::clone(&self.clock),
        };
        let seal = Seal::new().map_err(io::Error::other)?;
        let keys = self.keep_keys(&means, rules);
        let mut sources: Vec<Box<dyn Source>> = Vec::new();
        sources.extend(keys.map(|keys| Box::new(keys) as Box<dyn Source>));
        if let Some(introspection) = &plan.introspection {
            let endpoint = Endpoint::new(
                Arc::clone(&means.client),
                introspection.url.clone(),
                plan.time_max,
                Arc::clone(&self.counts[1]),
            );
            let around = (seal.clone(), means.runtime.clone(), Arc::clone(&self.clock));
            let source = Introspection::new(introspection.clone(), rules.clone(), endpoint, around);
            sources.push(Box::new(source));
        }
        if let Some(connect) = &plan.connect {
            let backend = means.backend(connect, &self.counts[2]);
            sources.push(Box::new(ConnectCalls::new(backend, seal)));
        }
        authenticator.sources.extend(sources);
        let permission = plan.permission.as_ref();
        let permission = permission.map(|it| means.backend(it, &self.counts[3]));
        self.permit(permission.map(|backend| Arc::new(PermissionCalls::new(backend))));
        Ok(())
    }

    fn keep_keys(&self, means: &Means<'_>, rules: &JwtRules) -> Option<IssuerKeys> {
        let mut state = self.state();
        let Some(plan) = &means.plan.keys else {
            state.keys = None;
            return None;
        };
        let ca = &means.plan.ca;
        let same = |kept: &&Kept| kept.plan == *plan && kept.rules == *rules && kept.ca == *ca;
        if let Some(kept) = state.keys.as_ref().filter(same) {
            return Some(kept.keys.clone());
        }
        // Other rules, or another authority for TLS, make no other keys of them.
        let known = state.keys.as_ref().filter(|it| it.plan.place == plan.place);
        let keys = IssuerKeys::start(
            &means.runtime,
            known.and_then(|kept| kept.keys.known()),
            (plan.clone(), rules.clone()),
            (Arc::clone(&means.client), means.plan.time_max),
            Arc::clone(&self.clock),
            Arc::clone(&self.counts[0]),
        );
        state.keys = Some(Kept {
            plan: plan.clone(),
            rules: rules.clone(),
            ca: ca.clone(),
            keys: keys.clone(),
        });
        Some(keys)
    }

    fn permit(&self, calls: Option<Arc<PermissionCalls>>) {
        self.is_asked.store(calls.is_some(), Relaxed);
        *self
            .permissions
            .write()
            .unwrap_or_else(PoisonError::into_inner) = calls;
    }

    fn permissions(&self) -> Option<Arc<PermissionCalls>> {
        self.permissions
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The runtime of the thread that asks, which is started when it is needed first.
    fn runtime(&self) -> io::Result<Handle> {
        let mut state = self.state();
        if let Some(runtime) = &state.runtime {
            return Ok(runtime.clone());
        }
        let runtime = Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(4)
            .build()?;
        let handle = runtime.handle().clone();
        let asking = move || runtime.block_on(std::future::pending::<()>());
        std::thread::Builder::new()
            .name("remote".to_owned())
            .spawn(asking)?;
        state.runtime = Some(handle.clone());
        Ok(handle)
    }
}

impl Permitter for Remote {
    fn is_asked(&self) -> bool {
        self.is_asked.load(Relaxed)
    }

    fn recall(&self, petition: &Petition) -> Option<Permission> {
        match self.permissions() {
            Some(calls) => calls.recall(petition),
            None => Some(Ok(Grants::default())),
        }
    }

    fn ask(&self, petition: Petition, granted: Granted) {
        match self.permissions() {
            Some(calls) => calls.ask(&petition, granted),
            None => granted(Ok(Grants::default())),
        }
    }
}
