//! A sandbox that is lost, because somebody has killed pause, and the one that comes in its place.
//!
//! The kernel kills all that is in pause's PID namespace, and lets pause itself go only when keeper has reaped the last of them. So containers' ends are heard of
//! before pause's, and must not be taken for crashes of their own that a restart in the same sandbox could mend.

use husk_oci::file;
use std::os::fd::AsFd;
use std::path::PathBuf;

use super::pod::{Pod, now, say};
use super::timeline::clock_ns;
use crate::pod;
use crate::runtime::{Error, sandbox};
use crate::state::events::EventType;
use crate::state::record::Sandbox;

/// The kernel's flag of a task that is on its way out, `/proc/<pid>/stat` field 9.
const PF_EXITING: u64 = 0x4;
/// How long to wait before another sandbox is tried after one that could not be made: the kubelet's time for any error of a pod.
const RETRY_NS: u64 = 10_000_000_000;

impl Pod {
    /// Takes note of a sandbox whose pause is dying.
    pub(super) fn notice_lost_sandbox(&mut self) -> bool {
        let Some(sandbox) = self.status.sandbox.as_ref().filter(|s| !s.ended) else { return false };
        if !is_dying(sandbox.pid) {
            return false;
        }
        self.pause = None;
        pod::apply_sandbox_end(&self.record, &mut self.status);
        self.unsaved = true;
        true
    }

    /// Makes a sandbox in place of the one that was lost. What goes wrong is tried again after a while.
    pub(super) async fn new_sandbox(&mut self) {
        self.sandbox_retry_boot_ns = None;
        self.event(EventType::Normal, "SandboxChanged", None, "Pod sandbox changed, it will be killed and re-created.");
        // Made for the one that was lost.
        self.prepared = None;
        self.placed.clear();
        match self.launch_again().await {
            Ok(sandbox) => {
                pod::apply_new_sandbox(&self.record, &mut self.status, sandbox);
                self.unsaved = true;
                say("info", "the sandbox was lost, another takes its place");
            }
            Err(e) => {
                self.event(
                    EventType::Warning,
                    "FailedCreatePodSandBox",
                    None,
                    &format!("Failed to create pod sandbox: {e}"),
                );
                say("error", format_args!("make another sandbox: {e}, trying again"));
                self.pause = None;
                self.kill_strangers();
                self.sandbox_retry_boot_ns = Some(now().boot_ns.saturating_add(RETRY_NS));
            }
        }
    }

    async fn launch_again(&mut self) -> Result<Sandbox, Error> {
        // Plugins are to forget the old one; an address of our own bridge stays the pod's.
        self.leave_network().await;
        let from = clock_ns();
        let (mut pending, pidfd) = self.launching()?;
        let linked = self.link_network(&mut pending, pidfd.as_fd()).await?;
        sandbox::prepare(&self.roots, &*self.driver, &self.record)?;
        self.hold(pending, from, linked).await
    }
}

/// Whether a process was killed and has not come to its end yet, or has. What cannot be read is gone.
fn is_dying(pid: i32) -> bool {
    let read = |name: &str| file::read_text(&PathBuf::from(format!("/proc/{pid}/{name}")), 8192);
    let (Ok(stat), Ok(status)) = (read("stat"), read("status")) else { return true };
    // Behind the name, which may contain anything: state, ppid, pgrp, session, tty, tpgid, flags.
    let Some((_, fields)) = stat.rsplit_once(')') else { return true };
    let mut fields = fields.split_ascii_whitespace();
    let zombie = matches!(fields.next(), Some("Z" | "X"));
    let exiting = fields.nth(5).and_then(|f| f.parse::<u64>().ok()).is_some_and(|flags| flags & PF_EXITING != 0);
    let killed = status.lines().any(|line| {
        let mask = line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:"));
        let mask = mask.and_then(|m| u64::from_str_radix(m.trim(), 16).ok());
        mask.is_some_and(|mask| mask & (1 << (libc::SIGKILL - 1)) != 0)
    });
    zombie || exiting || killed
}

#[cfg(test)]
mod tests {
    use super::is_dying;

    #[test]
    fn who_lives_is_not_dying_and_who_is_gone_is() {
        assert!(!is_dying(std::process::id().cast_signed()));
        assert!(is_dying(i32::MAX));
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().expect("spawn");
        let pid = child.id().cast_signed();
        assert!(!is_dying(pid));
        child.kill().expect("kill");
        assert!(is_dying(pid), "killed or a zombie");
        child.wait().expect("wait");
    }
}
