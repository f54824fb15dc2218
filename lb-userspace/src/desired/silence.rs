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
    let epochs = |idle: Option<Duration>| idle.map_or(0, idle_epochs);
    let [handshake, established, closing] = [handshake, established, closing].map(epochs);
    let usual = match service.protocol {
        Protocol::Tcp => None,
        Protocol::Sctp => service.sctp_idle.or(Some(service.udp_idle)),
        Protocol::Udp | Protocol::Any => Some(service.udp_idle),
    };
    let all = IdleEpochs::new(epochs(usual), handshake, established, closing);
    match service.protocol {
        Protocol::Any => all.with_others(epochs(service.sctp_idle), epochs(service.other_idle)),
        Protocol::Tcp | Protocol::Udp | Protocol::Sctp => all,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::service;

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

    #[test]
    fn each_protocol_has_its_own_time_or_that_of_udp() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let of = |protocol, sctp_idle, other_idle| {
            let mut service = service("web 192.0.2.1:80 b1=192.0.2.11:80");
            (service.protocol, service.sctp_idle) = (protocol, sctp_idle);
            service.other_idle = other_idle;
            silence(&service)
        };
        let four = IdleEpochs::new(4, 0, 0, 0);
        assert_eq!(of(Protocol::Udp, None, None), four);
        assert_eq!(of(Protocol::Sctp, None, None), four);
        let two = IdleEpochs::new(2, 0, 0, 0);
        assert_eq!(of(Protocol::Sctp, seconds(30), None), two);
        let any = of(Protocol::Any, seconds(30), None);
        assert_eq!(any, four.with_others(2, 0));
        let narrowed = |any: IdleEpochs| {
            [IdleEpochs::SCTP, IdleEpochs::OTHER].map(|which| any.narrowed(which).0)
        };
        assert_eq!(narrowed(any), [2, 4]);
        let any = of(Protocol::Any, None, seconds(30));
        assert_eq!(narrowed(any), [4, 2]);
    }
}
