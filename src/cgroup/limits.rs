//! Limits of one cgroup, and the conversions from Kubernetes quantities to the kernel's numbers.

use super::devices::DeviceRules;
use serde::{Deserialize, Serialize};

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
    /// Memory in bytes, page cache included. Swap is then closed to the cgroup.
    pub memory_limit_bytes: Option<u64>,
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

impl Limits {
    /// The controllers that these limits cannot do without.
    pub(super) fn controllers(&self) -> Vec<&'static str> {
        let mut needed = Vec::with_capacity(3);
        if self.cpu_shares.is_some() || self.cpu_quota_us.is_some() {
            needed.push("cpu");
        }
        if self.memory_limit_bytes.is_some() {
            needed.push("memory");
        }
        if self.pids_max.is_some() {
            needed.push("pids");
        }
        needed
    }

    /// What to write for one controller on v1, in order.
    pub(super) fn v1_files(&self, controller: &str) -> Vec<Setting> {
        let mut files = Vec::new();
        match controller {
            "cpu" => {
                files.extend(self.cpu_shares.map(|n| Setting::must("cpu.shares", n)));
                if let Some(quota) = self.cpu_quota_us {
                    // The period first: a quota is judged against the period in force.
                    if self.cpu_period_us != PERIOD_US {
                        files.push(Setting::must("cpu.cfs_period_us", self.cpu_period_us));
                    }
                    files.push(Setting::must("cpu.cfs_quota_us", quota.max(-1)));
                }
            }
            "memory" => {
                if let Some(bytes) = self.memory_limit_bytes {
                    // memsw may not be below limit, so the limit goes first. It is absent where swap is not accounted.
                    files.push(Setting::must("memory.limit_in_bytes", bytes));
                    files.push(Setting::may("memory.memsw.limit_in_bytes", bytes));
                }
            }
            "pids" => files.extend(self.pids_max.map(|n| Setting::must("pids.max", n))),
            _ => {}
        }
        files
    }

    /// What to write for one controller on v2, in order.
    pub(super) fn v2_files(&self, controller: &str) -> Vec<Setting> {
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
                if let Some(bytes) = self.memory_limit_bytes {
                    files.push(Setting::must("memory.max", bytes));
                    // Absent when the kernel has no swap.
                    files.push(Setting::may("memory.swap.max", 0));
                }
                if self.memory_oom_group {
                    files.push(Setting::must("memory.oom.group", 1));
                }
            }
            "pids" => files.extend(self.pids_max.map(|n| Setting::must("pids.max", n))),
            _ => {}
        }
        files
    }
}

/// One file to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    /// File name in the cgroup's directory.
    pub file: &'static str,
    /// Its new content.
    pub value: String,
    /// The file may be absent, and then nothing is to be done.
    pub optional: bool,
}

impl Setting {
    fn must(file: &'static str, value: impl ToString) -> Setting {
        Setting { file, value: value.to_string(), optional: false }
    }

    fn may(file: &'static str, value: impl ToString) -> Setting {
        Setting { file, value: value.to_string(), optional: true }
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
        let names: Vec<&str> =
            limits.v1_files("cpu").iter().chain(&limits.v1_files("memory")).map(|s| s.file).collect();
        assert_eq!(
            names,
            ["cpu.cfs_period_us", "cpu.cfs_quota_us", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]
        );
    }

    #[test]
    fn no_limit_writes_nothing() {
        for controller in ["cpu", "memory", "pids"] {
            assert!(Limits::default().v1_files(controller).is_empty());
            assert!(Limits::default().v2_files(controller).is_empty());
        }
    }
}
