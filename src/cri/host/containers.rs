//! Containers in CRI's words.

use std::collections::BTreeMap;

use super::config::{self, selected};
use super::pods::nanos;
use super::resources;
use crate::cri::messages::*;
use crate::cri::status::Status;
use crate::image::Store;
use crate::runtime::{apparmor, driven, resolve};
use crate::state::record::{Access, ClientContainer, MountRecord, MountSource, Propagation, State};
use crate::state::{PodEntry, Roots};

pub(super) fn create(roots: &Roots, request: CreateContainerRequest) -> Result<CreateContainerResponse, Status> {
    let entry = driven::sandbox(roots, &request.pod_sandbox_id)?;
    let config = request.config.ok_or_else(|| Status::invalid_argument("config: must be there"))?;
    // `sandbox_config` is what RunPodSandbox was given, and that is on record.
    let asked = config::container(&entry.record, config)?;
    let id = asked.client.id.clone();
    let store = Store::open(&roots.root)?;
    // Until the record says that the container uses it, nobody may remove its image.
    let _held = store.hold()?;
    let record = resolve::client_container(&store, asked).map_err(|(field, what)| {
        let sentence = format!("config.{field}: {what}");
        if field == "image" { Status::not_found(sentence) } else { Status::invalid_argument(sentence) }
    })?;
    apparmor::ensure([&record])?;
    driven::create(roots, &entry.id, &record)?;
    Ok(CreateContainerResponse { container_id: id })
}

pub(super) fn update(
    roots: &Roots,
    request: UpdateContainerResourcesRequest,
) -> Result<UpdateContainerResourcesResponse, Status> {
    if request.windows.is_some() {
        return Err(Status::unimplemented("windows: this host is linux"));
    }
    let Some(asked) = request.linux else { return Ok(UpdateContainerResourcesResponse {}) };
    let (entry, index) = driven::find(roots, &request.container_id)?;
    let record = &entry.record.containers[index];
    if asked.oom_score_adj != 0 && asked.oom_score_adj != i64::from(record.oom_score_adj) {
        return Err(Status::unimplemented("linux.oomScoreAdj: stays what it was at the container's start"));
    }
    let mut limits = record.limits.clone();
    resources::merge("linux", &asked, &mut limits)?;
    resources::enforceable("linux", &limits)?;
    resources::within_sandbox("linux", &entry.record, &limits)?;
    driven::update(roots, &request.container_id, limits)?;
    Ok(UpdateContainerResourcesResponse {})
}

pub(super) fn status_of(roots: &Roots, request: ContainerStatusRequest) -> Result<ContainerStatusResponse, Status> {
    let (entry, index) = driven::find(roots, &request.container_id)?;
    let mut info = BTreeMap::new();
    if request.verbose {
        let record = &entry.record.containers[index];
        let pid = match entry.status.containers[index].state {
            State::Running { pid, .. } => Some(pid),
            _ => None,
        };
        let detail = serde_json::json!({
            "pid": pid,
            "sandboxID": entry.id,
            "cgroup": format!("{}/{}", entry.record.cgroup, request.container_id),
            "args": record.argv,
            "cwd": record.cwd,
            "capabilities": record.capabilities,
        });
        info.insert("info".to_owned(), detail.to_string());
    }
    Ok(ContainerStatusResponse { status: Some(status(&entry, index)), info })
}

pub(super) fn list(roots: &Roots, request: ListContainersRequest) -> Result<ListContainersResponse, Status> {
    let filter = request.filter.unwrap_or_default();
    let mut containers = Vec::new();
    for entry in driven::sandboxes(roots)? {
        if !entry.id.starts_with(&filter.pod_sandbox_id) {
            continue;
        }
        let all = (0..entry.record.containers.len()).map(|index| status(&entry, index));
        let wanted = all
            .filter(|c| c.id.starts_with(&filter.id))
            .filter(|c| filter.state.is_none_or(|state| state.state == c.state))
            .filter(|c| selected(&c.labels, &filter.label_selector));
        containers.extend(wanted.map(|c| Container {
            id: c.id,
            pod_sandbox_id: entry.id.clone(),
            metadata: c.metadata,
            image: c.image,
            image_ref: c.image_ref,
            state: c.state,
            created_at: c.created_at,
            labels: c.labels,
            annotations: c.annotations,
            image_id: c.image_id,
        }));
    }
    containers.sort_by_key(|c| std::cmp::Reverse(c.created_at));
    Ok(ListContainersResponse { containers })
}

/// One container as CRI shows it.
pub(super) fn status(entry: &PodEntry, index: usize) -> ContainerStatus {
    let record = &entry.record.containers[index];
    let client = record.client.as_deref().cloned().unwrap_or_default();
    let mut status = ContainerStatus {
        metadata: Some(metadata(&record.name, &client)),
        created_at: nanos(client.created_at),
        image: Some(ImageSpec {
            image: client.image.clone(),
            user_specified_image: client.user_specified_image.clone(),
            ..ImageSpec::default()
        }),
        image_ref: record.image_id.clone(),
        image_id: record.image_id.clone(),
        labels: client.labels.clone(),
        annotations: client.annotations.clone(),
        mounts: record.mounts.iter().map(mount).collect(),
        log_path: client.log_path.clone(),
        resources: Some(ContainerResources {
            linux: Some(resources::told(&record.limits, record.oom_score_adj)),
            windows: None,
        }),
        user: Some(ContainerUser {
            linux: Some(LinuxContainerUser {
                uid: record.user.uid.into(),
                gid: record.user.gid.into(),
                supplemental_groups: record.user.groups.iter().map(|g| i64::from(*g)).collect(),
            }),
        }),
        stop_signal: config::signal(record.stop_signal).into(),
        id: client.id,
        ..ContainerStatus::default()
    };
    match &entry.status.containers[index].state {
        State::Waiting { .. } => status.state = ContainerState::ContainerCreated.into(),
        State::Running { started_at, .. } => {
            status.state = ContainerState::ContainerRunning.into();
            status.started_at = nanos(*started_at);
        }
        State::Terminated(exit) => {
            status.state = ContainerState::ContainerExited.into();
            status.started_at = exit.started_at.map_or(0, nanos);
            status.finished_at = nanos(exit.finished_at);
            status.exit_code = exit.exit_code;
            status.reason = exit.reason.clone();
            status.message = exit.message.clone();
        }
    }
    status
}

pub(super) fn metadata(name: &str, client: &ClientContainer) -> ContainerMetadata {
    ContainerMetadata { name: name.to_owned(), attempt: client.attempt }
}

fn mount(m: &MountRecord) -> Mount {
    let host_path = match &m.source {
        MountSource::Host { path, .. } => path.clone(),
        MountSource::Volume { name } | MountSource::Memory { name } => name.clone(),
    };
    let propagation = match m.propagation {
        Propagation::Private => MountPropagation::PropagationPrivate,
        Propagation::HostToContainer => MountPropagation::PropagationHostToContainer,
        Propagation::Bidirectional => MountPropagation::PropagationBidirectional,
    };
    Mount {
        container_path: m.destination.clone(),
        host_path,
        readonly: m.access != Access::ReadWrite,
        recursive_read_only: m.access == Access::RecursiveReadOnly,
        propagation: propagation.into(),
        ..Mount::default()
    }
}
