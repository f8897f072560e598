//! `husk delete`: asks the pod's supervisor, or collects a pod that has none.

use super::{Error, remove, run::wait_until_unlocked};
use crate::cgroup::Cgroupfs;
use crate::control::client::Client;
use crate::control::{Request, Response};
use crate::state::{PodEntry, Roots};

/// How the pod shall end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    /// Seconds; `None` = the pod's own `terminationGracePeriodSeconds`.
    pub grace_seconds: Option<u64>,
    /// SIGKILL at once.
    pub force: bool,
    /// Return when everything is gone, not when the deletion was recorded.
    pub wait: bool,
}

/// Ends a pod and removes it. Blocks until everything is gone, if `wait`; otherwise until the supervisor has recorded the wish.
///
/// # Errors
/// The supervisor cannot be reached although keeper lives, or something cannot be removed. A pod that is gone is success.
pub fn delete(roots: &Roots, entry: &PodEntry, options: DeleteOptions) -> Result<(), Error> {
    let dir = roots.pod_dir(&entry.id);
    let request = Request::Delete { grace_seconds: options.grace_seconds, force: options.force, nowait: !options.wait };
    let lives = || roots.is_live(&entry.id);
    loop {
        if !lives() {
            let driver = Cgroupfs::detect().map_err(|e| Error::Host { what: e.to_string() })?;
            remove::collect(roots, &driver, &entry.id).map_err(|errors| join(&errors))?;
            return remove::runtime_cgroup(roots, &driver);
        }
        match Client::ask(&dir, &request, &[], lives).map(|(_, response, _)| response) {
            Ok(Response::Error { message, .. }) => return Err(Error::Pod { pod: entry.full_name(), what: message }),
            Ok(_) if !options.wait => return Ok(()),
            // The records go with the supervisor's last act; what is left when keeper is gone is ours.
            Ok(_) => wait_until_unlocked(&dir),
            Err(e) if lives() => {
                let what = format!(
                    "its supervisor does not answer: {}; see supervisor.log in {}",
                    husk_oci::errno::io_text(&e),
                    dir.display()
                );
                return Err(Error::Pod { pod: entry.full_name(), what });
            }
            // It came to its end before the answer did.
            Err(_) => {}
        }
    }
}

pub(super) fn join(errors: &[Error]) -> Error {
    Error::Host { what: errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ") }
}
