//! The pod as Kubernetes shows it.

mod conditions;
mod printable;

pub use conditions::{apply_conditions, set_condition};
pub use printable::printable_status;

use super::rules::{any_running, is_running, is_sidecar, pod_settled, ready, sandbox_alive, started};
use crate::manifest;
use crate::state::record::{Access, Container, ContainerKind, ContainerRecord, Exit, PodRecord, State, Status};
use k8s_openapi::api::core::v1::{
    self, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    ContainerUser, HostIP, LinuxContainerUser, Pod, PodIP, PodStatus, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::fmt;
use std::net::IpAddr;

/// Whether the pod's lock is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// keeper lives.
    Alive,
    /// Nobody watches the pod: what the status says is running is not.
    Dead,
    /// The same, and the host was started anew since: nobody can know how what ran has ended.
    OtherBoot,
}

/// `status.phase`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Something has never run yet.
    Pending,
    /// Something runs or will be restarted.
    Running,
    /// All ended with 0, nothing will be restarted.
    Succeeded,
    /// Ended otherwise.
    Failed,
    /// It cannot be learnt.
    Unknown,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Phase::Pending => "Pending",
            Phase::Running => "Running",
            Phase::Succeeded => "Succeeded",
            Phase::Failed => "Failed",
            Phase::Unknown => "Unknown",
        })
    }
}

/// What the messages of all containers' ends may have together (bytes), an equal share for each: the kubelet's number.
const MESSAGES_BYTES: usize = 12 << 10;

/// What a reader is told about a container whose end nobody saw.
const UNKNOWN_REASON: &str = "ContainerStatusUnknown";
const UNKNOWN_EXIT_CODE: i32 = 137;

/// The kubelet's phase. Succeeded and Failed never change again.
pub fn phase(record: &PodRecord, status: &Status, live: Liveness) -> Phase {
    let all = |kind| status.containers.iter().filter(move |c| c.kind == kind);
    let succeeded = |c: &Container| matches!(&c.state, State::Terminated(exit) if exit.exit_code == 0);
    let running = live == Liveness::Alive && any_running(status);
    if status.failure.is_some() && !running {
        return Phase::Failed;
    }
    if live == Liveness::OtherBoot && status.finished_at.is_none() && !pod_settled(record, status) {
        return Phase::Unknown;
    }
    let gone = record.driven() && status.sandbox.as_ref().is_some_and(|s| s.ended);
    let over = status.finished_at.is_some() || gone || live != Liveness::Alive;
    if over {
        let done = pod_settled(record, status) || live == Liveness::Alive || status.finished_at.is_some();
        return if done && all(ContainerKind::App).all(succeeded) { Phase::Succeeded } else { Phase::Failed };
    }
    if record.driven() {
        // Which containers there shall be its client knows alone.
        return if all(ContainerKind::App).any(is_running) { Phase::Running } else { Phase::Pending };
    }
    let never_ended = |c: &&Container| matches!(c.state, State::Waiting { .. }) && c.last.is_none();
    if status.initialized_at.is_none() {
        let failed = pod_settled(record, status);
        return if failed && !running { Phase::Failed } else { Phase::Pending };
    }
    // A container that is yet to run: `last` tells of one that has, also in an earlier sandbox.
    if all(ContainerKind::App).any(|c| never_ended(&c)) {
        Phase::Pending
    } else if !pod_settled(record, status) || running {
        Phase::Running
    } else if all(ContainerKind::App).all(succeeded) {
        Phase::Succeeded
    } else {
        Phase::Failed
    }
}

/// How many processes of a container the kernel has killed for want of memory: of the instance that runs, or of the last one.
pub fn oom_kills(c: &Container) -> u64 {
    match &c.state {
        State::Running { .. } => c.oom_kills,
        State::Terminated(exit) => exit.oom_kills,
        State::Waiting { .. } => c.last.as_ref().map_or(0, |exit| exit.oom_kills),
    }
}

/// The pod with its `.status`, as `husk get pod -o yaml` prints it.
pub fn to_v1(record: &PodRecord, status: &Status, live: Liveness) -> Pod {
    let mut pod = record.pod.clone();
    pod.metadata.creation_timestamp = Some(Time(record.created_at));
    if let (true, Some(spec)) = (record.driven(), &mut pod.spec) {
        spec.containers = record.containers.iter().map(client_container).collect();
    }
    let added: Vec<_> = status.containers.iter().filter_map(|c| c.ephemeral.as_deref().cloned()).collect();
    if let (false, Some(spec)) = (added.is_empty(), &mut pod.spec) {
        spec.ephemeral_containers = Some(added);
    }
    if let Some(deletion) = &status.deletion {
        // As an API server has it: the time at which the grace is over.
        let grace = i64::try_from(deletion.grace_seconds).unwrap_or(i64::MAX);
        let end = deletion.requested_at.checked_add(jiff::SignedDuration::from_secs(grace));
        pod.metadata.deletion_timestamp = Some(Time(end.unwrap_or(jiff::Timestamp::MAX)));
        pod.metadata.deletion_grace_period_seconds = Some(grace);
    }
    if let Some(resize) = &status.resize {
        // As an API server has it: the spec is what is wanted, the status what there is.
        manifest::set_resources(&mut pod, &resize.container, resize.resources.clone());
    }
    // A wish that is not fulfilled yet is in the spec already, and known to whoever fulfils it.
    let generation = pod.metadata.generation.unwrap_or(1) + i64::from(status.resize.is_some());
    let generation = (!record.driven()).then_some(generation);
    pod.metadata.generation = generation;
    let seen = Seen { record, status, live };
    let lost = live != Liveness::Alive && status.finished_at.is_none();
    let (reason, message) = match &status.failure {
        Some(failure) => (Some(failure.reason.clone()), Some(failure.message.clone())),
        None if lost && !pod_settled(record, status) => {
            let message = match live {
                Liveness::OtherBoot => "the host was started anew, and how the pod had ended before nobody has seen",
                _ => "the pod's processes are gone: they were killed, and nobody has seen how they ended",
            };
            (Some("SandboxLost".to_owned()), Some(message.to_owned()))
        }
        None => (None, None),
    };
    let network = status.sandbox.as_ref().and_then(|s| s.network.as_deref());
    let pod_ips = network.map(|n| n.ips.as_slice()).unwrap_or_default();
    let host_ips = network.map(|n| n.host_ips.as_slice()).unwrap_or_default();
    let list = |ips: &[IpAddr]| Some(ips.iter().map(ToString::to_string).collect::<Vec<_>>()).filter(|l| !l.is_empty());
    pod.status = Some(PodStatus {
        host_ip: host_ips.first().map(ToString::to_string),
        host_ips: list(host_ips).map(|ips| ips.into_iter().map(|ip| HostIP { ip }).collect()),
        pod_ip: pod_ips.first().map(ToString::to_string),
        pod_ips: list(pod_ips).map(|ips| ips.into_iter().map(|ip| PodIP { ip }).collect()),
        phase: Some(phase(record, status, live).to_string()),
        conditions: Some(conditions::conditions(&seen, generation)),
        observed_generation: generation,
        container_statuses: Some(seen.container_statuses(ContainerKind::App)),
        init_container_statuses: Some(seen.container_statuses(ContainerKind::Init)).filter(|s| !s.is_empty()),
        ephemeral_container_statuses: Some(seen.container_statuses(ContainerKind::Ephemeral)).filter(|s| !s.is_empty()),
        qos_class: pod.spec.as_ref().map(|s| manifest::qos_class(s).to_string()),
        start_time: Some(Time(status.start_time)),
        reason,
        message,
        ..Default::default()
    });
    pod
}

/// `user`: what the container's first process begins as.
fn user(c: &ContainerRecord) -> ContainerUser {
    let groups: Vec<i64> = c.user.groups.iter().map(|g| i64::from(*g)).collect();
    let linux = LinuxContainerUser {
        uid: i64::from(c.user.uid),
        gid: i64::from(c.user.gid),
        supplemental_groups: Some(groups).filter(|g| !g.is_empty()),
    };
    ContainerUser { linux: Some(linux) }
}

/// `volumeMounts`: as they are, where the manifest says `IfPossible`.
fn mounts(c: &ContainerRecord) -> Vec<VolumeMountStatus> {
    let named = c.mounts.iter().filter(|m| !m.volume.is_empty());
    named
        .map(|m| VolumeMountStatus {
            name: m.volume.clone(),
            mount_path: m.destination.clone(),
            read_only: Some(m.access != Access::ReadWrite),
            recursive_read_only: match m.access {
                Access::ReadWrite => None,
                Access::ReadOnly => Some("Disabled".to_owned()),
                Access::RecursiveReadOnly => Some("Enabled".to_owned()),
            },
        })
        .collect()
}

/// `SIGTERM`, `SIGRTMIN+3`.
fn signal_name(number: i32) -> Option<String> {
    /// The first and the last of the realtime signals, as the C library counts them.
    const REALTIME: std::ops::RangeInclusive<i32> = 34..=64;
    match number {
        n if REALTIME.contains(&n) => Some(format!("SIGRTMIN+{}", n - REALTIME.start())),
        n => nix::sys::signal::Signal::try_from(n).ok().map(|s| s.as_str().to_owned()),
    }
}

/// As much of a CRI client's container as a manifest would say.
fn client_container(c: &ContainerRecord) -> v1::Container {
    v1::Container {
        name: c.name.clone(),
        image: Some(c.image_ref.clone()),
        args: Some(c.argv.clone()),
        working_dir: Some(c.cwd.clone()),
        tty: c.tty.then_some(true),
        ..v1::Container::default()
    }
}

/// What the status is derived from.
struct Seen<'a> {
    record: &'a PodRecord,
    status: &'a Status,
    live: Liveness,
}

impl Seen<'_> {
    fn of(&self, kind: ContainerKind) -> impl Iterator<Item = (usize, &Container)> {
        self.status.containers.iter().enumerate().filter(move |(_, c)| c.kind == kind)
    }

    fn alive(&self) -> bool {
        self.live == Liveness::Alive
    }

    fn runs(&self, c: &Container) -> bool {
        self.alive() && matches!(c.state, State::Running { .. })
    }

    /// An init container that is no sidecar is ready when it has succeeded; an ephemeral one never is.
    fn ready(&self, index: usize, c: &Container) -> bool {
        match c.kind {
            ContainerKind::Init if !is_sidecar(self.record, index) => {
                matches!(&c.state, State::Terminated(exit) if exit.exit_code == 0)
            }
            // In a sandbox that is lost they are dying.
            ContainerKind::Init | ContainerKind::App => {
                self.runs(c) && sandbox_alive(self.status) && ready(self.record, index, c)
            }
            ContainerKind::Ephemeral => false,
        }
    }

    fn container_statuses(&self, kind: ContainerKind) -> Vec<ContainerStatus> {
        self.of(kind)
            .map(|(index, c)| {
                let made_of = self.record.containers.get(index);
                let resources = manifest::container(&self.record.pod, &c.name).and_then(|c| c.resources.clone());
                ContainerStatus {
                    name: c.name.clone(),
                    state: Some(self.cut(self.state(c))),
                    last_state: Some(self.cut(c.last.as_ref().map_or_else(ContainerState::default, terminated))),
                    ready: self.ready(index, c),
                    started: Some(self.runs(c) && started(self.record, index, c)),
                    restart_count: i32::try_from(c.attempt).unwrap_or(i32::MAX),
                    image: made_of.map(|r| r.image_ref.clone()).unwrap_or_default(),
                    image_id: made_of.map(|r| r.image_id.clone()).unwrap_or_default(),
                    container_id: container_id(c),
                    allocated_resources: resources.as_ref().and_then(|r| r.requests.clone()),
                    resources,
                    user: made_of.map(user),
                    volume_mounts: made_of.map(mounts).filter(|m| !m.is_empty()),
                    stop_signal: made_of.and_then(|r| signal_name(r.stop_signal)),
                    ..Default::default()
                }
            })
            .collect()
    }

    /// Cuts the message of an end to the container's share.
    fn cut(&self, mut state: ContainerState) -> ContainerState {
        if let Some(message) = state.terminated.as_mut().and_then(|end| end.message.as_mut()) {
            let share = MESSAGES_BYTES / self.status.containers.len().max(1);
            message.truncate(message.floor_char_boundary(share));
        }
        state
    }

    fn state(&self, c: &Container) -> ContainerState {
        match &c.state {
            State::Waiting { reason, message } => ContainerState {
                waiting: Some(ContainerStateWaiting { reason: text(reason), message: text(message) }),
                ..Default::default()
            },
            State::Terminated(exit) => terminated(exit),
            State::Running { started_at, .. } if self.runs(c) => ContainerState {
                running: Some(ContainerStateRunning { started_at: Some(Time(*started_at)) }),
                ..Default::default()
            },
            State::Running { id, started_at, .. } => ContainerState {
                terminated: Some(ContainerStateTerminated {
                    container_id: Some(url(id)),
                    exit_code: UNKNOWN_EXIT_CODE,
                    reason: text(UNKNOWN_REASON),
                    message: text("its process is gone and nobody saw how it ended"),
                    started_at: Some(Time(*started_at)),
                    ..Default::default()
                }),
                ..Default::default()
            },
        }
    }
}

fn terminated(exit: &Exit) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: Some(exit.id.as_str()).filter(|id| !id.is_empty()).map(url),
            exit_code: exit.exit_code,
            signal: exit.signal,
            reason: text(&exit.reason),
            message: text(&exit.message),
            started_at: exit.started_at.map(Time),
            finished_at: Some(Time(exit.finished_at)),
        }),
        ..Default::default()
    }
}

/// Of the current instance, or of the last one while none exists.
fn container_id(c: &Container) -> Option<String> {
    let id = match &c.state {
        State::Running { id, .. } => Some(id),
        State::Terminated(exit) => Some(&exit.id),
        State::Waiting { .. } => c.last.as_ref().map(|exit| &exit.id),
    };
    id.filter(|id| !id.is_empty()).map(|id| url(id))
}

fn url(id: &str) -> String {
    format!("husk://{id}")
}

fn text(s: &str) -> Option<String> {
    Some(s.to_owned()).filter(|s| !s.is_empty())
}
