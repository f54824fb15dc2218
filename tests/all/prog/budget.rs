//! What the compiled program costs: instructions, verification, time per packet.

use std::time::Duration;

use lb_ebpf::{
    fixture::{self, Fixture, Step},
    verdict::Action,
};
use lb_tests::kernel::{Kernel, in_namespace, object, object_bytes};

/// A fifth of what the kernel allows, so that older kernels, which prune less, load it too.
const VERIFIED: u32 = 200_000;
/// Of the 300 ms between `fairlead run` and forwarding.
const VERIFICATION: Duration = Duration::from_millis(250);

#[test]
fn the_verifier_needs_a_fifth_of_its_limit_and_a_quarter_of_a_second() {
    in_namespace(|ends| {
        let tables = fixture::all()[0].world.tables(&ends);
        let (_, verified) = Kernel::load(&tables, ends, false).unwrap();
        println!("{verified:?}");
        assert!(verified.instructions <= VERIFIED, "{verified:?}");
        assert!(verified.took <= VERIFICATION, "{verified:?}");
    })
    .unwrap();
}

#[test]
fn the_object_holds_no_code_that_panics() {
    let functions = object::functions(&object_bytes().unwrap()).unwrap();
    let bytes: u64 = functions.iter().map(|(_, size)| size).sum();
    println!("{} functions, {} instructions", functions.len(), bytes / 8);
    assert!(
        functions.iter().any(|(name, _)| name == "fairlead"),
        "{functions:?}"
    );
    let panics: Vec<_> = functions
        .iter()
        .filter(|(name, _)| name.contains("panic"))
        .collect();
    assert!(panics.is_empty(), "{panics:?}");
}

/// A step that ends so, from its own fixture's maps.
fn find(suits: impl Fn(&Fixture, &Step) -> bool) -> (Fixture, Step) {
    fixture::all()
        .into_iter()
        .find_map(|fixture| {
            let step = fixture.steps.first()?.clone();
            (step.before.is_empty() && suits(&fixture, &step)).then_some((fixture, step))
        })
        .expect("a fixture that suits")
}

/// Rough: the kernel's own loop is in it (ARP shows how much), and one flow is all there is. The packet comes back changed, so only
/// what stays the same but for its TTL can be repeated.
#[test]
fn a_packet_takes_less_than_two_microseconds() {
    in_namespace(|ends| {
        let not_ours = find(|_, step| {
            step.fate == fixture::Fate::Pass && step.packet.get(12..14) == Some(&[8, 0])
        });
        let known = find(|fixture, step| {
            let forwarding = fixture
                .world
                .services
                .first()
                .map(|service| service.forwarding);
            forwarding == Some(lb_common::Forwarding::L2dsr)
                && matches!(step.fate, fixture::Fate::Redirect(_) | fixture::Fate::Tx)
                && step.packet.get(12..14) == Some(&[8, 0])
        });
        let mut floor = not_ours.clone();
        floor.1.packet[12..14].copy_from_slice(&[8, 6]);
        let loaded = not_ours.0.world.tables(&ends);
        let (mut kernel, _) = Kernel::load(&loaded, ends, false).unwrap();
        let cases = [
            ("ARP", floor),
            ("not ours", not_ours),
            ("l2dsr, known flow", known),
        ];
        for (what, (fixture, step)) in cases {
            let tables = fixture.world.tables(&ends);
            kernel.write(&tables, step.at).unwrap();
            kernel.open_redirect(step.fate.verdict(&ends)).unwrap();
            let mut times: Vec<Duration> = (0..200)
                .map(|_| {
                    let ingress = ends.ifindex(step.ingress);
                    let (action, _, time) = kernel.run(&step.packet, ingress, 50).unwrap();
                    assert_ne!(action, Action::Drop, "{}", fixture.name);
                    time
                })
                .collect();
            times.sort_unstable();
            println!(
                "{what} ({}): {:?} a packet",
                fixture.name,
                times[times.len() / 2]
            );
            assert!(
                times[times.len() / 2] < Duration::from_micros(2),
                "{times:?}"
            );
        }
    })
    .unwrap();
}
