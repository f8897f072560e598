//! `LinuxContainerResources`: what a client gives, and what it is told back. What would have no effect is refused by its field.

use super::config::wrong;
use crate::cgroup::enforce::Field;
use crate::cgroup::limits::unified_controller;
use crate::cgroup::{Hierarchies, Limits, hugepages};
use crate::cpu_list;
use crate::cri::messages::*;
use crate::cri::status::Status;
use crate::state::record::PodRecord;

/// Takes over what is set; 0 and the empty string are "not given" in CRI.
pub(super) fn merge(at: &str, r: &LinuxContainerResources, limits: &mut Limits) -> Result<(), Status> {
    let at = |field: &str| format!("{at}.{field}");
    let positive =
        |field: &str, n: i64| u64::try_from(n).map_err(|_| wrong(&at(field), format!("{n}: must not be negative")));
    if r.cpu_period != 0 {
        limits.cpu_period_us = positive("cpuPeriod", r.cpu_period)?;
    }
    if r.cpu_quota != 0 {
        limits.cpu_quota_us = Some(r.cpu_quota);
    }
    if r.cpu_shares != 0 {
        limits.cpu_shares = Some(positive("cpuShares", r.cpu_shares)?);
    }
    if r.memory_limit_in_bytes != 0 {
        limits.memory_limit_bytes = Some(positive("memoryLimitInBytes", r.memory_limit_in_bytes)?);
    }
    if r.memory_swap_limit_in_bytes != 0 {
        limits.swap_bytes = Some(swap(&at("memorySwapLimitInBytes"), r.memory_swap_limit_in_bytes, limits)?);
    }
    for (field, value, to) in [
        ("cpusetCpus", &r.cpuset_cpus, &mut limits.cpuset_cpus),
        ("cpusetMems", &r.cpuset_mems, &mut limits.cpuset_mems),
    ] {
        if !value.is_empty() {
            cpu_list::parse(value).map_err(|e| wrong(&at(field), format!("{value:?} {e}")))?;
            *to = Some(value.clone());
        }
    }
    for (i, page) in r.hugepage_limits.iter().enumerate() {
        let field = at(&format!("hugepageLimits[{i}].pageSize"));
        let size = hugepages::size_of_name(&page.page_size)
            .ok_or_else(|| wrong(&field, format!("{:?} is no size such as 2MB", page.page_size)))?;
        limits.hugepages.get_or_insert_default().insert(size, page.limit);
    }
    for (name, value) in &r.unified {
        unified_controller(name).map_err(|e| wrong(&at("unified"), format!("{name:?} {e}")))?;
        limits.unified.insert(name.clone(), value.clone());
    }
    Ok(())
}

/// CRI counts memory and swap together, as v1 does; what is left is for swap alone.
fn swap(field: &str, both: i64, limits: &Limits) -> Result<u64, Status> {
    match (u64::try_from(both), limits.memory_limit_bytes) {
        (Err(_), _) if both == -1 => Ok(u64::MAX),
        (Ok(both), Some(memory)) if both >= memory => Ok(both - memory),
        (Ok(_), None) => Err(wrong(field, format!("{both}: needs memoryLimitInBytes, which it includes"))),
        _ => Err(wrong(field, format!("{both}: must not be less than memoryLimitInBytes, which it includes; or -1"))),
    }
}

/// The cgroup of a pod that we made is closed to huge pages that the sandbox did not ask for: a container cannot have more.
pub(super) fn within_sandbox(at: &str, sandbox: &PodRecord, limits: &Limits) -> Result<(), Status> {
    let Some(pod) = sandbox.sandbox.limits.hugepages.as_ref().filter(|_| !sandbox.sandbox.foreign_cgroup) else {
        return Ok(());
    };
    for (size, bytes) in limits.hugepages.iter().flatten() {
        let has = pod.get(size).copied().unwrap_or(0);
        if *bytes > has {
            let size = hugepages::size_name(*size);
            let what = format!(
                "{bytes} bytes of {size} are more than the {has} of the pod sandbox; give them to RunPodSandbox in config.linux.resources"
            );
            return Err(wrong(&format!("{at}.hugepageLimits"), what));
        }
    }
    Ok(())
}

/// Refuses what this host cannot enforce.
pub(super) fn enforceable(at: &str, limits: &Limits) -> Result<(), Status> {
    if !limits.special() {
        return Ok(());
    }
    let host = Hierarchies::detect().map_err(|e| Status::internal(e.to_string()))?;
    host.enforceable(limits).map_err(|(field, why)| {
        let field = match field {
            Field::CpuShares => "cpuShares",
            Field::CpuQuota => "cpuQuota",
            Field::Memory => "memoryLimitInBytes",
            Field::Swap => "memorySwapLimitInBytes",
            Field::Hugepages(_) => "hugepageLimits",
            Field::Cpus => "cpusetCpus",
            Field::Mems => "cpusetMems",
            Field::Unified => "unified",
            // A client has no fields for these.
            Field::MemoryHigh | Field::MemoryMin | Field::Pids => return wrong(at, why),
        };
        wrong(&format!("{at}.{field}"), why)
    })
}

/// Limits in the words of CRI.
pub(super) fn told(limits: &Limits, oom_score_adj: i32) -> LinuxContainerResources {
    let number = |n: Option<u64>| n.map_or(0, |n| i64::try_from(n).unwrap_or(i64::MAX));
    LinuxContainerResources {
        cpu_period: if limits.cpu_quota_us.is_some() { number(Some(limits.cpu_period_us)) } else { 0 },
        cpu_quota: limits.cpu_quota_us.unwrap_or(0),
        cpu_shares: number(limits.cpu_shares),
        memory_limit_in_bytes: number(limits.memory_limit_bytes),
        oom_score_adj: oom_score_adj.into(),
        cpuset_cpus: limits.cpuset_cpus.clone().unwrap_or_default(),
        cpuset_mems: limits.cpuset_mems.clone().unwrap_or_default(),
        hugepage_limits: limits
            .hugepages
            .iter()
            .flatten()
            .map(|(size, limit)| HugepageLimit { page_size: hugepages::size_name(*size), limit: *limit })
            .collect(),
        unified: limits.unified.clone(),
        // Together with memory, as CRI counts it; without a limit of memory there is nothing to add it to.
        memory_swap_limit_in_bytes: match limits.swap_bytes {
            Some(u64::MAX) => -1,
            swap => number(limits.memory_limit_bytes.and_then(|memory| Some(memory.saturating_add(swap?)))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_given_is_refused_by_its_field() {
        let mut limits = Limits::default();
        let page = |size: &str| vec![HugepageLimit { page_size: size.into(), limit: 1 << 21 }];
        let unified = |name: &str| [(name.to_owned(), "1".to_owned())].into();
        let d = LinuxContainerResources::default;
        for (r, field) in [
            (LinuxContainerResources { cpuset_cpus: "0-".into(), ..d() }, "r.cpusetCpus: "),
            (LinuxContainerResources { cpuset_mems: "x".into(), ..d() }, "r.cpusetMems: "),
            (LinuxContainerResources { hugepage_limits: page("2Mi"), ..d() }, "r.hugepageLimits[0].pageSize: "),
            (LinuxContainerResources { unified: unified("../x"), ..d() }, "r.unified: "),
            (LinuxContainerResources { unified: unified("cgroup.procs"), ..d() }, "r.unified: "),
            (LinuxContainerResources { memory_swap_limit_in_bytes: 5, ..d() }, "r.memorySwapLimitInBytes: "),
            (
                LinuxContainerResources { memory_swap_limit_in_bytes: 5, memory_limit_in_bytes: 6, ..d() },
                "r.memorySwapLimitInBytes: ",
            ),
            (LinuxContainerResources { memory_swap_limit_in_bytes: -2, ..d() }, "r.memorySwapLimitInBytes: "),
            (LinuxContainerResources { cpu_shares: -1, ..d() }, "r.cpuShares: "),
        ] {
            let e = merge("r", &r, &mut Limits::default()).unwrap_err();
            assert!(e.message.starts_with(field), "{field} {}", e.message);
        }
        let nowhere = Limits { cpuset_cpus: Some("60000".into()), ..Limits::default() };
        let e = enforceable("r", &nowhere).unwrap_err();
        assert!(e.message.starts_with("r.cpusetCpus: "), "{}", e.message);
        let r = LinuxContainerResources {
            memory_limit_in_bytes: 1 << 20,
            memory_swap_limit_in_bytes: 1 << 20,
            cpu_quota: -1,
            ..Default::default()
        };
        merge("r", &r, &mut limits).unwrap();
        assert_eq!(
            (limits.memory_limit_bytes, limits.cpu_quota_us, limits.swap_bytes),
            (Some(1 << 20), Some(-1), Some(0))
        );
    }
}
