//! Ways to backends and VIP claims over real netlink, in the lab's namespaces.

use std::time::Duration;

use lb_tests::topology::{Arms, Forwarding, Shape, Topology};

mod claims;
mod ways;

/// For what has no bound of its own.
const PATIENCE: Duration = Duration::from_secs(10);
/// From a neighbour or VIP removed by hand to its return.
const REPAIRED: Duration = Duration::from_millis(100);

const SHAPE: Shape = Shape {
    backends: 1,
    arms: Arms::Two,
    forwarding: Forwarding::Dnat,
};

/// Runs a test on a thread in the balancer's namespace. Tasks have threads of their own, so that
/// the test may block.
fn in_balancer(test: impl AsyncFnOnce(Topology) + Send) {
    let topology = Topology::build(SHAPE).unwrap();
    let balancer = topology.namespace("lb").clone();
    balancer.run(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test(topology));
    });
}

fn netlink() -> rtnetlink::Handle {
    let (connection, netlink, _) = rtnetlink::new_connection().unwrap();
    tokio::spawn(connection);
    netlink
}
