//! The committed figures that a run is compared with: multiples, never nanoseconds, which differ from machine
//! to machine and from hour to hour.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::{
    machine::Machine,
    results::{Results, Row},
};

/// A row that is worse by more than this share is flagged.
const WORSE: f64 = 0.10;
/// The same of a row of many flows.
const WORSE_MANY: f64 = 0.30;

/// Figures to compare with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// What they were measured on.
    pub machine: Machine,
    /// Median multiples of one hash lookup, by row.
    pub multiples: BTreeMap<String, f64>,
}

/// How a row compares.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// As a share of the baseline; above zero: dearer.
    pub by: f64,
    /// More than such a row's noise.
    pub is_worse: bool,
}

impl Baseline {
    /// From a file; `None` when there is no such file.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("read the baseline {}", path.display()));
            }
        };
        serde_json::from_str(&text)
            .map(Some)
            .with_context(|| format!("understand the baseline {}", path.display()))
    }

    /// Into a file.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(path, text).with_context(|| format!("write the baseline {}", path.display()))
    }

    /// What the first object of a run measured. Rows that it did not run are taken over from an older one.
    pub fn of(results: &Results, older: Option<Self>) -> Self {
        let mut multiples = older.map(|older| older.multiples).unwrap_or_default();
        for row in &results.rows {
            if let Some(measured) = row.measured.first() {
                let rounded = (measured.multiple.median * 1000.0).round() / 1000.0;
                multiples.insert(row.name.clone(), rounded);
            }
        }
        Self {
            machine: results.machine.clone(),
            multiples,
        }
    }

    /// How the first object's row compares; `None` when the baseline has no such row.
    pub fn compare(&self, row: &Row) -> Option<Change> {
        let old = self.multiples.get(&row.name)?;
        let by = row.measured.first()?.multiple.median / old - 1.0;
        let limit = match row.has_many_flows() {
            true => WORSE_MANY,
            false => WORSE,
        };
        Some(Change {
            by,
            is_worse: by > limit,
        })
    }
}
