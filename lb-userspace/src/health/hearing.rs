//! What an agent says in the answer to a check: [`Hearing`], the first line of where it is expected. Pure.

use super::verdict::bounded;
use crate::model::AgentSource;

/// The most bytes of a report.
const BYTES: usize = 64;

/// The field of an HTTP answer.
pub(super) const FIELD: &str = "x-fairlead-weight";

/// What was heard so far.
#[derive(Debug, Default)]
pub struct Hearing {
    source: Option<AgentSource>,
    line: Option<Vec<u8>>,
    /// The line is complete.
    whole: bool,
    /// Time was up, or the answer broke off, before the agent was done.
    cut: bool,
}

impl Hearing {
    /// Listens here, or nowhere.
    pub fn to(source: Option<AgentSource>) -> Self {
        Self {
            source,
            ..Self::default()
        }
    }

    /// It listens here, and has not heard all.
    pub(super) fn wants(&self, source: AgentSource) -> bool {
        self.source == Some(source) && !self.whole
    }

    /// Some of what was said here.
    pub(super) fn hear(&mut self, source: AgentSource, piece: &[u8]) {
        if !self.wants(source) || piece.is_empty() {
            return;
        }
        let line = self.line.get_or_insert_default();
        for byte in piece {
            self.whole = *byte == b'\n' || line.len() >= BYTES;
            if self.whole {
                break;
            }
            line.push(*byte);
        }
    }

    /// Time is up, or the answer has broken off.
    pub(super) fn cut(&mut self) {
        self.cut = true;
    }

    /// What the agent of a target that passed its check said. The outer `None`: nobody listened, or it was cut short, which
    /// says nothing: a server that is too busy to report in time must not get its whole weight for that.
    pub fn said(self) -> Option<Option<String>> {
        self.source?;
        if self.cut && !self.whole {
            return None;
        }
        let text = self
            .line
            .map(|line| bounded(String::from_utf8_lossy(&line).trim()));
        Some(text.filter(|text| !text.is_empty()))
    }
}
