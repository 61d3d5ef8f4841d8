//! What peers write in URLs and headers: percent-encoding, forms, start positions, times to live.
//!
//! Every refusal names the parameter and says what it may be. Nothing here knows a route.

use std::borrow::Cow;
use std::time::Duration;

use bytestring::ByteString;
use tidings_ports::Start;
use tidings_types::{Refusal, RefusalCode};

/// Reads `<cursor>`, `earliest`, `latest` or `retained`.
///
/// Refuses anything else with `bad-cursor`.
pub fn parse_start(text: &str) -> Result<Start, Refusal> {
    match text {
        "earliest" => Ok(Start::Earliest),
        "latest" => Ok(Start::Latest),
        "retained" => Ok(Start::Retained),
        _ => text.parse().map(Start::After).map_err(|_| {
            Refusal::new(
                RefusalCode::BadCursor,
                "`after` is not a cursor: pass an id exactly as a message or a page carried it, or `earliest`, `latest` or `retained`",
            )
        }),
    }
}

/// Reads the `N` of `last=N`: a whole number up to `last_messages_max`. Zero is a subscription that starts with
/// what comes from now on.
pub fn parse_last(text: &str, last_messages_max: u64) -> Result<Start, Refusal> {
    match parse_number("last", text, last_messages_max, "limits.last_messages_max")? {
        0 => Ok(Start::Latest),
        count => Ok(Start::Last(count)),
    }
}

/// Reads a whole number from 0 to `max`, which the refusal calls by its name.
pub fn parse_number(name: &str, text: &str, max: u64, limit: &str) -> Result<u64, Refusal> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u64>() {
        Ok(number) if digits && number <= max => Ok(number),
        _ => Err(bad_parameter(
            name,
            &format!("pass a whole number from 0 to {max} (`{limit}`)"),
        )),
    }
}

/// Reads `true`, `1`, `false` or `0`; nothing at all, as in `?gzip`, is true.
pub fn parse_flag(name: &str, text: &str) -> Result<bool, Refusal> {
    match text {
        "" | "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(bad_parameter(name, "pass `true` or `false`")),
    }
}

/// Reads a span: a whole number of seconds, or one with a unit: `500ms`, `10s`, `5m`, `2h`, `7d`.
pub fn parse_duration(name: &str, text: &str) -> Result<Duration, Refusal> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let unit_ms = match unit {
        "ms" => Some(1),
        "" | "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        "d" => Some(86_400_000),
        _ => None,
    };
    digits
        .parse::<u64>()
        .ok()
        .zip(unit_ms)
        .and_then(|(number, unit_ms)| number.checked_mul(unit_ms))
        .map(Duration::from_millis)
        .ok_or_else(|| {
            bad_parameter(
                name,
                "pass a whole number of seconds, or one with a unit, such as `500ms`, `10s`, `5m`, `2h`",
            )
        })
}

/// The refusal for a parameter or header whose value it cannot have.
#[must_use]
pub fn bad_parameter(name: &str, what_to_do: &str) -> Refusal {
    Refusal::new(
        RefusalCode::BadParameter,
        format!("`{name}` has a value that it cannot have: {what_to_do}"),
    )
}

/// Refuses user properties that other protocols, which carry them as lines of text, cannot: a line end in one would
/// be another header there.
pub(crate) fn check_headers(headers: &[(ByteString, ByteString)]) -> Result<(), Refusal> {
    let odd = |text: &ByteString| text.contains(char::is_control);
    if headers
        .iter()
        .any(|(name, value)| name.is_empty() || odd(name) || odd(value))
    {
        let detail =
            "`headers` must be without control characters, and with names that are not empty";
        return Err(Refusal::new(RefusalCode::BadParameter, detail));
    }
    Ok(())
}

/// Refuses a text that other protocols cannot put on a line of its own.
pub(crate) fn check_line(name: &str, text: &str) -> Result<(), Refusal> {
    if text.is_empty() || text.contains(char::is_control) {
        let detail = format!("`{name}` must be not empty and without control characters");
        return Err(Refusal::new(RefusalCode::BadParameter, detail));
    }
    Ok(())
}

/// Undoes percent-encoding once (RFC 3986, 2.1) and checks the result for UTF-8. `what` is named in refusals.
pub fn percent_decode<'a>(text: &'a str, what: &str) -> Result<Cow<'a, str>, Refusal> {
    if !text.contains('%') {
        return Ok(Cow::Borrowed(text));
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|digit| (digit as char).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err(Refusal::new(
                RefusalCode::BadRequest,
                format!(
                    "{what} holds a `%` without two hexadecimal digits after it: write a literal percent sign as `%25`"
                ),
            ));
        };
        out.push((high * 16 + low) as u8);
    }
    match String::from_utf8(out) {
        Ok(text) => Ok(Cow::Owned(text)),
        Err(_) => Err(Refusal::new(
            RefusalCode::BadText,
            format!(
                "{what} is not UTF-8 once its percent-encoding is undone: encode the text as UTF-8 first"
            ),
        )),
    }
}

/// The pairs of a query or a form (`application/x-www-form-urlencoded`, WHATWG URL, 5.1), in order, not yet
/// decoded; see [`form_decode`]. Empty parts are skipped, a part without `=` has an empty value.
pub fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query
        .split('&')
        .filter(|part| !part.is_empty())
        .map(|part| part.split_once('=').unwrap_or((part, "")))
}

/// Decodes a name or value of a query or form: `+` is a space, then percent-encoding.
///
/// A topic filter with `+` must therefore be written `%2B` in a query; in a path it stands for itself.
pub fn form_decode<'a>(text: &'a str, what: &str) -> Result<Cow<'a, str>, Refusal> {
    if !text.contains('+') {
        return percent_decode(text, what);
    }
    let spaced = text.replace('+', " ");
    percent_decode(&spaced, what).map(|text| Cow::Owned(text.into_owned()))
}

#[cfg(test)]
mod tests {
    use tidings_types::{Cursor, Epoch, Offset};

    use super::*;

    #[test]
    fn starts_are_read() {
        let cursor = Cursor {
            epoch: Epoch(1),
            offset: Offset(5),
        };
        for (text, expect) in [
            ("earliest", Ok(Start::Earliest)),
            ("latest", Ok(Start::Latest)),
            ("retained", Ok(Start::Retained)),
            ("AQAAAAAAAAABBQ", Ok(Start::After(cursor))),
            ("", Err(RefusalCode::BadCursor)),
            ("Latest", Err(RefusalCode::BadCursor)),
            ("12", Err(RefusalCode::BadCursor)),
        ] {
            assert_eq!(
                parse_start(text).map_err(|refusal| refusal.code),
                expect,
                "{text}"
            );
        }
    }

    #[test]
    fn last_is_a_number_within_its_limit() {
        for (text, expect) in [
            ("0", Some(Start::Latest)),
            ("1", Some(Start::Last(1))),
            ("100", Some(Start::Last(100))),
            ("101", None),
            ("+1", None),
            ("-1", None),
            ("", None),
            ("1.0", None),
            ("99999999999999999999999", None),
        ] {
            assert_eq!(parse_last(text, 100).ok(), expect, "{text}");
        }
        let refusal = parse_last("101", 100).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::BadParameter);
        assert!(refusal.detail.contains("limits.last_messages_max"));
        assert!(refusal.detail.contains("`last`"));
    }

    #[test]
    fn spans_are_read_with_and_without_units() {
        for (text, expect_ms) in [
            ("30", Some(30_000)),
            ("0", Some(0)),
            ("10s", Some(10_000)),
            ("250ms", Some(250)),
            ("5m", Some(300_000)),
            ("2h", Some(7_200_000)),
            ("1d", Some(86_400_000)),
            ("", None),
            ("s", None),
            ("-1", None),
            ("1.5s", None),
            ("10 s", None),
            ("1w", None),
            ("18446744073709551615", None),
        ] {
            let span = parse_duration("ttl", text).ok();
            assert_eq!(span.map(|span| span.as_millis()), expect_ms, "{text}");
        }
    }

    #[test]
    fn percent_encoding_is_undone_once() {
        for (text, expect) in [
            ("a/b", Ok("a/b")),
            ("a%2Fb", Ok("a/b")),
            ("%e6%B0%b4", Ok("水")),
            ("100%25", Ok("100%")),
            ("%2525", Ok("%25")),
            ("a+b", Ok("a+b")),
            ("%", Err(RefusalCode::BadRequest)),
            ("%2", Err(RefusalCode::BadRequest)),
            ("%zz", Err(RefusalCode::BadRequest)),
            ("%+1", Err(RefusalCode::BadRequest)),
            ("%ff", Err(RefusalCode::BadText)),
            ("%ed%a0%80", Err(RefusalCode::BadText)),
        ] {
            let decoded = percent_decode(text, "the topic").map_err(|refusal| refusal.code);
            assert_eq!(decoded.as_deref(), expect.as_ref().copied(), "{text}");
        }
    }

    #[test]
    fn forms_are_read_in_order() {
        let read: Vec<_> = pairs("a=1&&b&c=x=y&=z&a=2").collect();
        let expect = [("a", "1"), ("b", ""), ("c", "x=y"), ("", "z"), ("a", "2")];
        assert_eq!(read, expect);
        assert_eq!(form_decode("a+b%2Bc", "x").unwrap(), "a b+c");
        assert_eq!(pairs("").count(), 0);
    }
}
