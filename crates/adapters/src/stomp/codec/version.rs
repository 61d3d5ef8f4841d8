//! The versions, and which one a connection speaks.

use std::fmt;

/// A version of the protocol, from the oldest to the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// 1.0: no escapes, no NACK, no heart-beats.
    V10,
    /// 1.1.
    V11,
    /// 1.2: CR LF ends lines too, and CR is escaped.
    V12,
}

impl Version {
    /// Every version, the oldest first.
    pub const ALL: [Self; 3] = [Self::V10, Self::V11, Self::V12];

    /// As in the header `version`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V10 => "1.0",
            Self::V11 => "1.1",
            Self::V12 => "1.2",
        }
    }

    /// The highest version that is in the header `accept-version` and in `spoken`; without that header the peer
    /// speaks 1.0 only (Protocol Negotiation).
    #[must_use]
    pub fn choose(accept: Option<&str>, spoken: &[Self]) -> Option<Self> {
        let named = accept.unwrap_or(Self::V10.as_str());
        let accepted = |version: &Self| named.split(',').any(|it| it.trim() == version.as_str());
        spoken.iter().copied().filter(accepted).max()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_common_version_is_chosen() {
        let all = &Version::ALL[..];
        let table: &[(Option<&str>, &[Version], Option<Version>)] = &[
            (None, all, Some(Version::V10)),
            (None, &[Version::V11, Version::V12], None),
            (Some("1.0"), all, Some(Version::V10)),
            (Some("1.0,1.1,1.2"), all, Some(Version::V12)),
            (Some("1.2,1.1,1.0"), all, Some(Version::V12)),
            (Some("1.0, 1.1"), all, Some(Version::V11)),
            (Some(" 1.1 "), all, Some(Version::V11)),
            (Some("1.0,1.1,2.0"), all, Some(Version::V11)),
            (Some("1.0,1.1,1.2"), &[Version::V11], Some(Version::V11)),
            (Some("2.0"), all, None),
            (Some("1.20"), all, None),
            (Some(""), all, None),
            (Some("1.2"), &[], None),
        ];
        for (accept, spoken, expected) in table {
            assert_eq!(Version::choose(*accept, spoken), *expected, "{accept:?}");
        }
    }
}
