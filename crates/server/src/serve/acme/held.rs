//! A certificate that an authority issued, with its key, checked for what it is wanted for.

use std::fmt;
use std::sync::Arc;

use rustls::client::verify_server_name;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use tidings_types::Timestamp;

use super::schedule::Validity;
use crate::config::AcmeSettings;

/// A certificate in use.
#[derive(Debug)]
pub struct Held {
    /// The chain and the key.
    pub key: Arc<CertifiedKey>,
    /// The names that it was wanted for.
    domains: Vec<String>,
    /// Who issued it.
    directory: Option<String>,
    validity: Validity,
    /// When it is to be renewed.
    due: Timestamp,
}

/// Why a certificate is of no use.
#[derive(Debug)]
pub enum Unfit {
    /// It is no PEM.
    NotPem(pem::Error),
    /// There is none.
    NoCertificate,
    /// It is broken, or the key is another's.
    Broken(rustls::Error),
    /// It does not have a name that is wanted.
    LacksName(String),
    /// It does not say for how long it is good.
    NoValidity,
    /// No random numbers could be had.
    NoRandomness(getrandom::Error),
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPem(error) => write!(f, "it is not PEM: {error}"),
            Self::NoCertificate => f.write_str("there is no certificate in it"),
            Self::Broken(error) => write!(f, "{error}"),
            Self::LacksName(name) => write!(f, "it is not for {name}"),
            Self::NoValidity => f.write_str("it does not say for how long it is good"),
            Self::NoRandomness(error) => write!(f, "no random numbers: {error}"),
        }
    }
}

impl std::error::Error for Unfit {}

impl Held {
    /// Reads a key and a chain behind it, in PEM.
    pub fn from_pem(text: &[u8], wanted: &AcmeSettings) -> Result<Self, Unfit> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
        let chain = chain.map_err(Unfit::NotPem)?;
        let own = chain.first().ok_or(Unfit::NoCertificate)?.clone();
        let key = PrivateKeyDer::from_pem_slice(text).map_err(Unfit::NotPem)?;
        let provider = aws_lc_rs::default_provider();
        let key = CertifiedKey::from_der(chain, key, &provider).map_err(Unfit::Broken)?;
        let parsed = ParsedCertificate::try_from(&own).map_err(Unfit::Broken)?;
        let lacks = |domain: &&String| {
            let name = ServerName::try_from(domain.as_str());
            !name.is_ok_and(|name| verify_server_name(&parsed, &name).is_ok())
        };
        if let Some(domain) = wanted.domains.iter().find(lacks) {
            return Err(Unfit::LacksName(domain.clone()));
        }
        let validity = validity(&own).ok_or(Unfit::NoValidity)?;
        let random = getrandom::u64().map_err(Unfit::NoRandomness)?;
        Ok(Self {
            key: Arc::new(key),
            domains: wanted.domains.clone(),
            directory: wanted.directory.clone(),
            validity,
            due: validity.due(random),
        })
    }

    /// When it expires.
    pub fn until(&self) -> Timestamp {
        self.validity.until
    }

    /// When it is to be replaced by one that these settings want.
    pub fn due(&self, wanted: &AcmeSettings) -> Timestamp {
        if self.domains == wanted.domains && self.directory == wanted.directory {
            self.due
        } else {
            Timestamp(0)
        }
    }
}

/// From when to when a certificate is good (RFC 5280, 4.1): `SEQUENCE { SEQUENCE { [0] version, serial, algorithm, issuer,
/// SEQUENCE { from, until }, ..`.
fn validity(certificate: &[u8]) -> Option<Validity> {
    const SEQUENCE: u8 = 0x30;
    const VERSION: u8 = 0xa0;
    let (whole, _) = element(certificate, Some(SEQUENCE))?;
    let (mut rest, _) = element(whole, Some(SEQUENCE))?;
    if rest.first() == Some(&VERSION) {
        rest = element(rest, None)?.1;
    }
    for _ in ["serial", "algorithm", "issuer"] {
        rest = element(rest, None)?.1;
    }
    let (both, _) = element(rest, Some(SEQUENCE))?;
    let (from, rest) = time(both)?;
    let (until, _) = time(rest)?;
    Some(Validity { from, until })
}

/// The content of the DER element in front, and what is behind it.
fn element(der: &[u8], tag: Option<u8>) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        ..=0x7f => (usize::from(first), rest),
        // In so many bytes; four are more than any certificate has.
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let length = bytes
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            (length, rest)
        }
        _ => return None,
    };
    let fits = tag.is_none_or(|tag| tag == found);
    fits.then(|| rest.split_at_checked(length))?
}

/// The time in front: `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ` (RFC 5280, 4.1.2.5).
fn time(der: &[u8]) -> Option<(Timestamp, &[u8])> {
    const UTC_TIME: u8 = 0x17;
    const GENERALIZED_TIME: u8 = 0x18;
    let (content, rest) = element(der, None)?;
    let text = std::str::from_utf8(content).ok()?.strip_suffix('Z')?;
    let text = match (der.first(), text.len()) {
        (Some(&UTC_TIME), 12) if text.as_bytes()[0] < b'5' => format!("20{text}"),
        (Some(&UTC_TIME), 12) => format!("19{text}"),
        (Some(&GENERALIZED_TIME), 14) => text.to_owned(),
        _ => return None,
    };
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let part = |from, to| text[from..to].parse::<u64>().ok();
    let (year, month, day) = (part(0, 4)?, part(4, 6)?, part(6, 8)?);
    let (hour, minute, second) = (part(8, 10)?, part(10, 12)?, part(12, 14)?);
    if !(1970..).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let seconds = ((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second;
    Some((Timestamp(seconds * 1_000), rest))
}

/// Days since 1970 of a date in the Gregorian calendar.
fn days(year: u64, month: u64, day: u64) -> u64 {
    // Years that begin in March, so that the leap day is the last one.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap_days = year / 4 - year / 100 + year / 400;
    year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Option<u64> {
        let tag = if text.len() == 13 { 0x17 } else { 0x18 };
        let der = [&[tag, text.len() as u8], text.as_bytes(), b"rest"].concat();
        let (time, rest) = time(&der)?;
        assert_eq!(rest, b"rest");
        Some(time.0 / 1_000)
    }

    #[test]
    fn times_of_both_kinds_are_read() {
        for (text, expect) in [
            ("700101000000Z", 0),
            ("000229235959Z", 951_868_799),
            ("261121133000Z", 1_795_267_800),
            ("491231235959Z", 2_524_607_999),
            ("19700101000001Z", 1),
            ("20500101000000Z", 2_524_608_000),
            ("21000301000000Z", 4_107_542_400),
            ("99991231235959Z", 253_402_300_799),
        ] {
            assert_eq!(at(text), Some(expect), "{text}");
        }
        for text in [
            "700101000000+",
            "7001010000Z",
            "20501301000000Z",
            "205x0101000000Z",
        ] {
            assert_eq!(at(text), None, "{text}");
        }
    }

    fn pem(names: &[&str]) -> String {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2050, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        key.serialize_pem() + &certificate.pem()
    }

    fn wanted(domains: &[&str]) -> AcmeSettings {
        AcmeSettings {
            domains: domains.iter().map(ToString::to_string).collect(),
            ..AcmeSettings::default()
        }
    }

    #[test]
    fn a_certificate_is_held_if_it_has_its_key_and_every_name() {
        let text = pem(&["a.example", "b.example"]);
        let both = wanted(&["a.example", "b.example"]);
        let held = Held::from_pem(text.as_bytes(), &both).unwrap();
        let expect = Validity {
            from: Timestamp(1_767_225_600_000),
            until: Timestamp(2_524_608_000_000),
        };
        assert_eq!(held.validity, expect);
        assert!(held.due(&both) > expect.from && held.due(&both) < expect.until);
        assert_eq!(held.due(&wanted(&["a.example"])), Timestamp(0));

        let three = wanted(&["a.example", "b.example", "c.example"]);
        let unfit = Held::from_pem(text.as_bytes(), &three).unwrap_err();
        assert!(matches!(unfit, Unfit::LacksName(name) if name == "c.example"));
        let other = pem(&["a.example"]);
        let (key, _) = text.split_once("-----BEGIN CERTIFICATE").unwrap();
        let (_, chain) = other.split_once("-----END PRIVATE KEY-----").unwrap();
        let mixed = format!("{key}{chain}");
        let unfit = Held::from_pem(mixed.as_bytes(), &wanted(&["a.example"])).unwrap_err();
        assert!(matches!(unfit, Unfit::Broken(_)), "{unfit}");
        for half in [key, chain, ""] {
            assert!(Held::from_pem(half.as_bytes(), &wanted(&["a.example"])).is_err());
        }
    }
}
