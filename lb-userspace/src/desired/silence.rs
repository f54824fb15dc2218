//! After how much silence a flow begins anew, as the data plane counts it.

use std::time::Duration;

use lb_common::flow::{EPOCH_SHIFT, IDLE_AFTER, IdleEpochs};

use crate::model::{Protocol, Service, TcpIdle};

/// Whole epochs that cover the time: at least one, at most what the flow table can tell.
fn idle_epochs(idle: Duration) -> u8 {
    let epochs = idle.as_nanos().div_ceil(1 << EPOCH_SHIFT);
    u8::try_from(epochs).unwrap_or(u8::MAX).clamp(1, IDLE_AFTER)
}

/// After how much silence its flows begin anew.
pub(super) fn silence(service: &Service) -> IdleEpochs {
    let TcpIdle {
        handshake,
        established,
        closing,
    } = service.tcp_idle;
    let datagrams = match service.protocol {
        Protocol::Tcp => 0,
        Protocol::Udp | Protocol::Sctp | Protocol::Any => idle_epochs(service.udp_idle),
    };
    let [handshake, established, closing] =
        [handshake, established, closing].map(|idle| idle.map_or(0, idle_epochs));
    IdleEpochs::new(datagrams, handshake, established, closing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_is_rounded_up_to_epochs_of_17_seconds() {
        let check = |seconds, epochs| {
            assert_eq!(
                idle_epochs(Duration::from_secs(seconds)),
                epochs,
                "{seconds} s"
            );
        };
        check(0, 1);
        check(17, 1);
        check(18, 2);
        check(60, 4);
        check(137, 8);
        check(100_000_000, 8);
    }
}
