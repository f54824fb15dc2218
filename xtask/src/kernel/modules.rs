//! Kernel modules in the order in which they can be loaded.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;

/// The modules of an unpacked kernel, by name.
pub(super) struct Modules {
    files: BTreeMap<String, PathBuf>,
}

/// The marker of the entry of section `.modinfo` that names the modules that must be there before.
const DEPENDS: &[u8] = b"\0depends=";

impl Modules {
    /// Looks for modules below a folder.
    pub(super) fn find(folder: &Path) -> anyhow::Result<Self> {
        let mut files = BTreeMap::new();
        let mut folders = vec![folder.to_path_buf()];
        while let Some(folder) = folders.pop() {
            let entries =
                fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
            for entry in entries {
                let entry = entry.with_context(|| format!("read {}", folder.display()))?;
                let path = entry.path();
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    folders.push(path);
                } else if path.extension().is_some_and(|end| end == "ko") {
                    let name = path.file_stem().unwrap_or_default().to_string_lossy();
                    files.insert(normal(&name), path);
                }
            }
        }
        Ok(Self { files })
    }

    /// The files of the wanted modules, each after all that it depends on. What is no module is
    /// built in, or the kernel will say so when it is used.
    pub(super) fn in_order(&self, wanted: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
        let read = |name: &str| -> anyhow::Result<Option<Vec<String>>> {
            let Some(path) = self.files.get(name) else {
                return Ok(None);
            };
            let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
            Ok(Some(depends(&bytes)))
        };
        let mut order = Vec::new();
        for name in wanted {
            visit(&normal(name), &read, &mut order)?;
        }
        Ok(order
            .iter()
            .filter_map(|name| self.files.get(name).cloned())
            .collect())
    }
}

/// Depth first; the kernel's modules depend on each other without a circle.
fn visit(
    name: &str,
    read: &impl Fn(&str) -> anyhow::Result<Option<Vec<String>>>,
    order: &mut Vec<String>,
) -> anyhow::Result<()> {
    if order.iter().any(|known| known == name) {
        return Ok(());
    }
    let Some(before) = read(name)? else {
        return Ok(());
    };
    for dependency in &before {
        visit(dependency, read, order)?;
    }
    order.push(name.to_owned());
    Ok(())
}

/// What a module's file says that it depends on.
fn depends(bytes: &[u8]) -> Vec<String> {
    let at = bytes
        .windows(DEPENDS.len())
        .position(|window| window == DEPENDS);
    let list = at
        .and_then(|at| bytes.get(at.saturating_add(DEPENDS.len())..))
        .and_then(|rest| rest.split(|byte| *byte == 0).next())
        .unwrap_or_default();
    String::from_utf8_lossy(list)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(normal)
        .collect()
}

/// File names have dashes where the kernel has underscores.
fn normal(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_comes_after_what_it_depends_on_and_only_once() {
        let read = |name: &str| {
            Ok(match name {
                "bridge" => Some(vec!["stp".into(), "llc".into()]),
                "stp" => Some(vec!["llc".into()]),
                "llc" | "veth" => Some(vec![]),
                _ => None,
            })
        };
        let mut order = Vec::new();
        for name in ["bridge", "llc", "veth", "built_in"] {
            visit(name, &read, &mut order).unwrap();
        }
        assert_eq!(order, ["llc", "stp", "bridge", "veth"]);
    }

    #[test]
    fn what_a_module_depends_on_stands_in_its_file() {
        let file = |text: &str| depends(text.as_bytes());
        assert_eq!(
            file("\x7fELF..\0alias=x\0depends=stp,nf-tables\0retpoline=Y\0"),
            ["stp", "nf_tables"]
        );
        assert!(file("\0depends=\0name=veth\0").is_empty());
        assert!(file("nothing").is_empty());
    }
}
