//! Who may come to the admin listener.
//!
//! With a token, whoever shows it. Without one it listens on this machine's own addresses alone, and a page in a browser
//! on it must not get in: such a page can send requests to any address, and by DNS it can give its own name to that
//! address. A browser says where a request comes from (`Origin`, `Sec-Fetch-Site`), and a request by a name has that
//! name as its `Host`.

use std::net::IpAddr;
use std::time::Duration;

use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::request::Parts;
use tidings_adapters::http as adapter;
use tidings_auth::Secret;
use tidings_types::{Refusal, RefusalCode};

use super::counts::Outcome;
use crate::serve::Shared;

type Kept = (Outcome, Refusal);

/// Lets a request in, or says why not: at once, or after a while if there were many wrong tokens from its address.
pub async fn admit(shared: &Shared, parts: &Parts, address: IpAddr) -> Result<(), Kept> {
    let foreign = |refusal| (Outcome::Foreign, refusal);
    check_no_page(parts).map_err(foreign)?;
    let Some(token) = shared.admin.token() else {
        return check_host(parts).map_err(foreign);
    };
    if shows(parts, &token) {
        return Ok(());
    }
    let detail = "show the token of admin.token_file, as `Authorization: Bearer`";
    let refusal = Refusal::new(RefusalCode::Unauthorized, detail);
    if parts.headers.contains_key(AUTHORIZATION) {
        let delay_ms = shared.logins.penalty(address);
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
    }
    Err((Outcome::Unauthorized, refusal))
}

fn shows(parts: &Parts, token: &Secret) -> bool {
    // In a header alone: what is in an address is kept by proxies and shells.
    let shown = parts.headers.contains_key(AUTHORIZATION);
    let credential = adapter::credential(parts).ok().filter(|_| shown);
    matches!(credential, Some(tidings_ports::Credential::Bearer(bearer)) if bearer == *token)
}

/// No page sends this, unless somebody typed the address.
fn check_no_page(parts: &Parts) -> Result<(), Refusal> {
    let site = parts.headers.get("sec-fetch-site");
    let typed = site.is_none_or(|site| site == "none");
    if typed && !parts.headers.contains_key(ORIGIN) {
        return Ok(());
    }
    Err(Refusal::new(
        RefusalCode::BadOrigin,
        "pages in a browser may not come here: use curl, or another client",
    ))
}

/// The request names an address, or `localhost`, which no DNS has another address for.
fn check_host(parts: &Parts) -> Result<(), Refusal> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let host = hosts.next().and_then(|host| host.to_str().ok());
    if hosts.next().is_none() && host.is_some_and(is_own) {
        return Ok(());
    }
    Err(Refusal::new(
        RefusalCode::Forbidden,
        "without admin.token_file, name this machine by its address or as localhost: another name may be anybody's",
    ))
}

fn is_own(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        // Not the end of an IPv6 address.
        Some((name, port)) if !port.ends_with(']') => (name, port),
        _ => (host, ""),
    };
    let bare = name.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    let is_address = match bare {
        Some(bare) => bare.parse::<std::net::Ipv6Addr>().is_ok(),
        None => name.parse::<std::net::Ipv4Addr>().is_ok(),
    };
    port.bytes().all(|digit| digit.is_ascii_digit())
        && (is_address || name.eq_ignore_ascii_case("localhost"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_is_an_address_or_localhost_is_nobody_elses() {
        for (host, expect) in [
            ("127.0.0.1:8081", true),
            ("127.0.0.1", true),
            ("[::1]:8081", true),
            ("[::1]", true),
            ("localhost", true),
            ("LOCALHOST:1", true),
            ("localhost.evil.example:8081", false),
            ("127.0.0.1.evil.example", false),
            ("evil.example", false),
            ("localhost:80@evil.example", false),
            ("0x7f.1", false),
            ("::1", false),
            ("", false),
        ] {
            assert_eq!(is_own(host), expect, "{host}");
        }
    }
}
