//! Whose a request is, by the header in which proxies say so: `X-Forwarded-For`, or `Forwarded` (RFC 7239).
//!
//! Each proxy adds the address that it was spoken to from at the right end; what is further left came with the request
//! and may be anything. So the chain is followed from the right, for as long as whoever is named is trusted to have
//! told the truth about the one before.

use std::net::{IpAddr, Ipv6Addr};

use http::HeaderMap;

use crate::config::{ForwardedBy, ProxySettings};

const X_FORWARDED_FOR: &str = "x-forwarded-for";

/// Why a chain was not followed to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// A part of it is no address.
    Malformed,
    /// A proxy does not tell: `unknown`, or a name of its own (RFC 7239, 6.2, 6.3).
    Hidden,
}

impl Ignored {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::Malformed, Self::Hidden];

    /// The name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Hidden => "hidden",
        }
    }
}

/// Who sends a request that came from this address: the last one in the chain who is not trusted, or the first one if
/// all are. Where the chain cannot be followed it is the last one who could be.
pub fn client(
    settings: &ProxySettings,
    from: IpAddr,
    headers: &HeaderMap,
) -> (IpAddr, Option<Ignored>) {
    let mut client = from;
    if !settings.trusts(client) {
        return (client, None);
    }
    let (name, list) = match settings.header {
        ForwardedBy::XForwardedFor => (X_FORWARDED_FOR, List::Plain),
        ForwardedBy::Forwarded => ("forwarded", List::Quoted),
        ForwardedBy::Off => return (client, None),
    };
    // Several lines are one list, in their order (RFC 9110, 5.3).
    for line in headers.get_all(name).iter().rev() {
        for element in parts_from_right(line.as_bytes(), b',', list) {
            let element = element.trim_ascii();
            // Empty ones are to be passed over (RFC 9110, 5.6.1.2).
            if element.is_empty() {
                continue;
            }
            let node = match list {
                List::Plain => text(element).and_then(node),
                List::Quoted => node_of_pairs(element),
            };
            client = match node {
                Ok(address) => address,
                Err(ignored) => return (client, Some(ignored)),
            };
            if !settings.trusts(client) {
                return (client, None);
            }
        }
    }
    (client, None)
}

/// Whether separators may stand in quotes.
#[derive(Clone, Copy)]
enum List {
    Plain,
    Quoted,
}

/// The parts between separators, the last one first. A quote that does not end can so only spoil what is left of it:
/// that is the client's own, and what a proxy added on its right is whole.
fn parts_from_right(line: &[u8], separator: u8, list: List) -> impl Iterator<Item = &[u8]> {
    let mut left = Some(line);
    std::iter::from_fn(move || {
        let line = left?;
        let mut in_quotes = false;
        for (at, byte) in line.iter().enumerate().rev() {
            if *byte == b'"' && matches!(list, List::Quoted) && !is_escaped(line, at) {
                in_quotes = !in_quotes;
            } else if *byte == separator && !in_quotes {
                left = Some(&line[..at]);
                return Some(&line[at + 1..]);
            }
        }
        left.take()
    })
}

/// Whether an odd number of backslashes stands in front (RFC 9110, 5.6.4).
fn is_escaped(line: &[u8], at: usize) -> bool {
    let before = line[..at].iter().rev();
    before.take_while(|byte| **byte == b'\\').count() % 2 == 1
}

fn text(bytes: &[u8]) -> Result<&str, Ignored> {
    std::str::from_utf8(bytes).map_err(|_| Ignored::Malformed)
}

/// The value of `for` (RFC 7239, 4), which there has to be once.
fn node_of_pairs(element: &[u8]) -> Result<IpAddr, Ignored> {
    let mut found = None;
    for pair in parts_from_right(element, b';', List::Quoted) {
        let (name, value) = text(pair)?.split_once('=').ok_or(Ignored::Malformed)?;
        if name.trim().eq_ignore_ascii_case("for") && found.replace(value).is_some() {
            return Err(Ignored::Malformed);
        }
    }
    let value = found.ok_or(Ignored::Malformed)?.trim();
    // RFC 7239, 6: an IPv6 address, and one with a port, is in quotes; not every proxy does so.
    match value.strip_prefix('"') {
        None => node(value),
        Some(quoted) => node(quoted.strip_suffix('"').ok_or(Ignored::Malformed)?),
    }
}

/// An address, perhaps with a port, which proxies add in more ways than one.
fn node(text: &str) -> Result<IpAddr, Ignored> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.to_canonical());
    }
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or(Ignored::Malformed)?;
        let address: Ipv6Addr = host.parse().map_err(|_| Ignored::Malformed)?;
        (IpAddr::V6(address), port)
    } else {
        let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
        if host.eq_ignore_ascii_case("unknown") || is_obfuscated(host) {
            return Err(Ignored::Hidden);
        }
        let address = host.parse().map_err(|_| Ignored::Malformed)?;
        (IpAddr::V4(address), port)
    };
    match port.strip_prefix(':') {
        None if port.is_empty() => {}
        Some(port) if port.parse::<u16>().is_ok() || is_obfuscated(port) => {}
        _ => return Err(Ignored::Malformed),
    }
    Ok(host.to_canonical())
}

/// RFC 7239, 6.3.
fn is_obfuscated(text: &str) -> bool {
    let is_good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    text.len() > 1 && text.starts_with('_') && text.chars().all(is_good)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const PROXY: &str = "10.0.0.1";

    fn settings(header: ForwardedBy) -> ProxySettings {
        ProxySettings {
            trusted: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
            header,
            ..ProxySettings::default()
        }
    }

    fn headers(name: &'static str, lines: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name, HeaderValue::from_bytes(line).unwrap());
        }
        headers
    }

    #[track_caller]
    fn check(header: ForwardedBy, lines: &[&str], expect: &str, ignored: Option<Ignored>) {
        let name = match header {
            ForwardedBy::Forwarded => "forwarded",
            _ => X_FORWARDED_FOR,
        };
        let bytes: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
        let headers = headers(name, &bytes);
        let got = client(&settings(header), PROXY.parse().unwrap(), &headers);
        assert_eq!(got, (expect.parse().unwrap(), ignored), "{lines:?}");
        // Whoever is not trusted says nothing.
        let stranger = "203.0.113.200".parse().unwrap();
        assert_eq!(
            client(&settings(header), stranger, &headers),
            (stranger, None)
        );
    }

    #[test]
    fn the_last_address_that_is_not_trusted_counts() {
        let check = |lines: &[&str], expect: &str| {
            check(ForwardedBy::XForwardedFor, lines, expect, None);
        };
        check(&[], PROXY);
        check(&[""], PROXY);
        check(&["203.0.113.7"], "203.0.113.7");
        // The client's own words are on the left.
        check(&["1.1.1.1, 203.0.113.7"], "203.0.113.7");
        check(&["garbage, 203.0.113.7"], "203.0.113.7");
        check(&["1.1.1.1", "203.0.113.7"], "203.0.113.7");
        check(&["203.0.113.7, 10.0.0.9"], "203.0.113.7");
        check(&["203.0.113.7", "10.0.0.9", "10.0.0.8"], "203.0.113.7");
        check(&["10.0.0.9, 10.0.0.8"], "10.0.0.9");
        check(&["  203.0.113.7\t,, ,10.0.0.9 , "], "203.0.113.7");
        check(&["203.0.113.7:5678"], "203.0.113.7");
        check(&["2001:db8::7"], "2001:db8::7");
        check(&["[2001:db8::7]"], "2001:db8::7");
        check(&["[2001:db8::7]:443, fd00::1"], "2001:db8::7");
        check(&["::ffff:203.0.113.7"], "203.0.113.7");
        check(&["203.0.113.7, ::ffff:10.0.0.9"], "203.0.113.7");
    }

    #[test]
    fn a_chain_ends_where_it_cannot_be_read() {
        let check = |lines: &[&str], expect: &str, ignored: Ignored| {
            check(ForwardedBy::XForwardedFor, lines, expect, Some(ignored));
        };
        for bad in [
            "garbage",
            "203.0.113",
            "203.0.113.7 203.0.113.8",
            "203.0.113.7:",
            "203.0.113.7:65536",
            "203.0.113.007",
            "[203.0.113.7]",
            "[2001:db8::7",
            "2001:db8::7]:1",
            "fe80::1%eth0",
            "\"203.0.113.7\"",
            "for=203.0.113.7",
            "203.0.113.7;",
            "_",
        ] {
            check(&[bad], PROXY, Ignored::Malformed);
            check(
                &[&format!("203.0.113.7, {bad}, 10.0.0.9")],
                "10.0.0.9",
                Ignored::Malformed,
            );
        }
        check(&["unknown"], PROXY, Ignored::Hidden);
        check(&["203.0.113.7, _gazonk"], PROXY, Ignored::Hidden);
        check(
            &["203.0.113.7, unknown", "10.0.0.9"],
            "10.0.0.9",
            Ignored::Hidden,
        );
    }

    #[test]
    fn forwarded_is_read_by_its_own_rules() {
        for (lines, expect, ignored) in [
            (&["for=203.0.113.7"][..], "203.0.113.7", None),
            (
                &["For=\"[2001:db8:cafe::17]:4711\""],
                "2001:db8:cafe::17",
                None,
            ),
            (
                &["for=203.0.113.7;proto=http;by=203.0.113.43"],
                "203.0.113.7",
                None,
            ),
            (&["by=10.0.0.1;for=203.0.113.7:_port"], "203.0.113.7", None),
            (
                &["for=1.1.1.1, for=203.0.113.7", "for=10.0.0.9;host=\"a,b\""],
                "203.0.113.7",
                None,
            ),
            (&["for=203.0.113.7, for=\"[fd00::1]\""], "203.0.113.7", None),
            (
                &["for=203.0.113.7, for=unknown"],
                PROXY,
                Some(Ignored::Hidden),
            ),
            (
                &["for=203.0.113.7, for=_hidden"],
                PROXY,
                Some(Ignored::Hidden),
            ),
            (
                &["for=203.0.113.7;for=203.0.113.8"],
                PROXY,
                Some(Ignored::Malformed),
            ),
            (&["proto=https"], PROXY, Some(Ignored::Malformed)),
            (&["203.0.113.7"], PROXY, Some(Ignored::Malformed)),
            (&["for=\"203.0.113.7"], PROXY, Some(Ignored::Malformed)),
            (
                &["host=\"x;for=1.1.1.1\";for=203.0.113.7"],
                "203.0.113.7",
                None,
            ),
            (
                &["for=203.0.113.7;host=\"\\\\\\\", for=1.1.1.1\""],
                "203.0.113.7",
                None,
            ),
            // What the client began, a proxy ended.
            (&["for=\", for=203.0.113.7"], "203.0.113.7", None),
            (
                &["for=1.1.1.1;host=\"\\, for=203.0.113.7;proto=http"],
                "203.0.113.7",
                None,
            ),
        ] {
            check(ForwardedBy::Forwarded, lines, expect, ignored);
        }
    }

    #[test]
    fn only_the_configured_header_is_looked_at() {
        let from: IpAddr = PROXY.parse().unwrap();
        let forwarded = headers("forwarded", &[b"for=203.0.113.7"]);
        let old = headers(X_FORWARDED_FOR, &[b"203.0.113.7"]);
        for (header, other) in [
            (ForwardedBy::XForwardedFor, &forwarded),
            (ForwardedBy::Forwarded, &old),
            (ForwardedBy::Off, &forwarded),
            (ForwardedBy::Off, &old),
        ] {
            assert_eq!(client(&settings(header), from, other), (from, None));
        }
    }

    proptest! {
        #[test]
        fn what_the_client_wrote_changes_nothing(
            wrote in vec("[ -~\t]{0,40}", 0..4),
            inner in vec(0_u8..255, 0..3),
        ) {
            for header in [ForwardedBy::XForwardedFor, ForwardedBy::Forwarded] {
                let (name, before) = match header {
                    ForwardedBy::Forwarded => ("forwarded", "for="),
                    _ => (X_FORWARDED_FOR, ""),
                };
                // The outermost proxy adds to the line or makes one of its own, as does every further one.
                let mut lines: Vec<String> = wrote.clone();
                let added = std::iter::once("203.0.113.7".to_owned());
                let added = added.chain(inner.iter().map(|last| format!("10.0.0.{last}")));
                for (number, address) in added.enumerate() {
                    match lines.last_mut().filter(|_| number % 2 == 0) {
                        Some(line) => line.extend([", ", before, &address]),
                        None => lines.push(format!("{before}{address}")),
                    }
                }
                let lines: Vec<&[u8]> = lines.iter().map(String::as_bytes).collect();
                let (got, ignored) =
                    client(&settings(header), PROXY.parse().unwrap(), &headers(name, &lines));
                prop_assert_eq!(got, "203.0.113.7".parse::<IpAddr>().unwrap());
                prop_assert_eq!(ignored, None);
            }
        }
    }
}
