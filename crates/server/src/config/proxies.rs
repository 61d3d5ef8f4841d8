//! What stands in front of the server: which addresses are believed when they say whose connection or request they pass
//! on, and how they say it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::given::Given;

/// The listeners by their names, as in the log.
pub const LISTENERS: [&str; 6] = ["http", "https", "mqtt", "mqtts", "stomp", "stomps"];

/// The addresses that begin with the same bits (RFC 4632, 3.1; RFC 4291, 2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its bits behind the prefix are zeros. An IPv4 address is never mapped into IPv6.
    address: IpAddr,
    /// How many bits are the same.
    prefix: u8,
}

/// The text is no address and no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotANetwork;

impl Network {
    /// Whether the address is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(mine), IpAddr::V4(other)) => {
                let differ = u32::from(mine) ^ u32::from(other);
                differ.leading_zeros() >= u32::from(self.prefix)
            }
            (IpAddr::V6(mine), IpAddr::V6(other)) => {
                let differ = u128::from(mine) ^ u128::from(other);
                differ.leading_zeros() >= u32::from(self.prefix)
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = NotANetwork;

    /// From `10.0.0.7`, `10.0.0.0/8`, `fd00::/8`. Bits that are set behind the prefix are an error: the network that was
    /// meant may be another one.
    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let given: IpAddr = address.parse().map_err(|_| NotANetwork)?;
        let address = given.to_canonical();
        // The prefix of a mapped address would count bits that are gone.
        if given != address && prefix.is_some() {
            return Err(NotANetwork);
        }
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => most,
            Some(digits) if digits.bytes().all(|digit| digit.is_ascii_digit()) => {
                digits.parse().map_err(|_| NotANetwork)?
            }
            Some(_) => return Err(NotANetwork),
        };
        let used = match address {
            IpAddr::V4(address) => 32 - u32::from(address).trailing_zeros(),
            IpAddr::V6(address) => 128 - u128::from(address).trailing_zeros(),
        };
        if prefix > most || used > u32::from(prefix) {
            return Err(NotANetwork);
        }
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.address, self.prefix) {
            (IpAddr::V4(address), 32) => write!(f, "{address}"),
            (IpAddr::V6(address), 128) => write!(f, "{address}"),
            (address, prefix) => write!(f, "{address}/{prefix}"),
        }
    }
}

/// The header of a request in which trusted proxies say whose it is. Any other one is whatever the client wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardedBy {
    /// `X-Forwarded-For`.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// None is believed.
    Off,
}

/// The `[proxy]` section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxySettings {
    /// Who is believed.
    pub trusted: Vec<Network>,
    /// The listeners where the connections of these begin with a header of the PROXY protocol.
    pub protocol: Vec<&'static str>,
    /// How they say whose a request is.
    pub header: ForwardedBy,
}

impl ProxySettings {
    /// Whether the address is believed.
    #[must_use]
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(address))
    }
}

/// The networks that were given, if that is what they are.
pub fn networks(given: &Given) -> Option<Vec<Network>> {
    let texts = given.list()?;
    texts.iter().map(|text| text.parse().ok()).collect()
}

/// The listeners with the names that were given, each once, in the order of [`LISTENERS`].
pub fn listeners(given: &Given) -> Option<Vec<&'static str>> {
    let names = given.list()?;
    let known = |name: &String| LISTENERS.contains(&name.as_str());
    names.iter().all(known).then(|| {
        let all = LISTENERS.into_iter();
        all.filter(|name| names.iter().any(|given| given == name))
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_the_addresses_with_its_prefix() {
        for (network, address, expect) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.7", "10.0.0.7", true),
            ("10.0.0.7", "10.0.0.6", false),
            ("10.0.0.7/32", "10.0.0.7", true),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::/0", "203.0.113.9", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("::ffff:10.0.0.7", "10.0.0.7", true),
            ("2001:db8::/32", "2001:db8:1::9", true),
            ("2001:db8::/32", "2001:db9::9", false),
            ("192.168.128.0/17", "192.168.127.255", false),
        ] {
            let parsed: Network = network.parse().unwrap();
            let address = address.parse().unwrap();
            assert_eq!(parsed.contains(address), expect, "{network} {address}");
            assert_eq!(parsed.to_string().parse(), Ok(parsed));
        }
    }

    #[test]
    fn what_may_mean_another_network_is_refused() {
        for text in [
            "",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/8/8",
            "10.0.0",
            "010.0.0.0/8",
            "::1/64",
            "::ffff:10.0.0.0/104",
            "fe80::1%eth0",
            "localhost",
            " 10.0.0.0/8",
        ] {
            assert_eq!(text.parse::<Network>(), Err(NotANetwork), "{text}");
        }
    }
}
