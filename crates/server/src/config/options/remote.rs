//! The options for other servers that are asked who peers are, and what they may do.

use super::{DAY, HOUR, KIB, OptionSpec, option};
use crate::config::remote::SOURCES;
use crate::config::slot::Slot;

/// They belong to the section `auth`.
pub(super) const REMOTE: &[OptionSpec] = &[
    option(
        "auth.order",
        "In which order the sources are asked for a credential, up to the first that knows it; what is left \
         out comes last.",
        |c| Slot::Words(&mut c.auth.remote.order, SOURCES),
    )
    .reloadable(),
    option(
        "auth.jwt_jwks_url",
        "Where the issuer has the public keys of its tokens, as a JWKS document.",
        |c| Slot::TextOrOff(&mut c.auth.remote.jwks_url),
    )
    .range(1, 4 * KIB)
    .reloadable(),
    option(
        "auth.jwt_jwks_age_ms_max",
        "How long the issuer's keys are used without asking for newer ones, if the issuer does not say \
         that it is less.",
        |c| Slot::Span(&mut c.auth.remote.jwks_age_max),
    )
    .range(100, 30 * DAY)
    .reloadable(),
    option(
        "auth.jwt_jwks_refetch_ms",
        "The least time between two requests for keys that tokens of an unknown key cause.",
        |c| Slot::Span(&mut c.auth.remote.jwks_refetch),
    )
    .range(100, HOUR)
    .reloadable(),
    option(
        "auth.oidc_issuer",
        "An OpenID issuer, whose discovery document says where its keys are. Its tokens must name it \
         (`iss`) and `auth.jwt_audience`.",
        |c| Slot::TextOrOff(&mut c.auth.remote.oidc_issuer),
    )
    .range(1, 4 * KIB)
    .reloadable(),
    option(
        "auth.introspection_url",
        "Where an authorization server says what a bearer token is good for (RFC 7662).",
        |c| Slot::TextOrOff(&mut c.auth.remote.introspection_url),
    )
    .range(1, 4 * KIB)
    .reloadable(),
    option(
        "auth.introspection_client_id",
        "The name by which the authorization server knows this server.",
        |c| Slot::TextOrOff(&mut c.auth.remote.introspection_client_id),
    )
    .range(1, KIB)
    .reloadable(),
    option(
        "auth.introspection_client_secret_file",
        "The secret that belongs to that name.",
        |c| Slot::TextOrOff(&mut c.auth.remote.introspection_client_secret_file),
    )
    .range(1, 4 * KIB)
    .reloadable(),
    option(
        "auth.introspection_cache_ms_max",
        "How long what the authorization server said of a token is taken without asking again: the \
         longest that a token which was revoked there still opens connections.",
        |c| Slot::Span(&mut c.auth.remote.introspection_cache_max),
    )
    .range(0, DAY)
    .reloadable(),
    option(
        "auth.callout_connect_url",
        "Where your backend is asked, by POST, who a peer with a credential is.",
        |c| Slot::TextOrOff(&mut c.auth.remote.callout_connect_url),
    )
    .range(1, 4 * KIB)
    .reloadable(),
    option(
        "auth.callout_permission_url",
        "Where your backend is asked, by POST, whether a peer may publish or subscribe to what neither a \
         grant nor a denial decides.",
        |c| Slot::TextOrOff(&mut c.auth.remote.callout_permission_url),
    )
    .range(1, 4 * KIB)
    .reloadable(),
    option(
        "auth.callout_token_file",
        "A secret that your backend knows this server by; it is sent as bearer token.",
        |c| Slot::TextOrOff(&mut c.auth.remote.callout_token_file),
    )
    .range(1, 4 * KIB)
    .reloadable(),
    option(
        "auth.callout_ms_max",
        "How long your backend may take. After it, nobody is let in, and nothing is permitted.",
        |c| Slot::Span(&mut c.auth.remote.callout_time_max),
    )
    .range(10, HOUR)
    .reloadable(),
    option(
        "auth.remote_ms_max",
        "How long an issuer or an authorization server may take.",
        |c| Slot::Span(&mut c.auth.remote.time_max),
    )
    .range(10, HOUR)
    .reloadable(),
    option(
        "auth.remote_ca_file",
        "Authorities, in PEM, whose certificates are trusted besides the system's when another server is \
         asked.",
        |c| Slot::TextOrOff(&mut c.auth.remote.ca_file),
    )
    .range(1, 4 * KIB)
    .reloadable(),
    option(
        "auth.http_insecure",
        "Ask other machines without TLS too, so that whoever is in between decides who comes in.",
        |c| Slot::Flag(&mut c.auth.remote.http_insecure),
    )
    .reloadable(),
];

/// One list of two.
pub(super) const fn joined<const N: usize>(
    first: &[OptionSpec],
    second: &[OptionSpec],
) -> [OptionSpec; N] {
    let mut all = [first[0]; N];
    let mut at = 0;
    while at < N {
        all[at] = if at < first.len() {
            first[at]
        } else {
            second[at - first.len()]
        };
        at += 1;
    }
    all
}
