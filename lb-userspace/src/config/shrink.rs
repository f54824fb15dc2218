//! The shrink guard (fault C4): a configuration that empties the daemon, or takes away nine tenths
//! of its services or backends, is more often a torn or generated file than a wish, and needs
//! consent. Pure. (Google, 2023-09-21: configurations overwritten with empty ones.)

use crate::model::Config;

/// How much smaller it would get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shrink {
    /// Services now.
    pub services: usize,
    /// Services then.
    pub services_left: usize,
    /// Backends now, over all services.
    pub backends: usize,
    /// Backends then.
    pub backends_left: usize,
}

impl std::fmt::Display for Shrink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "the new configuration has {} services where there are {}, and {} backends where \
             there are {}: not applied without consent (if it is meant: `fairlead reload \
             --allow-shrink`)",
            self.services_left, self.services, self.backends_left, self.backends
        )
    }
}

/// How much smaller `new` is than `old`, if that needs consent: nothing is left, or a tenth or less
/// of the services or of the backends. Replacing all of them by as many others is no shrink.
pub fn shrink(old: &Config, new: &Config) -> Option<Shrink> {
    let backends = |config: &Config| config.services.values().map(|s| s.backends.len()).sum();
    let found = Shrink {
        services: old.services.len(),
        services_left: new.services.len(),
        backends: backends(old),
        backends_left: backends(new),
    };
    let drastic = |before: usize, after: usize| before > 0 && after.saturating_mul(10) <= before;
    (drastic(found.services, found.services_left) || drastic(found.backends, found.backends_left))
        .then_some(found)
}
