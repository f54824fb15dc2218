//! Random cases through library, oracle and compiled program.

use std::time::Duration;

use lb_oracle::tally::Shape;
use lb_tests::soak::{self, Soak};

/// Packets, unless the environment says how many: an emulated machine runs fewer.
const PACKETS: u64 = 1_000_000;
/// The variable that says it.
const VARIABLE: &str = "FAIRLEAD_SOAKED_PACKETS";

/// As many as that, or as the environment says.
pub(super) fn packets(usually: u64) -> u64 {
    std::env::var(VARIABLE).map_or(usually, |text| text.parse().unwrap())
}

#[test]
fn random_packets_fare_alike_in_library_oracle_and_kernel() {
    let packets = packets(PACKETS);
    let soak = Soak {
        packets,
        // Cases that the test of the library and the oracle does not get to.
        first: 1 << 32,
        kernel: true,
        threads: 1,
        progress: Duration::from_secs(10),
    };
    let report = soak::run(soak, &mut std::io::stdout()).unwrap();
    println!("{}", report.text());
    if let Some(failure) = report.failure {
        panic!("{failure}");
    }
    assert!(report.tally.packets >= packets && packets > 0);
    let seldom = report.tally.fates.iter().min().unwrap();
    assert!(*seldom > packets / 100, "{:?}", report.tally);
    // Linux 6.1 takes too little room before a frame away.
    let release = nix::sys::utsname::uname().unwrap();
    let release = release.release().to_string_lossy().into_owned();
    assert!(
        report.cramped > 0 || release.starts_with("6.1."),
        "{release}"
    );
    // Frames with tags go through a program of their own.
    let met = |shape: Shape| report.tally.shapes[shape as usize];
    assert!(met(Shape::OneTag) > packets / 100 && met(Shape::TwoTags) > packets / 100);
    // So few packets as an emulated machine runs do not meet what one in ten thousand is.
    for shape in Shape::ALL {
        assert!(met(shape) >= packets / 100_000, "{shape:?}: {}", met(shape));
    }
}
