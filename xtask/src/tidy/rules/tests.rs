//! Each rule on a text that keeps it and one that breaks it.

use super::*;

/// The lines of the complaints about a file; `//!` and an empty line are put before the text.
fn lines(path: &str, text: &str) -> Vec<usize> {
    let file = File {
        path: path.into(),
        text: format!("//! For.\n{text}"),
    };
    check(&file)
        .into_iter()
        .map(|complaint| complaint.line)
        .collect()
}

#[track_caller]
fn good(path: &str, text: &str) {
    assert_eq!(lines(path, text), [0; 0], "{path}: {text}");
}

#[track_caller]
fn bad(path: &str, text: &str) {
    assert_eq!(lines(path, text), [2], "{path}: {text}");
}

#[test]
fn a_file_begins_with_what_it_is_for() {
    for (text, complaints) in [
        ("//! For.\nfn a() {}", 0),
        ("fn a() {}", 1),
        ("// For.", 1),
        ("", 1),
    ] {
        let file = File {
            path: "a.rs".into(),
            text: text.into(),
        };
        assert_eq!(check(&file).len(), complaints, "{text}");
    }
    let toml = File {
        path: "a.toml".into(),
        text: "a = 1".into(),
    };
    assert!(check(&toml).is_empty());
}

#[test]
fn a_file_stays_short() {
    let code = "a();\n".repeat(400);
    good("a.rs", &code);
    good(
        "a.rs",
        &format!("{code}\n// a comment\n\n#[cfg(test)]\nmod tests {{\n{code}}}\n"),
    );
    let long = format!("{code}b();\n");
    good("lb-userspace/src/config/tests.rs", &long);
    for path in ["a.rs", "tests/src/topology.rs"] {
        assert_eq!(lines(path, &long), [1], "{path}");
    }
}

#[test]
fn only_the_bpf_dataplane_names_aya() {
    for text in [
        "use aya::Ebpf;",
        "aya_log::x();",
        "fn f(x: &aya::maps::Map) {}",
    ] {
        bad("lb-userspace/src/daemon.rs", text);
        good("lb-userspace/src/dataplane/bpf.rs", text);
        good("lb-userspace/src/dataplane/bpf/map.rs", text);
        good("tests/src/lab.rs", text);
    }
    bad("lb-ebpf/src/pipeline.rs", "use aya_ebpf::x;");
    good("lb-ebpf/src/maps.rs", "use aya_ebpf::x;");
    good("lb-userspace/src/daemon.rs", "// aya is not named in code");
    good("lb-userspace/src/daemon.rs", "let papaya = \"aya\";");
}

#[test]
fn a_pure_module_is_pure() {
    for text in [
        "use std::time::SystemTime;",
        "let now = Instant::now();",
        "use std::fs::read;",
        "TcpStream::connect(a)",
        "use tokio::net;",
        "rand::random()",
        "std::env::var(a)",
        "use std::collections::HashMap;",
    ] {
        bad("lb-userspace/src/plan.rs", text);
        bad("lb-userspace/src/state/drain.rs", text);
        good("lb-userspace/src/health/tcp.rs", text);
        good(
            "lb-userspace/src/plan.rs",
            &format!("#[cfg(test)]\nmod tests {{\n{text}\n}}"),
        );
    }
    good(
        "lb-userspace/src/plan.rs",
        "fn f(now: Nanos, brand: u8) -> BTreeMap<u8, u8> {}",
    );
    good(
        "lb-userspace/src/plan.rs",
        "use std::net::Ipv4Addr; // no TcpStream here",
    );
}

#[test]
fn unsafe_stands_in_listed_files_only() {
    bad("lb-userspace/src/daemon.rs", "unsafe { f() }");
    bad("lb-common/src/flow.rs", "unsafe impl Pod for A {}");
    good("lb-userspace/src/dataplane/bpf/mmap.rs", "unsafe { f() }");
    good("lb-ebpf/src/frame.rs", "unsafe { f() }");
    good("lb-userspace/src/lib.rs", "#![forbid(unsafe_code)]");
}

#[test]
fn no_module_has_an_empty_name() {
    bad("lb-userspace/src/lib.rs", "mod utils;");
    bad("lb-userspace/src/lib.rs", "pub(crate) mod common {}");
    good("lb-userspace/src/lib.rs", "mod commonplace;");
    good("lb-common/src/lib.rs", "mod flow;");
    assert_eq!(lines("lb-userspace/src/helpers.rs", ""), [1]);
    assert_eq!(lines("tests/all/misc/a.rs", ""), [1]);
}

#[test]
fn nothing_is_put_off() {
    for word in PUT_OFF {
        bad("a.rs", &format!("// {word}: later"));
    }
    bad("a.rs", concat!("to", "do!()"));
    good("a.rs", "let autodo = \"to\";");
}

#[test]
fn no_line_ends_with_white_space() {
    bad("a.rs", "fn a() {} ");
    bad("README.md", "text\t");
    good("a.snap", "text ");
}
