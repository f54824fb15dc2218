//! What is written is the whole state at the moment of the save, whatever happened between two saves.

use proptest::prelude::*;

use super::*;
use crate::fixture::world::{self, Step, steps};

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_document_brought_up_to_date_is_the_whole_state_at_that_moment(
        steps in steps(), saves in prop::collection::vec(prop::bool::weighted(0.3), 60)
    ) {
        let mut sim = start(world::first(), None, SECOND);
        let mut written = Persistent::default();
        for (step, save) in steps.iter().zip(saves) {
            sim.now += match step {
                Step::Pass(seconds) => u64::from(*seconds) * SECOND,
                _ => SECOND / 5,
            };
            let ids = sim.state.ids().clone();
            let event = world::event(step, sim.now, |key| ids.backend(key).map(|b| b.id));
            // What is refused changes nothing, and has to leave nothing to save.
            drop(sim.state.handle(sim.now, event));
            if save {
                written.take(sim.state.take_changes(sim.now));
                prop_assert_eq!(&written, &sim.state.persistent(sim.now));
            }
        }
    }
}

#[test]
fn a_save_after_one_change_holds_one_backend_and_the_next_one_none() {
    let mut sim = running(config(WEB));
    let mut written = Persistent::default();
    written.take(sim.state.take_changes(sim.now));
    assert_eq!(written.verdicts.len(), 2);
    sim.admin("web/a", AdminState::Draining, None);
    // The other's verdict is not looked at again: nothing says that it changed.
    written.verdicts.clear();
    written.take(sim.state.take_changes(sim.now));
    let of =
        |written: &Persistent| -> Vec<BackendKey> { written.verdicts.keys().cloned().collect() };
    assert_eq!(of(&written), [key("web/a")]);
    assert_eq!(written.orders.len(), 1);
    written.verdicts.clear();
    written.take(sim.state.take_changes(sim.now));
    assert_eq!(of(&written), []);
    sim.admin("web/a", AdminState::Enabled, None);
    written.take(sim.state.take_changes(sim.now));
    assert!(written.orders.is_empty());
}
