//! A sandbox that is lost, because somebody has killed pause, and the one that comes in its place.
//!
//! The kernel kills all that is in pause's PID namespace, and lets pause itself go only when keeper has reaped the last of them. So containers' ends are heard of
//! before pause's, and must not be taken for crashes of their own that a restart in the same sandbox could mend.

use std::os::fd::AsFd;

use super::pod::{Pod, now, say};
use super::timeline::clock_ns;
use crate::pod;
use crate::runtime::{Error, sandbox};
use crate::state::events::EventType;
use crate::state::record::Sandbox;
use crate::state::{Doom, doom};

impl Pod {
    /// Takes note of a sandbox whose pause is dying.
    pub(super) fn notice_lost_sandbox(&mut self) -> bool {
        let Some(sandbox) = self.status.sandbox.as_ref().filter(|s| !s.ended) else { return false };
        match doom(sandbox.pid) {
            Ok(Doom::Dying) => {}
            Ok(Doom::Living) => return false,
            Err(e) => {
                say("warn", format_args!("look whether pause is dying: {e}, keeper will tell"));
                return false;
            }
        }
        self.pause = None;
        pod::apply_sandbox_end(&self.record, &mut self.status);
        self.unsaved = true;
        true
    }

    /// Makes a sandbox in place of the one that was lost. What goes wrong is tried again after a while.
    pub(super) async fn new_sandbox(&mut self) {
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
                pod::apply_sandbox_failed(&mut self.status, now());
                self.unsaved = true;
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
