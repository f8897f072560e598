//! The process that holds a pod's namespaces, found from outside: a pid of the records, and a proof that it is still the one.

use std::os::fd::OwnedFd;

use husk_oci::sys::process;
use nix::errno::Errno;

use super::Error;
use crate::network::forward::Target;
use crate::state::{PodEntry, start_ticks};

/// A pidfd of a pod's pause.
///
/// # Errors
/// The pod does not run, or has no sandbox yet.
pub fn pidfd(entry: &PodEntry) -> Result<OwnedFd, Error> {
    let over = |what: &str| Error::Pod { pod: entry.record.name().to_owned(), what: what.to_owned() };
    if !entry.live {
        return Err(over("it does not run any more"));
    }
    let sandbox = entry.status.sandbox.as_ref().ok_or_else(|| over("its sandbox is not up yet"))?;
    let ended = || over("its sandbox has ended");
    if sandbox.ended || entry.status.finished_at.is_some() {
        return Err(ended());
    }
    // First the fd, then the look: so it is this very process that is looked at.
    let pidfd = match process::pidfd_open(sandbox.pid) {
        Err(Errno::ESRCH) => return Err(ended()),
        other => other.map_err(|e| Error::sys(format_args!("find process {} of the records", sandbox.pid), e))?,
    };
    match start_ticks(sandbox.pid)? {
        Some(ticks) if ticks == sandbox.start_ticks && entry.status.boot_id == crate::state::boot_id()? => Ok(pidfd),
        _ => Err(ended()),
    }
}

/// The pod as ports are forwarded to it.
///
/// # Errors
/// As [`pidfd`].
pub fn target(entry: &PodEntry) -> Result<Target, Error> {
    let network = entry.status.sandbox.as_ref().and_then(|s| s.network.as_deref());
    let addresses = network.map(|n| n.ips.clone()).unwrap_or_default();
    Ok(Target { name: entry.record.name().to_owned(), holder: pidfd(entry)?, addresses })
}
