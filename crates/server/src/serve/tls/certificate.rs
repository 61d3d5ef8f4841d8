//! What a client certificate says of its holder (RFC 5280). That it is good, rustls has found out.

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use tidings_ports::Certificate;
use tidings_types::Timestamp;
use x509_cert::certificate::TbsCertificate;
use x509_cert::der::asn1::{Ia5StringRef, ObjectIdentifier, PrintableStringRef, Utf8StringRef};
use x509_cert::der::{Any, Decode as _, Tag, Tagged as _};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use crate::config::ClientCertificates;

/// id-at-commonName (RFC 5280, A.1).
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// Why a certificate does not say whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nameless {
    /// It is no certificate that can be read.
    Unreadable,
    /// It has no name of this kind.
    None,
    /// It has several: which one is meant is anybody's guess.
    Several,
    /// It would be another one in a permission's filter, or in a log.
    Unfit,
}

/// Reads the name, the end and the fingerprint; `None` if certificates say nothing of who peers are.
pub fn certificate(shown: &CertificateDer<'_>, names: ClientCertificates) -> Option<Certificate> {
    if names == ClientCertificates::Off {
        return None;
    }
    let read = x509_cert::Certificate::from_der(shown);
    let read = read.as_ref().map(x509_cert::Certificate::tbs_certificate);
    let name = match read {
        Ok(read) => name(read, names),
        Err(_) => Err(Nameless::Unreadable),
    };
    if let Err(reason) = name {
        tracing::debug!(?reason, "a client certificate does not say whose it is");
    }
    let expires = read.map_or(Timestamp(0), |read| {
        let end = read.validity().not_after.to_unix_duration();
        Timestamp(u64::try_from(end.as_millis()).unwrap_or(u64::MAX))
    });
    let mut fingerprint = String::with_capacity(64);
    for byte in digest(&SHA256, shown).as_ref() {
        let written = write!(fingerprint, "{byte:02x}");
        debug_assert!(written.is_ok(), "writing to a string does not fail");
    }
    Some(Certificate {
        name: name.ok(),
        expires,
        fingerprint,
    })
}

/// The one name of this kind.
fn name(read: &TbsCertificate, names: ClientCertificates) -> Result<String, Nameless> {
    let mut found = match names {
        ClientCertificates::SubjectCn => common_names(read)?,
        _ => alternative_names(read, names)?,
    };
    let name = found.pop().ok_or(Nameless::None)?;
    if !found.is_empty() {
        return Err(Nameless::Several);
    }
    // A URI has slashes, which no filter takes in place of `{sub}`, but rules can be for it by `subject`.
    let is_odd = |c: char| {
        c.is_control()
            || matches!(c, '+' | '#')
            || (c == '/' && names != ClientCertificates::SanUri)
    };
    if name.is_empty() || name.starts_with('$') || name.contains(is_odd) {
        return Err(Nameless::Unfit);
    }
    Ok(name)
}

fn common_names(read: &TbsCertificate) -> Result<Vec<String>, Nameless> {
    let attributes = read.subject().iter();
    let names = attributes.filter(|attribute| attribute.oid == COMMON_NAME);
    names
        .map(|attribute| text(&attribute.value).ok_or(Nameless::Unfit))
        .collect()
}

/// The text of a directory string, of the types that are still in use (RFC 5280, 4.1.2.4).
fn text(value: &Any) -> Option<String> {
    let text = match value.tag() {
        Tag::Utf8String => value
            .decode_as::<Utf8StringRef<'_>>()
            .ok()?
            .as_str()
            .to_owned(),
        Tag::PrintableString => value
            .decode_as::<PrintableStringRef<'_>>()
            .ok()?
            .as_str()
            .to_owned(),
        Tag::Ia5String => value
            .decode_as::<Ia5StringRef<'_>>()
            .ok()?
            .as_str()
            .to_owned(),
        _ => return None,
    };
    Some(text)
}

fn alternative_names(
    read: &TbsCertificate,
    names: ClientCertificates,
) -> Result<Vec<String>, Nameless> {
    let found = read.get_extension::<SubjectAltName>();
    let Some((_, SubjectAltName(all))) = found.map_err(|_| Nameless::Unreadable)? else {
        return Ok(Vec::new());
    };
    let of_the_kind = all.into_iter().filter_map(|name| match (names, name) {
        // Hosts are the same in every case (RFC 4343).
        (ClientCertificates::SanDns, GeneralName::DnsName(name)) => {
            Some(name.as_str().to_ascii_lowercase())
        }
        (ClientCertificates::SanEmail, GeneralName::Rfc822Name(name))
        | (ClientCertificates::SanUri, GeneralName::UniformResourceIdentifier(name)) => {
            Some(name.as_str().to_owned())
        }
        _ => None,
    });
    Ok(of_the_kind.collect())
}
