//! The control socket's messages: `control.sock` in the pod directory, `SOCK_SEQPACKET`, one JSON object a packet, at most 128 KiB
//! (`EMSGSIZE` beyond). root only (0700 directory and peer credentials). One request a connection.

pub mod client;

use serde::{Deserialize, Serialize};

use crate::cgroup::Limits;
use crate::manifest::Amounts;
use crate::state::timeline::Step;

impl Response {
    /// A refusal; what a command line exits with is 1.
    pub fn refused(why: Refusal, message: impl Into<String>) -> Response {
        Response::Error { exit_code: 1, message: message.into(), why }
    }
}

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "camelCase", deny_unknown_fields)]
pub enum Request {
    /// End the pod. Answered by `Ok` when every process is dead and nothing of it is left but keeper and the supervisor, which exit next.
    Delete {
        /// Seconds; `None` = the pod's own `terminationGracePeriodSeconds`.
        grace_seconds: Option<u64>,
        /// Kill at once.
        force: bool,
        /// Answer `Ok` as soon as the deletion was recorded.
        nowait: bool,
        /// Answer `Ended` instead of `Ok` at the end.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        timeline: bool,
    },
    /// Who are you? Answered by `Version`.
    Version,
    /// Make room for a successor: the fd that comes with the packet is the executable of the next supervisor. Answered by `Ok` when keeper has
    /// it; the supervisor then exits, and the next one answers what is asked from here on.
    Upgrade {
        /// What the successor can go on from.
        knows: Formats,
    },
    /// Run a process in a container. fds come with the packet: stdin, stdout, stderr (already pipes), or none with `tty`.
    /// Answers: `Started` (with the pty master as an fd when `tty`; more than once when a supervisor died meanwhile), then `Exited`; or `Error`
    /// with `exit_code` 125, 126 or 127. keeper holds the connection, so that the answer comes whatever becomes of the supervisor; one that ends
    /// before `Started` has run nothing.
    Exec {
        /// Container id or name; `None` = the first app container.
        container: Option<String>,
        /// Command and arguments.
        argv: Vec<String>,
        /// Allocate a terminal.
        tty: bool,
        /// Rows and columns of the terminal.
        size: Option<(u16, u16)>,
        /// Kill it, with all that it has started, after so many milliseconds.
        timeout_ms: Option<u64>,
    },
    /// Attach to a container. Answered by `Attached`, and by `Exited` when the instance ends; its output is in its log. A connection that ends before that
    /// is made again, with `instance`.
    Attach {
        /// Container id or name; `None` = the first app container.
        container: Option<String>,
        /// Only wait for the end of this instance, which may have come; its id. What else is asked does not count then.
        instance: Option<String>,
        /// To its standard input. When that is for one client only, the fd that comes with the answer is its last writer.
        stdin: bool,
        /// To an instance that has ended, too, if none runs.
        ended: bool,
    },
    /// Add a container, in a pod that a client drives. An fd comes with the packet: a file with its
    /// [`ContainerRecord`](crate::state::record::ContainerRecord) as JSON. The same container again is fine.
    Create,
    /// Start a container that was created.
    Start {
        /// Container id.
        id: String,
    },
    /// Ask a container to stop, and kill it when the time is over. Answered when it has ended. One that does not run is fine.
    Stop {
        /// Container id.
        id: String,
        /// 0: kill it at once.
        timeout_ms: u64,
    },
    /// Remove a container; one that runs is killed first, one that is not there is fine.
    Remove {
        /// Container id.
        id: String,
    },
    /// Change a container's limits.
    Update {
        /// Container id.
        id: String,
        /// All of them: what is absent is without a limit.
        limits: Box<Limits>,
    },
    /// Change the resources of a container of a pod that lives by its manifest. Answered when they hold: after the container's end when it has to be
    /// started again for that.
    Resize {
        /// Its name; `None` = the only app container.
        container: Option<String>,
        /// What changes.
        amounts: Box<Amounts>,
    },
    /// Stop a container of a pod that lives by its manifest in order, and start it again without back-off. Answered when the wish is on disk.
    Restart {
        /// Its name; `None` = all that run or wait for their next start.
        container: Option<String>,
    },
    /// Change what else may change in a pod that lives by its manifest. An fd comes with the packet: a file with the
    /// [`Amendment`](crate::state::record::Amendment) as JSON. Answered when it is on disk.
    Amend,
    /// Set a condition that is not husk's own. Answered when it is on disk.
    Condition {
        /// `type`.
        kind: String,
        /// `True`, `False` or `Unknown`; `None` removes it.
        status: Option<String>,
        /// A CamelCase word, or nothing.
        reason: String,
        /// A sentence, or nothing.
        message: String,
    },
    /// Add an ephemeral container to a pod that lives by its manifest, and start it. An fd comes with the packet: a file with an
    /// [`Added`](crate::state::record::Added) as JSON. The same container again is fine.
    AddEphemeral,
    /// Stop an ephemeral container and forget it. Answered when it is gone; one that is not there is fine.
    RemoveEphemeral {
        /// Its name.
        name: String,
    },
    /// Kill everything in a driven pod and end its sandbox; its records stay. Answered when that is done.
    StopSandbox,
}

/// The versions of what one supervisor leaves to the next that a husk understands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Formats {
    /// Of `pod.json` and `status.json`.
    pub records: Vec<u32>,
    /// Of keeper's protocol.
    pub keeper: Vec<u64>,
    /// Of the numbers under which fds stand in keeper.
    pub slots: Vec<u32>,
    /// Of the log writer's journal.
    pub journal: Vec<u32>,
}

/// What the supervisor answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "camelCase")]
pub enum Response {
    /// Done.
    Ok,
    /// Done, and so the pod has ended.
    Ended {
        /// What was done when.
        steps: Vec<Step>,
    },
    /// Who answers.
    Version {
        /// Version of husk.
        version: String,
        /// The supervisor's pid.
        pid: i32,
    },
    /// An exec is running.
    Started,
    /// A client is attached. With a terminal its master comes as an fd, else, if asked for, the write end of stdin.
    Attached {
        /// The container's name.
        container: String,
        /// The instance's id.
        id: String,
        /// Its number.
        attempt: u32,
        /// It has a terminal.
        tty: bool,
        /// Its stdin ends with this client.
        once: bool,
    },
    /// An exec, or the container that a client is attached to, is over.
    Exited {
        /// Exit code, or 128 + signal.
        exit_code: i32,
        /// The signal, if one ended it.
        signal: Option<i32>,
        /// Its time was over.
        #[serde(default)]
        timed_out: bool,
    },
    /// Refused or failed.
    Error {
        /// What the CLI exits with: 1 unless the request was an exec.
        exit_code: i32,
        /// One sentence for the user.
        message: String,
        /// Which kind of refusal.
        #[serde(default)]
        why: Refusal,
    },
}

/// Kinds of refusal, named as gRPC's codes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Refusal {
    /// It was tried and failed.
    #[default]
    Unknown,
    /// There is no such container.
    NotFound,
    /// There is one already.
    AlreadyExists,
    /// Not in this state.
    FailedPrecondition,
    /// The request itself is wrong.
    InvalidArgument,
}

/// What `husk run` writes to the first supervisor of a pod when it has made the pod's cgroups and directories: this byte, and
/// [`RunTimes`](crate::state::timeline::RunTimes). When it could not, it closes its end for writing, as its death would.
pub const HELPED: u8 = b'h';

/// What the first supervisor of a pod writes to the socket whose other end `husk run` holds (fd 5 of keeper at its start), then closes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "camelCase")]
pub enum Ready {
    /// The sandbox is up and the first containers were started.
    Started {
        /// Things that were tolerated, for the user.
        warnings: Vec<String>,
    },
    /// Could not be started; all was undone.
    Failed {
        /// One sentence.
        message: String,
    },
}
