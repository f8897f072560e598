//! Ephemeral containers: added to a pod that lives, and taken away again.
//!
//! All of one stands in `status.json`, as a CRI client's containers do: what it was asked for as, what it is made of, and what has become of it. So one write adds
//! it and one takes it away, and a supervisor that dies at any instant leaves either it or nothing; one that was added and not yet started is started
//! by the rules of `pod/`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::driven::{Answer, from_memory};
use super::pod::{Pod, now, say};
use super::server::Reply;
use crate::control::{Refusal, Response};
use crate::pod;
use crate::runtime::Error;
use crate::state::record::{Added, Container, ContainerKind, PidMode, State, StopWhy};

/// What one that is taken away gets between its stop signal and its death.
const GRACE_SECONDS: u64 = 2;

/// Somebody who waits until a container is gone.
#[derive(Debug)]
pub(super) struct Leaver {
    name: String,
    reply: Reply,
}

impl Pod {
    /// Adds a container and starts it; answered when it runs, or when that failed and nothing of it is left.
    pub(super) async fn add_ephemeral(&mut self, fds: Vec<OwnedFd>, reply: Reply) {
        let answer = match self.try_add_ephemeral(fds).await {
            Ok(()) => Response::Ok,
            Err((why, message)) => Response::refused(why, message),
        };
        // Who asked may have gone; the container stays.
        let _ = reply.send((answer, None));
    }

    async fn try_add_ephemeral(&mut self, fds: Vec<OwnedFd>) -> Answer {
        let wrong = |what: String| (Refusal::InvalidArgument, format!("the container: {what}"));
        let Added { record, asked } = from_memory(fds).map_err(wrong)?;
        let name = record.name.clone();
        if record.kind != ContainerKind::Ephemeral || asked.name != name {
            return Err(wrong("no ephemeral one".into()));
        }
        if self.record.driven() {
            return Err((
                Refusal::FailedPrecondition,
                "it belongs to a CRI client, which alone adds containers".into(),
            ));
        }
        if let Some(why) = pod::refusal(&self.status, "nothing can be added") {
            return Err((Refusal::FailedPrecondition, why));
        }
        let index = match self.record.containers.iter().position(|c| c.name == name) {
            // Asked again after an answer that was lost.
            Some(index) if self.record.containers[index] == record => match &self.status.containers[index].state {
                State::Waiting { .. } => index,
                State::Terminated(exit) if exit.started_at.is_none() => {
                    let message = exit.message.clone();
                    self.take_away_at(index)?;
                    return Err((Refusal::Unknown, message));
                }
                State::Running { .. } | State::Terminated(_) => return Ok(()),
            },
            Some(_) => return Err((Refusal::AlreadyExists, format!("container {name} is there already"))),
            None => {
                // One of that name may just have gone: its cgroup and directories are then those of this one.
                for freed in std::mem::take(&mut self.freeing) {
                    if let Err(e) = freed.await {
                        say("error", format_args!("free a container: {e}"));
                    }
                }
                let made = Container::created(record.clone(), &self.status.containers);
                let slot = Container { ephemeral: Some(Box::new(asked)), ..made };
                self.change(|pod| pod.status.containers.push(slot))?;
                self.record.containers.push(record);
                self.live.push(None);
                self.record.containers.len() - 1
            }
        };
        let attempt = self.status.containers[index].attempt;
        if let Err(e) = self.start(index, attempt).await {
            self.take_away_at(index)?;
            return Err((Refusal::Unknown, e.to_string()));
        }
        Ok(())
    }

    /// Stops a container and takes it away; answered when it is gone. One that is not there is gone.
    pub(super) fn remove_ephemeral(&mut self, name: String, reply: Reply) {
        let found = self.status.containers.iter().position(|c| c.name == name && c.kind == ContainerKind::Ephemeral);
        let asked = match found {
            Some(index) if matches!(self.status.containers[index].state, State::Running { .. }) => self.change(|pod| {
                pod::request_stop(&mut pod.status, index, StopWhy::Remove, GRACE_SECONDS, now());
            }),
            _ => Ok(()),
        };
        match asked {
            Ok(()) => self.leavers.push(Leaver { name, reply }),
            Err((why, message)) => drop(reply.send((Response::refused(why, message), None))),
        }
    }

    /// Takes away those that were asked to go and have ended.
    pub(super) fn take_leavers_away(&mut self) {
        for leaver in std::mem::take(&mut self.leavers) {
            let is = |c: &Container| c.name == leaver.name && c.kind == ContainerKind::Ephemeral;
            let found = self.status.containers.iter().position(is);
            let stays = found.is_some_and(|index| {
                let c = &self.status.containers[index];
                matches!(c.state, State::Running { .. }) || self.leaving.iter().any(|l| l.instance.slot == c.slot)
            });
            if stays {
                self.leavers.push(leaver);
                continue;
            }
            let answer = match found.map_or(Ok(()), |index| self.take_away_at(index)) {
                Ok(()) => Response::Ok,
                Err((why, message)) => Response::refused(why, message),
            };
            let _ = leaver.reply.send((answer, None));
        }
    }

    /// Forgets a container that does not run, and frees what it has, the log of an ephemeral one included.
    pub(super) fn take_away_at(&mut self, index: usize) -> Answer {
        let c = &self.status.containers[index];
        let (name, kind, attempt) = (c.name.clone(), c.kind, c.attempt);
        let id = crate::runtime::container::instance_id(&self.record, &self.record.containers[index], attempt);
        let instance = self.instance(index, attempt, &id, false);
        let slot = instance.slot;
        self.change(|pod| drop(pod.status.containers.remove(index)))?;
        self.free_instance(instance);
        self.record.containers.remove(index);
        self.live.remove(index);
        // Nobody waits for the output of a container that is removed.
        self.leaving.retain(|l| l.instance.slot != slot);
        if kind == ContainerKind::Ephemeral
            && let Err(e) = crate::volume::remove_tree(&Path::new(&self.record.log_dir).join(name))
        {
            say("warn", format_args!("{e}, continuing; it goes with the pod"));
        }
        Ok(())
    }

    /// The process whose PID namespace a container joins, if it joins that of another container. It is the one that runs now: a pidfd means no other.
    pub(super) fn pid_target(&self, index: usize) -> Result<Option<BorrowedFd<'_>>, Error> {
        let record = &self.record.containers[index];
        if record.pid != PidMode::Target {
            return Ok(None);
        }
        let target = super::exec::position(&self.record, Some(&record.pid_target)).ok();
        let live = target.and_then(|target| self.live.get(target)?.as_ref());
        let gone = || Error::Container {
            container: record.name.clone(),
            what: format!("container {}, whose processes it shall see, does not run", record.pid_target),
        };
        live.map(|live| Some(live.pidfd.as_fd())).ok_or_else(gone)
    }
}
