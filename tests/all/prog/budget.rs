//! What the compiled program costs the verifier, and that it cannot panic.

use lb_ebpf::fixture;
use lb_tests::kernel::{Kernel, in_namespace, object, object_bytes};

/// A fifth of what the kernel allows, so that older kernels, which prune less, load it too.
const VERIFIED: u32 = 200_000;

#[test]
fn the_verifier_needs_at_most_a_fifth_of_its_limit() {
    in_namespace(|ends| {
        let tables = fixture::all()[0].world.tables(&ends);
        let (_, verified) = Kernel::load(&tables, ends, false).unwrap();
        println!("{verified:?}");
        assert!(verified.instructions <= VERIFIED, "{verified:?}");
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
