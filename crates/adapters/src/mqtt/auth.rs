//! Enhanced authentication (5.0, 4.12): the exchange before a CONNACK, and again on an open connection.
//!
//! Which methods there are is for whoever makes the conversation to say. Today there is none, so a CONNECT that names
//! one is refused with "bad authentication method" (MQTT-4.12.0-1).

use bytes::Bytes;

use super::codec::{Auth, Authentication, Diagnostics, ReasonCode};

/// What a method says to a client's data.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(
    not(test),
    expect(
        dead_code,
        reason = "there is no method yet; the exchange is tested with one"
    )
)]
pub(super) enum Verdict {
    /// It needs another step, with this data for the client.
    Continue(Option<Bytes>),
    /// The client is who it says, with this data for it.
    Accept(Option<Bytes>),
    /// It is not.
    Reject,
}

/// One exchange of one method.
pub(super) trait Method {
    /// Judges the client's next data.
    fn step(&mut self, data: Option<&Bytes>) -> Verdict;
}

/// The method of a name, if there is one.
pub(super) type Methods = fn(name: &str) -> Option<Box<dyn Method>>;

/// No method at all.
pub(super) fn no_methods(_name: &str) -> Option<Box<dyn Method>> {
    None
}

/// What to do after a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Send this and wait.
    Challenge(Auth),
    /// It is over; this stands in the CONNACK, or in an AUTH that says success.
    Done(Authentication),
    /// It failed.
    Failed(ReasonCode),
}

/// The authentication of one connection.
pub(super) struct Exchange {
    /// As the CONNECT named it; every AUTH names it again (MQTT-4.12.0-5).
    name: bytestring::ByteString,
    /// Under way; `None` once it succeeded.
    method: Option<Box<dyn Method>>,
    methods: Methods,
}

impl Exchange {
    /// Begins with what a CONNECT says.
    pub(super) fn begin(
        first: &Authentication,
        methods: Methods,
    ) -> Result<(Self, Outcome), ReasonCode> {
        let method = methods(&first.method).ok_or(ReasonCode::BadAuthenticationMethod)?;
        let mut exchange = Self {
            name: first.method.clone(),
            method: Some(method),
            methods,
        };
        let outcome = exchange.step(first.data.as_ref());
        Ok((exchange, outcome))
    }

    /// Takes a client's AUTH.
    pub(super) fn take(&mut self, auth: &Auth) -> Outcome {
        if auth.authentication.method != self.name {
            return Outcome::Failed(ReasonCode::ProtocolError);
        }
        match (auth.reason, &self.method) {
            (ReasonCode::Reauthenticate, None) => self.method = (self.methods)(&self.name),
            (ReasonCode::ContinueAuthentication, Some(_)) => {}
            _ => return Outcome::Failed(ReasonCode::ProtocolError),
        }
        self.step(auth.authentication.data.as_ref())
    }

    fn step(&mut self, data: Option<&Bytes>) -> Outcome {
        let Some(method) = &mut self.method else {
            return Outcome::Failed(ReasonCode::BadAuthenticationMethod);
        };
        let verdict = method.step(data);
        let ours = |data| Authentication {
            method: self.name.clone(),
            data,
        };
        match verdict {
            Verdict::Continue(data) => Outcome::Challenge(Auth {
                reason: ReasonCode::ContinueAuthentication,
                authentication: ours(data),
                diagnostics: Diagnostics::default(),
            }),
            Verdict::Accept(data) => {
                let done = ours(data);
                self.method = None;
                Outcome::Done(done)
            }
            Verdict::Reject => Outcome::Failed(ReasonCode::NotAuthorized),
        }
    }
}
