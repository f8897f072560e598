//! Whether this host can keep a limit at all, and whether the kernel has taken it as it was meant.

use super::hugepages::{host_sizes, size_name};
use super::limits::{Limits, unified_controller};
use super::{Error, Hierarchies};
use crate::cpu_list;
use husk_oci::file;
use std::path::Path;

/// A field of [`Limits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// `cpu_shares`.
    CpuShares,
    /// `cpu_quota_us`.
    CpuQuota,
    /// `memory_limit_bytes`.
    Memory,
    /// `swap_bytes`.
    Swap,
    /// `memory_high_bytes`.
    MemoryHigh,
    /// `memory_min_bytes`.
    MemoryMin,
    /// `pids_max`.
    Pids,
    /// `hugepages` of this page size in bytes.
    Hugepages(u64),
    /// `cpuset_cpus`.
    Cpus,
    /// `cpuset_mems`.
    Mems,
    /// `unified`.
    Unified,
}

impl Hierarchies {
    /// Whether this host can enforce what is asked for, as far as that shows before anything is made. Without a cpuset and huge pages no
    /// system call is made.
    ///
    /// # Errors
    /// The first field that would have no effect, and the reason: a sentence without the field's name.
    pub fn enforceable(&self, limits: &Limits) -> Result<(), (Field, String)> {
        let given = [
            (Field::CpuShares, "cpu", limits.cpu_shares.is_some()),
            (Field::CpuQuota, "cpu", limits.cpu_quota_us.is_some()),
            (Field::Memory, "memory", limits.memory_limit_bytes.is_some()),
            (Field::Swap, "memory", limits.swap_bytes.is_some()),
            (Field::MemoryHigh, "memory", limits.memory_high_bytes.is_some()),
            (Field::MemoryMin, "memory", limits.memory_min_bytes.is_some()),
            (Field::Pids, "pids", limits.pids_max.is_some()),
            (Field::Cpus, "cpuset", limits.cpuset_cpus.is_some()),
            (Field::Mems, "cpuset", limits.cpuset_mems.is_some()),
        ];
        for (field, controller, _) in given.into_iter().filter(|(.., given)| *given) {
            if !self.offers(controller) {
                return Err((field, missing(controller)));
            }
            let only_v2 = match field {
                Field::MemoryHigh => "memory.high",
                Field::MemoryMin => "memory.min",
                _ => continue,
            };
            if self.v1_with("memory").is_some() {
                let why =
                    format!("{only_v2} is a file of cgroup v2, and this host's memory controller is on v1; remove it");
                return Err((field, why));
            }
        }
        if limits.swap_bytes.is_some_and(|n| n > 0)
            && self.v1_with("memory").is_some()
            && limits.memory_limit_bytes.is_none()
        {
            let why = "cgroup v1 limits memory and swap together: it needs a memory limit, too".to_owned();
            return Err((Field::Swap, why));
        }
        self.hugepages(limits)?;
        on_this_host(Field::Cpus, &limits.cpuset_cpus, "CPU", "/sys/devices/system/cpu/online")?;
        on_this_host(Field::Mems, &limits.cpuset_mems, "memory node", "/sys/devices/system/node/has_memory")?;
        for (name, value) in &limits.unified {
            let wrong = |why: &str| (Field::Unified, format!("{name:?} {why}"));
            let controller = unified_controller(name).map_err(wrong)?;
            if value.chars().any(char::is_control) {
                return Err(wrong("is to be given a value with control characters; write one line"));
            }
            if self.v2_with(controller).is_none() {
                return Err(wrong(&format!(
                    "needs the {controller} controller on cgroup v2, which this host does not have"
                )));
            }
        }
        Ok(())
    }

    fn hugepages(&self, limits: &Limits) -> Result<(), (Field, String)> {
        for (size, _) in limits.hugepages.iter().flatten().filter(|(_, bytes)| **bytes > 0) {
            let field = Field::Hugepages(*size);
            if !self.offers("hugetlb") {
                return Err((field, missing("hugetlb")));
            }
            let sizes = host_sizes().map_err(|e| (field, e.to_string()))?;
            if !sizes.contains(size) {
                let all: Vec<String> = sizes.iter().map(|s| size_name(*s)).collect();
                let all = if all.is_empty() { "none".to_owned() } else { all.join(", ") };
                return Err((field, format!("this host has no huge pages of {}; it has {all}", size_name(*size))));
            }
        }
        Ok(())
    }
}

fn missing(controller: &str) -> String {
    format!(
        "this host has no {controller} controller, so it would have no effect; enable it on the kernel command line or mount its \
         hierarchy, or leave the field out"
    )
}

fn on_this_host(field: Field, list: &Option<String>, what: &str, file: &str) -> Result<(), (Field, String)> {
    let Some(list) = list else { return Ok(()) };
    let asked = cpu_list::parse(list).map_err(|e| (field, format!("{list:?} {e}")))?;
    let text = match file::read_text(Path::new(file), 256) {
        Ok(text) => text,
        // A kernel without NUMA has one node, and no directory for it.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && field == Field::Mems => "0".to_owned(),
        Err(e) => return Err((field, format!("read {file}: {e}"))),
    };
    let there = cpu_list::parse(text.trim()).map_err(|e| (field, format!("{file}: {text:?} {e}")))?;
    match asked.difference(&there).next() {
        Some(lacking) => Err((field, format!("{list:?}: this host has no {what} {lacking}; it has {}", text.trim()))),
        None => Ok(()),
    }
}

/// Looks at what the kernel has made of a memory limit: it rounds down to whole pages, and nothing else.
pub(super) fn memory_taken(dir: &Path, file: &'static str, asked: u64) -> Result<(), Error> {
    let file = dir.join(file);
    let text = file::read_text(&file, 64).map_err(|e| Error::kernel("read", &file, &e))?;
    let got = match text.trim() {
        "max" => None,
        number => number.parse::<u64>().ok(),
    };
    // The largest page that a kernel works with.
    const PAGE: u64 = 64 << 10;
    // More than any host has: both versions then say "no limit" in their own way.
    let vast = asked >= 1 << 62;
    if vast || got.is_some_and(|got| got <= asked && asked - got < PAGE) {
        return Ok(());
    }
    Err(Error::Unlike { file, asked: asked.to_string(), got: text.trim().to_owned() })
}

/// v2 takes a list of CPUs or nodes that it cannot give, and gives others instead.
pub(super) fn cpuset_taken(dir: &Path, limits: &Limits) -> Result<(), Error> {
    for (file, asked) in [("cpuset.cpus", &limits.cpuset_cpus), ("cpuset.mems", &limits.cpuset_mems)] {
        let Some(asked) = asked else { continue };
        let file = dir.join(format!("{file}.effective"));
        let text = file::read_text(&file, 256).map_err(|e| Error::kernel("read", &file, &e))?;
        if cpu_list::parse(asked) != cpu_list::parse(text.trim()) {
            return Err(Error::Unlike { file, asked: asked.clone(), got: text.trim().to_owned() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::hierarchies::{V1, V2};

    fn v1(controllers: &[&str]) -> Hierarchies {
        let one = |c: &&str| V1 { mount: "/none".into(), controllers: vec![(*c).to_owned()] };
        Hierarchies { v1: controllers.iter().map(one).collect(), v2: None }
    }

    fn v2(controllers: &[&str]) -> Hierarchies {
        let controllers = controllers.iter().map(|c| (*c).to_owned()).collect();
        Hierarchies { v1: vec![], v2: Some(V2 { mount: "/none".into(), controllers }) }
    }

    fn refused(all: &Hierarchies, limits: Limits) -> (Field, String) {
        all.enforceable(&limits).expect_err("it cannot be enforced")
    }

    #[test]
    fn a_controller_that_is_not_there_is_named_with_its_field() {
        let none = v1(&["cpu"]);
        let d = Limits::default;
        for (limits, field, controller) in [
            (Limits { memory_limit_bytes: Some(1), ..d() }, Field::Memory, "memory"),
            (Limits { pids_max: Some(1), ..d() }, Field::Pids, "pids"),
            (Limits { cpuset_cpus: Some("0".into()), ..d() }, Field::Cpus, "cpuset"),
            (Limits { hugepages: Some([(2 << 20, 2 << 20)].into()), ..d() }, Field::Hugepages(2 << 20), "hugetlb"),
        ] {
            let (which, why) = refused(&none, limits);
            assert_eq!(which, field);
            assert!(why.contains(&format!("no {controller} controller")), "{why}");
        }
        let closed = Limits { cpu_quota_us: Some(1000), hugepages: Some([(2 << 20, 0)].into()), ..d() };
        assert_eq!(none.enforceable(&closed), Ok(()));
    }

    #[test]
    fn what_only_v2_has_is_refused_on_v1() {
        let high = Limits { memory_high_bytes: Some(1), ..Limits::default() };
        let min = Limits { memory_min_bytes: Some(1), ..Limits::default() };
        let (field, why) = refused(&v1(&["memory"]), high.clone());
        assert!(field == Field::MemoryHigh && why.starts_with("memory.high is a file of cgroup v2"), "{why}");
        assert_eq!(refused(&v1(&["memory"]), min.clone()).0, Field::MemoryMin);
        assert_eq!(v2(&["memory"]).enforceable(&high), Ok(()));
        assert_eq!(v2(&["memory"]).enforceable(&min), Ok(()));
        let swap = Limits { swap_bytes: Some(4096), ..Limits::default() };
        assert_eq!(refused(&v1(&["memory"]), swap.clone()).0, Field::Swap);
        assert_eq!(v2(&["memory"]).enforceable(&swap), Ok(()));
    }

    #[test]
    fn cpus_nodes_and_pages_that_the_host_lacks_are_refused() {
        let all = v2(&["cpuset", "hugetlb"]);
        for (cpus, mems) in [(Some("60000"), None), (Some(""), None), (None, Some("60000")), (Some("0-"), None)] {
            let text = |s: Option<&str>| s.map(str::to_owned);
            let limits = Limits { cpuset_cpus: text(cpus), cpuset_mems: text(mems), ..Limits::default() };
            let want = if cpus.is_some() { Field::Cpus } else { Field::Mems };
            assert_eq!(refused(&all, limits).0, want, "{cpus:?} {mems:?}");
        }
        let here = Limits { cpuset_cpus: Some("0".into()), cpuset_mems: Some("0".into()), ..Limits::default() };
        assert_eq!(all.enforceable(&here), Ok(()));
        let odd = Limits { hugepages: Some([(12 << 20, 12 << 20)].into()), ..Limits::default() };
        let (field, why) = refused(&all, odd);
        assert!(field == Field::Hugepages(12 << 20) && why.contains("no huge pages of 12MB"), "{why}");
    }

    #[test]
    fn files_by_name_need_v2_and_a_controller_there() {
        let unified = |k: &str, v: &str| Limits { unified: [(k.to_owned(), v.to_owned())].into(), ..Limits::default() };
        assert_eq!(v2(&["memory"]).enforceable(&unified("memory.high", "max")), Ok(()));
        for (all, limits) in [
            (v1(&["memory"]), unified("memory.high", "1")),
            (v2(&["memory"]), unified("io.weight", "1")),
            (v2(&["memory"]), unified("../memory.high", "1")),
            (v2(&["memory"]), unified("cgroup.kill", "1")),
            (v2(&["memory"]), unified("memory.high", "1\n2")),
        ] {
            assert_eq!(refused(&all, limits.clone()).0, Field::Unified, "{limits:?}");
        }
    }

    #[test]
    fn a_limit_that_the_kernel_changed_is_an_error() {
        let dir = std::env::temp_dir().join(format!("husk-taken-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let taken = |content: &str, asked: u64| {
            std::fs::write(dir.join("memory.max"), content).unwrap();
            memory_taken(&dir, "memory.max", asked).is_ok()
        };
        assert!(taken("4096\n", 4096) && taken("4096\n", 5000) && taken("max\n", u64::MAX));
        assert!(!taken("8192\n", 4096) && !taken("max\n", 4096) && !taken("0\n", 1 << 20) && !taken("", 4096));
        std::fs::write(dir.join("cpuset.cpus.effective"), "0-1\n").unwrap();
        let cpus = |list: &str| Limits { cpuset_cpus: Some(list.into()), ..Limits::default() };
        assert!(cpuset_taken(&dir, &cpus("0,1")).is_ok());
        assert!(cpuset_taken(&dir, &cpus("0")).is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
