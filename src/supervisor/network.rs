//! The pod's network, from the supervisor's side: what calls strangers' programs is waited for, not done here.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use tokio::io::Interest;

use super::pod::{Pod, say};
use super::watch::watch_for;
use crate::network::{Mode, Status, cni::INTERFACE};
use crate::runtime::cni::{self, Answer, Holder, Working};
use crate::runtime::{Error, network};

/// How long plugins may keep a pod that is deleted by force.
const FORCED_PATIENCE: Duration = Duration::from_secs(5);

impl Pod {
    /// Gives the pod its network, once pause is there and before the first container is.
    ///
    /// # Errors
    /// It has none. What was begun goes with the pod.
    pub(super) async fn attach_network(&self, holder: Holder) -> Result<Status, Error> {
        let pause = self.pause.as_ref().ok_or_else(|| Error::Internal { what: "a network without pause".into() })?;
        let mut status = network::attach(&self.roots, &self.record, pause.as_fd())?;
        if self.record.sandbox.network.mode == Mode::Cni {
            let working = cni::begin_add(&self.roots, &self.record.id, holder)?;
            status.ips = cni::added(&self.record.full_name(), answer(working).await?)?;
            status.interface = INTERFACE.to_owned();
        }
        Ok(status)
    }

    /// Takes the pod out of a network of others while its namespace is still there; without it plugins cannot find all that they have made. What does
    /// not work out now is tried again when the pod is removed, and by gc.
    pub(super) async fn leave_network(&self) {
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
