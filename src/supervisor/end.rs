//! How containers and the pod end, and what is freed then.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use husk_oci::file;
use husk_oci::sys::process;
use nix::errno::Errno;

use super::keeper::Exited;
use super::pod::{Instance, Leaving, Pod, now, say};
use super::slots::{self, Part};
use super::streams::Pump;
use super::timeline::clock_ns;
use crate::cgroup::{CgroupDriver, Cgroupfs};
use crate::control::{Refusal, Response};
use crate::pod;
use crate::runtime::{Error, container, messages, remove, sandbox};
use crate::state::events::EventType;
use crate::state::record::{Exit, Hook, State, StopWhy};
use crate::state::timeline::{Kind, Step};
use crate::state::{Doom, doom};

/// How long output may still come after every process of a container is dead.
const DRAIN_PATIENCE: Duration = Duration::from_millis(500);
/// How long the dead may take to be reaped at the end.
const REAP_PATIENCE: Duration = Duration::from_secs(5);

impl Pod {
    /// A child of keeper is dead.
    pub(super) async fn exited(&mut self, exited: Exited) -> Result<(), Error> {
        let at = |state: &State| matches!(state, State::Running { pid, .. } if *pid == exited.pid);
        if let Some(index) = self.status.containers.iter().position(|c| at(&c.state)) {
            self.container_exited(index, exited).await;
            return Ok(());
        }
        if self.status.sandbox.as_ref().is_some_and(|s| s.pid == exited.pid && !s.ended) {
            self.pause = None;
            let from = self.timeline.sandbox_end_ns.take();
            self.step(Kind::EndSandbox, from.unwrap_or_else(clock_ns));
            pod::apply_sandbox_end(&self.record, &mut self.status);
            self.unsaved = true;
        } else if self.hook_exited(exited) {
            // Whoever waits for it sees it in the status.
        } else if let Some(exec) = self.execs.remove(&exited.pid) {
            let (exit_code, signal) = code_and_signal(exited);
            self.exec_exited(exec, exit_code, signal);
        }
        if !self.to_reap.contains(&exited.pid) {
            self.to_reap.push(exited.pid);
        }
        self.save();
        Ok(())
    }

    pub(super) async fn container_exited(&mut self, index: usize, exited: Exited) {
        let State::Running { id, started_at, .. } = self.status.containers[index].state.clone() else { return };
        let attempt = self.status.containers[index].attempt;
        self.exit_step(index, attempt);
        let instance = self.instance(index, attempt, &id, self.record.driven());
        let cgroup = instance.cgroup.clone();
        // In a shared PID namespace others of the container may live on; they end with it (and with them the writers of its log).
        if let Err(e) = self.driver.kill(&cgroup) {
            say("error", format_args!("kill what is left in {cgroup}: {e}"));
        }
        // Its death comes with the sandbox's, of which keeper tells later: the kernel lets pause go last.
        self.notice_lost_sandbox();
        let pumps = match self.live[index].take() {
            Some(live) => drain(live.pumps).await,
            None => Vec::new(),
        };
        let survived = self.status.containers[index].oom_kills;
        let oom_kills = self.driver.oom_kills(&cgroup).unwrap_or_else(|e| {
            say("error", format_args!("{e}; whether it died for want of memory is not known"));
            survived
        });
        let (exit_code, signal) = code_and_signal(exited);
        let reason = pod::exit_reason(exit_code, signal, oom_kills > survived);
        let own = if reason != pod::OOM_KILLED && oom_kills > 0 { pod::oom_text(oom_kills) } else { String::new() };
        let said = self.termination_message(index, attempt, exit_code);
        let time = now();
        let exit = Exit {
            id,
            attempt,
            exit_code,
            signal,
            reason: reason.into(),
            message: pod::end_text(&own, &said),
            started_at: Some(started_at),
            finished_at: time.wall,
            finished_boot_ns: time.boot_ns,
            oom_kills,
        };
        if reason == pod::OOM_KILLED {
            self.container_event(EventType::Warning, "OOMKilling", index, &pod::oom_text(oom_kills));
        }
        self.unsaved |= pod::apply_exit(&self.record, &mut self.status, index, exit);
        self.end_call(index);
        self.back_off_event(index);
        self.to_reap.push(exited.pid);
        self.leaving.push(Leaving { instance, pumps });
        if self.save() {
            self.tidy();
            self.answer_exits();
            self.answer_attached();
        }
    }

    /// Frees the instances whose end is on disk and whose output is in the log.
    pub(super) fn tidy(&mut self) {
        if self.unsaved {
            return;
        }
        let done = |l: &mut Leaving| l.pumps.iter().all(Pump::is_idle);
        for Leaving { instance, .. } in self.leaving.extract_if(.., done).collect::<Vec<_>>() {
            self.free_instance(instance);
        }
    }

    /// What an instance had, for [`Pod::free_instance`]. A client's container keeps its files until it is removed.
    pub(super) fn instance(&self, index: usize, attempt: u32, id: &str, keep_files: bool) -> Instance {
        let c = &self.status.containers[index];
        let dir = container::data_dir(&self.roots, &self.record, &c.name, attempt);
        Instance {
            slot: c.slot,
            attempt,
            cgroup: container::cgroup(&self.record, id),
            dir: (!keep_files).then_some(dir),
            message: messages::of(&self.record, &self.record.containers[index], attempt).map(|(_, file)| file),
        }
    }

    /// Frees what an instance had: its fds in keeper, its cgroup, its upper directory. In the background where it may take time.
    pub(super) fn free_instance(&mut self, instance: Instance) {
        let Instance { slot, attempt, cgroup, dir, message } = instance;
        if let (Some(messages), Some(file)) = (&self.messages, message)
            && let Err(e) = messages::remove(messages.as_fd(), &file)
        {
            say("warn", format_args!("{e}, continuing; it goes with the sandbox"));
        }
        for part in slots::PARTS {
            if let Err(e) = self.keeper.drop_slot(slots::of(slot, attempt, part)) {
                say("error", format_args!("drop an fd of keeper: {e}"));
            }
        }
        let driver = self.driver.clone();
        let task = tokio::task::spawn_local(async move {
            remove_cgroup(&driver, &cgroup).await;
            if let Some(dir) = dir {
                remove_dir(&dir).await;
            }
        });
        self.freeing.retain(|earlier| !earlier.is_finished());
        self.freeing.push(task);
    }

    /// Asks containers to stop.
    pub(super) fn stop(&mut self, indices: Vec<usize>) {
        for index in &indices {
            pod::apply_stopping(&mut self.status.containers[*index], now());
        }
        // On disk first: a successor asks again for what it finds there, and keeper sends no signal twice.
        self.unsaved = true;
        if !self.save() {
            say("warn", "stopping without a record of it, continuing");
        }
        for index in indices {
            self.send_stop_signal(index);
            let c = &self.status.containers[index];
            let told = c.hook.as_ref().is_some_and(|run| run.hook == Hook::PreStop);
            if !told {
                self.stopping_event(index);
            }
        }
    }

    /// A container is about to be stopped: by a preStop hook, or without one by its stop signal.
    pub(super) fn stopping_event(&mut self, index: usize) {
        let c = &self.status.containers[index];
        // Of those the failure has told.
        if !c.stop.as_ref().is_some_and(|stop| matches!(stop.why, StopWhy::Liveness | StopWhy::Startup)) {
            let text = match c.stop.as_ref().map(|stop| stop.why) {
                Some(StopWhy::Image) => format!("Container {} definition changed, will be restarted", c.name),
                _ => format!("Stopping container {}", c.name),
            };
            self.container_event(EventType::Normal, "Killing", index, &text);
        }
    }

    /// Has a container's stop signal sent, if it was not sent before.
    pub(super) fn send_stop_signal(&mut self, index: usize) {
        self.timeline.stopping(index);
        let Some(live) = &self.live[index] else { return };
        let (number, attempt) = (self.status.containers[index].slot, self.status.containers[index].attempt);
        let signal = self.record.containers[index].stop_signal;
        let failed =
            match self.keeper.signal_once(slots::of(number, attempt, Part::Stopped), live.pidfd.as_fd(), signal) {
                Ok(()) | Err(super::keeper::Error::Refused { errno: Errno::ESRCH, .. }) => return,
                // KERNEL(limits): keeper has no room to remember it; a successor of ours might send it again.
                Err(super::keeper::Error::Refused { errno: Errno::ENOSPC, .. }) => {
                    match process::pidfd_send_signal(live.pidfd.as_fd(), signal) {
                        Ok(()) | Err(Errno::ESRCH) => return,
                        Err(e) => husk_oci::errno::Sys(e).to_string(),
                    }
                }
                Err(e) => e.to_string(),
            };
        say("error", format_args!("stop container {}: {failed}", self.record.containers[index].name));
    }

    pub(super) fn kill(&mut self, index: usize) {
        self.count_oom_kills(index);
        self.kill_counted(index);
    }

    fn kill_counted(&mut self, index: usize) {
        if self.live[index].is_some() {
            self.kill_step(index);
        }
        if let Some(live) = &self.live[index] {
            let _ = process::pidfd_send_signal(live.pidfd.as_fd(), libc::SIGKILL);
        }
        let c = &self.status.containers[index];
        if let State::Running { id, .. } = &c.state
            && let Err(e) = self.driver.kill(&container::cgroup(&self.record, id))
        {
            say("error", format_args!("kill container {}: {e}", c.name));
        }
    }

    /// Notes what the kernel has killed for want of memory so far, nobody having listened or not yet: the end of the main process, which is to be killed by
    /// us, is not put down to it.
    fn count_oom_kills(&mut self, index: usize) {
        let c = &mut self.status.containers[index];
        let State::Running { id, pid, .. } = &c.state else { return };
        // Where it cannot be read it is read again, and the failure told, at the container's end.
        if let Ok(kills) = self.driver.oom_kills(&container::cgroup(&self.record, id))
            && kills > c.oom_kills
            && matches!(doom(*pid), Ok(Doom::Living))
        {
            c.oom_kills = kills;
        }
    }

    pub(super) fn kill_all(&mut self) {
        for index in 0..self.live.len() {
            self.count_oom_kills(index);
        }
        // All at once first: killing what a cgroup still holds may take a while.
        for live in self.live.iter().flatten() {
            let _ = process::pidfd_send_signal(live.pidfd.as_fd(), libc::SIGKILL);
        }
        for index in 0..self.live.len() {
            self.kill_counted(index);
        }
    }

    /// Phase Succeeded or Failed: logs and records stay, everything else goes.
    pub(super) fn finish(&mut self) {
        let before = self.status.clone();
        pod::apply_finish(&mut self.status, now());
        if let Err(e) = self.write_status() {
            self.status = before;
            say("error", format_args!("{e}, trying again"));
            self.unsaved = true;
            return;
        }
        self.free();
        self.answer_end(&Response::Ok);
        self.over = true;
    }

    /// Tells all who wait for the end.
    fn answer_end(&mut self, answer: &Response) {
        let exits = self.waiting_for_exit.drain(..).map(|w| w.reply);
        for reply in self.waiting_for_end.drain(..).chain(exits) {
            let _ = reply.send((answer.clone(), None));
        }
    }

    /// What a finished pod needs no more.
    pub(super) fn free(&self) {
        for e in sandbox::free(&self.roots, &*self.driver, &self.record).err().into_iter().flatten() {
            say("error", e);
        }
    }

    pub(super) fn remove(&mut self) {
        let from = clock_ns();
        let mut steps = self.stop_steps();
        let record = Some(&self.record);
        let done = remove::pod(&self.roots, &*self.driver, &self.record.id, record, false);
        let answer = match done {
            Ok(()) => {
                steps.push(Step { stop: true, ..Step::new(Kind::Remove, from, clock_ns()) });
                for reply in self.waiting_for_steps.drain(..) {
                    let _ = reply.send((Response::Ended { steps: steps.clone() }, None));
                }
                Response::Ok
            }
            Err(errors) => {
                let message = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                say("error", &message);
                Response::refused(Refusal::Unknown, message)
            }
        };
        self.answer_end(&answer);
        self.over = true;
    }

    /// Has keeper reap all that is dead, until nobody but us is left: what keeper leaves goes to the host's init, and may stay a zombie there
    /// for a while.
    pub(super) fn reap_all(&mut self) {
        let deadline = Instant::now() + REAP_PATIENCE;
        while !siblings().is_empty() && Instant::now() < deadline {
            match self.keeper.next_exited() {
                Ok(Some(exited)) => drop(self.keeper.reap(exited.pid)),
                Ok(None) => std::thread::sleep(Duration::from_micros(200)),
                Err(_) => return,
            }
        }
    }
}

/// keeper's other children, the dead included.
pub(super) fn siblings() -> Vec<i32> {
    let (keeper, own) = (process::getppid(), process::getpid());
    let list = format!("/proc/{keeper}/task/{keeper}/children");
    let list = file::read_text(Path::new(&list), 1024).unwrap_or_default();
    list.split_ascii_whitespace().filter_map(|p| p.parse().ok()).filter(|pid| *pid != own).collect()
}

/// Exit code as Kubernetes has it, and the signal.
pub(super) fn code_and_signal(exited: Exited) -> (i32, Option<i32>) {
    if exited.code == libc::CLD_EXITED { (exited.status, None) } else { (128 + exited.status, Some(exited.status)) }
}

/// Waits for the end of a dead container's output. What some other process still holds open is not waited for; those pumps that have not
/// written all there is (a full disk) are returned.
pub(super) async fn drain(mut pumps: Vec<Pump>) -> Vec<Pump> {
    let all = async {
        for pump in &mut pumps {
            if !pump.is_blocked() {
                pump.done().await;
            }
        }
    };
    let in_time = tokio::time::timeout(DRAIN_PATIENCE, all).await.is_ok();
    if !in_time && pumps.iter().any(|pump| pump.is_idle() && !pump.is_done()) {
        say("warn", "a log pipe stays open after its container's end, continuing without waiting for it");
    }
    pumps.retain(|pump| !pump.is_idle());
    pumps
}

pub(super) async fn remove_cgroup(driver: &Cgroupfs, path: &str) {
    let mut pause = Duration::from_millis(1);
    for _ in 0..12 {
        match driver.try_remove(path) {
            Ok(true) => return,
            Ok(false) => tokio::time::sleep(pause).await,
            Err(e) => return say("warn", format_args!("remove cgroup {path}: {e}, continuing; it goes with the pod")),
        }
        pause *= 2;
    }
    say("warn", format_args!("cgroup {path} is still in use, continuing; it goes with the pod"));
}

pub(super) async fn remove_dir(dir: &Path) {
    match crate::volume::RemoveTree::new(dir) {
        Ok(mut tree) => loop {
            match tree.step(64) {
                Ok(true) => return,
                Ok(false) => tokio::task::yield_now().await,
                Err(e) => return say("warn", format_args!("{e}, continuing; it goes with the pod")),
            }
        },
        Err(e) => say("warn", format_args!("{e}, continuing; it goes with the pod")),
    }
}
