//! What TLS is set to: which files, which versions, and whether clients show certificates.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::acme::AcmeSettings;
use super::given::{Given, quoted};

/// A certificate chain and its private key, in PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, the server's own certificate first.
    pub cert: PathBuf,
    /// The key; the same file may hold both.
    pub key: PathBuf,
}

/// The oldest version of TLS that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246), and 1.3.
    #[default]
    V12,
    /// TLS 1.3 (RFC 8446) alone.
    V13,
}

/// Whether a client has to show a certificate, where it is asked for one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    /// The handshake fails without one.
    #[default]
    Required,
    /// A client may do without, but a certificate that it shows has to be good.
    Optional,
}

/// The `[tls]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// The first one is for clients that name no host, or another one.
    pub certificates: Vec<CertificateFiles>,
    /// The oldest version that is spoken.
    pub version_min: TlsVersion,
    /// The certificates, in a PEM file, whose holders may issue certificates for clients; clients are asked for none
    /// without it.
    pub client_ca: Option<String>,
    /// Whether clients have to show one.
    pub client_auth: ClientAuth,
    /// The certificates that those have taken back, in PEM files.
    pub client_crl: Option<String>,
    /// Automatic certificates.
    pub acme: AcmeSettings,
    /// How often the files are looked at for changes.
    pub watch: Duration,
    /// For how many seconds browsers are to come back by TLS alone (RFC 6797); 0 says nothing of it.
    pub hsts_s: u64,
}

impl Default for TlsSettings {
    fn default() -> Self {
        Self {
            certificates: Vec::new(),
            version_min: TlsVersion::default(),
            client_ca: None,
            client_auth: ClientAuth::default(),
            client_crl: None,
            acme: AcmeSettings::default(),
            watch: Duration::from_secs(10),
            hsts_s: 0,
        }
    }
}

impl CertificateFiles {
    /// From `cert.pem:key.pem`, or from the name of one file that has both.
    fn from_text(text: &str) -> Option<Self> {
        let (cert, key) = text.split_once(':').unwrap_or((text, text));
        (!cert.is_empty() && !key.is_empty()).then(|| Self {
            cert: cert.into(),
            key: key.into(),
        })
    }

    /// From `{ cert = "cert.pem", key = "key.pem" }`, of which the key may be left out.
    fn from_table(table: &[(String, String)]) -> Option<Self> {
        let of = |name: &str| {
            let found = table.iter().find(|(key, _)| key == name);
            found.map(|(_, value)| value.as_str())
        };
        let cert = of("cert").filter(|path| !path.is_empty())?;
        let key = of("key").unwrap_or(cert);
        let known = 1 + usize::from(of("key").is_some());
        (!key.is_empty() && table.len() == known).then(|| Self {
            cert: cert.into(),
            key: key.into(),
        })
    }
}

impl fmt::Display for CertificateFiles {
    /// As in a TOML file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |path: &PathBuf| quoted(&path.to_string_lossy());
        write!(
            f,
            "{{ cert = {}, key = {} }}",
            of(&self.cert),
            of(&self.key)
        )
    }
}

/// The certificates that were given, if that is what they are.
pub fn certificates(given: &Given) -> Option<Vec<CertificateFiles>> {
    if let Given::Tables(tables) = given {
        let all = tables
            .iter()
            .map(|table| CertificateFiles::from_table(table));
        return all.collect();
    }
    let texts = given.list()?;
    let all = texts.iter().map(|text| CertificateFiles::from_text(text));
    all.collect()
}

/// The certificates as TOML.
pub fn certificates_toml(certificates: &[CertificateFiles]) -> String {
    let texts: Vec<String> = certificates.iter().map(ToString::to_string).collect();
    format!("[{}]", texts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Inputs, Loaded, Setting, print};

    fn load(file: &str, flags: &[(&str, &str)]) -> Result<Loaded, String> {
        let folder = tempfile::tempdir().unwrap();
        let usual_file = folder.path().join("tidings.toml");
        std::fs::write(&usual_file, file).unwrap();
        let settings = flags.iter().map(|(key, value)| Setting {
            key: (*key).to_owned(),
            value: Some((*value).to_owned()),
            flag: format!("--set {key}"),
        });
        let inputs = Inputs {
            file: None,
            usual_file,
            env: Vec::new(),
            settings: settings.collect(),
        };
        inputs.load().map_err(|errors| errors.to_string())
    }

    fn files(cert: &str, key: &str) -> CertificateFiles {
        CertificateFiles {
            cert: cert.into(),
            key: key.into(),
        }
    }

    #[test]
    fn certificates_are_taken_in_every_form_and_printed_in_one() {
        let two = [files("a.pem", "a.key"), files("b c.pem", "b c.pem")];
        for text in [
            "tls.certificates = [{ cert = 'a.pem', key = 'a.key' }, { cert = 'b c.pem' }]",
            "[[tls.certificates]]\ncert = 'a.pem'\nkey = 'a.key'\n[[tls.certificates]]\ncert = 'b c.pem'",
            "tls.certificates = ['a.pem:a.key', 'b c.pem']",
        ] {
            let loaded = load(text, &[]).unwrap();
            assert_eq!(loaded.config.tls.certificates, two, "{text}");
            let printed = load(&print(&loaded), &[]).unwrap();
            assert_eq!(printed.config, loaded.config, "{text}");
        }
        let loaded = load("", &[("tls.certificates", "a.pem:a.key, b c.pem")]).unwrap();
        assert_eq!(loaded.config.tls.certificates, two);
    }

    #[test]
    fn what_is_wrong_with_tls_is_refused_with_the_reason() {
        let no_value = "not a value that this option takes";
        for (text, expect) in [
            ("tls.certificates = [{ key = 'a.key' }]", no_value),
            ("tls.certificates = [{ cert = '' }]", no_value),
            (
                "tls.certificates = [{ cert = 'a', key = 'b', ca = 'c' }]",
                no_value,
            ),
            ("tls.certificates = [{ cert = 5 }]", no_value),
            ("tls.certificates = ['a.pem:']", no_value),
            ("tls.version_min = '1.1'", no_value),
            ("http.tls = '8443'", "http.tls"),
            (
                "stomp.tls = '8443'",
                "TLS needs a certificate, and there is none",
            ),
            (
                "mqtt.tls = '1883'\ntls.certificates = ['a.pem']",
                "mqtt.listen has the same address",
            ),
            (
                "mqtt.tls = '0.0.0.0:8883'\ntls.certificates = ['a.pem']",
                "no credentials are configured",
            ),
        ] {
            let told = load(text, &[]).expect_err(text);
            assert!(told.contains(expect), "{text}: {told}");
        }
    }

    #[test]
    fn a_reload_takes_certificates_and_no_listener() {
        let old = load("tls.certificates = ['a.pem']", &[]).unwrap().config;
        let new = "tls.certificates = ['b.pem']\ntls.client_ca = 'ca.pem'\nhttp.tls = '8443'";
        let reloaded = old.reload(&load(new, &[]).unwrap().config);
        assert_eq!(reloaded.changed, ["tls.certificates", "tls.client_ca"]);
        assert_eq!(reloaded.needs_restart, ["http.tls"]);
        assert_eq!(reloaded.config.tls.certificates, [files("b.pem", "b.pem")]);
        assert_eq!(Config::default().tls, TlsSettings::default());
    }
}
