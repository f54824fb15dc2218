//! System calls that neither the daemon nor its commands need, and that whoever took the daemon over would: refused by a
//! filter (seccomp(2)). A list of all that is allowed would have to know what the commands of checks and hooks do.

use std::collections::BTreeMap;
use std::env::consts::ARCH;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

macro_rules! calls {
    ($($(#[$when:meta])? $name:ident = $number:expr),* $(,)?) => {
        &[$($(#[$when])? (stringify!($name), $number)),*]
    };
}

/// What fails with EPERM, by name and number.
pub const REFUSED: &[(&str, libc::c_long)] = calls![
    // Other processes.
    ptrace = libc::SYS_ptrace,
    process_vm_readv = libc::SYS_process_vm_readv,
    process_vm_writev = libc::SYS_process_vm_writev,
    pidfd_getfd = libc::SYS_pidfd_getfd,
    // File systems and namespaces.
    mount = libc::SYS_mount,
    umount2 = libc::SYS_umount2,
    pivot_root = libc::SYS_pivot_root,
    chroot = libc::SYS_chroot,
    move_mount = libc::SYS_move_mount,
    open_tree = libc::SYS_open_tree,
    // Linux 6.15; the same number everywhere.
    open_tree_attr = 467,
    fsopen = libc::SYS_fsopen,
    fsconfig = libc::SYS_fsconfig,
    fsmount = libc::SYS_fsmount,
    fspick = libc::SYS_fspick,
    mount_setattr = libc::SYS_mount_setattr,
    setns = libc::SYS_setns,
    unshare = libc::SYS_unshare,
    open_by_handle_at = libc::SYS_open_by_handle_at,
    quotactl = libc::SYS_quotactl,
    quotactl_fd = libc::SYS_quotactl_fd,
    // The kernel and the machine.
    init_module = libc::SYS_init_module,
    finit_module = libc::SYS_finit_module,
    delete_module = libc::SYS_delete_module,
    kexec_load = libc::SYS_kexec_load,
    #[cfg(not(target_arch = "riscv64"))]
    kexec_file_load = libc::SYS_kexec_file_load,
    reboot = libc::SYS_reboot,
    swapon = libc::SYS_swapon,
    swapoff = libc::SYS_swapoff,
    acct = libc::SYS_acct,
    settimeofday = libc::SYS_settimeofday,
    clock_settime = libc::SYS_clock_settime,
    sethostname = libc::SYS_sethostname,
    setdomainname = libc::SYS_setdomainname,
    #[cfg(target_arch = "x86_64")]
    iopl = libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    ioperm = libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    modify_ldt = libc::SYS_modify_ldt,
    // Where bugs of kernels were found time and again.
    userfaultfd = libc::SYS_userfaultfd,
    perf_event_open = libc::SYS_perf_event_open,
    io_uring_setup = libc::SYS_io_uring_setup,
    io_uring_enter = libc::SYS_io_uring_enter,
    io_uring_register = libc::SYS_io_uring_register,
    add_key = libc::SYS_add_key,
    request_key = libc::SYS_request_key,
    keyctl = libc::SYS_keyctl,
    personality = libc::SYS_personality,
];

/// What marks the numbers of x86-64's second way to call the kernel, x32 (arch/x86/include/uapi/asm/unistd.h). Most are those of the first.
pub const X32: libc::c_long = 0x4000_0000;

/// Those of the above that have a number of their own there (arch/x86/entry/syscalls/syscall_64.tbl): ptrace, kexec_load,
/// process_vm_readv, process_vm_writev.
const X32_ONLY: [libc::c_long; 4] = [521, 528, 539, 540];

/// All numbers by which this kernel knows a system call.
fn numbers(number: libc::c_long) -> impl Iterator<Item = libc::c_long> {
    let second = cfg!(target_arch = "x86_64").then_some(number | X32);
    [number].into_iter().chain(second)
}

/// Of clone(2), what makes a user namespace, in which anyone has every capability.
fn new_user() -> Result<SeccompRule, seccompiler::BackendError> {
    let bit = libc::CLONE_NEWUSER.unsigned_abs().into();
    let is_set = SeccompCmpOp::MaskedEq(bit);
    let condition = SeccompCondition::new(0, SeccompCmpArgLen::Qword, is_set, bit)?;
    SeccompRule::new(vec![condition])
}

fn compile(
    rules: Rules,
    errno: i32,
    arch: TargetArch,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let action = SeccompAction::Errno(errno.unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, action, arch)?.try_into()
}

/// The filters, each with an answer of its own.
fn filters() -> Result<[BpfProgram; 2], seccompiler::BackendError> {
    let arch = TargetArch::try_from(ARCH)?;
    let always = |number| (number, Vec::new());
    let of_x32 = cfg!(target_arch = "x86_64").then_some(X32_ONLY);
    let of_x32 = of_x32.into_iter().flatten().map(|number| number | X32);
    let refused = REFUSED.iter().flat_map(|(_, number)| numbers(*number));
    let mut rules: Rules = refused.chain(of_x32).map(always).collect();
    for number in numbers(libc::SYS_clone) {
        rules.insert(number, vec![new_user()?]);
    }
    // A filter cannot look at what clone3(2) is asked for. Whoever hears that there is none takes clone(2).
    let absent = numbers(libc::SYS_clone3).map(always).collect();
    Ok([
        compile(rules, libc::EPERM, arch)?,
        compile(absent, libc::ENOSYS, arch)?,
    ])
}

/// Refuses them to this thread, and to all threads and processes that it starts from now on.
pub fn refuse() -> Result<(), seccompiler::Error> {
    let filters = filters()?;
    filters.iter().try_for_each(|filter| apply_filter(filter))
}
