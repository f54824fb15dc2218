//! Sizes of checks by MTU, MSS, tunnel and path; what fills them; what their end means.

use super::*;
use crate::health::verdict::REASON_BYTES;

fn trial(most: u32, growth: u32, path: Option<u32>, by_tunnel: bool) -> Trial {
    let size = FullSize {
        most,
        growth,
        backend: 1,
    };
    Trial::new(size, path, by_tunnel)
}

/// Packet and data of a check whose target takes segments of `peer` bytes.
fn segment(trial: &Trial, family: Family, mtu: u32, peer: u32, timestamps: bool) -> (u32, u32) {
    let headers = ip_header(family) + TCP_HEADER;
    // As Linux does (tcp_sync_mss).
    let most = trial.segment(family).min(mtu - headers).min(peer);
    let mss = most - if timestamps { TIMESTAMPS } else { 0 };
    trial.fill_segment(Way { family, mtu, mss });
    let data = u32::try_from(trial.data()).unwrap();
    assert!(data <= mss);
    (trial.packet.load(Relaxed), data)
}

#[test]
fn a_packet_of_a_check_is_as_large_as_a_clients_may_be() {
    use Family::{V4, V6};
    for (family, growth, mtu, packet) in [
        (V4, 0, 1500, 1500),
        (V6, 0, 1500, 1500),
        // Clients of a balancer with jumbo frames have none.
        (V4, 0, 9000, 1500),
        (V6, 48, 9000, 1500),
        (V4, 0, 1400, 1400),
        // A tunnel takes its part where there is no room for it.
        (V4, 20, 1500, 1480),
        (V6, 40, 1500, 1460),
        (V4, 28, 1500, 1472),
        (V4, 20, 1520, 1500),
        (V4, 20, 1510, 1490),
    ] {
        for timestamps in [false, true] {
            let trial = trial(1500, growth, None, true);
            let (found, data) = segment(&trial, family, mtu, 65_000, timestamps);
            assert_eq!(found, packet, "{family:?} {growth} {mtu}");
            let before = ip_header(family) + TCP_HEADER + if timestamps { 12 } else { 0 };
            assert_eq!(data + before, packet, "{family:?} {growth} {mtu}");
        }
    }
}

#[test]
fn what_the_target_or_the_path_does_not_take_is_not_sent() {
    let v4 = Family::V4;
    // The target's interface has a smaller MTU, and says so in its MSS.
    let found = segment(&trial(1500, 0, None, false), v4, 1500, 1360, true);
    assert_eq!(found, (1400, 1348));
    // Then nobody can tell that there are no options: all fits, and the size is told as if there were.
    let found = segment(&trial(1500, 0, None, false), v4, 1500, 1360, false);
    assert_eq!(found, (1412, 1360));
    // Routers have said what fits the tunnel's path.
    let found = segment(&trial(1500, 20, Some(1400), true), v4, 1500, 1460, true);
    assert_eq!(found, (1380, 1328));
    // Outside of the tunnel the packet is as large as one in it.
    let found = segment(&trial(1460, 20, None, false), v4, 1500, 1460, true);
    assert_eq!(found, (1480, 1428));
    // As the operator says.
    let found = segment(&trial(9000, 0, None, false), v4, 9000, 8960, true);
    assert_eq!(found, (9000, 8948));
}

#[test]
fn an_echo_request_has_the_size_on_the_wire() {
    assert_eq!(
        trial(1500, 0, None, false).fill_echo(Family::V4, 1500),
        1472
    );
    assert_eq!(
        trial(1500, 0, None, false).fill_echo(Family::V6, 9000),
        1452
    );
    assert_eq!(
        trial(1500, 20, None, false).fill_echo(Family::V4, 9000),
        1492
    );
    assert_eq!(
        trial(1500, 20, Some(1400), false).fill_echo(Family::V4, 9000),
        1372
    );
}

#[test]
fn padding_fills_the_segment_in_lines_that_servers_take() {
    for (most, request, lines) in [
        (1500, 200, 1),
        (1500, 1460, 0),
        (1500, 2000, 0),
        (1500, 1459, 1),
        (9000, 200, 3),
    ] {
        let trial = trial(most, 0, None, false);
        segment(&trial, Family::V4, most, most - 40, false);
        let padding = trial.padding(request);
        assert_eq!(padding.len(), lines, "{most} {request}");
        assert!(
            padding
                .iter()
                .all(|value| (1..=LINE).contains(&value.len()))
        );
        let each = |value: &String| FIELD.len() + 4 + value.len();
        let all: usize = request + padding.iter().map(each).sum::<usize>();
        let room = trial.data().saturating_sub(request);
        if room > FIELD.len() + 4 {
            let over = all - trial.data();
            assert!(over < FIELD.len() + 5, "{most} {request}: {over} too many");
        }
        assert!(all >= trial.data());
    }
    // Nothing is sent before the connection is there.
    assert!(trial(1500, 0, None, false).padding(100).is_empty());
}

#[test]
fn what_is_not_acknowledged_is_lost_and_what_is_answered_has_arrived() {
    let ended = |missing: bool, how: &dyn Fn(&Trial)| {
        let trial = trial(1500, 0, None, false);
        trial.asks();
        assert_eq!(trial.end(), End::Silent);
        trial.looked(missing);
        how(&trial);
        trial.ended();
        trial.end()
    };
    // Nothing came.
    assert_eq!(ended(true, &|_| {}), End::Silent);
    assert_eq!(ended(false, &|_| {}), End::Unanswered);
    // An answer, whatever it says; a server may also answer that it does not wait any longer.
    assert_eq!(ended(true, &Trial::answered), End::Silent);
    assert_eq!(ended(false, &Trial::answered), End::Answered);
    // An orderly end, or words of no protocol.
    assert_eq!(ended(true, &|trial| trial.broke(None)), End::Silent);
    assert_eq!(ended(false, &|trial| trial.broke(None)), End::Answered);
    let error = io::Error::from_raw_os_error;
    for missing in [false, true] {
        for number in [libc::ECONNRESET, libc::EPIPE] {
            let end = ended(missing, &|trial| trial.broke(Some(&error(number))));
            assert_eq!(end, End::Answered, "{number}");
        }
    }
    for number in [libc::EHOSTUNREACH, libc::ETIMEDOUT] {
        let end = ended(true, &|trial| trial.broke(Some(&error(number))));
        assert_eq!(end, End::Silent, "{number}");
    }
    // What breaks later leaves the answer one.
    let late = ended(false, &|trial| {
        trial.answered();
        trial.looked(true);
        trial.broke(None);
    });
    assert_eq!(late, End::Answered);
    let unsent = trial(1500, 0, None, false);
    unsent.broke(None);
    unsent.ended();
    assert_eq!(unsent.end(), End::Unsent);
    assert!(!unsent.is_open());
}

#[test]
fn what_routers_said_meanwhile_is_no_fault() {
    let trial = trial(1500, 20, None, true);
    segment(&trial, Family::V4, 1500, 1460, true);
    assert!(trial.is_known_too_large(Some(1499)));
    assert!(!trial.is_known_too_large(Some(1500)));
    assert!(!trial.is_known_too_large(None));
    // What they say of packets without a tunnel, the socket knows.
    trial.learned(1480);
    assert!(!trial.is_known_too_large(None));
    trial.learned(1479);
    assert!(trial.is_known_too_large(None));
}

#[test]
fn the_words_name_the_size_and_the_tunnels() {
    let words = "headers: timed out after 86400000 ms";
    let direct = trial(1500, 0, None, false);
    segment(&direct, Family::V4, 1500, 1460, true);
    let told = direct.told(words);
    assert!(
        told.contains("not those of 1500 bytes: check the MTU"),
        "{told}"
    );
    let tunnel = trial(1500, 48, None, true);
    segment(&tunnel, Family::V6, 1500, 1440, true);
    let told = tunnel.told(words);
    let sizes = "not those of 1452 bytes, 1500 in the tunnel: check the MTU";
    assert!(told.contains(sizes), "{told}");
    assert!(told.len() <= REASON_BYTES, "{told}");
}
