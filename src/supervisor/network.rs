//! The pod's network, from the supervisor's side: what calls strangers' programs is waited for, not done here.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use husk_oci::sandbox::Launching;
use tokio::io::Interest;

use super::pod::{Pod, say};
use super::tidy;
use super::timeline::clock_ns;
use super::watch::{watch, watch_for};
use crate::manifest::dns;
use crate::network::{Mode, Status, cni::INTERFACE};
use crate::runtime::cni::{self, Answer, Holder, Working};
use crate::runtime::{Error, hosts, network, resolve};
use crate::state::events::EventType;
use crate::state::timeline::Kind;

/// How long to wait while somebody else is at the names of pods.
const NAMES_BUSY: Duration = Duration::from_millis(5);
/// How long plugins may keep a pod that is deleted by force.
const FORCED_PATIENCE: Duration = Duration::from_secs(5);

impl Pod {
    /// Links the pod to its network as soon as pause has a namespace for it, while pause and `husk run` go on.
    ///
    /// # Errors
    /// It cannot be linked. What was begun goes with the pod.
    pub(super) async fn link_network(
        &mut self,
        pending: &mut Launching,
        pause: BorrowedFd<'_>,
    ) -> Result<Status, Error> {
        if !self.record.sandbox.host_network {
            networked(pending).await?;
        }
        let from = clock_ns();
        let status = network::attach(&self.roots, &self.record, pause).map_err(|e| match pending.next() {
            // A pause that fails takes its namespace with it: what it said of itself is the reason, not that it is gone.
            Err(first) => Error::Host { what: first.to_string() },
            Ok(_) => e,
        })?;
        self.step(Kind::Network, from);
        Ok(status)
    }

    /// Has plugins attach the pod, where the network is theirs, and makes known what it has; once pause is there and before the first container is.
    ///
    /// # Errors
    /// It has none. What was begun goes with the pod.
    pub(super) async fn attach_network(&mut self, mut status: Status, holder: Holder) -> Result<Status, Error> {
        if self.record.sandbox.network.mode == Mode::Cni {
            let from = clock_ns();
            let working = cni::begin_add(&self.roots, &self.record.id, holder)?;
            status.ips = cni::added(&self.record.full_name(), answer(working).await?)?;
            status.interface = INTERFACE.to_owned();
            self.step(Kind::Network, from);
        }
        self.pod_addresses.borrow_mut().clone_from(&status.ips);
        hosts::own(&self.roots, &self.record, &status.ips)?;
        self.unnamed = true;
        self.tell_of_dns();
        Ok(status)
    }

    /// What of `spec.dnsConfig` and the host's own could not be taken.
    fn tell_of_dns(&mut self) {
        let Some(spec) = self.record.pod.spec.as_ref().filter(|s| s.dns_config.is_some()) else { return };
        let (_, warnings) = dns::resolv_conf(spec, &resolve::host_resolv_conf());
        for warning in warnings {
            self.event(EventType::Warning, "DNSConfigForming", None, &warning);
            self.warn(warning);
        }
    }

    /// Makes the pod known to others, as soon as nobody else is at their names.
    pub(super) fn join_names(&mut self) {
        if !std::mem::take(&mut self.unnamed) {
            return;
        }
        let network = self.status.sandbox.as_ref().filter(|s| !s.ended).and_then(|s| s.network.as_deref());
        let Some(known) = network.and_then(|n| hosts::entry(&self.record, &n.ips)) else { return };
        let (roots, id) = (self.roots.clone(), self.record.id.clone());
        let task = tokio::task::spawn_local(async move {
            loop {
                match hosts::join(&roots, &id, &known) {
                    Ok(true) => break,
                    Ok(false) => tokio::time::sleep(NAMES_BUSY).await,
                    Err(e) => {
                        break say("warn", format_args!("{e}, others do not find this pod; husk gc tries again"));
                    }
                }
            }
            // What the files of many others took.
            tidy::before_sleep();
        });
        self.naming = Some(task);
    }

    /// The pod's addresses may be another's soon.
    fn leave_names(&mut self) {
        if let Some(task) = self.naming.take() {
            task.abort();
        }
        hosts::leave(&self.roots, &self.record.id);
    }

    /// Takes the pod out of a network of others while its namespace is still there; without it plugins cannot find all that they have made. What does
    /// not work out now is tried again when the pod is removed, and by gc.
    pub(super) async fn leave_network(&mut self) {
        self.leave_names();
        if self.record.sandbox.network.mode != Mode::Cni {
            return;
        }
        let sandbox = self.status.sandbox.as_ref().filter(|s| !s.ended);
        let holder = sandbox.map(|s| Holder { pid: s.pid, start_ticks: s.start_ticks });
        let forced = self.status.deletion.as_ref().is_some_and(|d| d.grace_seconds == 0);
        let failed = match cni::begin_delete(&self.roots, &self.record.id, holder, false) {
            Ok(None) => None,
            Ok(Some(mut working)) => {
                if forced {
                    working.deadline = working.deadline.min(Instant::now() + FORCED_PATIENCE);
                }
                cni::deleted(&self.record.id, answer(working).await)
            }
            Err(e) => Some(e),
        };
        if let Some(e) = failed {
            say("warn", format_args!("{e}, continuing; it is tried again when the pod is removed"));
        }
    }
}

/// Waits until pause has a network namespace.
async fn networked(pending: &mut Launching) -> Result<(), Error> {
    let io = |e: std::io::Error| Error::io("watch pause", &e);
    let has_network = |pending: &mut Launching| pending.has_network().map_err(|e| Error::Host { what: e.to_string() });
    if has_network(pending)? {
        return Ok(());
    }
    let watched = watch(pending.as_fd().try_clone_to_owned().map_err(io)?).map_err(io)?;
    loop {
        let mut guard = watched.readable().await.map_err(io)?;
        if has_network(pending)? {
            return Ok(());
        }
        guard.clear_ready();
    }
}

/// Waits for a helper without keeping others waiting.
async fn answer(mut working: Working) -> Result<Answer, Error> {
    let io = |e: std::io::Error| Error::io("watch a helper", &e);
    let deadline = working.deadline.into();
    loop {
        {
            let watched = watch_for(working.helper.output()?, Interest::READABLE).map_err(io)?;
            match tokio::time::timeout_at(deadline, watched.readable()).await {
                Ok(ready) => drop(ready.map_err(io)?),
                Err(_) => return Err(working.helper.silent()),
            }
        }
        if let Some(answer) = working.helper.read()? {
            return Ok(answer);
        }
    }
}
