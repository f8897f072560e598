//! Notices processes that the kernel kills for want of memory while their container lives on.
//!
//! One task and one descriptor for each container that has a memory limit over it; neither wakes while nothing happens. Whether the container's
//! main process was among the killed is known only when it has died, or has visibly survived: the kernel counts first and kills then.

use std::rc::Rc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;

use super::pod::{Pod, say};
use super::watch::watch_for;
use crate::cgroup::{Cgroupfs, OomEvents};
use crate::pod;
use crate::runtime::container;
use crate::state::events::EventType;
use crate::state::record::State;
use crate::state::{Doom, doom};

/// How long after the kernel has counted a process it must have been struck.
const SETTLE: Duration = Duration::from_millis(100);
/// How long not to listen after a word without a kill: a container that lives at its limit (page cache) makes the kernel speak all the time.
const QUIET: Duration = Duration::from_secs(1);

/// What the tasks tell the pod's loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Killed {
    /// The container.
    slot: u32,
    /// The instance.
    attempt: u32,
    /// Processes of the instance that were killed so far; its main process lives.
    kills: u64,
}

/// The task of one instance; it ends when this is dropped.
pub(super) struct Watching(JoinHandle<()>);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Pod {
    /// Begins to watch those that run, have a limit over them, and are not watched yet.
    pub(super) fn watch_memory(&mut self) {
        let pod_limit = self.record.sandbox.limits.memory_limit_bytes.is_some();
        for (index, live) in self.live.iter_mut().enumerate() {
            let Some(live) = live.as_mut().filter(|live| live.memory.is_none()) else { continue };
            let (made_of, c) = (&self.record.containers[index], &self.status.containers[index]);
            let State::Running { id, pid, .. } = &c.state else { continue };
            if !pod_limit && made_of.limits.memory_limit_bytes.is_none() {
                continue;
            }
            let cgroup = container::cgroup(&self.record, id);
            let task = Task {
                driver: self.driver.clone(),
                cgroup,
                pid: *pid,
                seen: Killed { slot: c.slot, attempt: c.attempt, kills: c.oom_kills },
                tell: self.killed_sender.clone(),
            };
            live.memory = Some(Watching(tokio::task::spawn_local(task.run())));
        }
    }

    /// Processes of a container were killed, and it goes on.
    pub(super) fn killed(&mut self, killed: Killed) {
        let Killed { slot, attempt, kills } = killed;
        let Some(name) = pod::apply_oom_kills(&mut self.status, slot, attempt, kills) else { return };
        let (name, text) = (name.to_owned(), format!("{}, and it goes on", pod::oom_text(kills)));
        say("warn", format_args!("container {name}: {text}"));
        self.event(EventType::Warning, "OOMKilling", Some(&name), &text);
        self.unsaved = true;
        self.save();
    }
}

struct Task {
    driver: Rc<Cgroupfs>,
    cgroup: String,
    pid: i32,
    seen: Killed,
    tell: UnboundedSender<Killed>,
}

impl Task {
    async fn run(self) {
        let cgroup = self.cgroup.clone();
        if let Err(e) = self.try_run().await {
            // What is lost is the count while the container lives; at its end it is read again.
            say("warn", format_args!("watch memory of cgroup {cgroup}: {e}, continuing without"));
        }
    }

    async fn try_run(mut self) -> Result<(), String> {
        let text = |e: crate::cgroup::Error| e.to_string();
        let Some(mut events) = self.driver.oom_events(&self.cgroup).map_err(text)? else { return Ok(()) };
        while let Some(kills) = events.kills().map_err(text)? {
            if kills > self.seen.kills {
                tokio::time::sleep(SETTLE).await;
                if doom(self.pid).map_err(|e| e.to_string())? == Doom::Dying {
                    // Its end tells the rest.
                    return Ok(());
                }
                self.seen.kills = kills;
                if self.tell.send(self.seen).is_err() {
                    return Ok(());
                }
                continue;
            }
            wait(&events).await.map_err(|e| husk_oci::errno::io_text(&e))?;
            tokio::time::sleep(SETTLE).await;
            if events.kills().map_err(text)?.is_some_and(|kills| kills <= self.seen.kills) {
                tokio::time::sleep(QUIET).await;
            }
        }
        Ok(())
    }
}

/// Waits for the kernel's word; nothing is registered afterwards, so that it does not wake us while we do not listen.
async fn wait(events: &OomEvents) -> std::io::Result<()> {
    use std::os::fd::AsFd;
    let interest = if events.by_priority() { Interest::PRIORITY } else { Interest::READABLE };
    let watched = watch_for(events.as_fd(), interest)?;
    watched.ready(interest).await.map(drop)
}
