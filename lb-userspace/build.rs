//! Puts the compiled BPF objects where the source can embed them, when there are any.
//!
//! The objects need a second compiler, the source of `core` and bpf-linker. If this build script
//! built them, nobody could run `cargo test` without all of that. So `cargo xtask` builds them
//! and names the data plane in `FAIRLEAD_BPF_OBJECT`, with the others beside it; this script copies them to
//! `$OUT_DIR/{fairlead,decap,probe,losses}.bpf.o` and sets the cfg `bpf_object`. Without that variable the
//! files are empty and the cfg is not set: `cargo test` works on the default members with stable Rust alone,
//! without root and BPF tools. The price: such a binary has no data plane. It must say so instead of failing in an
//! odd way: "this fairlead was built without its data plane: build it with `cargo xtask build`".
//! Changing the variable rebuilds this crate only, never its dependencies.

use std::{env, error::Error, fs, path::Path, path::PathBuf};

/// Every ELF file, and so every BPF object, begins with these bytes.
const ELF_MAGIC: [u8; 4] = *b"\x7fELF";

/// Files beside the data plane's, and what they are embedded as.
const OTHERS: [(&str, &str); 3] = [
    ("fairlead-decap-bpf", "decap.bpf.o"),
    ("fairlead-probe-bpf", "probe.bpf.o"),
    ("fairlead-losses-bpf", "losses.bpf.o"),
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rustc-check-cfg=cfg(bpf_object)");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=FAIRLEAD_BPF_OBJECT");

    let out_dir = env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: run this through cargo")?;
    let out_dir = Path::new(&out_dir);
    let data_plane = out_dir.join("fairlead.bpf.o");

    let Some(object) = env::var_os("FAIRLEAD_BPF_OBJECT").filter(|path| !path.is_empty()) else {
        fs::write(data_plane, [])?;
        for (_, embedded) in OTHERS {
            fs::write(out_dir.join(embedded), [])?;
        }
        return Ok(());
    };
    let object = PathBuf::from(object);
    embed(&object, &data_plane)?;
    for (other, embedded) in OTHERS {
        embed(&object.with_file_name(other), &out_dir.join(embedded))?;
    }
    println!("cargo::rustc-cfg=bpf_object");
    Ok(())
}

fn embed(object: &Path, embedded: &Path) -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={}", object.display());
    let bytes = fs::read(object).map_err(|why| {
        format!(
            "read the BPF object {}: {why} (run `cargo xtask build`)",
            object.display()
        )
    })?;
    if !bytes.starts_with(&ELF_MAGIC) {
        return Err(format!(
            "{} is not an ELF object (run `cargo xtask build`)",
            object.display()
        )
        .into());
    }
    fs::write(embedded, bytes)?;
    Ok(())
}
