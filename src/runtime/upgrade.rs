//! `husk upgrade`: another supervisor for a pod that runs on.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::{Error, exe};
use crate::control::client::{Client, PATIENCE};
use crate::control::{Formats, Request, Response};
use crate::state::{PodEntry, Roots};

/// What supervisors are started from when they are exchanged: this program.
#[derive(Debug)]
pub struct Successor {
    exe: OwnedFd,
    knows: Formats,
}

impl Successor {
    /// This program, which understands `knows`.
    ///
    /// # Errors
    /// The executable cannot be made unwritable.
    pub fn new(roots: &Roots, knows: Formats) -> Result<Successor, Error> {
        Ok(Successor { exe: exe::sealed(&roots.state.join("names"))?, knows })
    }

    /// Exchanges the supervisor of a pod and waits until the new one answers. The containers notice nothing.
    ///
    /// # Errors
    /// The supervisor refuses, since it leaves what the new one does not understand: all is as before then. Or the new one does not answer.
    pub fn take_over(&self, roots: &Roots, entry: &PodEntry) -> Result<(), Error> {
        let dir = roots.pod_dir(&entry.id);
        let wrong = |what: String| Error::Pod { pod: entry.full_name(), what };
        let ask = |request: &Request, patience: Duration| {
            let fds = [self.exe.as_fd()];
            let fds = if matches!(request, Request::Upgrade { .. }) { &fds[..] } else { &[] };
            Client::ask_within(&dir, request, fds, || roots.is_live(&entry.id), patience)
        };
        let silent = |who: &str, e: &std::io::Error| {
            if !roots.is_live(&entry.id) {
                return wrong("it has come to its end".into());
            }
            let why = husk_oci::errno::io_text(e);
            wrong(format!("its {who} supervisor does not answer: {why}; see supervisor.log in {}", dir.display()))
        };
        let pid_of = |answer: Response| match answer {
            Response::Version { pid, .. } => Ok(pid),
            Response::Error { message, .. } => Err(wrong(message)),
            other => Err(wrong(format!("its supervisor answered {other:?}, which does not belong here"))),
        };
        let before = pid_of(ask(&Request::Version, PATIENCE).map_err(|e| silent("old", &e))?)?;
        match ask(&Request::Upgrade { knows: self.knows.clone() }, PATIENCE).map_err(|e| silent("old", &e))? {
            Response::Ok => {}
            other => drop(pid_of(other)?),
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let now = pid_of(ask(&Request::Version, left).map_err(|e| silent("new", &e))?)?;
            if now != before {
                return Ok(());
            }
            if left.is_zero() {
                return Err(wrong("its old supervisor does not leave".into()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
