//! What a CRI client does with sandboxes and containers: its supervisor is asked while there is one, and the records are changed when it is over.
//!
//! Every verb may be repeated: a client whose answer was lost asks again and gets the same one.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};

use super::{DeleteOptions, Error, container, delete, remove};
use crate::cgroup::{CgroupDriver, Cgroupfs, Limits};
use crate::control::client::Client;
use crate::control::{Refusal, Request, Response};
use crate::pod;
use crate::state::pods::PodDir;
use crate::state::record::{ContainerRecord, Exit, State, Status};
use crate::state::{Listed, PodEntry, Roots};

/// What CRI calls a container whose end nobody saw.
const UNKNOWN_EXIT_CODE: i32 = 255;

/// Why a verb was refused, or failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Which kind.
    pub why: Refusal,
    /// One sentence.
    pub message: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refused {}

impl From<Error> for Refused {
    fn from(e: Error) -> Refused {
        Refused { why: Refusal::Unknown, message: e.to_string() }
    }
}

impl From<crate::state::Error> for Refused {
    fn from(e: crate::state::Error) -> Refused {
        Error::from(e).into()
    }
}

fn refused(why: Refusal, message: impl Into<String>) -> Refused {
    Refused { why, message: message.into() }
}

fn no_sandbox(id: &str) -> Refused {
    refused(Refusal::NotFound, format!("pod sandbox {id} does not exist"))
}

fn no_container(id: &str) -> Refused {
    refused(Refusal::NotFound, format!("container {id} does not exist"))
}

/// Length of the part of a container's id that tells its sandbox: the last 32 of 64 digits are the sandbox's first.
const SANDBOX_PART: usize = 32;

/// The id of a client's sandbox; equal metadata give the same.
pub fn sandbox_id(namespace: &str, name: &str, uid: &str, attempt: u32) -> String {
    // JSON keeps the parts apart whatever they hold.
    container::id(&serde_json::json!([namespace, name, uid]).to_string(), "sandbox", attempt)
}

/// The id of a client's container. It tells its sandbox, so that no index of containers has to be kept.
pub fn container_id(sandbox_id: &str, name: &str, attempt: u32) -> String {
    let own = container::id(sandbox_id, name, attempt);
    lane(&own) + &lane(sandbox_id)
}

/// What the ids of a sandbox and of all its containers have in common.
pub fn lane(sandbox_id: &str) -> String {
    sandbox_id.get(..SANDBOX_PART).unwrap_or(sandbox_id).to_owned()
}

/// [`lane`] of a container's sandbox.
pub fn lane_of_container(id: &str) -> String {
    id.get(id.len().saturating_sub(SANDBOX_PART)..).unwrap_or(id).to_owned()
}

/// All sandboxes of CRI clients, as [`sandbox`] shows them.
///
/// # Errors
/// They cannot be listed.
pub fn sandboxes(roots: &Roots) -> Result<Vec<PodEntry>, Error> {
    let listed = roots.list()?.into_iter();
    let driven = listed.filter_map(|l| if let Listed::Pod(e) = l { e.record.driven().then_some(*e) } else { None });
    Ok(driven.map(seen).collect())
}

/// Without a keeper nothing runs any more, whether or not somebody has written that down yet.
fn seen(mut entry: PodEntry) -> PodEntry {
    if !entry.live && entry.status.finished_at.is_none() {
        let when = entry.status.sandbox.as_ref().map_or(entry.record.created_at, |s| s.ready_at);
        lose(&mut entry.status, when);
    }
    entry
}

/// One sandbox. What ran when its keeper was killed is shown as ended in an unknown way.
///
/// # Errors
/// `NotFound`, also for a pod that no client drives; or its records cannot be read.
pub fn sandbox(roots: &Roots, id: &str) -> Result<PodEntry, Refused> {
    if !is_id(id) {
        return Err(no_sandbox(id));
    }
    match roots.look(id)? {
        Some(Listed::Pod(entry)) if entry.record.driven() => Ok(seen(*entry)),
        Some(Listed::Unreadable(it)) => Err(it.error.into()),
        _ => Err(no_sandbox(id)),
    }
}

/// One container: its sandbox, and its position in it.
///
/// # Errors
/// As [`sandbox`].
pub fn find(roots: &Roots, id: &str) -> Result<(PodEntry, usize), Refused> {
    if !is_id(id) {
        return Err(no_container(id));
    }
    let part = lane_of_container(id);
    let sandbox_id = roots.ids()?.into_iter().find(|name| name.starts_with(&part)).ok_or_else(|| no_container(id))?;
    let entry =
        sandbox(roots, &sandbox_id).map_err(|e| if e.why == Refusal::NotFound { no_container(id) } else { e })?;
    let index = position(&entry, id).ok_or_else(|| no_container(id))?;
    Ok((entry, index))
}

fn is_id(id: &str) -> bool {
    id.len() == 2 * SANDBOX_PART && id.bytes().all(|b| b.is_ascii_hexdigit())
}

fn position(entry: &PodEntry, id: &str) -> Option<usize> {
    entry.record.containers.iter().position(|c| c.client.as_ref().is_some_and(|client| client.id == id))
}

/// What a supervisor said, or that the sandbox is over.
enum Asked {
    Answered(Response, Client),
    Over,
}

fn ask(roots: &Roots, entry: &PodEntry, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Asked, Refused> {
    let lives = || roots.is_live(&entry.id);
    if !lives() {
        return Ok(Asked::Over);
    }
    match Client::ask(&roots.pod_dir(&entry.id), request, fds, lives) {
        Ok((client, response, _)) => Ok(Asked::Answered(response, client)),
        Err(_) if !lives() => Ok(Asked::Over),
        Err(e) => {
            let what = husk_oci::errno::io_text(&e);
            Err(refused(Refusal::Unknown, format!("sandbox {}: its supervisor does not answer: {what}", entry.id)))
        }
    }
}

/// As [`ask`] for a request without fds; `Ok(false)` when the sandbox is over.
fn tell(roots: &Roots, entry: &PodEntry, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<bool, Refused> {
    match ask(roots, entry, request, fds)? {
        Asked::Over => Ok(false),
        Asked::Answered(Response::Ok, ..) => Ok(true),
        Asked::Answered(Response::Error { message, why, .. }, ..) => Err(refused(why, message)),
        Asked::Answered(other, ..) => Err(refused(Refusal::Unknown, format!("the supervisor answered {other:?}"))),
    }
}

fn not_ready(id: &str) -> Refused {
    refused(Refusal::FailedPrecondition, format!("pod sandbox {id} is not ready"))
}

/// Adds a container to a sandbox. It was resolved before: nothing about it can be wrong any more but the host.
///
/// # Errors
/// `NotFound`; `FailedPrecondition` for a sandbox that is over; `AlreadyExists` for a container of that name and attempt which was started.
pub fn create(roots: &Roots, sandbox_id: &str, record: &ContainerRecord) -> Result<(), Refused> {
    let entry = sandbox(roots, sandbox_id)?;
    let file = super::update::in_memory(c"container", record)?;
    if tell(roots, &entry, &Request::Create, &[file.as_fd()])? { Ok(()) } else { Err(not_ready(sandbox_id)) }
}

/// Starts a container.
///
/// # Errors
/// `NotFound`; `FailedPrecondition` when it is not in state created; else what prevented it, and the container has ended.
pub fn start(roots: &Roots, id: &str) -> Result<(), Refused> {
    let (entry, _) = find(roots, id)?;
    if tell(roots, &entry, &Request::Start { id: id.to_owned() }, &[])? { Ok(()) } else { Err(not_ready(&entry.id)) }
}

/// Stops a container: its stop signal, and SIGKILL after the timeout, at once when that is 0. Blocks until it has ended. One that does not
/// run, or does not exist, is fine.
///
/// # Errors
/// The supervisor cannot be asked.
pub fn stop(roots: &Roots, id: &str, timeout_ms: u64) -> Result<(), Refused> {
    let (entry, _) = match find(roots, id) {
        Err(e) if e.why == Refusal::NotFound => return Ok(()),
        other => other?,
    };
    match tell(roots, &entry, &Request::Stop { id: id.to_owned(), timeout_ms }, &[]) {
        // Over, or removed meanwhile: it does not run.
        Ok(_) => Ok(()),
        Err(e) if e.why == Refusal::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// Removes a container; kills it if it runs. One that does not exist is fine.
///
/// # Errors
/// The supervisor cannot be asked, or something cannot be removed.
pub fn remove_container(roots: &Roots, id: &str) -> Result<(), Refused> {
    let (entry, _) = match find(roots, id) {
        Err(e) if e.why == Refusal::NotFound => return Ok(()),
        other => other?,
    };
    if tell(roots, &entry, &Request::Remove { id: id.to_owned() }, &[])? {
        return Ok(());
    }
    change_dead(roots, &entry.id, |roots, driver, entry| {
        if let Some(index) = position(entry, id) {
            remove::cgroup(driver, &container::cgroup(&entry.record, id))?;
            let name = entry.record.containers[index].name.clone();
            let dir = container::data_dir(roots, &entry.record, &name, entry.status.containers[index].attempt);
            crate::volume::remove_tree(&dir).map_err(|e| Error::Host { what: e.to_string() })?;
            entry.status.containers.remove(index);
        }
        Ok(())
    })
}

/// Changes a container's limits, all of them.
///
/// # Errors
/// `NotFound`, `FailedPrecondition` for a sandbox that is over, or the kernel's.
pub fn update(roots: &Roots, id: &str, limits: Limits) -> Result<(), Refused> {
    let (entry, index) = find(roots, id)?;
    if matches!(entry.status.containers[index].state, State::Terminated(_)) {
        return Err(refused(Refusal::FailedPrecondition, format!("container {id} has ended")));
    }
    let request = Request::Update { id: id.to_owned(), limits: Box::new(limits) };
    if tell(roots, &entry, &request, &[])? { Ok(()) } else { Err(not_ready(&entry.id)) }
}

/// Kills everything in a sandbox and frees what it has; records stay. Blocks until that is done. One that is over, or does not exist, is fine.
///
/// # Errors
/// The supervisor cannot be asked, or something cannot be removed.
pub fn stop_sandbox(roots: &Roots, id: &str) -> Result<(), Refused> {
    let entry = match sandbox(roots, id) {
        Err(e) if e.why == Refusal::NotFound => return Ok(()),
        other => other?,
    };
    if tell(roots, &entry, &Request::StopSandbox, &[])? {
        // The last word came before keeper's end.
        super::run::wait_until_unlocked(&roots.pod_dir(id));
    }
    change_dead(roots, id, |_, _, _| Ok(()))
}

/// Removes a sandbox with all its containers; kills what runs. One that does not exist is fine.
///
/// # Errors
/// As [`stop_sandbox`].
pub fn remove_sandbox(roots: &Roots, id: &str) -> Result<(), Refused> {
    let entry = match sandbox(roots, id) {
        Err(e) if e.why == Refusal::NotFound => return Ok(()),
        other => other?,
    };
    Ok(delete(roots, &Listed::Pod(Box::new(entry)), DeleteOptions { force: true, wait: true, grace_seconds: None })?)
}

/// A process that a client runs in a container.
pub struct Exec {
    /// The connection on which [`Exec::wait`] hears of its end.
    client: Client,
}

/// How an exec ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Exit code, or 128 + signal.
    pub exit_code: i32,
    /// It was killed because its time was over.
    pub timed_out: bool,
}

/// Runs a command in a container; `fds` are its stdin, stdout and stderr.
///
/// # Errors
/// `NotFound`; `FailedPrecondition` when the container does not run; else what prevented the start.
pub fn exec(
    roots: &Roots,
    id: &str,
    argv: Vec<String>,
    timeout_ms: Option<u64>,
    fds: [BorrowedFd<'_>; 3],
) -> Result<Exec, Refused> {
    let (entry, index) = find(roots, id)?;
    if !matches!(entry.status.containers[index].state, State::Running { .. }) {
        return Err(refused(Refusal::FailedPrecondition, format!("container {id} is not running")));
    }
    let request = Request::Exec { container: Some(id.to_owned()), argv, tty: false, size: None, timeout_ms };
    match ask(roots, &entry, &request, &fds)? {
        Asked::Over => Err(not_ready(&entry.id)),
        Asked::Answered(Response::Started, client) => Ok(Exec { client }),
        Asked::Answered(Response::Error { message, why, .. }, ..) => Err(refused(why, message)),
        Asked::Answered(other, ..) => Err(refused(Refusal::Unknown, format!("the supervisor answered {other:?}"))),
    }
}

impl Exec {
    /// Waits for its end.
    ///
    /// # Errors
    /// The pod came to its end first.
    pub fn wait(mut self) -> Result<Ended, Refused> {
        loop {
            match self.client.receive() {
                Ok((Response::Started, _)) => {}
                Ok((Response::Exited { exit_code, timed_out, .. }, _)) => return Ok(Ended { exit_code, timed_out }),
                Ok((other, _)) => return Err(refused(Refusal::Unknown, format!("the supervisor answered {other:?}"))),
                Err(e) => return Err(Error::io("wait for the command: the pod has ended", &e).into()),
            }
        }
    }
}

/// Changes the records of a sandbox that has no keeper (any more), after settling what its supervisor could not. One that is gone is fine.
fn change_dead(
    roots: &Roots,
    id: &str,
    change: impl FnOnce(&Roots, &dyn CgroupDriver, &mut PodEntry) -> Result<(), Error>,
) -> Result<(), Refused> {
    let Some(_lock) = roots.seize(id)? else { return Ok(()) };
    let Some(Listed::Pod(mut entry)) = roots.look(id)? else { return Ok(()) };
    let driver = Cgroupfs::detect().map_err(|e| Error::Host { what: e.to_string() })?;
    if let Some(error) = super::remove::scopes(roots, &driver, id, Some(&entry.record)).into_iter().next() {
        return Err(error.into());
    }
    let before = entry.status.clone();
    settle(roots, &driver, &mut entry)?;
    change(roots, &driver, &mut entry)?;
    if entry.status != before {
        PodDir::open(roots.pod_dir(id))?.write_status(&entry.status)?;
    }
    Ok(())
}

/// Brings a client's sandbox whose keeper was killed to its end: its client learns of it, and decides when it goes.
///
/// # Errors
/// What could not be freed.
pub(super) fn settle_dead(roots: &Roots, id: &str) -> Result<(), Refused> {
    change_dead(roots, id, |_, _, _| Ok(()))
}

fn settle(roots: &Roots, driver: &dyn CgroupDriver, entry: &mut PodEntry) -> Result<(), Error> {
    if entry.status.finished_at.is_some() {
        return Ok(());
    }
    super::sandbox::free(roots, driver, &entry.record).map_err(|errors| super::delete::join(&errors))?;
    let now = jiff::Timestamp::now();
    lose(&mut entry.status, now);
    if entry.status.sandbox.is_some() {
        pod::apply_sandbox_end(&entry.record, &mut entry.status);
    }
    entry.status.finished_at = Some(now);
    Ok(())
}

/// Nobody saw how what ran has ended.
fn lose(status: &mut Status, now: jiff::Timestamp) {
    for c in &mut status.containers {
        if let State::Running { id, started_at, .. } = &c.state {
            c.state = State::Terminated(Exit {
                id: id.clone(),
                attempt: c.attempt,
                exit_code: UNKNOWN_EXIT_CODE,
                signal: None,
                reason: "Unknown".into(),
                message: "its process is gone and nobody saw how it ended".into(),
                started_at: Some(*started_at),
                finished_at: now,
                finished_boot_ns: husk_oci::sys::clock::boottime().as_nanos() as u64,
                oom_kills: c.oom_kills,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_containers_id_tells_its_sandbox() {
        let sandbox = sandbox_id("ns", "pod", "uid", 0);
        assert!(is_id(&sandbox));
        let (a, b) = (container_id(&sandbox, "c", 0), container_id(&sandbox, "c", 1));
        assert!(is_id(&a) && a != b);
        assert_eq!(a[SANDBOX_PART..], sandbox[..SANDBOX_PART]);
        assert_ne!(a[..13], b[..13], "short forms differ too");
    }

    #[test]
    fn metadata_that_look_alike_are_not_the_same_sandbox() {
        let all = [
            sandbox_id("a", "b", "c", 0),
            sandbox_id("a", "b", "c", 1),
            sandbox_id("ab", "", "c", 0),
            sandbox_id("a", "b/c", "", 0),
            sandbox_id("a/b", "c", "", 0),
        ];
        let distinct: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }
}
