//! What containers and pod sandboxes use, in CRI's words.

use super::config::selected;
use super::containers::{metadata, status};
use super::pods::{self, nanos};
use crate::cgroup::{Cgroupfs, Usage};
use crate::cri::messages::*;
use crate::cri::status::Status;
use crate::runtime::{container, driven};
use crate::state::record::State;
use crate::state::{PodEntry, Roots};

fn driver() -> Result<Cgroupfs, Status> {
    Cgroupfs::detect().map_err(|e| Status::internal(e.to_string()))
}

pub(super) fn container(roots: &Roots, request: &ContainerStatsRequest) -> Result<ContainerStatsResponse, Status> {
    let (entry, index) = driven::find(roots, &request.container_id)?;
    Ok(ContainerStatsResponse { stats: Some(of_container(roots, &driver()?, &entry, index)?) })
}

/// Of those that run: the others use nothing.
pub(super) fn containers(
    roots: &Roots,
    request: ListContainerStatsRequest,
) -> Result<ListContainerStatsResponse, Status> {
    let filter = request.filter.unwrap_or_default();
    let driver = driver()?;
    let mut stats = Vec::new();
    for entry in driven::sandboxes(roots)? {
        if !entry.id.starts_with(&filter.pod_sandbox_id) {
            continue;
        }
        for index in running(&entry) {
            let shown = status(&entry, index);
            if shown.id.starts_with(&filter.id) && selected(&shown.labels, &filter.label_selector) {
                stats.push(of_container(roots, &driver, &entry, index)?);
            }
        }
    }
    Ok(ListContainerStatsResponse { stats })
}

pub(super) fn pod(roots: &Roots, request: &PodSandboxStatsRequest) -> Result<PodSandboxStatsResponse, Status> {
    let entry = driven::sandbox(roots, &request.pod_sandbox_id)?;
    Ok(PodSandboxStatsResponse { stats: Some(of_pod(roots, &driver()?, &entry)?) })
}

pub(super) fn pods(roots: &Roots, request: ListPodSandboxStatsRequest) -> Result<ListPodSandboxStatsResponse, Status> {
    let filter = request.filter.unwrap_or_default();
    let driver = driver()?;
    let mut stats = Vec::new();
    for entry in driven::sandboxes(roots)? {
        let shown = pods::message(&entry);
        if pods::ready(&entry) && entry.id.starts_with(&filter.id) && selected(&shown.labels, &filter.label_selector) {
            stats.push(of_pod(roots, &driver, &entry)?);
        }
    }
    Ok(ListPodSandboxStatsResponse { stats })
}

fn running(entry: &PodEntry) -> Vec<usize> {
    let all = entry.status.containers.iter().enumerate();
    all.filter(|(_, c)| matches!(c.state, State::Running { .. })).map(|(index, _)| index).collect()
}

fn usage(driver: &Cgroupfs, path: &str) -> Result<Usage, Status> {
    Ok(driver.usage(path).map_err(|e| Status::internal(e.to_string()))?.unwrap_or_default())
}

fn of_container(roots: &Roots, driver: &Cgroupfs, entry: &PodEntry, index: usize) -> Result<ContainerStats, Status> {
    let record = &entry.record.containers[index];
    let client = record.client.as_deref().cloned().unwrap_or_default();
    let cgroup = container::cgroup(&entry.record, &client.id);
    let used = usage(driver, &cgroup)?;
    let dir = container::data_dir(roots, &entry.record, &record.name, entry.status.containers[index].attempt);
    let available = driver.swap_available(&cgroup, &used);
    let now = nanos(jiff::Timestamp::now());
    Ok(ContainerStats {
        attributes: Some(ContainerAttributes {
            metadata: Some(metadata(&record.name, &client)),
            id: client.id.clone(),
            labels: client.labels,
            annotations: client.annotations,
        }),
        cpu: Some(cpu(&used, now)),
        memory: Some(memory(&used, now)),
        writable_layer: Some(super::images::usage(&dir.join("upper"))?),
        swap: Some(SwapUsage {
            timestamp: now,
            swap_available_bytes: number(available.map_err(|e| Status::internal(e.to_string()))?),
            swap_usage_bytes: number(used.swap_bytes),
        }),
        io: None,
    })
}

fn of_pod(roots: &Roots, driver: &Cgroupfs, entry: &PodEntry) -> Result<PodSandboxStats, Status> {
    let used = usage(driver, &entry.record.cgroup)?;
    let now = nanos(jiff::Timestamp::now());
    let shown = pods::message(entry);
    let containers = running(entry).into_iter().map(|index| of_container(roots, driver, entry, index));
    Ok(PodSandboxStats {
        attributes: Some(PodSandboxAttributes {
            id: shown.id,
            metadata: shown.metadata,
            labels: shown.labels,
            annotations: shown.annotations,
        }),
        linux: Some(LinuxPodSandboxStats {
            cpu: Some(cpu(&used, now)),
            memory: Some(memory(&used, now)),
            process: Some(ProcessUsage { timestamp: now, process_count: number(used.tasks) }),
            containers: containers.collect::<Result<_, _>>()?,
            ..LinuxPodSandboxStats::default()
        }),
        windows: None,
    })
}

fn number(n: Option<u64>) -> Option<UInt64Value> {
    n.map(|value| UInt64Value { value })
}

fn cpu(used: &Usage, timestamp: i64) -> CpuUsage {
    CpuUsage { timestamp, usage_core_nano_seconds: number(used.cpu_ns), usage_nano_cores: None, psi: None }
}

fn memory(used: &Usage, timestamp: i64) -> MemoryUsage {
    let available = used.memory_limit_bytes.zip(used.working_set_bytes).map(|(limit, set)| limit.saturating_sub(set));
    MemoryUsage {
        timestamp,
        working_set_bytes: number(used.working_set_bytes),
        available_bytes: number(available),
        usage_bytes: number(used.memory_bytes),
        rss_bytes: number(used.rss_bytes),
        page_faults: number(used.page_faults),
        major_page_faults: number(used.major_page_faults),
        psi: None,
    }
}
