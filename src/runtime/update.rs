//! What changes in a pod that lives: resources of its containers (`husk update`), labels and the like (`husk apply`, `husk watch`).

use std::ffi::CStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};

use husk_oci::sys::fd;

use super::Error;
use crate::control::client::Client;
use crate::control::{Request, Response};
use crate::manifest::Amounts;
use crate::state::record::Amendment;
use crate::state::{PodEntry, Roots};

/// Changes a container's resources and waits until they hold: for its end and restart, where its `resizePolicy` asks for that.
///
/// # Errors
/// The pod does not run, or its supervisor refuses; all is as before then.
pub fn update(roots: &Roots, entry: &PodEntry, container: Option<String>, amounts: Amounts) -> Result<(), Error> {
    ask(roots, entry, &Request::Resize { container, amounts: Box::new(amounts) }, &[])
}

/// Sets what an amendment has; it is on disk when this returns.
///
/// # Errors
/// As [`update`].
pub fn amend(roots: &Roots, entry: &PodEntry, amendment: &Amendment) -> Result<(), Error> {
    let file = in_memory(c"amendment", amendment)?;
    ask(roots, entry, &Request::Amend, &[file.as_fd()])
}

/// Has a container, or all, stopped in order and started again. Returns when that is on disk, not when it is done.
///
/// # Errors
/// As [`update`].
pub fn restart(roots: &Roots, entry: &PodEntry, container: Option<String>) -> Result<(), Error> {
    ask(roots, entry, &Request::Restart { container }, &[])
}

/// Something for a supervisor that may be more than a packet holds, as a file that goes with the packet.
pub(super) fn in_memory(name: &CStr, what: &impl serde::Serialize) -> Result<File, Error> {
    let text = serde_json::to_vec(what).map_err(|e| Error::Internal { what: e.to_string() })?;
    let memory = fd::memfd(name, false).map_err(|e| Error::sys("make a file in memory", e))?;
    let mut file = File::from(memory);
    file.write_all(&text).map_err(|e| Error::io("write a file in memory", &e))?;
    Ok(file)
}

/// Asks the supervisor of a pod that lives for something that it answers with done or not.
///
/// # Errors
/// The pod does not run, or its supervisor refuses.
pub(super) fn ask(roots: &Roots, entry: &PodEntry, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
    let wrong = |what: String| Error::Pod { pod: entry.full_name(), what };
    let lives = || roots.is_live(&entry.id);
    if !lives() {
        return Err(wrong("it does not run any more".into()));
    }
    let dir = roots.pod_dir(&entry.id);
    match Client::ask(&dir, request, fds, lives) {
        Ok((_, Response::Ok, _)) => Ok(()),
        Ok((_, Response::Error { message, .. }, _)) => Err(wrong(message)),
        Ok((_, other, _)) => Err(wrong(format!("its supervisor answered {other:?}, which does not belong here"))),
        Err(_) if !lives() => Err(wrong("it has come to its end".into())),
        Err(e) => {
            let why = husk_oci::errno::io_text(&e);
            Err(wrong(format!("its supervisor does not answer: {why}; see supervisor.log in {}", dir.display())))
        }
    }
}
