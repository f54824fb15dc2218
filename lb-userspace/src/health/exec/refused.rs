//! How many processes and threads the kernel has refused to the control groups that this process is in (Documentation/admin-guide/cgroup-v2.rst,
//! "PID"): what a command says when it could not start what it needs is no word about its target. I/O.

use std::fs;
use std::path::{Path, PathBuf};

/// Where the groups are.
const GROUPS: &str = "/sys/fs/cgroup";

/// So many until now, over all groups that can be read; of a user's own limit (`ulimit -u`) the kernel counts nothing. The files are the
/// kernel's, and reading them waits for nothing.
pub(super) fn refused() -> u64 {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let counts = files(&own).into_iter();
    let counts = counts.filter_map(|file| count(&fs::read_to_string(file).ok()?));
    counts.fold(0, u64::saturating_add)
}

/// The files that count for a process, by its `/proc/PID/cgroup`: of its own group, and, where a limit is that of a group around it, of that
/// one, which since Linux 6.12 alone counts what its own limit refuses.
fn files(own: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        // The new hierarchy has no names here; the old one may have one for this controller.
        let mount = match controllers {
            "" => Path::new(GROUPS).to_owned(),
            _ if controllers.split(',').any(|name| name == "pids") => {
                Path::new(GROUPS).join(controllers)
            }
            _ => continue,
        };
        let group = mount.join(path.trim_start_matches('/'));
        let around = group.ancestors().skip(1);
        let around = around.take_while(|above| above.starts_with(&mount));
        files.extend(around.map(|above| above.join("pids.events.local")));
        files.push(group.join("pids.events"));
    }
    files
}

fn count(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("max "))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(own: &str) -> Vec<String> {
        let shown = |file: &PathBuf| file.to_str().unwrap().to_owned();
        files(own).iter().map(shown).collect()
    }

    #[test]
    fn groups_of_both_hierarchies_are_found() {
        let unified = "0::/system.slice/fairlead.service\n";
        assert_eq!(
            named(unified),
            [
                "/sys/fs/cgroup/system.slice/pids.events.local",
                "/sys/fs/cgroup/pids.events.local",
                "/sys/fs/cgroup/system.slice/fairlead.service/pids.events",
            ]
        );
        let old = "9:name=systemd:/\n8:pids:/one\n4:memory:/other\n1:cpu,cpuacct:/\n";
        assert_eq!(
            named(old),
            [
                "/sys/fs/cgroup/pids/pids.events.local",
                "/sys/fs/cgroup/pids/one/pids.events",
            ]
        );
        for strange in ["", "\n", "0", "0:", "x:y:z", "8:pids"] {
            assert_eq!(named(strange), Vec::<String>::new(), "{strange:?}");
        }
    }

    #[test]
    fn the_count_is_that_of_the_line_max() {
        assert_eq!(count("max 17\n"), Some(17));
        assert_eq!(count("other 1\nmax 3\n"), Some(3));
        for strange in ["", "max", "max \n", "max -1", "17", "maximum 3"] {
            assert_eq!(count(strange), None, "{strange:?}");
        }
        // On any machine there is an answer.
        assert!(refused() <= refused());
    }
}
