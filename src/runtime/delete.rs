//! `husk delete`: asks the pod's supervisor, or collects a pod that has none.

use std::path::Path;
use std::time::{Duration, Instant};

use super::{Error, remove, run::wait_until_unlocked};
use crate::cgroup::Cgroupfs;
use crate::control::client::Client;
use crate::control::{Request, Response};
use crate::state::{Lock, LockMode, PodEntry, Roots};

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

/// How long to wait, in milliseconds, before a supervisor is asked again.
const RETRY_MS: u32 = 20;

/// How long a supervisor may be away (keeper starts it again within a second) before that is an error.
const PATIENCE: Duration = Duration::from_secs(15);

/// Ends a pod and removes it. Blocks until everything is gone, if `wait`; otherwise until the supervisor has recorded the wish.
///
/// # Errors
/// The supervisor cannot be reached although keeper lives, or something cannot be removed. A pod that is gone is success.
pub fn delete(roots: &Roots, entry: &PodEntry, options: DeleteOptions) -> Result<(), Error> {
    let dir = roots.pod_dir(&entry.id);
    let deadline = Instant::now() + PATIENCE;
    loop {
        if !is_live(roots, &entry.id)? {
            let driver = Cgroupfs::detect().map_err(|e| Error::Host { what: e.to_string() })?;
            remove::collect(roots, &driver, &entry.id).map_err(|errors| join(&errors))?;
            return remove::runtime_cgroup(roots, &driver);
        }
        match ask(&dir, options) {
            Ok(Response::Error { message, .. }) => return Err(Error::Pod { pod: entry.full_name(), what: message }),
            Ok(_) if !options.wait => return Ok(()),
            // The records go with the supervisor's last act; what is left when keeper is gone is ours.
            Ok(_) => wait_until_unlocked(&dir),
            Err(e) if Instant::now() > deadline => {
                let what = format!(
                    "its supervisor does not answer: {}; see supervisor.log in {}",
                    husk_oci::errno::io_text(&e),
                    dir.display()
                );
                return Err(Error::Pod { pod: entry.full_name(), what });
            }
            // Either a successor is on its way, or the pod came to its end before the answer did.
            Err(_) => {
                for _ in 0..RETRY_MS {
                    std::thread::sleep(Duration::from_millis(1));
                    if !matches!(Lock::attempt(&dir, LockMode::Shared), Ok(None)) {
                        break;
                    }
                }
            }
        }
    }
}

fn join(errors: &[Error]) -> Error {
    Error::Host { what: errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ") }
}

fn is_live(roots: &Roots, uid: &str) -> Result<bool, Error> {
    Ok(match roots.look(uid)? {
        Some(crate::state::Listed::Pod(entry)) => entry.live,
        Some(crate::state::Listed::Unfinished { live, .. } | crate::state::Listed::Unreadable { live, .. }) => live,
        None => false,
    })
}

fn ask(dir: &Path, options: DeleteOptions) -> std::io::Result<Response> {
    let mut client = Client::connect(dir)?;
    client.send(
        &Request::Delete { grace_seconds: options.grace_seconds, force: options.force, nowait: !options.wait },
        &[],
    )?;
    Ok(client.receive()?.0)
}
