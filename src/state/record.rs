//! What is written about a pod: `pod.json` (what it is, written at creation and again when a container's resources were changed) and `status.json`
//! (what has happened, replaced at every change).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{EphemeralContainer, Pod, ResourceRequirements};
use serde::{Deserialize, Serialize};

use crate::cgroup::{DeviceKind, DriverKind, Limits};
use crate::network;
pub use crate::probe::{HttpGet, Probes};

/// Version of both files. A file of another version is reported, never guessed at.
pub const VERSION: u32 = 3;

/// Who created the pod; a CRI client sees its own pods only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    /// `husk run`.
    Cli,
    /// A directory or URL of static pods.
    Watch,
    /// A CRI client.
    Cri,
}

impl Owner {
    /// As in the record.
    pub fn name(&self) -> &'static str {
        match self {
            Owner::Cli => "cli",
            Owner::Watch => "watch",
            Owner::Cri => "cri",
        }
    }
}

/// Where the manifest of a static pod stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The directory (absolute) or URL that `husk watch` was given.
    pub place: String,
    /// The file's name in that directory; `None` with a URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The file system that the file was on, as `st_dev`; `None` with a URL. A file that is missing from another file system did not vanish: its own is not mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<u64>,
    /// Of the manifest as it was written there, before defaults: the same hash is the same wish, whichever husk reads it.
    pub hash: String,
}

/// What Kubernetes lets change in a pod that lives, besides the resources of its containers. All of it is set, so what is absent goes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Amendment {
    /// `metadata.labels`.
    pub labels: Option<BTreeMap<String, String>>,
    /// `metadata.annotations`.
    pub annotations: Option<BTreeMap<String, String>>,
    /// `spec.activeDeadlineSeconds`.
    pub active_deadline_seconds: Option<i64>,
    /// Of a static pod.
    pub source: Option<Source>,
    /// Containers that get another image with their next instance; those that run are started again for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<Exchange>,
}

/// Another image for a container of a pod that lives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exchange {
    /// `image`.
    pub image: String,
    /// What the container's next instance is made of.
    pub record: ContainerRecord,
}

/// Which list of the manifest a container stands in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerKind {
    /// `spec.initContainers`.
    Init,
    /// `spec.containers`.
    #[default]
    App,
    /// `spec.ephemeralContainers`: added to a pod that lives, started once, and of no influence on what becomes of the pod.
    Ephemeral,
}

/// `restartPolicy`, a pod's or a container's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RestartPolicy {
    /// Whatever the exit code.
    #[default]
    Always,
    /// After any exit code but 0.
    OnFailure,
    /// Not at all.
    Never,
}

/// When a container is started again after its end, as far as it says so itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// `restartPolicy` of the container; `None`: the pod's. `Always` makes an init container a sidecar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<RestartPolicy>,
    /// `restartPolicyRules`: the first that an exit code meets counts, before the policy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RestartRule>,
}

/// One of `restartPolicyRules`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartRule {
    /// What is done.
    pub action: RestartAction,
    /// `NotIn`: the rule is met by the codes that are not listed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub not: bool,
    /// `exitCodes.values`.
    pub exit_codes: Vec<i32>,
}

/// What a rule has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RestartAction {
    /// This container is started again.
    Restart,
    /// Every container of the pod is stopped at once, and the pod begins anew in its sandbox.
    RestartAllContainers,
}

/// `lifecycle`, without the signal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hooks {
    /// `postStart`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub post_start: Option<HookAction>,
    /// `preStop`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pre_stop: Option<HookAction>,
}

impl Hooks {
    /// The action of one of them.
    pub fn get(&self, hook: Hook) -> Option<&HookAction> {
        match hook {
            Hook::PostStart => self.post_start.as_ref(),
            Hook::PreStop => self.pre_stop.as_ref(),
        }
    }

    fn is_empty(&self) -> bool {
        *self == Hooks::default()
    }
}

/// What a hook does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HookAction {
    /// `exec`: a command in the container.
    Exec {
        /// Words, not expanded.
        command: Vec<String>,
    },
    /// `httpGet`.
    HttpGet(HttpGet),
    /// `sleep`.
    Sleep {
        /// How long.
        seconds: u64,
    },
}

/// `pod.json`: everything that was decided before the first side effect. Only `resources` in `pod`, the limits and OOM scores that follow from them, and what an [`Amendment`] has
/// ever change; the file is replaced as a whole then.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PodRecord {
    /// [`VERSION`].
    pub version: u32,
    /// Who made it.
    pub owner: Owner,
    /// Where the manifest of a static pod stands: what [`Owner::Watch`] made and whose `husk watch` looks after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// What the sandbox's directories, cgroup and containers are called by: the pod's uid, or for a CRI client's 64 hexadecimal digits.
    pub id: String,
    /// Sandbox attempt, as in CRI `PodSandboxMetadata.attempt`.
    pub attempt: u32,
    /// When the pod was accepted.
    pub created_at: jiff::Timestamp,
    /// cgroup of the pod, relative to every hierarchy's mount, without a leading slash.
    pub cgroup: String,
    /// Who made it; see [`PodRecord::scope`] for systemd's.
    #[serde(default, skip_serializing_if = "DriverKind::is_default")]
    pub cgroup_driver: DriverKind,
    /// Directory with one directory of logs per container.
    pub log_dir: String,
    /// The manifest with every default filled in; `metadata.uid` is set.
    pub pod: Pod,
    /// What the sandbox is made of.
    pub sandbox: SandboxRecord,
    /// Init containers first, then app containers, each in spec order. In the file of a CRI client's pod always empty: its containers come and
    /// go, and stand in `status.json` ([`Container::made_of`]); so do ephemeral containers, which come last. Whoever reads both files finds all of them here.
    pub containers: Vec<ContainerRecord>,
}

impl PodRecord {
    /// The manifest changes: `metadata.generation` counts on from 1.
    pub fn next_generation(&mut self) {
        let generation = &mut self.pod.metadata.generation;
        *generation = Some(generation.unwrap_or(1) + 1);
    }
}

/// What pause, the pod's directories and its cgroup are made from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SandboxRecord {
    /// The pod's name for itself; the host's own on the host's network.
    pub hostname: String,
    /// The host's network, and with it the host's UTS namespace.
    pub host_network: bool,
    /// Where its network comes from, and what was reserved for it.
    #[serde(default)]
    pub network: network::Plan,
    /// The host's IPC namespace.
    pub host_ipc: bool,
    /// The host's PID namespace.
    pub host_pid: bool,
    /// Names with dots, and values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sysctls: Vec<(String, String)>,
    /// emptyDir volumes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeRecord>,
    /// Content of `/etc/resolv.conf`; `None`: the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolv_conf: Option<String>,
    /// Limits of the pod's cgroup.
    pub limits: Limits,
    /// Somebody else made the pod's cgroup (CRI `cgroup_parent`): its limits are not touched, and it is never removed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub foreign_cgroup: bool,
    /// What a CRI client's container has unless it says otherwise.
    #[serde(default)]
    pub pid: PidMode,
    /// CRI `privileged`: may have privileged containers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub privileged: bool,
    /// CRI `runtime_handler`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub runtime_handler: String,
    /// It has a place for termination messages.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub messages: bool,
}

/// An emptyDir volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// `spec.volumes[].name`.
    pub name: String,
    /// `medium: Memory`.
    pub memory: bool,
    /// Size of a volume in memory.
    pub size_bytes: Option<u64>,
}

/// What a container of the pod will be made from, resolved once (CVE-2019-11245: identity never changes on restart).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// `name` in the manifest.
    pub name: String,
    /// Init or app.
    pub kind: ContainerKind,
    /// `sha256:…` of the image's configuration.
    pub image_id: String,
    /// The image's name as stored.
    pub image_ref: String,
    /// Unpacked layers, top first: absolute directories, as overlayfs `lowerdir` wants them.
    pub layers: Vec<String>,
    /// `argv` after ENTRYPOINT/CMD/command/args and `$(VAR)` expansion.
    pub argv: Vec<String>,
    /// `NAME=value`, image first, then the manifest's.
    pub env: Vec<String>,
    /// Absolute working directory in the container.
    pub cwd: String,
    /// Numeric identity.
    pub user: Identity,
    /// Signal number that asks it to stop: `lifecycle.stopSignal`, else the image's, else SIGTERM.
    pub stop_signal: i32,
    /// When it is started again.
    #[serde(default)]
    pub restart: Restart,
    /// What tells whether it is up, alive and ready.
    #[serde(default, skip_serializing_if = "Probes::is_empty")]
    pub probes: Probes,
    /// What is run in it after its start and before it is asked to stop.
    #[serde(default, skip_serializing_if = "Hooks::is_empty")]
    pub hooks: Hooks,
    /// Where it may leave a message about its end; `None`: nowhere, or the affair of a CRI client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<EndMessage>,
    /// Has a terminal.
    pub tty: bool,
    /// Its standard input is open and silent until somebody attaches to it; else it reads end of file at once.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stdin: bool,
    /// The first client's standard input is the only one: the end of that is the end of the container's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stdin_once: bool,
    /// Which processes it sees.
    pub pid: PidMode,
    /// With [`PidMode::Target`]: the other container's name, or a CRI client's id of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub pid_target: String,
    /// All devices, all capabilities, nothing masked.
    pub privileged: bool,
    /// Names as in capabilities(7), without `CAP_`.
    pub capabilities: Vec<String>,
    /// `no_new_privs`, see prctl(2).
    pub no_new_privileges: bool,
    /// The root is mounted read-only.
    pub readonly_root: bool,
    /// Hidden from it; `None`: the usual list.
    pub masked_paths: Option<Vec<String>>,
    /// Read-only for it; `None`: the usual list.
    pub readonly_paths: Option<Vec<String>>,
    /// The AppArmor profile that it is executed under; `None`: unconfined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apparmor: Option<String>,
    /// Limits of its cgroup.
    pub limits: Limits,
    /// See proc_pid_oom_score_adj(5).
    pub oom_score_adj: i32,
    /// Volumes, parents before what is below them.
    pub mounts: Vec<MountRecord>,
    /// Devices of the host that it was given by name; a privileged container has the others, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeviceRecord>,
    /// A CRI client's words about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<Box<ClientContainer>>,
}

impl ContainerRecord {
    /// An init container that is to run as long as the pod does.
    pub fn is_sidecar(&self) -> bool {
        self.kind == ContainerKind::Init && self.restart.policy == Some(RestartPolicy::Always)
    }
}

/// Where a container's termination message comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndMessage {
    /// `terminationMessagePath`: a file of its own in the container; absolute.
    pub path: String,
    /// `terminationMessagePolicy: FallbackToLogsOnError`: the end of the log, when it fails and leaves no message.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub or_log: bool,
}

/// An ephemeral container on its way to a pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Added {
    /// What it is made of.
    pub record: ContainerRecord,
    /// What was asked for.
    pub asked: EphemeralContainer,
}

/// A device node as a container gets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRecord {
    /// Where it is in the container; absolute.
    pub path: String,
    /// Which kind.
    pub kind: DeviceKind,
    /// Its number.
    pub major: u32,
    /// Its number.
    pub minor: u32,
    /// Permissions of the node, without the type.
    pub mode: u32,
    /// Owner of the node.
    pub uid: u32,
    /// Group of the node.
    pub gid: u32,
}

/// Which PID namespace a container's processes live in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PidMode {
    /// Its own, below the pod's.
    #[default]
    Container,
    /// The pod's: `shareProcessNamespace`, CRI `POD`.
    Pod,
    /// The host's: `hostPID`, CRI `NODE`.
    Node,
    /// That of another container which has its own, [`ContainerRecord::pid_target`]: `targetContainerName`, CRI `TARGET`.
    Target,
}

/// One volume mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRecord {
    /// The volume's name, for messages.
    pub volume: String,
    /// Where in the container.
    pub destination: String,
    /// Where from.
    pub source: MountSource,
    /// A path below the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub_path: Option<String>,
    /// May it be written to?
    pub access: Access,
    /// Whether later mounts travel.
    pub propagation: Propagation,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MountSource {
    /// A path of the host.
    Host {
        /// Absolute.
        path: String,
        /// `hostPath.type`; empty: no check.
        #[serde(rename = "type")]
        typ: String,
    },
    /// An emptyDir on the disk.
    Volume {
        /// Its name.
        name: String,
    },
    /// An emptyDir in memory.
    Memory {
        /// Its name.
        name: String,
    },
}

/// Whether a mount may be written to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Access {
    /// Yes.
    #[default]
    ReadWrite,
    /// No; mounts below it keep what they are.
    ReadOnly,
    /// No, nor anything mounted below it.
    RecursiveReadOnly,
}

/// `mountPropagation`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Propagation {
    /// None.
    #[default]
    Private,
    /// From the host into the container.
    HostToContainer,
    /// Both ways.
    Bidirectional,
}

/// What a CRI client said about a container and wants to hear again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClientContainer {
    /// 64 hexadecimal digits.
    pub id: String,
    /// `metadata.attempt`.
    pub attempt: u32,
    /// `labels`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// `annotations`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// `image.image`, as given.
    pub image: String,
    /// `image.user_specified_image`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user_specified_image: String,
    /// Absolute path of the log; empty: none is kept.
    pub log_path: String,
    /// When it was created.
    pub created_at: jiff::Timestamp,
}

/// Numeric identity of a container's process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// User id, at most 2^31-1.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// `status.json`: what has happened so far. The supervisor is the only writer while one lives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`VERSION`].
    pub version: u32,
    /// Boot id of the kernel that the pids and CLOCK_BOOTTIME deadlines below belong to.
    pub boot_id: String,
    /// `status.startTime`.
    pub start_time: jiff::Timestamp,
    /// The sandbox, once made.
    pub sandbox: Option<Sandbox>,
    /// When the last init container had succeeded (and the last sidecar had started). Unset only when a new sandbox is made and when all containers begin anew, so that
    /// init containers do not run twice.
    pub initialized_at: Option<jiff::Timestamp>,
    /// Same order as [`PodRecord::containers`].
    pub containers: Vec<Container>,
    /// Set by the first `delete`; later ones may only bring `deadline` nearer.
    pub deletion: Option<Deletion>,
    /// Set when the pod has come to its end (phase Succeeded or Failed) and its sandbox is gone.
    pub finished_at: Option<jiff::Timestamp>,
    /// `status.reason` and `status.message`, when the pod as a whole failed.
    pub failure: Option<Failure>,
    /// The pod comes to its end by itself: nothing is started any more, and what still runs is asked to stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Ending>,
    /// `start_time` as CLOCK_BOOTTIME nanoseconds, for `activeDeadlineSeconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_boot_ns: Option<u64>,
    /// A restart rule has every container begin anew: since then. Unset when all have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restarting_all: Option<RestartingAll>,
    /// Which conditions hold, and since when: husk's own, and those that users have set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<ConditionRecord>,
    /// A CRI client has stopped the sandbox: everything in it is killed, and it stays over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stopped: bool,
    /// A change of a container's resources that is under way. When it is done the new ones stand in `pod.json`, and here is nothing any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resize: Option<Box<Resize>>,
}

/// The end of a pod that nobody has asked for: its work is done or has failed, or its time is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// How long what runs may take: the pod's `terminationGracePeriodSeconds`.
    pub grace_seconds: u64,
    /// When that is over: CLOCK_BOOTTIME nanoseconds.
    pub deadline_boot_ns: u64,
}

/// A restart of all containers that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartingAll {
    /// Whose exit has caused it.
    pub container: String,
    /// Its exit code.
    pub exit_code: i32,
    /// When.
    pub since: jiff::Timestamp,
    /// When what still runs is killed: CLOCK_BOOTTIME nanoseconds.
    pub deadline_boot_ns: u64,
}

/// One of `status.conditions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConditionRecord {
    /// `type`.
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// `lastTransitionTime`.
    pub since: jiff::Timestamp,
    /// Why, in a CamelCase word; of husk's own it follows from the rest.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The same, in a sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// A change of one container's resources.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resize {
    /// Its name.
    pub container: String,
    /// What it shall have.
    pub resources: ResourceRequirements,
    /// When that was asked for.
    pub requested_at: jiff::Timestamp,
}

/// Why a pod failed as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// CamelCase word.
    pub reason: String,
    /// Sentence.
    pub message: String,
}

/// The process that holds the pod's namespaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// pid of pause in the host's PID namespace.
    pub pid: i32,
    /// Field 22 of `/proc/<pid>/stat`; a pid is trusted only together with it and the boot id.
    pub start_ticks: u64,
    /// When it was ready.
    pub ready_at: jiff::Timestamp,
    /// Set when pause has died.
    pub ended: bool,
    /// Its network, once made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Box<network::Status>>,
    /// How many sandboxes the pod had before this one.
    #[serde(default, skip_serializing_if = "is_zero_u32")]
    pub attempt: u32,
    /// Another was to take its place and could not be made: CLOCK_BOOTTIME nanoseconds before which that is not tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_boot_ns: Option<u64>,
}

/// A request to end the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deletion {
    /// `metadata.deletionTimestamp`.
    pub requested_at: jiff::Timestamp,
    /// `metadata.deletionGracePeriodSeconds`.
    pub grace_seconds: u64,
    /// When SIGKILL comes: CLOCK_BOOTTIME nanoseconds. Who was asked to stop less than 2 s before has that long still, unless `force`.
    pub deadline_boot_ns: u64,
    /// Nobody is asked, and no hook runs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// One container slot of the pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Container {
    /// `name` in the manifest.
    pub name: String,
    /// Init or app.
    pub kind: ContainerKind,
    /// Number of the current instance: 0 for the first; `restartCount`.
    pub attempt: u32,
    /// The current instance.
    pub state: State,
    /// `lastState`: how the previous instance ended.
    pub last: Option<Exit>,
    /// Crash-loop back-off, when one was imposed.
    pub backoff: Option<Backoff>,
    /// Number of the container within the pod, under which keeper holds its fds: it stays when others are removed.
    pub slot: u32,
    /// It shall stop, whatever becomes of the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<Stop>,
    /// When the current instance was sent its stop signal: CLOCK_BOOTTIME nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopping_since_boot_ns: Option<u64>,
    /// It has to begin once more: the pod has another sandbox, or all containers were started anew.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub anew: bool,
    /// The last hook of the current instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<HookRun>,
    /// What the startup probe of the current instance has come to; `None`: there is none, or nothing is known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<bool>,
    /// The same of the readiness probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// How many processes of the current instance the kernel has killed for want of memory, and the main one lived on.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub oom_kills: u64,
    /// An ephemeral container as it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ephemeral: Option<Box<EphemeralContainer>>,
    /// What it is made from, if it is an ephemeral container or in a CRI client's pod: these come and go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_of: Option<Box<ContainerRecord>>,
    /// What its next instance is made of, if that is something else than this one's: it gets another image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Box<ContainerRecord>>,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

fn is_zero_u32(n: &u32) -> bool {
    *n == 0
}

/// A request that one container stops while its pod lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// What for. It decides what happens afterwards.
    pub why: StopWhy,
    /// What the container is given; with 0 no hook runs.
    pub grace_seconds: u64,
    /// When SIGKILL comes: CLOCK_BOOTTIME nanoseconds. Unless a CRI client has asked, who was sent the stop signal less than 2 s before has that long still.
    pub deadline_boot_ns: u64,
}

/// What a container is stopped for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StopWhy {
    /// A CRI client wants it to.
    Client,
    /// It gets other resources with the next instance, at once.
    Resize,
    /// A user wants it to be started again, at once.
    Restart,
    /// It gets another image with the next instance, at once.
    Image,
    /// Its liveness probe has failed: an end like any other, with back-off.
    Liveness,
    /// Its startup probe has failed, the same.
    Startup,
    /// Its postStart hook has failed, the same.
    PostStart,
    /// A user wants it gone for good: an ephemeral container.
    Remove,
}

/// Which hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Hook {
    /// Right after the start.
    PostStart,
    /// Before the stop signal.
    PreStop,
}

impl Hook {
    /// As in the manifest.
    pub fn word(self) -> &'static str {
        match self {
            Hook::PostStart => "postStart",
            Hook::PreStop => "preStop",
        }
    }
}

/// A hook that was begun. It is begun once an instance, whatever becomes of the supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookRun {
    /// Which.
    pub hook: Hook,
    /// Since when: CLOCK_BOOTTIME nanoseconds.
    pub begun_boot_ns: u64,
    /// When it is over whatever it does: CLOCK_BOOTTIME nanoseconds. `None`: it has its time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_boot_ns: Option<u64>,
    /// Its process, for `exec`: pid and start time as in [`Sandbox`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<(i32, u64)>,
    /// It is over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub done: bool,
    /// Why it failed; empty: it has not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub failure: String,
}

/// State of the current instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "camelCase")]
pub enum State {
    /// No process. `reason` is one of Kubernetes' words.
    Waiting {
        /// e.g. `ContainerCreating`, `PodInitializing`, `CrashLoopBackOff`.
        reason: String,
        /// Sentence, may be empty.
        message: String,
    },
    /// Started, or about to be: written before the start handle is released.
    Running {
        /// 64 hex digits, derived from uid, name and attempt.
        id: String,
        /// Host pid.
        pid: i32,
        /// See [`Sandbox::start_ticks`].
        start_ticks: u64,
        /// When it was released.
        started_at: jiff::Timestamp,
        /// SIGTERM (or the stop signal) was sent, or is about to be.
        stopping: bool,
    },
    /// Over.
    Terminated(Exit),
}

/// How an instance ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exit {
    /// Container id.
    pub id: String,
    /// Instance number.
    pub attempt: u32,
    /// The process's exit code, or 128 + signal; 128 when it never started.
    pub exit_code: i32,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, `PostStartHookError`, `ContainerStatusUnknown`.
    pub reason: String,
    /// A sentence of ours, the container's termination message, or the one, a colon and the other; may be empty.
    pub message: String,
    /// Start, if it was started.
    pub started_at: Option<jiff::Timestamp>,
    /// End.
    pub finished_at: jiff::Timestamp,
    /// End as CLOCK_BOOTTIME nanoseconds, for the back-off.
    pub finished_boot_ns: u64,
    /// How many of its processes the kernel has killed for want of memory, the main one included.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub oom_kills: u64,
}

/// Crash-loop back-off of one container: first restart at once, then 10 s doubling to 300 s, forgotten 600 s after the last update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    /// Delay now in force, milliseconds.
    pub delay_ms: u64,
    /// When it was last changed: CLOCK_BOOTTIME nanoseconds.
    pub updated_boot_ns: u64,
}
