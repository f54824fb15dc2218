//! Puts the compiled BPF object where the source can embed it, when there is one.
//!
//! The object needs a second compiler, the source of `core` and bpf-linker. If this build script
//! built it, nobody could run `cargo test` without all of that. So `cargo xtask` builds the object
//! and names it in `FAIRLEAD_BPF_OBJECT`; this script copies it to `$OUT_DIR/fairlead.bpf.o` and
//! sets the cfg `bpf_object`. Without that variable the file is empty and the cfg is not set:
//! `cargo test` works on the default members with stable Rust alone, without root and BPF tools.
//! The price: such a binary has no data plane. It must say so instead of failing in an odd way:
//! "this fairlead was built without its data plane: build it with `cargo xtask build`".
//! Changing the variable rebuilds this crate only, never its dependencies.

use std::{env, error::Error, fs, path::PathBuf};

/// Every ELF file, and so every BPF object, begins with these bytes.
const ELF_MAGIC: [u8; 4] = *b"\x7fELF";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rustc-check-cfg=cfg(bpf_object)");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=FAIRLEAD_BPF_OBJECT");

    let out_dir = env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: run this through cargo")?;
    let embedded = PathBuf::from(out_dir).join("fairlead.bpf.o");

    let Some(object) = env::var_os("FAIRLEAD_BPF_OBJECT").filter(|path| !path.is_empty()) else {
        fs::write(&embedded, [])?;
        return Ok(());
    };
    let object = PathBuf::from(object);
    println!("cargo::rerun-if-changed={}", object.display());

    let bytes = fs::read(&object).map_err(|why| {
        format!(
            "read FAIRLEAD_BPF_OBJECT={}: {why} (run `cargo xtask build`)",
            object.display()
        )
    })?;
    if !bytes.starts_with(&ELF_MAGIC) {
        return Err(format!(
            "FAIRLEAD_BPF_OBJECT={} is not an ELF object (run `cargo xtask build`)",
            object.display()
        )
        .into());
    }
    fs::write(&embedded, bytes)?;
    println!("cargo::rustc-cfg=bpf_object");
    Ok(())
}
