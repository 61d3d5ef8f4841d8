//! The options that say how many, and how fast, from one address and from one identity.

use super::slot::Slot;
use super::spec::{OptionSpec, option};

pub(super) const CONNECTIONS_PER_ADDRESS_MAX: OptionSpec = option(
    "limits.connections_per_address_max",
    "Open connections from one address, or from one /64 of IPv6; 0 is no limit.",
    |c| Slot::Count((&mut c.limits.connections_per_address_max).into()),
)
.range(0, 10_000_000);

pub(super) const CONNECTIONS_PER_ADDRESS_RATE: OptionSpec = option(
    "limits.connections_per_address_rate",
    "New connections from one address, or one /64 of IPv6, in a second; 0 is no limit, as the address may be that \
     of a proxy or of a whole network. Those over it are refused before TLS is spoken.",
    |c| Slot::Count((&mut c.limits.connections_per_address_rate).into()),
)
.range(0, 1_000_000);

pub(super) const CONNECTIONS_PER_ADDRESS_BURST: OptionSpec = option(
    "limits.connections_per_address_burst",
    "New connections from one address at once, after a pause; 0 is what the rate gives in a second.",
    |c| Slot::Count((&mut c.limits.connections_per_address_burst).into()),
)
.range(0, 10_000_000);

pub(super) const CONNECTIONS_PER_IDENTITY_MAX: OptionSpec = option(
    "limits.connections_per_identity_max",
    "Open connections of one user, key or token subject (streams, WebSockets, MQTT, STOMP, long polls), over all \
     protocols together; 0 is no limit.",
    |c| Slot::Count((&mut c.limits.connections_per_identity_max).into()),
)
.range(0, 10_000_000);

pub(super) const PUBLISHES_PER_IDENTITY_RATE: OptionSpec = option(
    "limits.publishes_per_identity_rate",
    "Messages that one identity publishes in a second, over all its connections and protocols together; 0 is no \
     limit. Without a credential the address is the identity.",
    |c| Slot::Count((&mut c.limits.publishes_per_identity_rate).into()),
)
.range(0, 1_000_000_000);

pub(super) const PUBLISHES_PER_IDENTITY_BURST: OptionSpec = option(
    "limits.publishes_per_identity_burst",
    "Messages that one identity publishes at once, after a pause; 0 is what the rate gives in a second.",
    |c| Slot::Count((&mut c.limits.publishes_per_identity_burst).into()),
)
.range(0, 1_000_000_000);

pub(super) const PUBLISH_BYTES_PER_IDENTITY_RATE: OptionSpec = option(
    "limits.publish_bytes_per_identity_rate",
    "Bytes of payloads and properties that one identity publishes in a second; 0 is no limit.",
    |c| Slot::Bytes((&mut c.limits.publish_bytes_per_identity_rate).into()),
)
.range(0, 64 * (1 << 30));

pub(super) const PUBLISH_BYTES_PER_IDENTITY_BURST: OptionSpec = option(
    "limits.publish_bytes_per_identity_burst",
    "Bytes that one identity publishes at once, after a pause; 0 is what the rate gives in a second, and at least \
     the largest message.",
    |c| Slot::Bytes((&mut c.limits.publish_bytes_per_identity_burst).into()),
)
.range(0, 64 * (1 << 30));

pub(super) const REQUESTS_PER_IDENTITY_RATE: OptionSpec = option(
    "limits.requests_per_identity_rate",
    "Subscriptions, history pages and topic lists that one identity asks for in a second; 0 is no limit.",
    |c| Slot::Count((&mut c.limits.requests_per_identity_rate).into()),
)
.range(0, 1_000_000_000);

pub(super) const REQUESTS_PER_IDENTITY_BURST: OptionSpec = option(
    "limits.requests_per_identity_burst",
    "Subscriptions and the like at once, after a pause; 0 is what the rate gives in a second.",
    |c| Slot::Count((&mut c.limits.requests_per_identity_burst).into()),
)
.range(0, 1_000_000_000);
