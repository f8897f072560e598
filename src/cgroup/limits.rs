//! Limits of one cgroup, and the conversions from Kubernetes quantities to the kernel's numbers.

use super::devices::DeviceRules;
use super::hugepages::size_name;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// The kernel's default CFS period, also the kubelet's: 100 ms.
pub const PERIOD_US: u64 = 100_000;

/// The smallest CFS quota that the kernel takes: 1 ms.
pub const MIN_QUOTA_US: i64 = 1_000;

const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;

/// What to write into a new cgroup. `None` leaves the kernel's default, which is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// CPU share in v1's scale, 2 to 262144, 1024 for one CPU requested; converted to a weight on v2.
    pub cpu_shares: Option<u64>,
    /// CPU time per period in microseconds, at least [`MIN_QUOTA_US`]; negative for no limit.
    pub cpu_quota_us: Option<i64>,
    /// CFS period in microseconds; used with a quota.
    pub cpu_period_us: u64,
    /// Memory in bytes, page cache included. Swap is then closed to the cgroup, unless `swap_bytes` says otherwise.
    pub memory_limit_bytes: Option<u64>,
    /// Swap in bytes, on top of memory; `u64::MAX` for no limit. On v1 only together with a memory limit, as its file counts both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_bytes: Option<u64>,
    /// Swap is closed where neither of the two above says anything of it (v2 only), as the kubelet's NoSwap has it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub swap_closed: bool,
    /// From so many bytes on the kernel slows the cgroup down and reclaims from it (v2 only; refused on v1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_high_bytes: Option<u64>,
    /// So many bytes are not reclaimed, as far as the cgroups above are as well protected (v2 only; refused on v1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_min_bytes: Option<u64>,
    /// Bytes of huge pages by page size, both in bytes. With a map every size of this host is closed but for what it names, where the host has
    /// a hugetlb controller; `None` leaves huge pages alone, so that the cgroup above decides.
    #[serde(with = "super::hugepages::by_name", skip_serializing_if = "Option::is_none")]
    pub hugepages: Option<BTreeMap<u64, u64>>,
    /// CPUs that may be used, as in `cpuset(7)`: `0-3,8`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes that may be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpuset_mems: Option<String>,
    /// Files of v2 by name and what to write to them, after everything else (CRI `unified`).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unified: BTreeMap<String, String>,
    /// Number of tasks (threads count).
    pub pids_max: Option<u64>,
    /// When one process is killed for want of memory, kill all (v2 only; v1 kernels can't, and nothing is written there).
    pub memory_oom_group: bool,
    /// The only devices that may be made and opened; `None` for no limit.
    pub devices: Option<DeviceRules>,
    /// Make the cgroup also in hierarchies that carry nothing we set or read (cpuset, blkio, named ones). For the runtime's own leaf, so
    /// that it leaves the caller's scope everywhere; containers are born from there and need not be moved again.
    pub every_hierarchy: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            cpu_shares: None,
            cpu_quota_us: None,
            cpu_period_us: PERIOD_US,
            memory_limit_bytes: None,
            swap_bytes: None,
            swap_closed: false,
            memory_high_bytes: None,
            memory_min_bytes: None,
            hugepages: None,
            cpuset_cpus: None,
            cpuset_mems: None,
            unified: BTreeMap::new(),
            pids_max: None,
            memory_oom_group: false,
            devices: None,
            every_hierarchy: false,
        }
    }
}

/// CPU request in thousandths of a CPU to v1 shares, clamped to what the kernel takes.
pub fn shares_from_millis(millis: u64) -> u64 {
    (u128::from(millis) * 1024 / 1000).clamp(MIN_SHARES.into(), MAX_SHARES.into()) as u64
}

/// CPU limit in thousandths of a CPU to a quota for [`PERIOD_US`]; `None` for 0, which is no limit. Tiny limits become [`MIN_QUOTA_US`].
pub fn quota_from_millis(millis: u64) -> Option<i64> {
    let quota = u128::from(millis) * u128::from(PERIOD_US) / 1000;
    (millis > 0).then(|| i64::try_from(quota).unwrap_or(i64::MAX).max(MIN_QUOTA_US))
}

/// v1 shares to v2 weight by the quadratic formula, which maps 2 to 1, 1024 to 100 and 262144 to 10000, so that one requested CPU weighs
/// what the kernel gives a cgroup without any setting.
pub fn weight_from_shares(shares: u64) -> u64 {
    if shares <= MIN_SHARES {
        return 1;
    }
    if shares >= MAX_SHARES {
        return 10_000;
    }
    let l = (shares as f64).log2();
    let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
    // 10^2 may come out a hair above 100: rounding up must not turn that hair into a whole.
    (10f64.powf(exponent) - 1e-9).ceil() as u64
}

/// The most shares that [`weight_from_shares`] turns into this weight: the inverse, as exact as a weight is.
pub fn shares_from_weight(weight: u64) -> u64 {
    if weight >= 10_000 {
        return MAX_SHARES;
    }
    // l^2 + 125 l = 612 (log10 weight + 7/34), solved for l.
    let right = 612.0 * ((weight.max(1) as f64).log10() + 7.0 / 34.0);
    let l = ((125.0f64 * 125.0 + 4.0 * right).sqrt() - 125.0) / 2.0;
    (l.exp2() + 1e-6).floor().clamp(MIN_SHARES as f64, MAX_SHARES as f64) as u64
}

impl Limits {
    /// `self` with what is wider of two: what holds while a cgroup and those in it change from `before` to `self`, one after another.
    pub fn or_wider(&self, before: &Limits) -> Limits {
        // A negative quota is no limit.
        let [new, old] = [self, before].map(|l| l.cpu_quota_us.filter(|quota| *quota >= 0));
        Limits {
            cpu_quota_us: new.zip(old).map(|(new, old)| new.max(old)),
            memory_limit_bytes: self.memory_limit_bytes.zip(before.memory_limit_bytes).map(|(new, old)| new.max(old)),
            ..self.clone()
        }
        .replacing(before)
    }

    /// `self` for a cgroup that has the limits `before`: where these limit something and `self` does not, it says that there is no limit any more.
    pub fn replacing(&self, before: &Limits) -> Limits {
        let open = |new: Option<u64>, old: Option<u64>, none: u64| new.or(old.map(|_| none));
        let swap_opens = before.swap().is_some() && self.swap().is_none() && !self.swap_closed;
        Limits {
            cpu_quota_us: self.cpu_quota_us.or(before.cpu_quota_us.map(|_| -1)),
            memory_limit_bytes: open(self.memory_limit_bytes, before.memory_limit_bytes, u64::MAX),
            swap_bytes: self.swap_bytes.or(swap_opens.then_some(u64::MAX)),
            memory_high_bytes: open(self.memory_high_bytes, before.memory_high_bytes, u64::MAX),
            memory_min_bytes: open(self.memory_min_bytes, before.memory_min_bytes, 0),
            ..self.clone()
        }
    }

    /// The controllers that these limits cannot do without.
    pub(super) fn controllers(&self) -> Vec<&'static str> {
        let mut needed = Vec::with_capacity(3);
        if self.cpu_shares.is_some() || self.cpu_quota_us.is_some() {
            needed.push("cpu");
        }
        if self.memory_limit_bytes.is_some() || self.swap_bytes.is_some() || self.only_v2_memory() {
            needed.push("memory");
        }
        if self.pids_max.is_some() {
            needed.push("pids");
        }
        if self.cpuset_cpus.is_some() || self.cpuset_mems.is_some() {
            needed.push("cpuset");
        }
        // To forbid what the kernel does not count is no loss.
        if self.hugepages.iter().flatten().any(|(_, bytes)| *bytes > 0) {
            needed.push("hugetlb");
        }
        needed
    }

    /// Whether something is asked for that not every host has and that [`super::Hierarchies::enforceable`] has to look at.
    pub fn special(&self) -> bool {
        self.swap_bytes.is_some()
            || self.only_v2_memory()
            || self.hugepages.iter().flatten().any(|(_, bytes)| *bytes > 0)
            || self.cpuset_cpus.is_some()
            || self.cpuset_mems.is_some()
            || !self.unified.is_empty()
    }

    /// The controllers of v2 that are enabled for these limits, besides those that always are.
    pub(super) fn v2_controllers(&self, sizes: &[u64]) -> Vec<&'static str> {
        let mut wanted = Vec::new();
        if self.cpuset_cpus.is_some() || self.cpuset_mems.is_some() {
            wanted.push("cpuset");
        }
        if self.hugepages.is_some() && !sizes.is_empty() {
            wanted.push("hugetlb");
        }
        for controller in self.unified.keys().filter_map(|file| unified_controller(file).ok()) {
            if !wanted.contains(&controller) && !matches!(controller, "cpu" | "memory" | "pids") {
                wanted.push(controller);
            }
        }
        wanted
    }

    fn only_v2_memory(&self) -> bool {
        self.memory_high_bytes.is_some() || self.memory_min_bytes.is_some()
    }

    /// Swap in bytes where it is decided: a memory limit without a word about swap closes it.
    fn swap(&self) -> Option<u64> {
        self.swap_bytes.or(self.memory_limit_bytes.map(|_| 0))
    }

    /// What to write for one controller on v1, in order; `sizes` are those of the host's huge pages.
    pub(super) fn v1_files(&self, controller: &str, sizes: &[u64]) -> Vec<Setting> {
        let mut files = Vec::new();
        match controller {
            "cpu" => {
                files.extend(self.cpu_shares.map(|n| Setting::must("cpu.shares", n)));
                if let Some(quota) = self.cpu_quota_us {
                    // The period first: a quota is judged against the period in force.
                    files.push(Setting::must("cpu.cfs_period_us", self.cpu_period_us));
                    files.push(Setting::must("cpu.cfs_quota_us", quota.max(-1)));
                }
            }
            "memory" => {
                if let Some(bytes) = self.memory_limit_bytes {
                    // memsw may not be below limit, so the limit goes first. It is absent where swap is not accounted.
                    files.push(Setting::must("memory.limit_in_bytes", bytes));
                    files.push(match self.swap() {
                        Some(u64::MAX) => Setting::may("memory.memsw.limit_in_bytes", -1),
                        Some(more) if more > 0 => {
                            Setting::must("memory.memsw.limit_in_bytes", bytes.saturating_add(more))
                        }
                        _ => Setting::may("memory.memsw.limit_in_bytes", bytes),
                    });
                }
            }
            "cpuset" => files.extend(self.cpuset()),
            "hugetlb" => files.extend(self.hugetlb(sizes, "limit_in_bytes", "rsvd.limit_in_bytes")),
            "pids" => files.extend(self.pids_max.map(|n| Setting::must("pids.max", n))),
            _ => {}
        }
        files
    }

    /// What to write for one controller on v2, in order; `sizes` are those of the host's huge pages.
    pub(super) fn v2_files(&self, controller: &str, sizes: &[u64]) -> Vec<Setting> {
        let mut files = Vec::new();
        match controller {
            "cpu" => {
                files.extend(self.cpu_shares.map(|n| Setting::must("cpu.weight", weight_from_shares(n))));
                if let Some(quota) = self.cpu_quota_us {
                    let value = if quota < 0 { "max".to_owned() } else { quota.to_string() };
                    files.push(Setting::must("cpu.max", format!("{value} {}", self.cpu_period_us)));
                }
            }
            "memory" => {
                files.extend(self.memory_min_bytes.map(|n| Setting::must("memory.min", n)));
                files.extend(self.memory_high_bytes.map(|n| Setting::must("memory.high", n)));
                files.extend(self.memory_limit_bytes.map(|n| Setting::must("memory.max", n)));
                // Absent when the kernel has no swap; then there is nothing to open or to close.
                files.extend(self.swap().or(self.swap_closed.then_some(0)).map(|n| match n {
                    u64::MAX => Setting::may("memory.swap.max", "max"),
                    0 => Setting::may("memory.swap.max", 0),
                    n => Setting::must("memory.swap.max", n),
                }));
                if self.memory_oom_group {
                    files.push(Setting::must("memory.oom.group", 1));
                }
            }
            "pids" => files.extend(self.pids_max.map(|n| Setting::must("pids.max", n))),
            "cpuset" => files.extend(self.cpuset()),
            "hugetlb" => files.extend(self.hugetlb(sizes, "max", "rsvd.max")),
            _ => {}
        }
        let own = self.unified.iter().filter(|(file, _)| unified_controller(file) == Ok(controller));
        files.extend(own.map(|(file, value)| Setting { file: file.clone().into(), ..Setting::must("", value) }));
        files
    }

    fn cpuset(&self) -> impl Iterator<Item = Setting> {
        let cpus = self.cpuset_cpus.as_ref().map(|list| Setting::must("cpuset.cpus", list));
        cpus.into_iter().chain(self.cpuset_mems.as_ref().map(|list| Setting::must("cpuset.mems", list)))
    }

    /// Each size with its limit of pages in use, and that of pages set aside by mmap(2), which would otherwise take them from everybody else.
    fn hugetlb(&self, sizes: &[u64], used: &str, reserved: &str) -> Vec<Setting> {
        let Some(asked) = &self.hugepages else { return Vec::new() };
        let mut files = Vec::new();
        for size in sizes {
            let (name, bytes) = (size_name(*size), asked.get(size).copied().unwrap_or(0));
            files.push(Setting { file: format!("hugetlb.{name}.{used}").into(), ..Setting::must("", bytes) });
            files.push(Setting { file: format!("hugetlb.{name}.{reserved}").into(), ..Setting::must("", bytes) });
        }
        files
    }
}

/// The controller that a file of v2 belongs to: `memory` for `memory.high`.
///
/// # Errors
/// The end of a sentence that begins with the name: it could lead elsewhere, or belongs to the tree and not to a controller.
pub fn unified_controller(file: &str) -> Result<&'static str, &'static str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let Some((controller, rest)) = file.split_once('.').filter(|_| file.bytes().all(plain)) else {
        return Err("is no name of a cgroup v2 file such as memory.high");
    };
    let known = V2_CONTROLLERS.iter().find(|c| **c == controller).filter(|_| !rest.is_empty());
    known.copied().ok_or("is no file of a cgroup v2 controller (cpu, cpuset, hugetlb, io, memory, misc, pids, rdma)")
}

/// Controllers of v2 that have files with limits.
const V2_CONTROLLERS: &[&str] = &["cpu", "cpuset", "hugetlb", "io", "memory", "misc", "pids", "rdma"];

/// One file to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    /// File name in the cgroup's directory.
    pub file: Cow<'static, str>,
    /// Its new content.
    pub value: String,
    /// The file may be absent, and then nothing is to be done.
    pub optional: bool,
}

impl Setting {
    fn must(file: &'static str, value: impl ToString) -> Setting {
        Setting { file: Cow::Borrowed(file), value: value.to_string(), optional: false }
    }

    fn may(file: &'static str, value: impl ToString) -> Setting {
        Setting { file: Cow::Borrowed(file), value: value.to_string(), optional: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_follow_the_kubelet() {
        for (millis, shares) in [
            (0, 2),
            (1, 2),
            (2, 2),
            (3, 3),
            (100, 102),
            (250, 256),
            (1000, 1024),
            (256_000, 262_144),
            (u64::MAX, 262_144),
        ] {
            assert_eq!(shares_from_millis(millis), shares, "{millis}");
        }
    }

    #[test]
    fn quotas_follow_the_kubelet_and_never_fall_below_a_millisecond() {
        for (millis, quota) in [
            (0, None),
            (1, Some(1000)),
            (9, Some(1000)),
            (10, Some(1000)),
            (11, Some(1100)),
            (500, Some(50_000)),
            (2000, Some(200_000)),
        ] {
            assert_eq!(quota_from_millis(millis), quota, "{millis}");
        }
        assert_eq!(quota_from_millis(u64::MAX), Some(i64::MAX));
    }

    #[test]
    fn one_cpu_requested_weighs_what_the_kernel_gives_by_default() {
        for (shares, weight) in [(0, 1), (2, 1), (1024, 100), (262_144, 10_000), (u64::MAX, 10_000)] {
            assert_eq!(weight_from_shares(shares), weight, "{shares}");
        }
        let weights: Vec<u64> = (2..=262_144).step_by(97).map(weight_from_shares).collect();
        assert!(weights.is_sorted());
        assert!(weights.iter().all(|w| (1..=10_000).contains(w)));
    }

    #[test]
    fn v1_writes_the_period_before_the_quota_and_the_limit_before_memsw() {
        let limits = Limits {
            cpu_quota_us: Some(5000),
            cpu_period_us: 10_000,
            memory_limit_bytes: Some(1 << 20),
            ..Limits::default()
        };
        let names: Vec<String> = limits
            .v1_files("cpu", &[])
            .into_iter()
            .chain(limits.v1_files("memory", &[]))
            .map(|s| s.file.into_owned())
            .collect();
        assert_eq!(
            names,
            ["cpu.cfs_period_us", "cpu.cfs_quota_us", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]
        );
    }

    #[test]
    fn no_limit_writes_nothing() {
        for controller in ["cpu", "memory", "pids", "cpuset", "hugetlb", "io"] {
            assert!(Limits::default().v1_files(controller, &[2 << 20]).is_empty());
            assert!(Limits::default().v2_files(controller, &[2 << 20]).is_empty());
        }
    }

    /// `file=value`, with a `?` behind what may be absent.
    fn shown(files: Vec<Setting>) -> Vec<String> {
        files.iter().map(|s| format!("{}={}{}", s.file, s.value, if s.optional { "?" } else { "" })).collect()
    }

    #[test]
    fn swap_is_counted_on_top_of_memory() {
        let limits = |memory, swap| Limits { memory_limit_bytes: memory, swap_bytes: swap, ..Limits::default() };
        for (memory, swap, v1, v2) in [
            (Some(100), None, "memory.memsw.limit_in_bytes=100?", "memory.swap.max=0?"),
            (Some(100), Some(0), "memory.memsw.limit_in_bytes=100?", "memory.swap.max=0?"),
            (Some(100), Some(20), "memory.memsw.limit_in_bytes=120", "memory.swap.max=20"),
            (Some(100), Some(u64::MAX), "memory.memsw.limit_in_bytes=-1?", "memory.swap.max=max?"),
        ] {
            let limits = limits(memory, swap);
            assert_eq!(shown(limits.v1_files("memory", &[])).last().unwrap(), v1);
            assert_eq!(shown(limits.v2_files("memory", &[])).last().unwrap(), v2);
        }
        assert_eq!(shown(limits(None, Some(20)).v2_files("memory", &[])), ["memory.swap.max=20"]);
    }

    #[test]
    fn every_size_of_huge_pages_is_closed_unless_it_was_asked_for() {
        let limits = Limits { hugepages: Some([(2 << 20, 4 << 20)].into()), ..Limits::default() };
        assert_eq!(
            shown(limits.v2_files("hugetlb", &[2 << 20, 1 << 30])),
            ["hugetlb.2MB.max=4194304", "hugetlb.2MB.rsvd.max=4194304", "hugetlb.1GB.max=0", "hugetlb.1GB.rsvd.max=0"]
        );
        assert_eq!(
            shown(limits.v1_files("hugetlb", &[2 << 20])),
            ["hugetlb.2MB.limit_in_bytes=4194304", "hugetlb.2MB.rsvd.limit_in_bytes=4194304"]
        );
        assert_eq!(limits.controllers(), ["hugetlb"]);
        let closed = Limits { hugepages: Some(BTreeMap::new()), ..Limits::default() };
        assert!(closed.controllers().is_empty(), "a host without the controller is not asked for one");
    }

    #[test]
    fn files_by_name_come_last_and_with_their_controller() {
        let unified = [("memory.high", "7"), ("io.weight", "50")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let limits = Limits { memory_limit_bytes: Some(9), unified: unified.into(), ..Limits::default() };
        assert_eq!(shown(limits.v2_files("memory", &[])), ["memory.max=9", "memory.swap.max=0?", "memory.high=7"]);
        assert_eq!(shown(limits.v2_files("io", &[])), ["io.weight=50"]);
        for bad in ["", "memory", "memory.", "../x", "memory./x", "cgroup.procs", "a.b", "memory.high\n", "io"] {
            assert!(unified_controller(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_weight_leads_back_to_its_shares() {
        for (weight, shares) in [(0, 2), (1, 2), (100, 1024), (10_000, 262_144), (u64::MAX, 262_144)] {
            assert_eq!(shares_from_weight(weight), shares, "{weight}");
        }
        for weight in 1..=10_000 {
            let shares = shares_from_weight(weight);
            assert_eq!(weight_from_shares(shares), weight, "{weight} {shares}");
        }
    }

    #[test]
    fn a_record_of_before_is_read_and_nothing_new_is_written_for_nothing() {
        let text = serde_json::to_string(&Limits::default()).unwrap();
        for new in ["swap", "high", "hugepages", "cpuset", "unified"] {
            assert!(!text.contains(new), "{text}");
        }
        let old: Limits = serde_json::from_str(r#"{"memory_limit_bytes": 5}"#).unwrap();
        assert_eq!(old, Limits { memory_limit_bytes: Some(5), ..Limits::default() });
        let all = Limits {
            hugepages: Some([(2 << 20, 1)].into()),
            unified: [("a".to_owned(), "b".to_owned())].into(),
            ..Limits::default()
        };
        let text = serde_json::to_string(&all).unwrap();
        assert!(text.contains(r#""hugepages":{"2MB":1}"#), "{text}");
        assert_eq!(serde_json::from_str::<Limits>(&text).unwrap(), all);
        assert!(serde_json::from_str::<Limits>(r#"{"hugepages": {"2": 1}}"#).is_err());
    }

    #[test]
    fn in_between_the_wider_limit_holds() {
        let limits = |quota, memory| Limits { cpu_quota_us: quota, memory_limit_bytes: memory, ..Limits::default() };
        let wider = |new: &Limits, old: &Limits| {
            let both = new.or_wider(old);
            (both.cpu_quota_us, both.memory_limit_bytes)
        };
        let (small, large, none) = (limits(Some(1000), Some(1)), limits(Some(2000), Some(2)), limits(None, None));
        assert_eq!(wider(&small, &large), (Some(2000), Some(2)));
        assert_eq!(wider(&large, &small), (Some(2000), Some(2)));
        assert_eq!(wider(&small, &none), (None, None));
        assert_eq!(wider(&limits(Some(-1), Some(1)), &small), (Some(-1), Some(1)));
        assert_eq!(wider(&none, &small), (Some(-1), Some(u64::MAX)), "in words, as the cgroup has a limit");
    }

    #[test]
    fn what_is_no_limit_any_more_is_said_to_the_kernel() {
        let had = Limits {
            cpu_quota_us: Some(1000),
            memory_limit_bytes: Some(64),
            memory_high_bytes: Some(32),
            memory_min_bytes: Some(16),
            ..Limits::default()
        };
        let file = |limits: &Limits, controller: &str, name: &str| {
            let file = limits.v2_files(controller, &[]).into_iter().find(|setting| setting.file == name);
            file.map(|setting| setting.value)
        };
        let open = Limits::default().replacing(&had);
        assert_eq!(file(&open, "cpu", "cpu.max").as_deref(), Some("max 100000"));
        assert_eq!(file(&open, "memory", "memory.swap.max").as_deref(), Some("max"));
        assert_eq!(file(&open, "memory", "memory.min").as_deref(), Some("0"));
        for name in ["memory.max", "memory.high"] {
            assert_eq!(file(&open, "memory", name), Some(u64::MAX.to_string()), "{name}: more than any kernel counts");
        }
        let closed = Limits { swap_closed: true, ..Limits::default() };
        assert_eq!(file(&closed.replacing(&had), "memory", "memory.swap.max").as_deref(), Some("0"));
        assert_eq!(had.replacing(&Limits::default()), had);
        assert_eq!(Limits::default().replacing(&Limits::default()), Limits::default());
    }
}
