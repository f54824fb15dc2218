//! What the verifier counts. aya asks for no log of a program that is accepted, so the linked program is
//! loaded a second time here, over the same maps, with `BPF_LOG_STATS`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{Map, MapData};
use aya_obj::generated::{bpf_attach_type, bpf_attr, bpf_cmd, bpf_insn, bpf_prog_info};
use aya_obj::{Function, Object};

use super::{Kernel, PROGRAMS};

/// `BPF_LOG_STATS` of include/linux/bpf_verifier.h: figures and nothing else.
const LOG_STATISTICS: u32 = 4;
/// `BPF_PROG_TYPE_XDP`.
const XDP: u32 = 6;
/// A function's stack counts in steps of this size (`round_up_stack_depth` in kernel/bpf/verifier.c; where a JIT
/// compiles, newer kernels take 16).
const STACK_STEP: u32 = 32;
/// `BPF_JMP | BPF_CALL`, and the source register `BPF_PSEUDO_CALL`: a call of another function of the program.
const CALL: (u8, u8) = (0x85, 1);

/// The verifier's figures of a program.
#[derive(Clone, Debug)]
pub struct Statistics {
    /// The program.
    pub program: &'static str,
    /// Instructions that it followed; at most a million.
    pub instructions: u32,
    /// Bytes of stack of the deepest chain of calls; at most 512.
    pub stack: u32,
    /// Bytes of stack of each function, as the verifier lists them.
    pub each: Vec<u32>,
    /// How long loading took.
    pub took: Duration,
}

impl Kernel {
    /// Loads the programs of this object once more, which must be the one that this was made of.
    pub fn statistics(&self, object: &[u8]) -> Result<Vec<Statistics>> {
        let each = PROGRAMS.iter().map(|program| self.of(object, program));
        each.collect()
    }

    fn of(&self, object: &[u8], program: &'static str) -> Result<Statistics> {
        let function = self.linked(object, program)?;
        let btf = self.btf()?;
        let mut log = vec![0_u8; 1 << 16];
        let begin = Instant::now();
        let result = load(&function, &btf, &mut log);
        let took = begin.elapsed();
        let log = CStr::from_bytes_until_nul(&log)
            .context("the verifier's log has no end")?
            .to_string_lossy();
        let loaded = result.with_context(|| format!("load {program} again: {log}"))?;
        let (instructions, each) = parse(&log)?;
        let stack = deepest(&kept(&loaded)?, &each)?;
        Ok(Statistics {
            program,
            instructions,
            stack,
            each,
            took,
        })
    }

    /// The program with all functions that it calls, over our maps.
    fn linked(&self, object: &[u8], program: &str) -> Result<Function> {
        let mut object = Object::parse(object)?;
        let maps: Vec<_> = object.maps.drain().collect();
        let maps = maps.iter().map(|(name, map)| {
            let live = self.ebpf.map(name);
            let live = live.with_context(|| format!("the loaded object has no map {name}"))?;
            Ok((name.as_str(), data(live)?.fd().as_fd().as_raw_fd(), map))
        });
        let maps = maps.collect::<Result<Vec<_>>>()?;
        let sections = object.functions.keys().map(|(section, _)| *section);
        let sections = sections.collect();
        object.relocate_maps(maps.into_iter(), &sections)?;
        object.relocate_calls(&sections)?;
        let program = object.programs.get(program);
        let key = program.context("the object has no program")?.function_key();
        object
            .functions
            .remove(&key)
            .context("the program has no code")
    }

    /// The type information that aya loaded for the program.
    fn btf(&self) -> Result<OwnedFd> {
        let id = self.program()?.info()?.btf_id();
        // SAFETY: all bytes zero is a valid `bpf_attr`.
        let mut attr = unsafe { std::mem::zeroed::<bpf_attr>() };
        attr.__bindgen_anon_6.__bindgen_anon_1.btf_id = id.context("the program has no BTF")?;
        bpf_fd(bpf_cmd::BPF_BTF_GET_FD_BY_ID, &mut attr).context("open the program's BTF")
    }
}

fn data(map: &Map) -> Result<&MapData> {
    match map {
        Map::Array(data)
        | Map::DevMap(data)
        | Map::LpmTrie(data)
        | Map::RingBuf(data)
        | Map::ProgramArray(data)
        | Map::PerCpuArray(data) => Ok(data),
        other => bail!("the data plane has a map of another kind: {other:?}"),
    }
}

fn load(function: &Function, btf: &OwnedFd, log: &mut [u8]) -> Result<OwnedFd> {
    let functions = function.func_info.func_info_bytes();
    // SAFETY: all bytes zero is a valid `bpf_attr`.
    let mut attr = unsafe { std::mem::zeroed::<bpf_attr>() };
    // SAFETY: the member that BPF_PROG_LOAD reads; it is plain numbers.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    load.prog_type = XDP;
    // As aya has it: programs that share an array of programs have to agree (`__bpf_prog_map_compatible`).
    load.expected_attach_type = bpf_attach_type::BPF_XDP as u32;
    load.insns = function.instructions.as_ptr() as u64;
    load.insn_cnt = u32::try_from(function.instructions.len())?;
    load.license = c"Dual MIT/GPL".as_ptr() as u64;
    load.prog_btf_fd = u32::try_from(btf.as_raw_fd())?;
    load.func_info = functions.as_ptr() as u64;
    load.func_info_cnt = u32::try_from(function.func_info.func_info.len())?;
    load.func_info_rec_size = u32::try_from(function.func_info_rec_size)?;
    load.log_level = LOG_STATISTICS;
    load.log_buf = log.as_mut_ptr() as u64;
    load.log_size = u32::try_from(log.len())?;
    // What it points to (code, licence, function table, log) outlives the call.
    bpf_fd(bpf_cmd::BPF_PROG_LOAD, &mut attr)
}

/// The code that the verifier has kept: what cannot be reached is gone, whole functions too.
fn kept(program: &OwnedFd) -> Result<Vec<bpf_insn>> {
    let mut code: Vec<bpf_insn> = Vec::new();
    loop {
        // SAFETY: all bytes zero is a valid `bpf_prog_info` and a valid `bpf_attr`.
        let (mut info, mut attr) = unsafe {
            let info = std::mem::zeroed::<bpf_prog_info>();
            (info, std::mem::zeroed::<bpf_attr>())
        };
        info.xlated_prog_insns = code.as_mut_ptr() as u64;
        info.xlated_prog_len = u32::try_from(size_of_val(code.as_slice()))?;
        attr.info.bpf_fd = u32::try_from(program.as_raw_fd())?;
        attr.info.info_len = u32::try_from(size_of_val(&info))?;
        attr.info.info = std::ptr::from_mut(&mut info) as u64;
        // `info` and `code` outlive the call, and their sizes stand beside their addresses.
        bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr).context("read the verified code")?;
        let length = info.xlated_prog_len as usize / size_of::<bpf_insn>();
        ensure!(length > 0, "the kernel does not show the verified code");
        if !code.is_empty() {
            return Ok(code);
        }
        // SAFETY: all bytes zero is a valid instruction.
        code = vec![unsafe { std::mem::zeroed() }; length];
    }
}

/// A call of bpf(2) that gives a descriptor.
fn bpf_fd(command: bpf_cmd, attr: &mut bpf_attr) -> Result<OwnedFd> {
    let fd = i32::try_from(bpf(command, attr)?)?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A call of bpf(2).
fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> Result<i64> {
    // SAFETY: `attr` is valid for the length given, and so is, by the callers, what it points to.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            std::ptr::from_mut(attr),
            size_of::<bpf_attr>(),
        )
    };
    if result < 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    Ok(result)
}

/// From lines such as `stack depth 152+0+88` and `processed 63584 insns (limit 1000000) ...`.
fn parse(log: &str) -> Result<(u32, Vec<u32>)> {
    let after = |start: &str| {
        let line = log.lines().find_map(|line| line.strip_prefix(start));
        let word = line.and_then(|rest| rest.split_whitespace().next());
        word.with_context(|| format!("the verifier's log has no '{start}': {log}"))
    };
    let instructions = after("processed ")?.parse()?;
    let each = after("stack depth ")?.split('+').map(str::parse);
    Ok((instructions, each.collect::<Result<_, _>>()?))
}

/// The deepest stack over all chains of calls; `each` is that of each function, in the order of their code. In a
/// call of compiled code the kernel shows the distance as `off`, of which it keeps 16 bits (`jit_subprogs`).
fn deepest(code: &[bpf_insn], each: &[u32]) -> Result<u32> {
    const WRAPS: i64 = 1 << 16;
    ensure!(
        code.len() as i64 <= WRAPS,
        "which function a call is of is not known in {} instructions: the kernel shows 16 bits of the distance",
        code.len()
    );
    let mut calls = Vec::new();
    for (at, instruction) in (0_i64..).zip(code) {
        if (instruction.code, instruction.src_reg()) == CALL {
            let target = at + 1 + i64::from(instruction.off);
            calls.push((at, target.rem_euclid(WRAPS)));
        }
    }
    let mut starts: BTreeSet<i64> = calls.iter().map(|(_, target)| *target).collect();
    starts.insert(0);
    ensure!(
        starts.len() == each.len(),
        "{} functions are called, the verifier lists {each:?}",
        starts.len()
    );
    // The verifier refuses recursion, so callees can be done before their callers.
    let number = |at: i64| starts.range(..=at).count() - 1;
    let mut callees: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for (at, target) in calls {
        callees
            .entry(number(at))
            .or_default()
            .insert(number(target));
    }
    fn depth(function: usize, each: &[u32], callees: &BTreeMap<usize, BTreeSet<usize>>) -> u32 {
        let below = callees.get(&function).into_iter().flatten();
        let below = below.map(|callee| depth(*callee, each, callees));
        each[function].max(1).next_multiple_of(STACK_STEP) + below.max().unwrap_or(0)
    }
    Ok(depth(0, each, &callees))
}
