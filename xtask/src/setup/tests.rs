//! Findings as values, and the steps or the refusal that must follow.

use super::*;

/// A machine that has everything.
fn complete() -> Findings {
    Findings {
        debian: true,
        root: true,
        bpf_linker: true,
        conflicts: Vec::new(),
        missing: Vec::new(),
    }
}

/// A fresh Debian: nothing there.
fn fresh() -> Findings {
    let mut missing = COMPILER_PACKAGES.to_vec();
    missing.extend(LINKER_PACKAGES);
    missing.extend(PEER_PACKAGES);
    missing.extend(TEST_PACKAGES);
    Findings {
        bpf_linker: false,
        missing,
        ..complete()
    }
}

/// One word a step: `apt:a,b`, `apt-may-remove:a,b`, `rustup`, `linker`; or `refused`.
fn words(found: &Findings, purpose: Purpose, consent: Consent) -> String {
    let Ok(steps) = decide(found, purpose, consent) else {
        return "refused".into();
    };
    let words: Vec<String> = steps
        .iter()
        .map(|step| match step {
            Step::Apt {
                packages,
                may_remove,
            } => format!(
                "apt{}:{}",
                if *may_remove { "-may-remove" } else { "" },
                names(packages).replace(' ', ",")
            ),
            Step::Rustup(_) => "rustup".into(),
            Step::Linker => "linker".into(),
        })
        .collect();
    words.join(" ")
}

#[track_caller]
fn check(found: &Findings, purpose: Purpose, consent: Consent, expected: &str) {
    assert_eq!(words(found, purpose, consent), expected, "{found:?}");
}

const BUILD: &str =
    "apt:rustc-web,rust-web-src,llvm-22-dev,libpolly-22-dev,zlib1g-dev,libzstd-dev,g++ linker";

#[test]
fn a_complete_machine_needs_no_step() {
    for consent in [Consent::Given, Consent::Withheld] {
        check(&complete(), Purpose::Test, consent, "");
        check(
            &Findings {
                root: false,
                ..complete()
            },
            Purpose::Test,
            consent,
            "",
        );
        check(
            &Findings {
                debian: false,
                root: false,
                ..complete()
            },
            Purpose::Test,
            consent,
            "",
        );
    }
}

#[test]
fn a_fresh_debian_gets_the_packages_and_then_the_linker() {
    check(&fresh(), Purpose::Build, Consent::Withheld, BUILD);
    let peers = "g++,nftables,haproxy";
    let tests = format!(
        "{peers},iproute2,ethtool,nginx-light,dnsmasq-base,python3-grpcio,curl,iperf3,prometheus,tcpdump,strace,e2fsprogs"
    );
    check(
        &fresh(),
        Purpose::Test,
        Consent::Withheld,
        &BUILD.replace("g++", &tests),
    );
    check(
        &fresh(),
        Purpose::BenchNet,
        Consent::Withheld,
        &BUILD.replace("g++", peers),
    );
}

#[test]
fn only_what_is_missing_is_installed() {
    let nginx = TEST_PACKAGES
        .iter()
        .copied()
        .find(|package| package.name == "nginx-light");
    let found = Findings {
        missing: nginx.into_iter().collect(),
        ..complete()
    };
    check(&found, Purpose::Build, Consent::Withheld, "");
    check(&found, Purpose::Test, Consent::Withheld, "apt:nginx-light");
    // An installed linker needs no LLVM headers; a missing one with all its headers needs no apt.
    check(
        &Findings {
            missing: LINKER_PACKAGES.to_vec(),
            ..complete()
        },
        Purpose::Test,
        Consent::Withheld,
        "",
    );
    check(
        &Findings {
            bpf_linker: false,
            ..complete()
        },
        Purpose::Test,
        Consent::Withheld,
        "linker",
    );
    let old = Findings {
        missing: COMPILER_PACKAGES.to_vec(),
        ..complete()
    };
    check(
        &old,
        Purpose::Build,
        Consent::Withheld,
        "apt:rustc-web,rust-web-src",
    );
}

#[test]
fn no_package_is_removed_without_consent() {
    let found = Findings {
        conflicts: vec!["rustup".into()],
        ..fresh()
    };
    check(&found, Purpose::Build, Consent::Withheld, "refused");
    check(
        &found,
        Purpose::Build,
        Consent::Given,
        &BUILD.replace("apt", "apt-may-remove"),
    );
    // With a compiler already there nothing conflicts, consent or not.
    let found = Findings {
        conflicts: vec!["rustup".into()],
        ..complete()
    };
    check(&found, Purpose::Test, Consent::Given, "");
}

#[test]
fn who_may_not_install_is_told_the_packages_and_the_command() {
    let Err(Refusal(text)) = decide(
        &Findings {
            root: false,
            ..fresh()
        },
        Purpose::Test,
        Consent::Given,
    ) else {
        panic!("not refused");
    };
    for part in ["sudo apt-get install", "rustc-web", "llvm-22-dev", "strace"] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    // The linker alone needs no root.
    let found = Findings {
        root: false,
        bpf_linker: false,
        ..complete()
    };
    check(&found, Purpose::Build, Consent::Withheld, "linker");
}

#[test]
fn elsewhere_rustup_is_used_and_only_when_asked() {
    let found = Findings {
        debian: false,
        bpf_linker: false,
        missing: COMPILER_PACKAGES.to_vec(),
        ..complete()
    };
    check(&found, Purpose::Test, Consent::Given, "rustup linker");
    let Err(Refusal(text)) = decide(&found, Purpose::Test, Consent::Withheld) else {
        panic!("not refused");
    };
    assert!(text.contains("rustup toolchain install 1.96.0"), "{text}");
    assert!(text.contains("cargo install bpf-linker"), "{text}");
    // Tools are named with their reason and never guessed at.
    check(
        &Findings {
            debian: false,
            ..fresh()
        },
        Purpose::Test,
        Consent::Given,
        "refused",
    );
}

#[test]
fn a_compiler_fits_by_release_and_llvm() {
    let printed = |release: &str, llvm: &str| {
        compiler_fits(&format!(
            "rustc x\nbinary: rustc\nrelease: {release}\nLLVM version: {llvm}\n"
        ))
    };
    assert!(printed("1.96.0", "22.1.8"));
    assert!(printed("1.97.0-nightly", "22.1.4"));
    assert!(!printed("1.95.0", "22.1.2"), "too old");
    assert!(
        !printed("1.99.0", "23.1.0"),
        "bpf-linker reads no bitcode of LLVM 23"
    );
    assert!(!compiler_fits(""), "does not run");
}

#[test]
fn a_linker_fits_by_version() {
    assert!(linker_fits("bpf-linker 0.13.0\n"));
    assert!(linker_fits("bpf-linker 0.14.1\n"));
    assert!(!linker_fits("bpf-linker 0.9.15\n"));
    assert!(!linker_fits(""));
}
