//! The configuration file: text in, either a checked [`Config`] or everything that is wrong with
//! it, each with a code, a place and a cure. Pure; `config/file.rs` reads files and
//! `config/check.rs` is the command.
//!
//! The parser of `toml` recovers from syntax errors and gives a tree with places, which is walked
//! with our own table of keys ([`keys`]), so that one run reports all errors of all kinds.

mod across;
mod aim;
mod canonical;
pub mod check;
pub mod codes;
mod daemon;
mod diagnostic;
mod failover;
pub mod file;
mod health;
mod hook;
pub mod host;
mod idle;
pub mod keys;
mod mss;
mod nat;
mod nat_idle;
mod networks;
mod notes;
mod quic;
mod ranges;
mod reader;
pub mod render;
mod scheduling;
mod service;
pub mod shrink;
mod sources;
mod syntax;
mod tunnel;
mod value;
mod vip;

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub use canonical::{revision, to_toml};
pub use codes::Code;
pub use diagnostic::{Diagnostic, Label, Position, Severity, Suggestion};

use notes::{At, Note, Notes};
use reader::Reader;
use service::{BackendDraft, ServiceDraft};

use crate::model::{Backend, Config, DaemonConfig, Name, Service};

/// What became of a text.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The name of the file, as in the messages.
    pub file: String,
    /// The configuration, if there is no error.
    pub config: Option<Config>,
    /// Errors and warnings, in the order of their places.
    pub diagnostics: Vec<Diagnostic>,
    /// How many more there were than are kept.
    pub omitted: usize,
}

impl Outcome {
    /// The errors.
    pub fn errors(&self) -> impl Iterator<Item = &Diagnostic> {
        self.with(Severity::Error)
    }

    /// The warnings.
    pub fn warnings(&self) -> impl Iterator<Item = &Diagnostic> {
        self.with(Severity::Warning)
    }

    fn with(&self, severity: Severity) -> impl Iterator<Item = &Diagnostic> {
        let same = move |d: &&Diagnostic| d.code.severity == severity;
        self.diagnostics.iter().filter(same)
    }
}

/// Reads a configuration. `file_name` is for messages only.
pub fn parse(file_name: &str, text: &str) -> Outcome {
    let mut notes = Notes::new(text);
    let (root, errors) = DeTable::parse_recoverable(text);
    syntax::report(&errors, root.get_ref(), &mut notes);
    let config = document(root.get_ref(), &mut notes);
    notes.found.sort_by(|a, b| {
        let place = |d: &Diagnostic| (d.span.start, d.span.end, d.code.id);
        place(a).cmp(&place(b))
    });
    Outcome {
        file: file_name.to_owned(),
        config: config.filter(|_| notes.errors == 0),
        diagnostics: notes.found,
        omitted: notes.omitted,
    }
}

/// Reads a configuration from bytes, which may be anything; also the text, for rendering.
pub fn parse_bytes(file_name: &str, bytes: &[u8]) -> (Outcome, String) {
    let nul = bytes.iter().position(|b| *b == 0);
    let (message, at) = match (std::str::from_utf8(bytes), nul) {
        (Ok(text), None) => return (parse(file_name, text), text.to_owned()),
        (Ok(_), Some(at)) => ("there is a NUL byte here", at),
        (Err(error), nul) => {
            let at = error.valid_up_to();
            (
                "the bytes from here on are not UTF-8",
                nul.map_or(at, |nul| nul.min(at)),
            )
        }
    };
    let text = String::from_utf8_lossy(bytes).into_owned();
    let mut notes = Notes::new(&text);
    let message = format!("not a text file: {message}");
    notes.add(Note::new(&codes::NOT_TEXT, &(at..at), "", message));
    let outcome = Outcome {
        file: file_name.to_owned(),
        config: None,
        diagnostics: notes.found,
        omitted: 0,
    };
    (outcome, text)
}

fn document(root: &DeTable<'_>, notes: &mut Notes<'_>) -> Option<Config> {
    let file = Reader::new(&keys::ROOT, root, 0..0, String::new(), notes);
    let daemon = daemon_table(&file, notes);
    let limits = match table(&file, "limits", notes) {
        Some((found, span)) => {
            let path = "limits.".to_owned();
            let reader = Reader::new(&keys::LIMITS, found, span, path, notes);
            daemon::limits(&reader, notes)
        }
        None => daemon::default_limits(),
    };
    let drafts = services(&file, notes);
    let interfaces = daemon.as_ref().map(|d| d.interfaces.as_slice());
    across::check(&drafts, interfaces.unwrap_or(&[]), &limits, notes);
    ranges::check(&drafts, notes);
    if let Some(daemon) = &daemon {
        tunnel::check(&daemon.tunnel_source, &drafts, notes);
        nat::check(&daemon.nat_source, &drafts, notes);
        if let (Some(list), Some(span)) = (&daemon.check_networks, networks::place(&file)) {
            let value = list.as_slice();
            networks::check(&At { value, span }, &drafts, notes);
        }
    }
    let hooks = hook::hooks(&file, &drafts, notes);
    let mut config = Config {
        daemon: daemon?,
        limits,
        services: BTreeMap::new(),
        hooks,
        revision: 0,
    };
    let complete = drafts.into_iter().map(finish).collect::<Option<Vec<_>>>();
    config.services = complete?.into_iter().collect();
    config.revision = revision(&config);
    Some(config)
}

fn table<'t, 'a>(
    reader: &Reader<'t, 'a>,
    key: &str,
    notes: &mut Notes<'_>,
) -> Option<(&'t DeTable<'a>, std::ops::Range<usize>)> {
    let found = reader.get(key)?;
    if let DeValue::Table(table) = found.get_ref() {
        return Some((table, found.span()));
    }
    reader.wrong_type(key, "a table", found, notes);
    None
}

fn daemon_table(file: &Reader<'_, '_>, notes: &mut Notes<'_>) -> Option<DaemonConfig> {
    let empty = DeTable::new();
    let (found, span) = match file.get("daemon") {
        None if file.has("daemon") => return None,
        // Without the table, what it must contain is missing.
        None => (&empty, 0..0),
        Some(_) => table(file, "daemon", notes)?,
    };
    let reader = Reader::new(&keys::DAEMON, found, span, "daemon.".to_owned(), notes);
    Some(daemon::daemon(&reader, notes))
}

fn services(file: &Reader<'_, '_>, notes: &mut Notes<'_>) -> Vec<ServiceDraft> {
    let found = file.get("service");
    let items: &[Spanned<DeValue<'_>>] = match found.map(|f| (f, f.get_ref())) {
        Some((_, DeValue::Array(list))) => list,
        Some((found, _)) => {
            file.wrong_type("service", "a list of tables", found, notes);
            return Vec::new();
        }
        None => &[],
    };
    if items.is_empty() && (found.is_some() || !file.has("service")) {
        let message = "no service is configured".to_owned();
        notes.add(Note::new(&codes::NO_SERVICE, &(0..0), "service", message));
    }
    let mut drafts = Vec::new();
    for (index, item) in items.iter().enumerate() {
        match item.get_ref() {
            DeValue::Table(table) => {
                drafts.push(service::service(table, item.span(), index, notes));
            }
            _ => file.wrong_type("service", "a list of tables", item, notes),
        }
    }
    drafts
}

/// The service, if everything could be read (otherwise there is an error).
fn finish(draft: ServiceDraft) -> Option<(Name, Service)> {
    let port = draft.port?.value;
    let finish_backend = |b: BackendDraft| {
        let name = b.name?.value;
        let backend = Backend {
            name: name.clone(),
            address: b.address?.value,
            port: b.port?.map_or(port.single(), |own| Some(own.value)),
            weight: b.weight?.value,
            tier: b.tier?.value,
            max_connections: b.max_connections?,
            admin: b.admin?,
            server_id: b.server_id.id.map(|at| at.value),
        };
        Some((name, backend))
    };
    let backends = draft.backends.into_iter().map(finish_backend);
    let name = draft.name?.value;
    let service = Service {
        name: name.clone(),
        address: draft.address?.value,
        port,
        protocol: draft.protocol?.value,
        forwarding: draft.forwarding?.value,
        tunnel_ttl: draft.tunnel.ttl,
        gue_port: draft.tunnel.port,
        gue_variant: draft.tunnel.variant,
        client_option: draft.tunnel.client_option,
        scheduler: draft.scheduling.scheduler(),
        together: draft.scheduling.together(),
        ring_size: draft.ring_size.map(|at| at.value),
        udp_idle: draft.idle.udp,
        sctp_idle: draft.idle.sctp,
        other_idle: draft.idle.other,
        mid_stream: draft.mid_stream,
        mss: draft.mss,
        tcp_idle: draft.idle.tcp,
        spread: draft.quic.spread(),
        config_ids: draft.quic.config_ids(),
        sources: draft.sources.sources(),
        health: draft.health,
        drain: draft.drain,
        on_down: draft.on_down,
        all_down: draft.all_down,
        failover: draft.failover.failover,
        drain_deadline: draft.failover.drain_deadline,
        on_down_deadline: draft.failover.on_down_deadline,
        claim: draft.claim.map(|at| at.value),
        backends: backends.collect::<Option<_>>()?,
    };
    Some((name, service))
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "numbers in tests are small")]
mod tests;
