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

/// What a cgroup does to the host beside CPU and memory. `None`: nothing here counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Bytes read from block devices since the cgroup was made.
    pub read_bytes: Option<u64>,
    /// Bytes written to block devices since the cgroup was made.
    pub written_bytes: Option<u64>,
    /// Share of the last 10 s in which some task waited for a CPU, in hundredths of a percent (v2 only, as the next two).
    pub cpu_pressure: Option<u32>,
    /// The same of waits for memory.
    pub memory_pressure: Option<u32>,
    /// The same of waits for block devices.
    pub io_pressure: Option<u32>,
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
        let cpu = dir("cpuacct").or_else(|| all.v2.as_ref().map(|h| (h.mount.join(path), true)));
        let places = [cpu, dir("memory"), dir("pids")];
        if !places.iter().flatten().any(|(dir, _)| dir.is_dir()) {
            return Ok(None);
        }
        let [_, memory, pids] = places;
        let mut usage = Usage { cpu_ns: self.cpu_ns(path)?, ..Usage::default() };
        match memory {
            Some((dir, false)) => v1_memory(&dir, &mut usage),
            Some((dir, true)) => v2_memory(&dir, &mut usage),
            None => {}
        }
        usage.tasks = pids.and_then(|(dir, _)| number(&dir.join("pids.current")));
        Ok(Some(usage))
    }

    /// How much more swap a cgroup may use by its own limit, bytes; `None` when it has none, and when nothing counts it. `usage` is its use.
    ///
    /// # Errors
    /// A path that could lead elsewhere.
    pub fn swap_available(&self, path: &str, usage: &Usage) -> Result<Option<u64>, Error> {
        check(path)?;
        let all = self.hierarchies();
        let limit = match (all.v1_with("memory"), all.v2_with("memory")) {
            // It limits memory and swap together.
            (Some(h), _) => number(&h.mount.join(path).join("memory.memsw.limit_in_bytes"))
                .filter(|both| *both < NO_LIMIT)
                .map(|both| both.saturating_sub(usage.memory_limit_bytes.unwrap_or(0))),
            (None, Some(h)) => number(&h.mount.join(path).join("memory.swap.max")),
            (None, None) => None,
        };
        Ok(limit.map(|limit| limit.saturating_sub(usage.swap_bytes.unwrap_or(0))))
    }

    /// CPU time of a cgroup since it was made, nanoseconds; `None` when it does not exist (any more).
    ///
    /// # Errors
    /// A path that could lead elsewhere.
    pub fn cpu_ns(&self, path: &str) -> Result<Option<u64>, Error> {
        check(path)?;
        let all = self.hierarchies();
        Ok(match (all.v1_with("cpuacct"), &all.v2) {
            (Some(h), _) => number(&h.mount.join(path).join("cpuacct.usage")),
            // It counts time without any controller.
            (None, Some(h)) => {
                let stat = text(&h.mount.join(path).join("cpu.stat"));
                field(&stat, "usage_usec").map(|us| us.saturating_mul(1000))
            }
            (None, None) => None,
        })
    }

    /// What a cgroup does beside using CPU and memory; nothing when it does not exist (any more).
    ///
    /// # Errors
    /// A path that could lead elsewhere.
    pub fn load(&self, path: &str) -> Result<Load, Error> {
        check(path)?;
        let all = self.hierarchies();
        let mut load = Load::default();
        if let Some(h) = all.v1_with("blkio") {
            // A pod's cgroup has its processes further down.
            let read = |file: &str| std::fs::read_to_string(h.mount.join(path).join(file));
            let own = || read("blkio.throttle.io_service_bytes");
            if let Ok(bytes) = read("blkio.throttle.io_service_bytes_recursive").or_else(|_| own()) {
                // `8:0 Read 4096`, one line a device and direction.
                let sum = |name| bytes.lines().filter_map(|line| v1_bytes(line, name)).fold(0, u64::saturating_add);
                (load.read_bytes, load.written_bytes) = (Some(sum("Read")), Some(sum("Write")));
            }
        } else if let Some(h) = all.v2_with("io")
            && let Ok(stat) = std::fs::read_to_string(h.mount.join(path).join("io.stat"))
        {
            // `8:0 rbytes=4096 wbytes=0 …`, one line a device.
            let sum = |name| {
                let words = stat.split_ascii_whitespace();
                words.filter_map(|w| w.strip_prefix(name)?.parse().ok()).fold(0, u64::saturating_add)
            };
            (load.read_bytes, load.written_bytes) = (Some(sum("rbytes=")), Some(sum("wbytes=")));
        }
        // Where the controllers are on v1 a v2 tree has pressure files, too, but not every process of the cgroup need be in there.
        if let Some(h) = all.v2.as_ref().filter(|_| all.v1.is_empty()) {
            let pressure = |name: &str| some_avg10(&text(&h.mount.join(path).join(name)));
            load.cpu_pressure = pressure("cpu.pressure");
            load.memory_pressure = pressure("memory.pressure");
            load.io_pressure = pressure("io.pressure");
        }
        Ok(load)
    }
}

fn v1_bytes(line: &str, name: &str) -> Option<u64> {
    let mut words = line.split_ascii_whitespace().skip(1);
    (words.next()? == name).then(|| words.next()?.parse().ok())?
}

/// Hundredths of a percent out of `some avg10=1.23 avg60=…`.
fn some_avg10(pressure: &str) -> Option<u32> {
    let some = pressure.lines().find_map(|line| line.strip_prefix("some avg10="))?;
    let (whole, hundredths) = some.split_ascii_whitespace().next()?.split_once('.')?;
    Some(whole.parse::<u32>().ok()?.saturating_mul(100).saturating_add(hundredths.get(..2)?.parse().ok()?))
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
                ("a/io.stat", "8:0 rbytes=4096 wbytes=512 rios=1\n259:1 rbytes=1 wbytes=2 dbytes=0\n"),
                ("a/cpu.pressure", "some avg10=12.34 avg60=0.00 avg300=0.00 total=7\n"),
                ("a/memory.pressure", "some avg10=0.05 avg60=0.00\nfull avg10=9.99 avg60=0.00\n"),
            ],
        );
        let controllers = ["cpu", "memory", "pids", "io"].map(str::to_owned).to_vec();
        let driver = Cgroupfs::new(Hierarchies { v1: vec![], v2: Some(V2 { mount: v2.clone(), controllers }) });
        let usage = driver.usage("a").unwrap().unwrap();
        assert_eq!((usage.cpu_ns, usage.memory_bytes, usage.working_set_bytes), (Some(12_000), Some(1000), Some(400)));
        assert_eq!((usage.rss_bytes, usage.memory_limit_bytes, usage.tasks), (Some(300), None, Some(2)));
        assert_eq!(driver.usage("b").unwrap(), None);
        let load = driver.load("a").unwrap();
        assert_eq!((load.read_bytes, load.written_bytes), (Some(4097), Some(514)));
        assert_eq!((load.cpu_pressure, load.memory_pressure, load.io_pressure), (Some(1234), Some(5), None));
        assert_eq!(driver.load("b").unwrap(), Load::default());
        assert!(driver.usage("../a").is_err());
        std::fs::remove_dir_all(v2).unwrap();

        let v1 = tree(
            "v1",
            &[
                ("m/a/memory.usage_in_bytes", "1000\n"),
                ("m/a/memory.limit_in_bytes", "9223372036854771712\n"),
                ("m/a/memory.stat", "rss 1\ntotal_rss 300\ntotal_inactive_file 100\n"),
                ("c/a/cpuacct.usage", "77\n"),
                (
                    "b/a/blkio.throttle.io_service_bytes",
                    "8:0 Read 4096\n8:0 Write 1\n8:1 Read 4\n8:0 Sync 7\nTotal 4101\n",
                ),
            ],
        );
        let of = |dir: &str, controllers: &[&str]| V1 {
            mount: v1.join(dir),
            controllers: controllers.iter().map(|c| (*c).to_owned()).collect(),
        };
        let all = vec![of("m", &["memory"]), of("c", &["cpu", "cpuacct"]), of("b", &["blkio"])];
        let driver = Cgroupfs::new(Hierarchies { v1: all, v2: None });
        let load = driver.load("a").unwrap();
        assert_eq!((load.read_bytes, load.written_bytes, load.cpu_pressure), (Some(4100), Some(1), None));
        let usage = driver.usage("a").unwrap().unwrap();
        assert_eq!((usage.cpu_ns, usage.working_set_bytes, usage.rss_bytes), (Some(77), Some(900), Some(300)));
        assert_eq!((usage.memory_limit_bytes, usage.tasks), (None, None));
        std::fs::remove_dir_all(v1).unwrap();
    }
}
