//! From amounts and annotations of a manifest to the limits of its cgroups, and whether this host can enforce them.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use super::{Error, resolve};
use crate::cgroup::enforce::Field;
use crate::cgroup::limits::{quota_from_millis, shares_from_millis};
use crate::cgroup::{CgroupDriver, DriverKind, Hierarchies, Limits, classes};
use crate::manifest::annotations::{self, Swap};
use crate::manifest::{self, FieldError, Resources};
use crate::state::Roots;
use crate::state::record::PodRecord;

/// A fork bomb must not take the host down; the kubelet leaves this to the node's own limit. Only where there is a controller for it.
pub const POD_PIDS: u64 = 8192;

/// Amounts as limits of a cgroup, by the kubelet's rules: without a request cpu shares are the least possible. Nobody has asked for these, so a host
/// that cannot share is none to refuse the pod.
fn limits(host: &Hierarchies, r: &Resources) -> Limits {
    let request = r.cpu_request_millis.or_else(|| host.offers("cpu").then_some(0));
    Limits {
        cpu_shares: request.map(shares_from_millis),
        cpu_quota_us: r.cpu_limit_millis.and_then(quota_from_millis),
        memory_limit_bytes: r.memory_limit_bytes,
        every_hierarchy: true,
        ..Limits::default()
    }
}

/// Limits of a container's cgroup; `at` is its place in the manifest, `spec.containers[0]`.
///
/// # Errors
/// A field by its whole path.
pub fn of_container(
    all: &Hierarchies,
    pod: &Pod,
    spec: &PodSpec,
    c: &Container,
    at: &str,
) -> Result<Limits, FieldError> {
    let below = |e: FieldError| FieldError { path: format!("{at}.{}", e.path), ..e };
    let own = manifest::resources(c).map_err(below)?;
    let extras = annotations::container_extras(pod, &c.name)?;
    let host = resolve::memory_capacity_bytes;
    let qos = |amount: Option<u64>| amount.filter(|_| extras.memory_qos);
    let effective = manifest::effective_resources(spec, c).map_err(below)?;
    Ok(Limits {
        // As the kubelet has it: half a container is no container.
        memory_oom_group: !annotations::oom_single_process(pod).any(|name| name == c.name),
        pids_max: extras.pids_max,
        cpuset_cpus: extras.cpuset_cpus,
        cpuset_mems: extras.cpuset_mems,
        memory_min_bytes: extras.memory_min_bytes.or(qos(own.memory_request_bytes)),
        memory_high_bytes: extras
            .memory_high_bytes
            .or_else(|| extras.memory_qos.then(|| manifest::memory_high(&own, host())).flatten()),
        swap_bytes: extras.swap.map(|swap| match swap {
            Swap::Bytes(bytes) => bytes,
            Swap::Limited => manifest::limited_swap(spec, c, host(), swap_capacity_bytes()),
        }),
        swap_closed: true,
        // Where the pod has none, its own cgroup keeps them closed for all of it.
        hugepages: has_hugepages(spec).then(|| effective.hugepages.clone()),
        ..limits(all, &effective)
    })
}

fn swap_capacity_bytes() -> u64 {
    let unit = |info: nix::sys::sysinfo::SysInfo| info.swap_total();
    nix::sys::sysinfo::sysinfo().map_or(0, unit)
}

fn has_hugepages(spec: &PodSpec) -> bool {
    let lists = [spec.resources.as_ref()]
        .into_iter()
        .chain(spec.init_containers.iter().flatten().chain(&spec.containers).map(|c| c.resources.as_ref()));
    lists.flatten().flat_map(|r| r.limits.iter().flatten()).any(|(name, _)| manifest::hugepage_size(name).is_some())
}

/// Limits of the pod's cgroup, with those of its containers by name.
///
/// # Errors
/// A field by its whole path.
pub fn of_pod(
    all: &Hierarchies,
    pod: &Pod,
    spec: &PodSpec,
    containers: &HashMap<&str, &Limits>,
) -> Result<Limits, FieldError> {
    let r = manifest::pod_resources(spec)?;
    let extras = annotations::pod_extras(pod)?;
    let sum = |of: fn(&Limits) -> Option<u64>| {
        let of_container = |c: &Container| containers.get(c.name.as_str()).and_then(|l| of(l)).unwrap_or(0);
        Some(manifest::total(spec, of_container)).filter(|n| *n > 0)
    };
    let limits = limits(all, &r);
    Ok(Limits {
        pids_max: extras.pids_max.or_else(|| all.offers("pids").then_some(POD_PIDS)),
        cpuset_cpus: extras.cpuset_cpus,
        cpuset_mems: extras.cpuset_mems,
        memory_min_bytes: sum(|l| l.memory_min_bytes),
        swap_bytes: limits.memory_limit_bytes.and_then(|_| sum(|l| l.swap_bytes)),
        hugepages: Some(r.hugepages),
        ..limits
    })
}

/// Refuses what this host cannot enforce, by the field that asks for it. `container` and its place, or the pod as a whole.
///
/// # Errors
/// As [`Error::Image`], the field's whole path and why.
pub fn check(
    all: &Hierarchies,
    pod: &Pod,
    limits: &Limits,
    container: Option<(&Container, &str)>,
) -> Result<(), Error> {
    let Err((field, what)) = all.enforceable(limits) else { return Ok(()) };
    let name = container.map(|(c, _)| c.name.as_str());
    let asked = container
        .map_or_else(|| pod.spec.as_ref().and_then(|spec| spec.resources.as_ref()), |(c, _)| c.resources.as_ref());
    let at = container.map_or("spec", |(_, at)| at);
    let annotation = |what: &str| annotations::path(pod, what, name);
    let extras = name.map(|name| annotations::container_extras(pod, name).unwrap_or_default()).unwrap_or_default();
    let path = match field {
        Field::CpuShares => format!("{at}.resources.requests.cpu"),
        Field::CpuQuota => format!("{at}.resources.limits.cpu"),
        Field::Memory => format!("{at}.resources.limits.memory"),
        Field::Hugepages(size) => {
            let named = asked.and_then(|r| r.limits.as_ref()).into_iter().flatten();
            let written = named.map(|(n, _)| n.as_str()).find(|n| manifest::hugepage_size(n) == Some(size));
            format!("{at}.resources.limits.{}", written.unwrap_or("hugepages"))
        }
        Field::Swap => annotation("swap"),
        Field::MemoryHigh if extras.memory_high_bytes.is_none() => annotation("memory-qos"),
        Field::MemoryHigh => annotation("memory-high"),
        Field::MemoryMin if extras.memory_min_bytes.is_none() => annotation("memory-qos"),
        Field::MemoryMin => annotation("memory-min"),
        Field::Pids => annotation("pids-max"),
        Field::Cpus => annotation("cpuset-cpus"),
        Field::Mems => annotation("cpuset-mems"),
        Field::Unified => at.to_owned(),
    };
    let pod = pod.metadata.name.as_deref().unwrap_or_default();
    Err(Error::Image { field: format!("pod {pod}: {path}"), what })
}

/// Brings the cgroups above a pod up to date after it was made or removed. Costs a few system calls for each pod of its class, and with the systemd
/// driver a word to systemd where something changes: not for the way of a start, but beside it. A supervisor never comes here.
///
/// # Errors
/// The kernel's, or systemd's.
pub fn settle(roots: &Roots, driver: &dyn CgroupDriver, record: &PodRecord) -> Result<(), Error> {
    settle_for(roots, driver, record, record.sandbox.limits.memory_min_bytes.is_some())
}

/// The same after it was resized: what it had protected before may be protected no more.
///
/// # Errors
/// As [`settle`].
pub fn settle_resized(roots: &Roots, driver: &dyn CgroupDriver, record: &PodRecord) -> Result<(), Error> {
    settle_for(roots, driver, record, true)
}

fn settle_for(roots: &Roots, driver: &dyn CgroupDriver, record: &PodRecord, memory: bool) -> Result<(), Error> {
    match record.cgroup_driver {
        // Other weights than those of our own tree are somebody else's to set.
        _ if record.sandbox.foreign_cgroup => Ok(()),
        DriverKind::Systemd => super::scope::weigh(roots, driver),
        DriverKind::Cgroupfs => settle_tree(driver, record, memory),
    }
}

/// [`settle`] without systemd, for who may not speak to it.
///
/// # Errors
/// The kernel's.
pub fn settle_tree(driver: &dyn CgroupDriver, record: &PodRecord, memory: bool) -> Result<(), Error> {
    match classes::above(&record.cgroup) {
        Some((pods, class)) if class || memory => driver.settle(pods, memory).map_err(host),
        _ => Ok(()),
    }
}

fn host(e: crate::cgroup::Error) -> Error {
    Error::Host { what: e.to_string() }
}
