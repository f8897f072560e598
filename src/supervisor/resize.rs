//! Other resources for a container whose pod lives.
//!
//! The wish is on disk first, in `status.json`; then the kernel is told, then `pod.json` is replaced, then the wish goes. Whoever is the
//! supervisor finishes what it finds, so that old or new holds everywhere in the end. Only what cannot be done is taken back.

use super::driven::Answer;
use super::pod::{Pod, now, say};
use super::server::Reply;
use crate::cgroup::{CgroupDriver, Limits};
use crate::control::{Refusal, Response};
use crate::manifest::{self, Amounts};
use crate::pod;
use crate::runtime::{container, resolve};
use crate::state::record::{Container, ContainerKind, PodRecord, Resize, State};

impl Pod {
    /// Changes a container's resources; answered when they hold, or when it is known that they will not.
    pub(super) fn resize(&mut self, container: Option<String>, amounts: &Amounts, reply: Reply) {
        let answer = match self.begin_resize(container, amounts) {
            Ok(true) => return self.waiting_for_resize.push(reply),
            Ok(false) => Ok(()),
            Err(e) => Err(e),
        };
        respond(&reply, &answer);
    }

    /// Records the wish, and fulfils it unless the container has to end first: true then.
    fn begin_resize(&mut self, container: Option<String>, amounts: &Amounts) -> Result<bool, (Refusal, String)> {
        let refused = |message: String| (Refusal::FailedPrecondition, message);
        let wrong = |message: String| (Refusal::InvalidArgument, message);
        if self.record.driven() {
            return Err(refused("its containers belong to a CRI client, which alone changes them".into()));
        }
        if let Some(why) = pod::refusal(&self.status, "nothing can be changed any more") {
            return Err(refused(why));
        }
        let name = container.map_or_else(|| self.only_container(), Ok).map_err(wrong)?;
        let Some(index) = self.record.containers.iter().position(|c| c.name == name) else {
            return Err((Refusal::NotFound, format!("container {name} is not in this pod; it has {}", self.names())));
        };
        let change = manifest::resize(&self.record.pod, &name, amounts).map_err(wrong)?;
        if let Some(other) = &self.status.resize {
            if other.container == name && change.as_ref().is_some_and(|c| c.resources == other.resources) {
                // Asked again after an answer that was lost.
                return Ok(true);
            }
            return Err(refused(format!(
                "container {} is just getting other resources; try again when that is done",
                other.container
            )));
        }
        let Some(change) = change else { return Ok(false) };
        let c = &self.status.containers[index];
        if pod::is_over(&self.record, index, c) {
            return Err(refused(format!("container {name} has ended for good, its resources mean nothing any more")));
        }
        let running = matches!(c.state, State::Running { .. });
        let restart = change.restart && running;
        if !restart {
            let new = resolve::resized(self.driver.hierarchies(), &self.record, &name, change.resources.clone());
            self.has_room(&self.record, &new.map_err(|e| wrong(e.to_string()))?, index)?;
        }
        let grace = restart.then(|| pod::grace_seconds(&self.record));
        let wish = Resize { container: name, resources: change.resources, requested_at: now().wall };
        self.change(|pod| pod::request_resize(&mut pod.status, index, wish, grace, now()))?;
        if restart { Ok(true) } else { self.fulfil().map(|()| false) }
    }

    /// Goes on with a change that waited for its container's end, or that a supervisor before us had begun.
    pub(super) fn advance_resize(&mut self) {
        let Some(wish) = &self.status.resize else { return };
        let mut containers = self.status.containers.iter();
        let restarts =
            |c: &&Container| c.name == wish.container && c.stop.is_some() && matches!(c.state, State::Running { .. });
        let answer = if let Some(why) = pod::refusal(&self.status, "its resources stay as they are") {
            self.forget_resize();
            Err((Refusal::FailedPrecondition, why))
        } else if containers.any(|c| restarts(&c)) {
            return;
        } else {
            self.fulfil()
        };
        if let Err((_, message)) = &answer {
            say("error", message);
        }
        for reply in self.waiting_for_resize.drain(..) {
            respond(&reply, &answer);
        }
    }

    /// Makes the recorded wish true, or takes it back.
    fn fulfil(&mut self) -> Answer {
        let done = self.try_fulfil();
        self.forget_resize();
        done
    }

    fn try_fulfil(&mut self) -> Answer {
        let failed = |what: String| (Refusal::Unknown, what);
        let Some(wish) = self.status.resize.clone() else { return Ok(()) };
        let Some(index) = self.record.containers.iter().position(|c| c.name == wish.container) else { return Ok(()) };
        let new = resolve::resized(self.driver.hierarchies(), &self.record, &wish.container, wish.resources.clone());
        let mut new = new.map_err(|e| failed(e.to_string()))?;
        new.next_generation();
        let done = self.has_room(&self.record, &new, index).and_then(|()| {
            self.set_limits(&self.record, &new, index).map_err(|e| self.too_full(&new, index, &e))?;
            self.dir.write_record(&new).map_err(|e| failed(e.to_string()))
        });
        if let Err(e) = done {
            // Where the limit was raised and the room taken it stays: to lower it could kill.
            let back = self.has_room(&new, &self.record, index).map_err(|(_, message)| message);
            let back = back.and_then(|()| self.set_limits(&new, &self.record, index).map_err(|e| e.to_string()));
            if let Err(e) = back {
                say("error", format_args!("put the limits of container {} back: {e}", wish.container));
            }
            return Err(e);
        }
        say("info", format_args!("container {} has other resources", wish.container));
        self.record = new;
        Ok(())
    }

    fn forget_resize(&mut self) {
        self.status.resize = None;
        self.unsaved = true;
        self.save();
    }

    /// Writes what `new` says about a container and the pod: whichever is raised first, so that a container's limit always fits into its pod's.
    fn set_limits(&self, old: &PodRecord, new: &PodRecord, index: usize) -> Result<(), crate::cgroup::Error> {
        let (before, after) = (&old.sandbox.limits, &new.sandbox.limits);
        self.driver.create(&new.cgroup, &after.or_wider(before))?;
        if let State::Running { id, .. } = &self.status.containers[index].state {
            let (before, after) = (&old.containers[index].limits, &new.containers[index].limits);
            self.driver.create(&container::cgroup(new, id), &after.replacing(before))?;
        }
        self.driver.create(&new.cgroup, &after.replacing(before))
    }

    /// Refuses what would be below present use, among the limits that differ.
    fn has_room(&self, old: &PodRecord, new: &PodRecord, index: usize) -> Answer {
        let (before, after) = (self.limited(old, index), self.limited(new, index));
        let differ =
            before.iter().zip(&after).filter(|((.., a), (.., b))| a.memory_limit_bytes != b.memory_limit_bytes);
        differ.into_iter().try_for_each(|(_, (who, cgroup, limits))| self.room_below(who, cgroup, limits))
    }

    /// Who is limited by a container's and the pod's memory: how they are called, and their cgroups.
    fn limited<'r>(&self, record: &'r PodRecord, index: usize) -> Vec<(String, String, &'r Limits)> {
        let mut all = vec![("the pod as a whole".to_owned(), record.cgroup.clone(), &record.sandbox.limits)];
        if let State::Running { id, .. } = &self.status.containers[index].state {
            let made_of = &record.containers[index];
            all.insert(0, (format!("container {}", made_of.name), container::cgroup(record, id), &made_of.limits));
        }
        all
    }

    /// What to say of limits that the kernel did not take. On v1 it says itself when a limit is below present use.
    fn too_full(&self, new: &PodRecord, index: usize, e: &crate::cgroup::Error) -> (Refusal, String) {
        if e.errno() == Some(nix::errno::Errno::EBUSY) {
            for (who, cgroup, limits) in self.limited(new, index) {
                let used = self.driver.usage(&cgroup).ok().flatten().and_then(|usage| usage.memory_bytes);
                if let (Some(used), Some(limit)) = (used, limits.memory_limit_bytes)
                    && used > limit
                {
                    return below_use(&who, limit, used);
                }
            }
        }
        (Refusal::Unknown, e.to_string())
    }

    /// Refuses a memory limit below what a cgroup uses now: on v2 the kernel would kill for it.
    pub(super) fn room_below(&self, who: &str, cgroup: &str, limits: &Limits) -> Answer {
        let Some(limit) = limits.memory_limit_bytes else { return Ok(()) };
        match self.driver.over(cgroup, limit) {
            Ok(None) => Ok(()),
            Ok(Some(used)) => Err(below_use(who, limit, used)),
            Err(e) => Err((Refusal::Unknown, format!("{who}: {e}"))),
        }
    }

    /// The name of the pod's only app container.
    fn only_container(&self) -> Result<String, String> {
        let mut apps = self.record.containers.iter().filter(|c| c.kind == ContainerKind::App);
        match (apps.next(), apps.next()) {
            (Some(only), None) => Ok(only.name.clone()),
            _ => Err(format!("which container? it has {}; choose one with -c", self.names())),
        }
    }

    fn names(&self) -> String {
        self.record.containers.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

fn below_use(who: &str, limit: u64, used: u64) -> (Refusal, String) {
    let message = format!(
        "{who}: a memory limit of {limit} bytes is below the {used} bytes that it uses now; choose more, or have it use less first"
    );
    (Refusal::FailedPrecondition, message)
}

/// A client that has gone does not want to know.
fn respond(reply: &Reply, answer: &Answer) {
    let response = match answer {
        Ok(()) => Response::Ok,
        Err((why, message)) => Response::refused(*why, message),
    };
    let _ = reply.send((response, None));
}
