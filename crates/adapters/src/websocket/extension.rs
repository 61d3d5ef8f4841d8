//! Negotiation of permessage-deflate (RFC 6455 9.1, RFC 7692 5 and 7.1).
//!
//! The answer always holds `server_no_context_takeover; client_no_context_takeover`: it is what lets one
//! deflated frame go to many peers, and keeps a connection free of inflate state. `client_max_window_bits` is
//! never answered: the inflater takes every window, so that there is nothing to ask of the client.

/// The agreed permessage-deflate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deflate {
    /// 9 to 15.
    window_bits: u8,
    /// Whether the client asked for it, and so is answered.
    window_offered: bool,
}

/// The header is not what RFC 6455 9.1 defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtensionError;

impl Deflate {
    /// The smallest window that is agreed to. An offer of 8 is declined: for raw deflate zlib makes it 9,
    /// which such a client could not inflate.
    pub const WINDOW_BITS_MIN: u8 = 9;
    /// The largest window of deflate.
    pub const WINDOW_BITS_MAX: u8 = 15;

    /// Agreed to, with messages to the peer deflated within a window of 2^`bits` bytes; `None` if that is not
    /// possible.
    #[must_use]
    pub fn with_window_bits(bits: u8) -> Option<Self> {
        (Self::WINDOW_BITS_MIN..=Self::WINDOW_BITS_MAX)
            .contains(&bits)
            .then_some(Self {
                window_bits: bits,
                window_offered: true,
            })
    }

    /// The base-2 logarithm of the window that messages to the peer are deflated within.
    #[must_use]
    pub fn window_bits(self) -> u8 {
        self.window_bits
    }

    /// The value of `Sec-WebSocket-Extensions` in the answer.
    #[must_use]
    pub fn answer(self) -> String {
        let mut text =
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover".to_owned();
        if self.window_offered {
            text.push_str("; server_max_window_bits=");
            text.push_str(&self.window_bits.to_string());
        }
        text
    }

    /// Takes the first acceptable offer, in the order of the client's preference. `header` is the value of
    /// `Sec-WebSocket-Extensions`, several of them joined by commas. `None` is no compression.
    pub fn negotiate(header: &str) -> Result<Option<Self>, ExtensionError> {
        let mut accepted = None;
        for offer in Scanner::new(header).list()? {
            if accepted.is_none() && offer.name == "permessage-deflate" {
                accepted = Self::accept(&offer.parameters);
            }
        }
        Ok(accepted)
    }

    /// Whether one offer can be agreed to: every parameter known, once, and with a value that it may have
    /// (RFC 7692 7.1).
    fn accept(parameters: &[(&str, Option<&str>)]) -> Option<Self> {
        let mut agreed = Self {
            window_bits: Self::WINDOW_BITS_MAX,
            window_offered: false,
        };
        for (at, (name, value)) in parameters.iter().enumerate() {
            if parameters[..at].iter().any(|(earlier, _)| earlier == name) {
                return None;
            }
            match (*name, *value) {
                (
                    "server_no_context_takeover"
                    | "client_no_context_takeover"
                    | "client_max_window_bits",
                    None,
                ) => {}
                ("client_max_window_bits", Some(value)) => {
                    window_bits(value)?;
                }
                ("server_max_window_bits", Some(value)) => {
                    agreed = Self::with_window_bits(window_bits(value)?)?;
                }
                _ => return None,
            }
        }
        Some(agreed)
    }
}

/// 8 to 15, without leading zeros (RFC 7692 7.1.2).
fn window_bits(text: &str) -> Option<u8> {
    match text {
        "8" => Some(8),
        "9" => Some(9),
        "10" => Some(10),
        "11" => Some(11),
        "12" => Some(12),
        "13" => Some(13),
        "14" => Some(14),
        "15" => Some(15),
        _ => None,
    }
}

struct Offer<'a> {
    name: &'a str,
    parameters: Vec<(&'a str, Option<&'a str>)>,
}

/// Reads the grammar of RFC 6455 9.1: tokens, and quoted strings that hold a token.
struct Scanner<'a> {
    rest: &'a str,
}

impl<'a> Scanner<'a> {
    fn new(text: &'a str) -> Self {
        Self { rest: text }
    }

    fn list(mut self) -> Result<Vec<Offer<'a>>, ExtensionError> {
        let mut offers = Vec::new();
        loop {
            // Empty list elements are permitted to readers (RFC 9110 5.6.1.2).
            while self.take(',') {}
            if self.rest.is_empty() {
                return Ok(offers);
            }
            let name = self.token()?;
            let mut parameters = Vec::new();
            while self.take(';') {
                let parameter = self.token()?;
                let value = if self.take('=') {
                    Some(self.value()?)
                } else {
                    None
                };
                parameters.push((parameter, value));
            }
            offers.push(Offer { name, parameters });
            if !self.rest.is_empty() && !self.rest.starts_with(',') {
                return Err(ExtensionError);
            }
        }
    }

    fn take(&mut self, expect: char) -> bool {
        self.skip_space();
        let Some(rest) = self.rest.strip_prefix(expect) else {
            return false;
        };
        self.rest = rest;
        self.skip_space();
        true
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    fn token(&mut self) -> Result<&'a str, ExtensionError> {
        self.skip_space();
        let end = self
            .rest
            .bytes()
            .position(|byte| !is_token_byte(byte))
            .unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        self.skip_space();
        if token.is_empty() {
            return Err(ExtensionError);
        }
        Ok(token)
    }

    fn value(&mut self) -> Result<&'a str, ExtensionError> {
        if !self.take('"') {
            return self.token();
        }
        // A quoted value is a token once unquoted, so it has no need of escapes.
        let value = self.token()?;
        if self.take('"') {
            Ok(value)
        } else {
            Err(ExtensionError)
        }
    }
}

/// `tchar` of RFC 9110 5.6.2.
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

    fn check(offer: &str, expect: Option<&str>) {
        let found = Deflate::negotiate(offer).unwrap().map(Deflate::answer);
        let expect = expect.map(|rest| format!("{BOTH}{rest}"));
        assert_eq!(found, expect, "{offer}");
    }

    #[test]
    fn acceptable_offers_are_answered_with_both_no_context_takeover_flags() {
        check("permessage-deflate", Some(""));
        check("permessage-deflate; client_max_window_bits", Some(""));
        check("permessage-deflate;client_max_window_bits=10", Some(""));
        check("permessage-deflate;client_max_window_bits=8", Some(""));
        check("permessage-deflate ; server_no_context_takeover", Some(""));
        check("permessage-deflate; client_no_context_takeover", Some(""));
        for bits in 9..=15 {
            check(
                &format!("permessage-deflate; server_max_window_bits={bits}"),
                Some(&format!("; server_max_window_bits={bits}")),
            );
        }
        check(
            "permessage-deflate; server_max_window_bits=\"10\"; client_max_window_bits=\"12\"",
            Some("; server_max_window_bits=10"),
        );
    }

    #[test]
    fn an_offer_that_cannot_be_honoured_is_declined() {
        for offer in [
            "",
            ",, ,",
            "x-webkit-deflate-frame",
            "permessage-bzip2; x=1",
            "permessage-deflate; server_max_window_bits=8",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=7",
            "permessage-deflate; server_max_window_bits=09",
            "permessage-deflate; server_max_window_bits=+9",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; client_max_window_bits=16",
            "permessage-deflate; client_max_window_bits=a",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; client_no_context_takeover=true",
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
            "permessage-deflate; server_max_window_bits=10; server_max_window_bits=10",
            "permessage-deflate; client_max_window_bits; client_max_window_bits=9",
            "permessage-deflate; unknown",
            "permessage-deflate; Server_no_context_takeover",
        ] {
            check(offer, None);
        }
    }

    #[test]
    fn the_first_acceptable_offer_wins() {
        check(
            "permessage-deflate; server_max_window_bits=8, permessage-deflate; server_max_window_bits=11, permessage-deflate",
            Some("; server_max_window_bits=11"),
        );
        check(
            "permessage-bzip2, permessage-deflate; x, permessage-deflate",
            Some(""),
        );
    }

    #[test]
    fn a_header_outside_the_grammar_is_an_error() {
        for header in [
            "permessage-deflate;",
            "permessage-deflate; =9",
            "permessage-deflate; a=",
            "permessage-deflate; a=\"9",
            "permessage-deflate; a=\"\"",
            "permessage-deflate; a=\"9 9\"",
            "permessage-deflate client_max_window_bits",
            "; a",
            "permessage-deflate, a b",
            "perm\u{e4}ss",
        ] {
            assert_eq!(Deflate::negotiate(header), Err(ExtensionError), "{header}");
        }
    }
}
