//! The control socket's messages: `control.sock` in the pod directory, `SOCK_SEQPACKET`, one JSON object a packet, at most 128 KiB
//! (`EMSGSIZE` beyond). root only (0700 directory and peer credentials). One request a connection.

pub mod client;

use serde::{Deserialize, Serialize};

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
    },
    /// Run a process in a container. fds come with the packet: stdin, stdout, stderr (already pipes), or none with `tty`.
    /// Answers: `Started` (with the pty master as an fd when `tty`), then `Exited`; or `Error` with `exit_code` 125, 126 or 127.
    Exec {
        /// Container name; `None` = the first app container.
        container: Option<String>,
        /// Command and arguments.
        argv: Vec<String>,
        /// Allocate a terminal.
        tty: bool,
        /// Rows and columns of the terminal.
        size: Option<(u16, u16)>,
    },
}

/// What the supervisor answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "camelCase")]
pub enum Response {
    /// Done.
    Ok,
    /// An exec is running.
    Started,
    /// An exec is over.
    Exited {
        /// Exit code, or 128 + signal.
        exit_code: i32,
        /// The signal, if one ended it.
        signal: Option<i32>,
    },
    /// Refused or failed.
    Error {
        /// What the CLI exits with: 1 unless the request was an exec.
        exit_code: i32,
        /// One sentence for the user.
        message: String,
    },
}

/// What the first supervisor of a pod writes to the pipe that `husk run` holds (fd 5 of keeper at its start, `HUSK_READY_FD` for the supervisor), then closes.
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
