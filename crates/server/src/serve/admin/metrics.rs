//! What `/metrics` says of the admin listener and of what was revoked.

use std::fmt::{self, Write as _};

use super::counts::Outcome;
use crate::serve::Shared;
use crate::serve::metrics::{head, one};
use crate::serve::newcomers::Full;

/// Writes the lines.
pub fn write(page: &mut String, shared: &Shared) -> fmt::Result {
    let admin = &shared.admin;
    let name = "tidings_admin_requests_total";
    head(page, name, "counter", "Requests of the admin listener.")?;
    for outcome in Outcome::ALL {
        let count = admin.counts.of(outcome);
        writeln!(page, "{name}{{outcome=\"{}\"}} {count}", outcome.name())?;
    }
    one(
        page,
        "tidings_admin_sockets",
        "gauge",
        "Open sockets of the admin listener.",
        admin.sockets.open() as u64,
    )?;
    let name = "tidings_admin_sockets_refused_total";
    let about = "Connections that the admin listener had no room for, or that came too fast.";
    head(page, name, "counter", about)?;
    for full in Full::ALL {
        let count = admin.sockets.refused(full);
        writeln!(page, "{name}{{limit=\"{}\"}} {count}", full.name())?;
    }
    one(
        page,
        "tidings_revocations",
        "gauge",
        "Subjects and credentials that are revoked.",
        admin.revocations.len() as u64,
    )?;
    one(
        page,
        "tidings_revoked_connections_total",
        "counter",
        "Connections that ended because their credential was revoked, or was not there any more after a reload.",
        shared.metrics.revocations(),
    )
}
