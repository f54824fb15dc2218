//! The shrink guard (fault C4): a configuration that empties the daemon, or takes away nine tenths
//! of its services or backends, is more often a torn or generated file than a wish, and needs
//! consent. Pure. (Google, 2023-09-21: configurations overwritten with empty ones.)

use crate::model::Config;

/// What would get lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shrink {
    /// Services now.
    pub services: usize,
    /// Of these, how many remain.
    pub services_left: usize,
    /// Backends now.
    pub backends: usize,
    /// Of these, how many remain.
    pub backends_left: usize,
}

impl std::fmt::Display for Shrink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the new configuration keeps {} of {} services and {} of {} backends: not applied \
             without consent (if it is meant: `fairlead reload --allow-shrink`)",
            self.services_left, self.services, self.backends_left, self.backends
        )
    }
}

/// What of `old` would get lost, if that is so much that it needs consent: everything, or 90 % or
/// more of the services or of the backends. What is new in `new` does not make up for it.
pub fn shrink(old: &Config, new: &Config) -> Option<Shrink> {
    let kept =
        |pair: &(&crate::model::Name, &crate::model::Service)| new.services.contains_key(pair.0);
    let mut found = Shrink {
        services: old.services.len(),
        services_left: old.services.iter().filter(kept).count(),
        backends: 0,
        backends_left: 0,
    };
    for (name, service) in &old.services {
        let names = service.backends.keys();
        let still = |backend: &&crate::model::Name| {
            let service = new.services.get(name);
            service.is_some_and(|s| s.backends.contains_key(*backend))
        };
        found.backends = found.backends.saturating_add(service.backends.len());
        found.backends_left = found
            .backends_left
            .saturating_add(names.filter(still).count());
    }
    let drastic = |before: usize, after: usize| before > 0 && after.saturating_mul(10) <= before;
    (drastic(found.services, found.services_left) || drastic(found.backends, found.backends_left))
        .then_some(found)
}
