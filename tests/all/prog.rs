//! The compiled data plane against the library: every fixture, and packets changed at random, over the
//! same maps, with equal verdict, bytes, counters and flow table.

use lb_ebpf::{
    fixture::{self, Fixture, Observed, Step, tagging::Tagging, world::Ends},
    mem::{self, MemTables},
};
use lb_tests::kernel::{self, Kernel, Ran, SHORTEST, in_namespace};

mod budget;
mod cases;
mod decap;
mod mutants;

/// Loads the program for maps of the fixtures' size.
fn load(ends: Ends, read_only: bool) -> Kernel {
    let tables = fixture::all()[0].world.tables(&ends);
    Kernel::load(&tables, ends, read_only).unwrap().0
}

/// What differs between the twins after a step, if anything.
fn difference(host: &Observed, tables: &MemTables, step: &Step, ran: &Ran) -> Option<String> {
    let mut differences = Vec::new();
    let mut compare = |what: &str, host: String, kernel: String| {
        if host != kernel {
            differences.push(format!("  {what}\n    host   {host}\n    kernel {kernel}"));
        }
    };
    compare(
        "action",
        format!("{:?}", host.verdict.action),
        format!("{:?}", ran.action),
    );
    compare(
        "bytes",
        format!("{:02x?}", host.output),
        format!("{:02x?}", ran.output),
    );
    compare(
        "counters",
        format!("{:?}", host.counters),
        format!("{:?}", ran.counters),
    );
    let sets = mem::words(&tables.flows);
    compare("flows", format!("{sets:x?}"), format!("{:x?}", ran.flows));
    let hops = mem::words(&tables.return_hops);
    compare(
        "return hops",
        format!("{hops:x?}"),
        format!("{:x?}", ran.return_hops),
    );
    let used = |lines: Vec<[u64; 8]>| {
        let used = lines.into_iter().enumerate();
        used.filter(|(_, line)| *line != [0; 8]).collect::<Vec<_>>()
    };
    let nat = used(mem::words(&tables.nat_flows));
    compare(
        "nat flows",
        format!("{nat:x?}"),
        format!("{:x?}", used(ran.nat_flows.clone())),
    );
    let fragments = used(mem::words(&tables.fragments));
    compare(
        "fragments",
        format!("{fragments:x?}"),
        format!("{:x?}", used(ran.fragments.clone())),
    );
    let clients = used(mem::words(&tables.affinities));
    compare(
        "affinities",
        format!("{clients:x?}"),
        format!("{:x?}", used(ran.affinities.clone())),
    );
    let at = step.at;
    compare(
        "paths",
        format!("{:x?}", tables.paths_at(at, at)),
        format!("{:x?}", ran.paths),
    );
    (!differences.is_empty()).then(|| differences.join("\n"))
}

/// Runs a step on both sides; the tables go on as the library leaves them.
fn run_both(kernel: &mut Kernel, tables: &mut MemTables, step: &Step) -> Option<String> {
    let ends = kernel.ends();
    for change in &step.before {
        change.apply(tables, &ends);
    }
    let before = copy(tables);
    let host = fixture::run_step(tables, step, &ends);
    kernel.open_redirect(host.verdict).unwrap();
    match kernel.run_step(&before, step) {
        Ok(ran) => difference(&host, tables, step, &ran),
        Err(error) => Some(format!("  {error:#}")),
    }
}

/// The same tables again.
fn copy(tables: &MemTables) -> MemTables {
    let lines = |from: &[lb_ebpf::tables::CacheLine]| {
        mem::words(from)
            .into_iter()
            .map(lb_ebpf::tables::CacheLine::new)
            .collect()
    };
    MemTables {
        handshakes: lines(&tables.handshakes),
        header: tables.header,
        control: tables.control,
        endpoints: tables.endpoints.clone(),
        rules: tables.rules.clone(),
        services: tables.services.clone(),
        rings: tables.rings.clone(),
        backends: tables.backends.clone(),
        next_hops: tables.next_hops.clone(),
        devices: tables.devices.clone(),
        source_ranges: tables.source_ranges.clone(),
        flows: lines(&tables.flows),
        return_hops: lines(&tables.return_hops),
        nat_flows: lines(&tables.nat_flows),
        fragments: lines(&tables.fragments),
        affinities: lines(&tables.affinities),
        paths: lines(&tables.paths),
        counters: lines(&tables.counters),
        notes: lb_ebpf::tables::CacheLine::new([0; 8]),
        read_only: tables.read_only,
        clock: 0.into(),
    }
}

fn check(kernel: &mut Kernel, fixture: &Fixture, failures: &mut Vec<String>, ran: &mut usize) {
    let mut tables = fixture.world.tables(&kernel.ends());
    for (number, step) in fixture.steps.iter().enumerate() {
        // The kernel runs no program over less than an Ethernet header; the library does.
        if step.packet.len() < SHORTEST {
            let refused = kernel.run(&step.packet, kernel.ends().client, 1);
            assert!(
                refused.is_err(),
                "{}: the kernel took {:02x?}",
                fixture.name,
                step.packet
            );
            continue;
        }
        *ran += 1;
        if let Some(difference) = run_both(kernel, &mut tables, step) {
            failures.push(format!(
                "{}, step {number}, packet {:02x?}:\n{difference}",
                fixture.name, step.packet
            ));
        }
    }
}

#[test]
fn every_fixture_gives_equal_verdict_bytes_and_counters_on_host_and_kernel() {
    let failures = in_namespace(|ends| {
        let mut kernel = load(ends, false);
        let (mut failures, mut ran) = (Vec::new(), 0);
        let fixtures = fixture::all();
        for (number, fixture) in fixtures.iter().enumerate() {
            // The library runs each with all of them.
            let tagging = Tagging::ALL[number % Tagging::ALL.len()];
            for tagging in [Tagging::NONE, tagging] {
                kernel.tag(tagging);
                let before = failures.len();
                if tagging.suits(fixture) {
                    check(&mut kernel, fixture, &mut failures, &mut ran);
                }
                if failures.len() > before {
                    failures.push(format!("those above with {tagging:?}"));
                }
            }
        }
        println!("{} fixtures, {ran} packets in the kernel", fixtures.len());
        assert!(ran >= fixtures.len() * 2, "only {ran} packets ran");
        failures
    })
    .unwrap();
    assert!(
        failures.is_empty(),
        "{} differ:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

#[test]
fn a_read_only_program_in_the_kernel_gives_the_verdict_and_changes_no_map() {
    in_namespace(|ends| {
        let mut kernel = load(ends, true);
        for fixture in fixture::all() {
            let step = &fixture.steps[0];
            if step.packet.len() < SHORTEST {
                continue;
            }
            let mut tables = fixture.world.tables(&ends);
            for change in &step.before {
                change.apply(&mut tables, &ends);
            }
            let expected = step.expected(&ends);
            kernel.open_redirect(expected.verdict).unwrap();
            let ran = kernel.run_step(&tables, step).unwrap();
            let name = &fixture.name;
            assert_eq!(
                (ran.action, &ran.output),
                (expected.verdict.action, &expected.output),
                "{name}"
            );
            assert!(ran.counters.is_empty(), "{name}: {:?}", ran.counters);
            assert_eq!(ran.flows, mem::words(&tables.flows), "{name}");
            assert_eq!(ran.return_hops, mem::words(&tables.return_hops), "{name}");
        }
    })
    .unwrap();
}

#[test]
fn without_the_compiled_object_the_error_says_how_to_get_it() {
    // The variable is set for the whole test run; what is checked is what the message would say.
    let error = kernel::read_object(None).unwrap_err().to_string();
    assert!(error.contains("cargo xtask test"), "{error}");
}
