//! What a CRI client asks of the pod that it drives. Every change is on disk before it is answered, so that asking again after a supervisor's
//! death gives the same answer.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::OwnedFd;

use super::pod::{Pod, Waiting, now, say};
use super::server::Reply;
use crate::cgroup::{CgroupDriver, Limits};
use crate::control::{Refusal, Request, Response};
use crate::pod;
use crate::runtime::container;
use crate::state::record::{Container, ContainerRecord, State, Stop, StopWhy};
use serde::de::DeserializeOwned;

/// The largest container record that is taken.
const RECORD_LIMIT: u64 = 16 << 20;

pub(super) type Answer = Result<(), (Refusal, String)>;

impl Pod {
    /// Takes one request; answers it now, or when a container or the sandbox has ended.
    pub(super) async fn drive(&mut self, request: Request, fds: Vec<OwnedFd>, reply: Reply) {
        let done = if self.record.driven() {
            match request {
                Request::Create => self.add(fds),
                Request::Start { id } => self.start_by_client(&id).await,
                Request::Stop { id, timeout_ms } => match self.ask_to_stop(&id, timeout_ms) {
                    Ok(true) => return self.waiting_for_exit.push(Waiting { id, reply, remove: false }),
                    other => other.map(drop),
                },
                Request::Remove { id } => match self.ask_to_stop(&id, 0) {
                    Ok(true) => return self.waiting_for_exit.push(Waiting { id, reply, remove: true }),
                    Ok(false) => self.take_away(&id),
                    Err((Refusal::NotFound, _)) => Ok(()),
                    Err(e) => Err(e),
                },
                Request::Update { id, limits } => self.update(&id, *limits),
                Request::StopSandbox => match self.change(|pod| pod.status.stopped = true) {
                    Ok(()) => return self.waiting_for_end.push(reply),
                    Err(e) => Err(e),
                },
                Request::Delete { .. }
                | Request::Exec { .. }
                | Request::Attach { .. }
                | Request::AddEphemeral
                | Request::RemoveEphemeral { .. }
                | Request::Version
                | Request::Condition { .. }
                | Request::Upgrade { .. }
                | Request::Amend
                | Request::Restart { .. }
                | Request::Resize { .. } => Err((Refusal::Unknown, "not asked here".into())),
            }
        } else {
            let message = format!("pod {} lives by its manifest, no client drives it", self.record.full_name());
            Err((Refusal::FailedPrecondition, message))
        };
        let answer = match done {
            Ok(()) => Response::Ok,
            Err((why, message)) => Response::refused(why, message),
        };
        let _ = reply.send((answer, None));
    }

    /// Changes the status and writes it; takes the change back when it cannot be written.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Pod)) -> Answer {
        let before = self.status.clone();
        change(self);
        if let Err(e) = self.write_status() {
            self.status = before;
            return Err((Refusal::Unknown, e.to_string()));
        }
        self.unsaved = false;
        Ok(())
    }

    fn index_of(&self, id: &str) -> Result<usize, (Refusal, String)> {
        let is = |c: &ContainerRecord| c.client.as_ref().is_some_and(|client| client.id == id);
        let found = self.record.containers.iter().position(is);
        found.ok_or_else(|| (Refusal::NotFound, format!("container {id} is not in this pod")))
    }

    fn add(&mut self, fds: Vec<OwnedFd>) -> Answer {
        let wrong = |what: &str| (Refusal::InvalidArgument, format!("the container's record: {what}"));
        let record: ContainerRecord = from_memory(fds).map_err(|what| wrong(&what))?;
        let Some(client) = &record.client else { return Err(wrong("no client's container")) };
        if !pod::accepts_containers(&self.status) {
            return Err((Refusal::FailedPrecondition, "the sandbox is not ready".into()));
        }
        if let Ok(index) = self.index_of(&client.id) {
            if matches!(self.status.containers[index].state, State::Waiting { .. }) {
                // Asked again after an answer that was lost.
                return Ok(());
            }
            return Err((Refusal::AlreadyExists, format!("container {} exists and was started", client.id)));
        }
        let slot = Container::created(record.clone(), &self.status.containers);
        self.change(|pod| pod.status.containers.push(slot))?;
        self.record.containers.push(record);
        self.live.push(None);
        Ok(())
    }

    async fn start_by_client(&mut self, id: &str) -> Answer {
        let index = self.index_of(id)?;
        let state = match &self.status.containers[index].state {
            State::Waiting { .. } if pod::accepts_containers(&self.status) => None,
            State::Waiting { .. } => Some("the sandbox is not ready"),
            State::Running { .. } => Some("it runs already"),
            State::Terminated(_) => Some("it has ended; create another"),
        };
        if let Some(why) = state {
            return Err((Refusal::FailedPrecondition, format!("container {id} cannot be started: {why}")));
        }
        let attempt = self.status.containers[index].attempt;
        match self.start(index, attempt).await {
            Ok(()) => Ok(()),
            Err(e) => {
                self.start_failed(index, attempt, &e);
                self.save();
                Err((Refusal::Unknown, e.to_string()))
            }
        }
    }

    /// Sets the time at which the container is killed; true when it runs.
    fn ask_to_stop(&mut self, id: &str, timeout_ms: u64) -> Result<bool, (Refusal, String)> {
        let index = self.index_of(id)?;
        if !matches!(self.status.containers[index].state, State::Running { .. }) {
            return Ok(false);
        }
        let deadline_boot_ns = now().boot_ns.saturating_add(timeout_ms.saturating_mul(1_000_000));
        if self.status.containers[index].stop.as_ref().is_none_or(|earlier| deadline_boot_ns < earlier.deadline_boot_ns)
        {
            let stop = Stop { why: StopWhy::Client, grace_seconds: timeout_ms / 1000, deadline_boot_ns };
            self.change(|pod| pod.status.containers[index].stop = Some(stop))?;
        }
        Ok(true)
    }

    /// Forgets a container that does not run, and frees what it has.
    fn take_away(&mut self, id: &str) -> Answer {
        let index = self.index_of(id)?;
        self.take_away_at(index)
    }

    fn update(&mut self, id: &str, limits: Limits) -> Answer {
        let index = self.index_of(id)?;
        let before = self.record.containers[index].limits.clone();
        let running = matches!(self.status.containers[index].state, State::Running { .. });
        let cgroup = container::cgroup(&self.record, id);
        let mut done = Ok(());
        if running {
            self.room_below(&format!("container {id}"), &cgroup, &limits)?;
            let set = self.driver.create(&cgroup, &limits.replacing(&before));
            done = set.map_err(|e| (Refusal::Unknown, format!("container {id}: {e}")));
        }
        let done = done.and_then(|()| {
            self.change(|pod| {
                if let Some(record) = &mut pod.status.containers[index].made_of {
                    record.limits = limits.clone();
                }
            })
        });
        if done.is_ok() {
            self.record.containers[index].limits = limits;
        } else if running && let Err(e) = self.driver.create(&cgroup, &before.replacing(&limits)) {
            say("error", format_args!("put the limits of container {id} back: {e}"));
        }
        done
    }

    /// Answers those whose container has ended.
    pub(super) fn answer_exits(&mut self) {
        let runs = |pod: &Pod, id: &str| {
            pod.index_of(id).is_ok_and(|index| matches!(pod.status.containers[index].state, State::Running { .. }))
        };
        let (waiting, ended): (Vec<Waiting>, Vec<Waiting>) =
            std::mem::take(&mut self.waiting_for_exit).into_iter().partition(|w| runs(self, &w.id));
        self.waiting_for_exit = waiting;
        for Waiting { id, reply, remove } in ended {
            // Two may have asked for the removal of the same.
            let done = if remove && self.index_of(&id).is_ok() { self.take_away(&id) } else { Ok(()) };
            let answer = match done {
                Ok(()) => Response::Ok,
                Err((why, message)) => {
                    say("error", &message);
                    Response::refused(why, message)
                }
            };
            let _ = reply.send((answer, None));
        }
    }
}

/// What came as JSON in a file in memory.
///
/// # Errors
/// A sentence.
pub(super) fn from_memory<T: DeserializeOwned>(fds: Vec<OwnedFd>) -> Result<T, String> {
    let Some(fd) = fds.into_iter().next() else { return Err("did not come with the request".into()) };
    let mut text = Vec::new();
    let mut file = File::from(fd);
    // The sender's offset is ours too.
    let read = file.rewind().and_then(|()| file.take(RECORD_LIMIT).read_to_end(&mut text));
    read.map_err(|e| husk_oci::errno::io_text(&e))?;
    serde_json::from_slice(&text).map_err(|e| e.to_string())
}
