//! Agents: backends that say, in the answer to a check, how much of their weight they can bear.

/// Where a report stands, and what becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentWeight {
    /// Where in the answer.
    pub source: AgentSource,
    /// The least part of its weight that a backend gets, percent, 1 to 100: nobody can talk itself, or a service, away.
    pub least: u16,
    /// The largest part, percent, 100 to 200: nobody can draw more than so much of what it is meant to get.
    pub most: u16,
    /// The largest change at a time, percent of the weight.
    pub step: u16,
}

/// Where a report stands in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentSource {
    /// In the field `x-fairlead-weight` of an HTTP answer's head.
    Header,
    /// In the first line of an HTTP answer's body.
    Body,
    /// In the first line that a TCP server or a command says.
    Line,
}
