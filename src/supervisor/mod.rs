//! The per-pod process: event loop, control socket, keeper client, log writer.
//!
//! One thread (a clone in a process with more could inherit a held lock, and joining user or mount namespaces needs one thread), so nothing
//! here may use `tokio::fs`, `spawn_blocking`, host name look-ups or other things that start threads behind our back.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitCode;

use husk_oci::sys::{fd, process};

mod amend;
mod attach;
mod begin;
mod commands;
mod driven;
mod end;
mod ephemeral;
mod events;
pub mod exec;
mod hear;
mod hooks;
pub mod journal;
pub mod keeper;
pub mod log;
pub mod log_entry;
mod lost;
mod messages;
mod network;
mod oom;
pub mod pod;
mod ports;
mod probes;
mod resize;
mod restart;
pub mod server;
pub mod slots;
mod start;
pub mod streams;
mod tidy;
mod timeline;
pub mod upgrade;
pub mod watch;

use husk_pause::proto;

use crate::runtime::Error;
use crate::state::Roots;
use crate::state::pods::PodDir;

/// `husk supervisor ROOT STATE UID`: keeper's child; not for users.
pub fn main(mut args: impl Iterator<Item = std::ffi::OsString>) -> ExitCode {
    let begun_ns = timeline::clock_ns();
    let (Some(root), Some(state), Some(uid), None) = (args.next(), args.next(), args.next(), args.next()) else {
        eprintln!("husk supervisor is started by husk run, not by hand");
        return ExitCode::from(2);
    };
    let roots = Roots { root: PathBuf::from(root), state: PathBuf::from(state) };
    // Before anything else is opened: the numbers are a contract with keeper.
    let Ok(socket) = fd::inherit(proto::SUPERVISOR_FD) else {
        eprintln!("husk supervisor is started by keeper, not by hand");
        return ExitCode::from(2);
    };
    let [ready, report, pause] =
        [proto::KEEPER_READY_FD, proto::KEEPER_REPORT_FD, proto::KEEPER_PAUSE_FD].map(|fd| fd::inherit(fd).ok());
    let first = ready.map(|ready| First { ready, pause: pause.zip(report), begun_ns });
    match supervise(roots, &uid.to_string_lossy(), socket, first) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            crate::runtime::say::say("error", e);
            ExitCode::FAILURE
        }
    }
}

/// What only the first supervisor of a pod is started with.
#[derive(Debug)]
pub struct First {
    /// The socket to `husk run`.
    pub ready: OwnedFd,
    /// pidfd and socket of a pause that was cloned ahead of us.
    pub pause: Option<(OwnedFd, OwnedFd)>,
    /// When we began, CLOCK_BOOTTIME.
    pub begun_ns: u64,
}

fn supervise(roots: Roots, uid: &str, socket: OwnedFd, first: Option<First>) -> Result<(), Error> {
    let keeper_error = |e: keeper::Error| Error::Host { what: e.to_string() };
    // /proc/<pid> of ours is root's alone, also for a process that a container puts into our place (CVE-2019-5736).
    process::set_dumpable(false).map_err(|e| Error::sys("become undumpable", e))?;
    let mut keeper = keeper::Keeper::new(socket).map_err(keeper_error)?;
    let dir = roots.pod_dir(uid);
    if first.is_none() {
        // keeper may be of another husk than the one that has started us.
        match keeper.confirm() {
            Err(e @ keeper::Error::Version { .. }) => return Err(upgrade::strange_keeper(&e)),
            other => other.map_err(keeper_error)?,
        }
        if !dir.exists() {
            // Our predecessor had removed everything when it died.
            return keeper.quit().map_err(keeper_error);
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .on_thread_park(tidy::sleeps)
        .build()
        .map_err(|e| Error::io("start the event loop", &e))?;
    let tasks = tokio::task::LocalSet::new();
    tasks.block_on(&runtime, life(roots, dir, keeper, first))
}

/// All that a supervisor does. In a box, and made in a frame of its own: whoever passes on a future by value has a copy of it on the stack, for as long as it is
/// waited for.
#[inline(never)]
fn life(
    roots: Roots,
    dir: PathBuf,
    keeper: keeper::Keeper,
    first: Option<First>,
) -> Pin<Box<dyn Future<Output = Result<(), Error>>>> {
    Box::pin(async move {
        let dir = PodDir::open(dir)?;
        match dir.read() {
            // The first supervisor's failure is that of `husk run`.
            Err(e) if first.is_none() => upgrade::caretaker(&dir, keeper, e).await,
            Ok(None) if first.is_none() => {
                let why = "it is missing although the pod runs".into();
                let path = dir.path.join("pod.json or status.json");
                upgrade::caretaker(&dir, keeper, crate::state::Error::Unreadable { path, why }).await
            }
            records => {
                let missing = || Error::Internal { what: format!("no records in {}", dir.path.display()) };
                let (record, status) = records?.ok_or_else(missing)?;
                pod::Pod::new(roots, dir, record, status, keeper, first)?.run().await
            }
        }
    })
}
