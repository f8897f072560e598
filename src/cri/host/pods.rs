//! Pod sandboxes in CRI's words.

use std::collections::BTreeMap;

use super::config::{self, selected};
use super::containers;
use crate::control::Refusal;
use crate::cri::messages::*;
use crate::cri::status::{Code, Status};
use crate::runtime::Settings;
use crate::runtime::driven::{self, Refused};
use crate::state::record::{PidMode, PodRecord};
use crate::state::{PodEntry, Roots};

impl From<Refused> for Status {
    fn from(refused: Refused) -> Status {
        let code = match refused.why {
            Refusal::Unknown => Code::Unknown,
            Refusal::NotFound => Code::NotFound,
            Refusal::AlreadyExists => Code::AlreadyExists,
            Refusal::FailedPrecondition => Code::FailedPrecondition,
            Refusal::InvalidArgument => Code::InvalidArgument,
        };
        Status::new(code, refused.message)
    }
}

impl From<crate::runtime::Error> for Status {
    fn from(e: crate::runtime::Error) -> Status {
        Refused::from(e).into()
    }
}

pub(super) fn run(
    roots: &Roots,
    settings: &Settings,
    request: RunPodSandboxRequest,
) -> Result<RunPodSandboxResponse, Status> {
    let record = config::sandbox(roots, settings, request)?;
    let outcome = crate::runtime::run_record(roots, settings, &record)?;
    if !outcome.created && !ready(&driven::sandbox(roots, &outcome.id)?) {
        let what = "exists and is not ready; remove it, or use another attempt";
        return Err(Status::new(Code::AlreadyExists, format!("pod sandbox {}: {what}", outcome.id)));
    }
    Ok(RunPodSandboxResponse { pod_sandbox_id: outcome.id })
}

pub(super) fn status(roots: &Roots, request: PodSandboxStatusRequest) -> Result<PodSandboxStatusResponse, Status> {
    let entry = driven::sandbox(roots, &request.pod_sandbox_id)?;
    let mut info = BTreeMap::new();
    if request.verbose {
        let sandbox = entry.status.sandbox.as_ref().filter(|_| ready(&entry));
        let detail = serde_json::json!({
            "pid": sandbox.map(|s| s.pid),
            "cgroup": entry.record.cgroup,
            "logDirectory": entry.record.log_dir,
        });
        info.insert("info".to_owned(), detail.to_string());
    }
    Ok(PodSandboxStatusResponse {
        status: Some(message(&entry)),
        info,
        containers_statuses: (0..entry.record.containers.len())
            .map(|index| containers::status(&entry, index))
            .collect(),
        timestamp: nanos(jiff::Timestamp::now()),
    })
}

pub(super) fn list(roots: &Roots, request: ListPodSandboxRequest) -> Result<ListPodSandboxResponse, Status> {
    let filter = request.filter.unwrap_or_default();
    let mut items: Vec<PodSandbox> = driven::sandboxes(roots)?
        .iter()
        .map(message)
        .filter(|s| filter.id.is_empty() || s.id.starts_with(&filter.id))
        .filter(|s| filter.state.is_none_or(|wanted| wanted.state == s.state))
        .filter(|s| selected(&s.labels, &filter.label_selector))
        .map(|s| PodSandbox {
            id: s.id,
            metadata: s.metadata,
            state: s.state,
            created_at: s.created_at,
            labels: s.labels,
            annotations: s.annotations,
            runtime_handler: s.runtime_handler,
        })
        .collect();
    items.sort_by_key(|s| std::cmp::Reverse(s.created_at));
    Ok(ListPodSandboxResponse { items })
}

/// Whether containers can be created in it.
pub(super) fn ready(entry: &PodEntry) -> bool {
    entry.live && crate::pod::accepts_containers(&entry.status)
}

pub(super) fn metadata(record: &PodRecord) -> PodSandboxMetadata {
    PodSandboxMetadata {
        name: record.name().to_owned(),
        uid: record.uid().to_owned(),
        namespace: record.namespace().to_owned(),
        attempt: record.attempt,
    }
}

pub(super) fn message(entry: &PodEntry) -> PodSandboxStatus {
    let record = &entry.record;
    let sandbox = &record.sandbox;
    let of_host = |host: bool| i32::from(if host { NamespaceMode::Node } else { NamespaceMode::Pod });
    let options = NamespaceOption {
        network: of_host(sandbox.host_network),
        pid: match sandbox.pid {
            PidMode::Container => NamespaceMode::Container,
            PidMode::Pod => NamespaceMode::Pod,
            PidMode::Node => NamespaceMode::Node,
            // Never a sandbox's.
            PidMode::Target => NamespaceMode::Target,
        }
        .into(),
        ipc: of_host(sandbox.host_ipc),
        ..NamespaceOption::default()
    };
    let state = if ready(entry) { PodSandboxState::SandboxReady } else { PodSandboxState::SandboxNotready };
    let words = |words: &Option<BTreeMap<String, String>>| words.clone().unwrap_or_default();
    PodSandboxStatus {
        id: entry.id.clone(),
        metadata: Some(metadata(record)),
        state: state.into(),
        created_at: nanos(record.created_at),
        network: Some(addresses(entry)),
        linux: Some(LinuxPodSandboxStatus { namespaces: Some(Namespace { options: Some(options) }) }),
        labels: words(&record.pod.metadata.labels),
        annotations: words(&record.pod.metadata.annotations),
        runtime_handler: sandbox.runtime_handler.clone(),
    }
}

/// On the host's network CRI wants none.
fn addresses(entry: &PodEntry) -> PodSandboxNetworkStatus {
    let network = entry.status.sandbox.as_ref().and_then(|s| s.network.as_ref());
    let mut ips =
        network.filter(|_| !entry.record.sandbox.host_network).map(|n| n.ips.as_slice()).unwrap_or_default().iter();
    PodSandboxNetworkStatus {
        ip: ips.next().map(ToString::to_string).unwrap_or_default(),
        additional_ips: ips.map(|ip| PodIp { ip: ip.to_string() }).collect(),
    }
}

/// Nanoseconds since 1970, as CRI counts.
pub(super) fn nanos(time: jiff::Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX)
}
