//! An event as a hook is told it: JSON, and the environment of a command. Pure.

use std::net::IpAddr;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Map, Value};

use super::service;
use crate::event::Record;
use crate::health::exec::Environment;
use crate::model::{BackendKey, Config};

/// The most bytes of a text in it.
const TEXT: usize = 512;

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its number among those of the hook, from 1 at each start of the daemon. A gap: some were dropped or given up.
    pub number: u64,
    /// When it happened, since 1970 (UTC).
    pub time: Duration,
    /// What happened.
    pub record: Record,
    /// Address and port of the backend that it is about.
    pub at: Option<(IpAddr, Option<u16>)>,
}

impl Message {
    /// An event that just happened, with a number to come.
    pub fn new(record: &Record, config: &Config, time: Duration) -> Self {
        let backend = backend(record).and_then(|key| config.backend(key));
        Self {
            number: 0,
            time,
            record: record.clone(),
            at: backend.map(|(_, backend)| (backend.address, backend.port.map(Into::into))),
        }
    }

    /// As JSON: at most a few kilobytes, in one line.
    pub fn json(&self, hook: &str, host: &str) -> String {
        let mut fields = match serde_json::to_value(&self.record) {
            Ok(Value::Object(fields)) => fields,
            // A record is an object of texts and numbers.
            _ => Map::new(),
        };
        for value in fields.values_mut() {
            shorten(value);
        }
        let mut add = |key: &str, value: Value| fields.insert(key.to_owned(), value);
        add("hook", hook.into());
        add("host", host.into());
        add("number", self.number.into());
        add("time", self.time().into());
        if let Some(service) = service(&self.record) {
            add("service", service.as_str().into());
        }
        if let Some((address, port)) = self.at {
            add("address", address.to_string().into());
            add("port", port.into());
        }
        Value::Object(fields).to_string()
    }

    /// For a command that does not read JSON.
    pub(crate) fn environment(&self, hook: &str) -> Environment {
        let mut variables = vec![
            ("FAIRLEAD_HOOK", hook.to_owned()),
            ("FAIRLEAD_EVENT", self.word()),
        ];
        if let Some(service) = service(&self.record) {
            variables.push(("FAIRLEAD_SERVICE", service.to_string()));
        }
        if let Some(key) = backend(&self.record) {
            variables.push(("FAIRLEAD_BACKEND", key.backend.to_string()));
        }
        if let Some((address, port)) = self.at {
            variables.push(("FAIRLEAD_ADDRESS", address.to_string()));
            let port = port.map_or_else(String::new, |port| port.to_string());
            variables.push(("FAIRLEAD_PORT", port));
        }
        variables
    }

    /// What happened, in a word: `health`, `drained`.
    pub fn word(&self) -> String {
        let value = serde_json::to_value(&self.record).ok();
        let word = value.as_ref().and_then(|value| value.get("event"));
        word.and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    fn time(&self) -> String {
        let time = UNIX_EPOCH.checked_add(self.time).unwrap_or(UNIX_EPOCH);
        humantime::format_rfc3339_millis(time).to_string()
    }
}

/// The backend that it is about.
fn backend(record: &Record) -> Option<&BackendKey> {
    match record {
        Record::Health { backend, .. }
        | Record::Held { backend, .. }
        | Record::Suspected { backend, .. }
        | Record::Warned { backend, .. }
        | Record::Agent { backend, .. }
        | Record::Admin { backend, .. }
        | Record::Drained { backend, .. } => Some(backend),
        _ => None,
    }
}

fn shorten(value: &mut Value) {
    if let Value::String(text) = value
        && text.len() > TEXT
    {
        let end = text.floor_char_boundary(TEXT);
        text.truncate(end);
    }
}
