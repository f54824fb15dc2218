//! What is wrong with pinned maps. Pure.

use lb_common::limits;

/// What is wrong with what was found, a sentence each.
pub(super) struct Findings(pub(super) Vec<String>);

impl Findings {
    pub(super) fn equal<T: PartialEq + std::fmt::Display>(
        &mut self,
        what: &str,
        found: T,
        expected: T,
    ) {
        if found != expected {
            self.0
                .push(format!("{what} is {found}, expected {expected}"));
        }
    }

    pub(super) fn within(&mut self, limit: &limits::Limit, found: u32) {
        if !(limit.min..=limit.max).contains(&u64::from(found)) {
            self.0.push(format!(
                "header: {} is {found}, the limit is {} to {}",
                limit.name, limit.min, limit.max
            ));
        }
    }

    pub(super) fn holds(&mut self, condition: bool, otherwise: &str) {
        if !condition {
            self.0.push(otherwise.to_owned());
        }
    }
}
