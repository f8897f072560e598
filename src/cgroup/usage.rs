//! What a cgroup uses, as the kernel counts it.

use std::path::Path;

use super::cgroupfs::Cgroupfs;
use super::{Error, cgroupfs::check};

/// What the processes of a cgroup and of all below it use, and have used. `None`: no controller here counts it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time since the cgroup was made, nanoseconds.
    pub cpu_ns: Option<u64>,
    /// Memory in bytes, page cache included.
    pub memory_bytes: Option<u64>,
    /// Memory without what can be dropped at once: `memory_bytes` less the inactive file pages, as cAdvisor and the kubelet count it.
    pub working_set_bytes: Option<u64>,
    /// Anonymous memory in bytes.
    pub rss_bytes: Option<u64>,
    /// The memory limit in bytes; `None` without one, too.
    pub memory_limit_bytes: Option<u64>,
    /// Swap in bytes.
    pub swap_bytes: Option<u64>,
    /// Page faults, major ones included.
    pub page_faults: Option<u64>,
    /// Page faults that had to wait for a disk.
    pub major_page_faults: Option<u64>,
    /// Number of tasks now.
    pub tasks: Option<u64>,
}

/// What v1 says where there is no limit is the largest multiple of the page size, and no machine has that much.
const NO_LIMIT: u64 = 1 << 62;

impl Cgroupfs {
    /// What a cgroup uses; `None` when it does not exist (any more).
    ///
    /// # Errors
    /// A path that could lead elsewhere.
    pub fn usage(&self, path: &str) -> Result<Option<Usage>, Error> {
        check(path)?;
        let all = self.hierarchies();
        let dir = |controller: &str| {
            let v1 = all.v1_with(controller).map(|h| (h.mount.join(path), false));
            v1.or_else(|| all.v2_with(controller).map(|h| (h.mount.join(path), true)))
        };
        // cpu.stat of v2 counts time without any controller.
        let cpu = dir("cpuacct").or_else(|| all.v2.as_ref().map(|h| (h.mount.join(path), true)));
        let places = [cpu, dir("memory"), dir("pids")];
        if !places.iter().flatten().any(|(dir, _)| dir.is_dir()) {
            return Ok(None);
        }
        let [cpu, memory, pids] = places;
        let mut usage = Usage::default();
        match cpu {
            Some((dir, false)) => usage.cpu_ns = number(&dir.join("cpuacct.usage")),
            Some((dir, true)) => {
                usage.cpu_ns = field(&text(&dir.join("cpu.stat")), "usage_usec").map(|us| us.saturating_mul(1000));
            }
            None => {}
        }
        match memory {
            Some((dir, false)) => v1_memory(&dir, &mut usage),
            Some((dir, true)) => v2_memory(&dir, &mut usage),
            None => {}
        }
        usage.tasks = pids.and_then(|(dir, _)| number(&dir.join("pids.current")));
        Ok(Some(usage))
    }
}

fn v1_memory(dir: &Path, usage: &mut Usage) {
    let stat = text(&dir.join("memory.stat"));
    usage.memory_bytes = number(&dir.join("memory.usage_in_bytes"));
    let inactive = field(&stat, "total_inactive_file").unwrap_or(0);
    usage.working_set_bytes = usage.memory_bytes.map(|all| all.saturating_sub(inactive));
    usage.rss_bytes = field(&stat, "total_rss");
    usage.memory_limit_bytes = number(&dir.join("memory.limit_in_bytes")).filter(|limit| *limit < NO_LIMIT);
    usage.swap_bytes = field(&stat, "total_swap");
    usage.page_faults = field(&stat, "total_pgfault");
    usage.major_page_faults = field(&stat, "total_pgmajfault");
}

fn v2_memory(dir: &Path, usage: &mut Usage) {
    let stat = text(&dir.join("memory.stat"));
    usage.memory_bytes = number(&dir.join("memory.current"));
    let inactive = field(&stat, "inactive_file").unwrap_or(0);
    usage.working_set_bytes = usage.memory_bytes.map(|all| all.saturating_sub(inactive));
    usage.rss_bytes = field(&stat, "anon");
    usage.memory_limit_bytes = number(&dir.join("memory.max"));
    usage.swap_bytes = number(&dir.join("memory.swap.current"));
    usage.page_faults = field(&stat, "pgfault");
    usage.major_page_faults = field(&stat, "pgmajfault");
}

/// A file that is absent, or whose cgroup has just gone, counts nothing.
fn text(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_default()
}

/// `max` is no number.
fn number(file: &Path) -> Option<u64> {
    text(file).trim().parse().ok()
}

fn field(stat: &str, name: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::hierarchies::{Hierarchies, V1, V2};

    fn tree(name: &str, files: &[(&str, &str)]) -> std::path::PathBuf {
        let top = std::env::temp_dir().join(format!("husk-usage-{name}-{}", std::process::id()));
        for (file, content) in files {
            let path = top.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        top
    }

    #[test]
    fn both_versions_are_read() {
        let v2 = tree(
            "v2",
            &[
                ("a/cpu.stat", "usage_usec 12\nuser_usec 3\n"),
                ("a/memory.current", "1000\n"),
                ("a/memory.max", "max\n"),
                ("a/memory.stat", "anon 300\nfile 700\ninactive_file 600\npgfault 5\npgmajfault 1\n"),
                ("a/pids.current", "2\n"),
            ],
        );
        let controllers = ["cpu", "memory", "pids"].map(str::to_owned).to_vec();
        let driver = Cgroupfs::new(Hierarchies { v1: vec![], v2: Some(V2 { mount: v2.clone(), controllers }) });
        let usage = driver.usage("a").unwrap().unwrap();
        assert_eq!((usage.cpu_ns, usage.memory_bytes, usage.working_set_bytes), (Some(12_000), Some(1000), Some(400)));
        assert_eq!((usage.rss_bytes, usage.memory_limit_bytes, usage.tasks), (Some(300), None, Some(2)));
        assert_eq!(driver.usage("b").unwrap(), None);
        assert!(driver.usage("../a").is_err());
        std::fs::remove_dir_all(v2).unwrap();

        let v1 = tree(
            "v1",
            &[
                ("m/a/memory.usage_in_bytes", "1000\n"),
                ("m/a/memory.limit_in_bytes", "9223372036854771712\n"),
                ("m/a/memory.stat", "rss 1\ntotal_rss 300\ntotal_inactive_file 100\n"),
                ("c/a/cpuacct.usage", "77\n"),
            ],
        );
        let of = |dir: &str, controllers: &[&str]| V1 {
            mount: v1.join(dir),
            controllers: controllers.iter().map(|c| (*c).to_owned()).collect(),
        };
        let driver =
            Cgroupfs::new(Hierarchies { v1: vec![of("m", &["memory"]), of("c", &["cpu", "cpuacct"])], v2: None });
        let usage = driver.usage("a").unwrap().unwrap();
        assert_eq!((usage.cpu_ns, usage.working_set_bytes, usage.rss_bytes), (Some(77), Some(900), Some(300)));
        assert_eq!((usage.memory_limit_bytes, usage.tasks), (None, None));
        std::fs::remove_dir_all(v1).unwrap();
    }
}
