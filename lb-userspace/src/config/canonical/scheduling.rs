//! How a service's flows spread, in the canonical form.

use std::fmt::Write as _;

use super::text;
use crate::config::scheduling::FIELDS;
use crate::model::Service;

/// Its keys.
pub(super) fn write(out: &mut String, service: &Service) -> std::fmt::Result {
    writeln!(out, "scheduler = {}", text(service.scheduler.word()))?;
    let together = &service.together;
    if service.scheduler.hashes_fields() {
        let found = FIELDS.iter().find(|(_, f)| *f == together.hash_fields);
        writeln!(out, "hash-fields = {}", found.map_or(5, |(n, _)| *n))?;
    }
    if let Some(seconds) = together.affinity {
        writeln!(out, "affinity-timeout = \"{seconds}s\"")?;
    }
    match together.client_prefix {
        Some(bits) => writeln!(out, "client-prefix = {bits}"),
        None => Ok(()),
    }
}
