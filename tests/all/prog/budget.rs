//! What the compiled program costs the verifier, and that it cannot panic.

use lb_ebpf::fixture;
use lb_tests::kernel::{Kernel, Statistics, in_namespace, object, object_bytes};

/// Less than two thirds of what the kernel allows, so that older kernels, which prune less, load it too. What is learned of paths took the
/// program for what is aside above 550,000 on Linux 6.1.
const INSTRUCTIONS: u32 = 700_000;
/// What the kernel allows (`MAX_BPF_STACK`).
const STACK: u32 = 512;
/// Percent by which a figure may differ from the committed one.
const TOLERANCE: u32 = 20;

/// Figures of one program on one kernel: instructions followed, bytes of stack of the deepest chain of calls.
struct Figures {
    kernel: &'static str,
    program: &'static str,
    instructions: u32,
    stack: u32,
}

/// The committed figures, for the kernels that the tests are run on. To renew them, put here what
/// `cargo xtask test budget` and `cargo xtask test --kernel 6.1 budget` print.
#[rustfmt::skip]
const FIGURES: [Figures; 6] = [
    Figures { kernel: "6.1", program: "fairlead", instructions: 120728, stack: 480 },
    Figures { kernel: "6.1", program: "fairlead_tagged", instructions: 80310, stack: 480 },
    Figures { kernel: "6.1", program: "fairlead_aside", instructions: 607911, stack: 480 },
    Figures { kernel: "6.18", program: "fairlead", instructions: 125069, stack: 480 },
    Figures { kernel: "6.18", program: "fairlead_tagged", instructions: 127159, stack: 480 },
    Figures { kernel: "6.18", program: "fairlead_aside", instructions: 440866, stack: 480 },
];

/// Of the kernel that runs, such as `6.18`.
fn kernel_version() -> String {
    let name = nix::sys::utsname::uname().unwrap();
    let release = name.release().to_str().unwrap();
    release.split('.').take(2).collect::<Vec<_>>().join(".")
}

fn near(figure: u32, committed: u32) -> bool {
    figure.abs_diff(committed) * 100 <= committed * TOLERANCE
}

/// What is wrong with these figures; the limits hold on all kernels.
fn judge(kernel: &str, found: &Statistics) -> Result<(), String> {
    if found.instructions > INSTRUCTIONS || found.stack > STACK {
        return Err(format!(
            "more than {INSTRUCTIONS} instructions or {STACK} bytes of stack: {found:?}"
        ));
    }
    let committed =
        |figures: &&Figures| (figures.kernel, figures.program) == (kernel, found.program);
    match FIGURES.iter().find(committed) {
        Some(committed)
            if !near(found.instructions, committed.instructions)
                || !near(found.stack, committed.stack) =>
        {
            Err(format!(
                "{} on Linux {kernel} differs by more than {TOLERANCE} % from the committed figures, which are {} instructions and \
                 {} bytes of stack. If that is meant, put this into tests/all/prog/budget.rs (and see the other kernels): {}",
                found.program,
                committed.instructions,
                committed.stack,
                line(kernel, found)
            ))
        }
        _ => Ok(()),
    }
}

/// A line of [`FIGURES`].
fn line(kernel: &str, found: &Statistics) -> String {
    format!(
        "Figures {{ kernel: \"{kernel}\", program: \"{}\", instructions: {}, stack: {} }},",
        found.program, found.instructions, found.stack
    )
}

#[test]
fn the_verifier_needs_what_it_needed() {
    let found = in_namespace(|ends| {
        let tables = fixture::all()[0].world.tables(&ends);
        let (kernel, _) = Kernel::load(&tables, ends, false).unwrap();
        kernel.statistics(&object_bytes().unwrap()).unwrap()
    })
    .unwrap();
    let kernel = kernel_version();
    let mut wrong = Vec::new();
    for program in &found {
        println!("{}", line(&kernel, program));
        println!("{program:?}");
        wrong.extend(judge(&kernel, program).err());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn figures_that_moved_are_noticed_on_kernels_with_figures_and_limits_on_all() {
    let with = |instructions, stack| Statistics {
        program: "fairlead",
        instructions,
        stack,
        each: Vec::new(),
        took: std::time::Duration::ZERO,
    };
    let Figures {
        kernel,
        instructions: i,
        stack: s,
        ..
    } = FIGURES[0];
    assert!(judge(kernel, &with(i, s)).is_ok());
    assert!(judge(kernel, &with(i + i / 5, s)).is_ok());
    let text = judge(kernel, &with(i + i / 4, s)).unwrap_err();
    assert!(
        text.contains(&format!("instructions: {}", i + i / 4)),
        "{text}"
    );
    assert!(judge(kernel, &with(i - i / 4, s)).is_err());
    assert!(judge(kernel, &with(i, s - s / 4)).is_err());
    assert!(judge("5.15", &with(i / 2, s / 2)).is_ok());
    assert!(judge("5.15", &with(INSTRUCTIONS + 1, s)).is_err());
    assert!(judge("5.15", &with(i, STACK + 1)).is_err());
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
