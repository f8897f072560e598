//! What is written about a pod: `pod.json` (fixed at creation) and `status.json` (replaced at every change).

use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

/// Version of both files. A file of another version is reported, never guessed at.
pub const VERSION: u32 = 1;

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

/// Which list of the manifest a container stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerKind {
    /// `spec.initContainers`.
    Init,
    /// `spec.containers`.
    App,
}

/// `pod.json`: everything that was decided before the first side effect.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PodRecord {
    /// [`VERSION`].
    pub version: u32,
    /// Who made it.
    pub owner: Owner,
    /// Sandbox attempt, as in CRI `PodSandboxMetadata.attempt`.
    pub attempt: u32,
    /// When the pod was accepted.
    pub created_at: jiff::Timestamp,
    /// cgroup of the pod, relative to every hierarchy's mount, without a leading slash.
    pub cgroup: String,
    /// Directory with one directory of logs per container.
    pub log_dir: String,
    /// The manifest with every default filled in; `metadata.uid` is set.
    pub pod: Pod,
    /// Init containers first, then app containers, each in spec order.
    pub containers: Vec<ContainerRecord>,
}

/// What a container of the pod will be made from, resolved once (CVE-2019-11245: identity never changes on restart).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// Signal number that asks it to stop; from the image, else SIGTERM.
    pub stop_signal: i32,
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
    /// When the last init container had succeeded; never unset, so that init containers do not run twice.
    pub initialized_at: Option<jiff::Timestamp>,
    /// Same order as [`PodRecord::containers`].
    pub containers: Vec<Container>,
    /// Set by the first `delete`; later ones may only bring `deadline` nearer.
    pub deletion: Option<Deletion>,
    /// Set when the pod has come to its end (phase Succeeded or Failed) and its sandbox is gone.
    pub finished_at: Option<jiff::Timestamp>,
    /// `status.reason` and `status.message`, when the pod as a whole failed.
    pub failure: Option<Failure>,
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
}

/// A request to end the pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deletion {
    /// `metadata.deletionTimestamp`.
    pub requested_at: jiff::Timestamp,
    /// `metadata.deletionGracePeriodSeconds`.
    pub grace_seconds: u64,
    /// When SIGKILL comes: CLOCK_BOOTTIME nanoseconds.
    pub deadline_boot_ns: u64,
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
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, `ContainerStatusUnknown`.
    pub reason: String,
    /// Sentence, may be empty.
    pub message: String,
    /// Start, if it was started.
    pub started_at: Option<jiff::Timestamp>,
    /// End.
    pub finished_at: jiff::Timestamp,
    /// End as CLOCK_BOOTTIME nanoseconds, for the back-off.
    pub finished_boot_ns: u64,
}

/// Crash-loop back-off of one container: first restart at once, then 10 s doubling to 300 s, forgotten 600 s after the last update.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    /// Delay now in force, milliseconds.
    pub delay_ms: u64,
    /// When it was last changed: CLOCK_BOOTTIME nanoseconds.
    pub updated_boot_ns: u64,
}
