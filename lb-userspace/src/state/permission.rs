//! What a backend may do, as a function of everything that is known about it. Pure: one table.

use lb_common::Permissions;

use crate::model::{AdminState, DrainPolicy, Health, OnDown};

/// Everything that decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// What a person says.
    pub admin: AdminState,
    /// The drain's deadline has passed (only for `Draining`).
    pub past_deadline: bool,
    /// What becomes of its flows then.
    pub drain: DrainPolicy,
    /// What probes say.
    pub health: Health,
    /// `Unknown` counts as `Up` for new flows.
    pub trust_at_start: bool,
    /// What becomes of its flows when it is down or cannot be reached.
    pub on_down: OnDown,
    /// That is not due yet.
    pub waits: bool,
    /// It is among those that get the flows of its service (`tiers`).
    pub chosen: bool,
    /// The way to it is resolved.
    pub reachable: bool,
    /// Too few in the pool are healthy, and the service spreads over all that are enabled.
    pub fail_open: bool,
}

/// The table.
///
/// | admin | health, way | new flows | its flows |
/// |---|---|---|---|
/// | disabled | any | no | no (`drain` `reset`: reset) |
/// | draining, deadline passed, `migrate` or `reset` | any | no | no, or reset |
/// | draining | up or unknown, resolved | no | yes |
/// | draining | down or not resolved | no | `on_down` |
/// | enabled | up, resolved | yes | yes |
/// | enabled | unknown, resolved | `trust_at_start` | yes |
/// | enabled | down, resolved | no | `on_down` |
/// | enabled | any, not resolved | no | `on_down` |
/// | enabled, fail-open | any, resolved | yes | yes |
///
/// Who is not chosen takes no new flows in any row. Flows stay where `on_down` is not due yet. Who keeps flows while it is down or no way leads to
/// it keeps none of those that are in their handshake.
pub fn permissions(facts: Facts) -> Permissions {
    if is_gone(facts) {
        return match facts.drain {
            DrainPolicy::Reset => Permissions(Permissions::RESET),
            DrainPolicy::Keep | DrainPolicy::Migrate => Permissions::NONE,
        };
    }
    let enabled = facts.admin == AdminState::Enabled;
    let trusted = enabled && facts.fail_open;
    let keep = !is_down(facts) || facts.on_down == OnDown::Keep || facts.waits;
    let proven = match facts.health {
        Health::Up => true,
        Health::Unknown => facts.trust_at_start,
        Health::Down => false,
    };
    let new = enabled && facts.reachable && facts.chosen && (proven || trusted);
    let reset = !keep && facts.on_down == OnDown::Reset;
    let down = keep && is_down(facts);
    let bit = |on, bit| if on { bit } else { 0 };
    let may = bit(new, Permissions::NEW) | bit(keep, Permissions::KEEP);
    Permissions(may | bit(reset, Permissions::RESET) | bit(down, Permissions::DOWN))
}

/// `on_down` decides on its flows.
pub fn is_lost(facts: Facts) -> bool {
    !is_gone(facts) && is_down(facts)
}

/// By a person's word.
fn is_gone(facts: Facts) -> bool {
    match facts.admin {
        AdminState::Disabled => true,
        AdminState::Draining => facts.past_deadline && facts.drain != DrainPolicy::Keep,
        AdminState::Enabled => false,
    }
}

fn is_down(facts: Facts) -> bool {
    let trusted = facts.admin == AdminState::Enabled && facts.fail_open;
    !facts.reachable || (facts.health == Health::Down && !trusted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use AdminState::{Disabled, Draining, Enabled};
    use Health::{Down, Unknown, Up};

    const NONE: u8 = 0;
    const NEW: u8 = Permissions::NEW;
    const KEEP: u8 = Permissions::KEEP;
    const RESET: u8 = Permissions::RESET;
    const ALL: u8 = NEW | KEEP;

    /// All combinations of facts.
    fn all() -> Vec<Facts> {
        let mut all = Vec::new();
        let flags = [false, true];
        for admin in [Enabled, Draining, Disabled] {
            for health in [Unknown, Up, Down] {
                for bits in 0_u16..1024 {
                    let bit = |n: u16| flags[usize::from(bits >> n & 1)];
                    all.push(Facts {
                        admin,
                        health,
                        past_deadline: bit(0),
                        drain: match (bit(1), bit(7)) {
                            (true, _) => DrainPolicy::Keep,
                            (false, true) => DrainPolicy::Reset,
                            (false, false) => DrainPolicy::Migrate,
                        },
                        trust_at_start: bit(2),
                        on_down: match (bit(3), bit(8)) {
                            (true, _) => OnDown::Keep,
                            (false, true) => OnDown::Reset,
                            (false, false) => OnDown::Migrate,
                        },
                        chosen: bit(4),
                        reachable: bit(5),
                        fail_open: bit(6),
                        waits: bit(9),
                    });
                }
            }
        }
        all
    }

    /// Every combination that satisfies `when` (and only there are any) gives `expected`; the
    /// table is a partition, so each combination is met by one row.
    #[test]
    fn every_combination_of_facts_is_in_one_row_of_the_table() {
        type Row = (&'static str, fn(&Facts) -> bool, fn(&Facts) -> u8);
        let on_down = |f: &Facts| match f.on_down {
            _ if f.waits => KEEP | Permissions::DOWN,
            OnDown::Keep => KEEP | Permissions::DOWN,
            OnDown::Migrate => NONE,
            OnDown::Reset => RESET,
        };
        let at_the_end = |f: &Facts| match f.drain {
            DrainPolicy::Reset => RESET,
            _ => NONE,
        };
        let rows: [Row; 9] = [
            ("disabled", |f| f.admin == Disabled, at_the_end),
            ("drained", |f| migrated(f), at_the_end),
            (
                "draining, well",
                |f| draining(f) && f.reachable && f.health != Down,
                |_| KEEP,
            ),
            (
                "draining, ill",
                |f| draining(f) && !(f.reachable && f.health != Down),
                on_down,
            ),
            ("lost", |f| f.admin == Enabled && !f.reachable, on_down),
            (
                "fail-open",
                |f| here(f) && f.fail_open,
                |f| if f.chosen { ALL } else { KEEP },
            ),
            (
                "up",
                |f| here(f) && !f.fail_open && f.health == Up,
                |f| if f.chosen { ALL } else { KEEP },
            ),
            (
                "unknown",
                |f| here(f) && !f.fail_open && f.health == Unknown,
                |f| {
                    if f.chosen && f.trust_at_start {
                        ALL
                    } else {
                        KEEP
                    }
                },
            ),
            (
                "down",
                |f| here(f) && !f.fail_open && f.health == Down,
                on_down,
            ),
        ];
        let mut met = [0; 9];
        for facts in all() {
            let matching: Vec<usize> = (0..9).filter(|&i| rows[i].1(&facts)).collect();
            assert_eq!(matching.len(), 1, "{facts:?} is in {matching:?}");
            let (name, _, expected) = rows[matching[0]];
            met[matching[0]] = 1;
            assert_eq!(permissions(facts).0, expected(&facts), "{name}: {facts:?}");
            let lost = ["draining, ill", "lost", "down"].contains(&name);
            assert_eq!(is_lost(facts), lost, "{name}: {facts:?}");
        }
        assert_eq!(met, [1; 9], "a row is never met");
    }

    fn migrated(f: &Facts) -> bool {
        f.admin == Draining && f.past_deadline && f.drain != DrainPolicy::Keep
    }

    fn draining(f: &Facts) -> bool {
        f.admin == Draining && !migrated(f)
    }

    fn here(f: &Facts) -> bool {
        f.admin == Enabled && f.reachable
    }
}
