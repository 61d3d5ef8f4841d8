//! What a reason code (MQTT 5, 2.4) means to this client.

use std::time::Duration;

use tidings_types::RefusalCode;

use super::properties::Properties;
use crate::error::Refused;

/// Reason codes with the name that a refusal has in other protocols, or that of the specification, and the HTTP
/// status that says the same, which decides whether to try again.
const REASONS: &[(u8, &str, u16)] = &[
    // MQTT 3.1.1 (3.2.2.3): from a server that does not speak MQTT 5.
    (0x01, "bad-version", 400),
    (0x02, "client-id-not-valid", 400),
    (0x03, "server-unavailable", 503),
    (0x04, "unauthorized", 401),
    (0x05, "forbidden", 403),
    (0x81, "bad-frame", 400),
    (0x82, "protocol-error", 400),
    (0x84, "bad-version", 400),
    (0x85, "client-id-not-valid", 400),
    (0x86, "unauthorized", 401),
    (0x87, "forbidden", 403),
    (0x88, "server-unavailable", 503),
    (0x89, "busy", 503),
    (0x8a, "banned", 403),
    (0x8b, "shutting-down", 503),
    (0x8c, "bad-authentication-method", 401),
    (0x8d, "silent", 408),
    (0x8e, "session-taken-over", 409),
    (0x8f, "bad-filter", 400),
    (0x90, "bad-topic", 400),
    (0x95, "message-too-large", 413),
    (0x96, "rate-limited", 429),
    (0x97, "quota-exceeded", 429),
    (0x98, "administrative-action", 503),
    (0x99, "bad-text", 400),
    (0x9a, "retain-not-supported", 400),
    (0x9b, "qos-not-supported", 400),
    (0x9c, "use-another-server", 503),
    (0x9d, "server-moved", 410),
    (0x9e, "shared-subscriptions-not-supported", 400),
    (0x9f, "at-capacity", 503),
    (0xa0, "connected-for-too-long", 503),
    (0xa1, "subscription-identifiers-not-supported", 400),
    (0xa2, "wildcards-not-supported", 400),
];

/// The refusal that a reason code of 0x80 or above means, with the server's own words if it has some. Codes that
/// say little (0x80, 0x83) are refusals for good: only the server knows what to change.
pub(crate) fn refused(reason: u8, properties: &Properties) -> Refused {
    let known = REASONS.iter().find(|(code, _, _)| *code == reason);
    let (code, status) = known.map_or(("", 400), |(_, name, status)| (*name, *status));
    let detail = match (&properties.reason_string, &properties.server_reference) {
        (Some(text), _) => text.clone(),
        (None, Some(server)) => format!("use {server}"),
        (None, None) => format!("the server answered with reason code {reason:#04x}"),
    };
    let listed = RefusalCode::ALL.iter().find(|known| known.slug() == code);
    let after_s = listed.and_then(|known| known.retry_after_s());
    Refused {
        status,
        code: code.to_owned(),
        detail,
        retry_after: after_s.map(|seconds| Duration::from_secs(seconds.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_of_the_table_is_known_by_its_reason_code() {
        for code in RefusalCode::ALL {
            let refused = refused(code.mqtt_reason(), &Properties::default());
            // 0x83 stands for whatever MQTT has no code for.
            assert!(
                !refused.code.is_empty() || code.mqtt_reason() == 0x83,
                "{code:?}"
            );
        }
    }

    #[test]
    fn what_may_pass_is_tried_again_and_what_will_not_is_not() {
        for (reason, permanent, shown) in [
            (0x87, true, "refused (forbidden): no"),
            (0x83, true, "refused: no"),
            (0xff, true, "refused: no"),
            (0x89, false, "refused (busy): no"),
            (0x97, false, "refused (quota-exceeded): no"),
            (0x8b, false, "refused (shutting-down): no"),
            (0x9d, true, "refused (server-moved): no"),
        ] {
            let properties = Properties {
                reason_string: Some("no".into()),
                ..Properties::default()
            };
            let refused = refused(reason, &properties);
            assert_eq!(refused.is_permanent(), permanent, "{reason:#04x}");
            assert_eq!(refused.to_string(), shown);
        }
        let busy = refused(0x89, &Properties::default());
        assert_eq!(busy.retry_after, Some(Duration::from_secs(1)));
    }
}
