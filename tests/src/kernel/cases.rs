//! Cases of `lb-oracle` through the compiled program, beside the library and the oracle.

use std::fmt::Debug;

use anyhow::{Result, bail};
use lb_common::Epoch;
use lb_ebpf::{
    fixture::{changes, world::Ends},
    mem::{self, MemFrame, MemTables},
    verdict::{Action, Verdict},
};
use lb_oracle::{
    case::{Arrival, Case, Difference, Scene},
    oracle::Oracle,
};

use super::{ATTEMPTS, Aborted, Kernel, Moment, ROOM, SHORTEST, maps};

/// The compiled program with maps of the cases' size. To be made in [`super::in_namespace`].
pub struct Cases {
    kernel: Kernel,
    /// The slot that redirects may go to.
    open: Option<u32>,
    /// The kernel lets a test take all room before a frame away: Linux 6.1 lets it take 32 bytes.
    takes_room: bool,
    /// Cases that were run with less room than usual.
    pub cramped: u64,
}

/// What came of one attempt.
enum Attempt {
    Agreed,
    Differed(Difference),
    /// The kernel's clock stepped over an epoch or a second: its answers belong to two moments.
    Interrupted,
}

impl Cases {
    /// Loads the program.
    pub fn load(ends: Ends) -> Result<Self> {
        let tables = lb_oracle::generate::numbered(0).tables(&ends);
        let (kernel, _) = Kernel::load(&tables, ends, false)?;
        let frame = [0; SHORTEST];
        let takes_room = kernel.run_in(&frame, ends.client, 0).is_ok();
        Ok(Self {
            kernel,
            open: None,
            takes_room,
            cramped: 0,
        })
    }

    /// Runs a case, with the room of every other one where the kernel takes none away: verdict and bytes of each packet, counters, flow table and return hops after each scene.
    pub fn run(&mut self, case: &Case) -> Result<Option<Difference>> {
        for _ in 0..ATTEMPTS {
            match self.attempt(case)? {
                Attempt::Agreed => return Ok(None),
                Attempt::Differed(difference) => return Ok(Some(difference)),
                Attempt::Interrupted => {}
            }
        }
        bail!("the kernel's clock stepped over an epoch or a second {ATTEMPTS} times in turn")
    }

    fn attempt(&mut self, case: &Case) -> Result<Attempt> {
        // No slot of another case's interfaces stays open.
        self.open = None;
        self.kernel.open_redirect(Verdict::PASS)?;
        self.kernel.tag(case.tagging);
        let ends = self.kernel.ends();
        let mut tables = case.tables(&ends);
        let room = match self.takes_room {
            true => case.room,
            false => MemFrame::ROOM,
        };
        self.cramped += u64::from(room < MemFrame::ROOM);
        let mut oracle = Oracle::new(&case.world, case.mtu, case.tagging).with_room(room);
        for (number, scene) in case.scenes.iter().enumerate() {
            for change in &scene.changes {
                change.apply(&mut tables, &ends);
                oracle.change(change);
            }
            let began = Moment::now()?;
            let difference = self.scene((&mut oracle, room), &tables, scene, began);
            if !began.lasts()? {
                return Ok(Attempt::Interrupted);
            }
            if let Some((packet, what)) = difference? {
                let at = (number, packet);
                return Ok(Attempt::Differed(Difference { at, what }));
            }
        }
        Ok(Attempt::Agreed)
    }

    /// Runs a scene on both sides: the packet after which they differ, and how.
    fn scene(
        &mut self,
        (oracle, room): (&mut Oracle, u16),
        tables: &MemTables,
        scene: &Scene,
        began: Moment,
    ) -> Result<Option<(usize, String)>> {
        let kernel = &mut self.kernel;
        maps::write(
            &mut kernel.ebpf,
            tables,
            kernel.cpu,
            kernel.cpus,
            scene.at,
            began.nanos,
        )?;
        for (number, arrival) in scene.packets.iter().enumerate() {
            let difference = self.packet((oracle, room), tables, scene.at, arrival)?;
            if let Some(what) = difference {
                return Ok(Some((number, what)));
            }
        }
        let kernel = &self.kernel;
        let lines = maps::counters(&kernel.ebpf, tables, kernel.cpu, kernel.cpus)?;
        let counted = changes(&mem::words(&tables.counters), &lines);
        let flows = maps::flows(&kernel.ebpf, began.epoch, Epoch::at(scene.at))?;
        let hops = maps::lines(&kernel.ebpf, "return_hops")?;
        let pieces = maps::lines(&kernel.ebpf, "fragments")?;
        let pieces = mem::moved_fragments(&pieces, began.nanos, scene.at);
        let nat = mem::moved_nat_flows(
            &maps::lines(&kernel.ebpf, "nat_flows")?,
            began.nanos,
            scene.at,
        );
        let clients = maps::lines(&kernel.ebpf, "affinities")?;
        let clients = mem::moved_affinities(&clients, began.nanos, scene.at);
        let paths = maps::paths(&kernel.ebpf, began.nanos, scene.at)?;
        let known = tables.paths_at(scene.at, scene.at);
        let what = match () {
            () if paths != known => apart("paths", &known, &paths),
            () if !counted.is_empty() => format!("the kernel counted otherwise: {counted:?}"),
            () if flows != mem::words(&tables.flows) => {
                apart("flows", &mem::words(&tables.flows), &flows)
            }
            () if hops != mem::words(&tables.return_hops) => {
                apart("return hops", &mem::words(&tables.return_hops), &hops)
            }
            () if nat != mem::words(&tables.nat_flows) => {
                apart("nat flows", &mem::words(&tables.nat_flows), &nat)
            }
            () if pieces != mem::words(&tables.fragments) => {
                apart("fragments", &mem::words(&tables.fragments), &pieces)
            }
            () if clients != mem::words(&tables.affinities) => {
                apart("affinities", &mem::words(&tables.affinities), &clients)
            }
            () => return Ok(None),
        };
        Ok(Some((scene.packets.len(), what)))
    }

    fn packet(
        &mut self,
        (oracle, room): (&mut Oracle, u16),
        tables: &MemTables,
        at: u64,
        arrival: &Arrival,
    ) -> Result<Option<String>> {
        let ends = self.kernel.ends();
        let ifindex = ends.port(arrival.ingress);
        let mut frame = MemFrame::new(arrival.frame.clone(), ifindex);
        frame.room = room;
        let verdict = mem::process(&mut frame, tables, at);
        let opinion = oracle.process(&arrival.frame, &frame.bytes, arrival.ingress, at);
        self.open_redirect(verdict)?;
        let room = room.min(ROOM);
        let (action, output) = match self.kernel.run_in(&arrival.frame, ifindex, room) {
            // It was counted as sent, and tags found no room.
            Err(error) if error.is::<Aborted>() && opinion.met.untagged => return Ok(None),
            // As any other verdict that is not the library's.
            Err(error) if error.is::<Aborted>() => return Ok(Some(error.to_string())),
            ran => ran?,
        };
        let expected = opinion.output.as_ref().unwrap_or(&arrival.frame);
        let actions = [verdict.action, opinion.fate.verdict(&ends).action, action];
        if actions.iter().any(|other| *other != action) {
            let [library, oracle, kernel] = actions;
            return Ok(Some(format!(
                "library {library:?}, oracle {oracle:?}, kernel {kernel:?}"
            )));
        }
        if opinion.met.untagged {
            return Ok(Some(format!("kernel {action:?}, where tags have no room")));
        }
        // Nobody sees what becomes of a packet that is dropped.
        let as_expected = verdict.reason().is_some() || output == *expected;
        Ok(match as_expected && frame.bytes == output {
            true => None,
            false => Some(format!(
                "bytes\n    library {:02x?}\n    oracle  {expected:02x?}\n    kernel  {output:02x?}",
                frame.bytes
            )),
        })
    }

    /// Lets redirects go where the verdict says only: to any other slot the program would be aborted. A system call
    /// only where it is another than the last.
    fn open_redirect(&mut self, verdict: Verdict) -> Result<()> {
        if verdict.action != Action::Redirect || self.open == Some(verdict.detail) {
            return Ok(());
        }
        self.kernel.open_redirect(verdict)?;
        self.open = Some(verdict.detail);
        Ok(())
    }
}

fn apart<T: Debug + PartialEq>(what: &str, library: &[T], kernel: &[T]) -> String {
    let sets = library.iter().zip(kernel).enumerate();
    let differ = sets.filter(|(_, (a, b))| a != b);
    let shown: Vec<String> = differ
        .map(|(set, (a, b))| format!("  set {set}\n    library {a:x?}\n    kernel  {b:x?}"))
        .collect();
    format!("{what}\n{}", shown.join("\n"))
}
