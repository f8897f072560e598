//! What changes in a pod that lives: resources of its containers (`husk update`), labels and the like (`husk apply`, `husk watch`).

use std::ffi::CStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};

use husk_oci::sys::fd;

use k8s_openapi::api::core::v1::Pod;

use super::{Error, apparmor, limits, resolve, say};
use crate::cgroup::Cgroupfs;
use crate::control::client::Client;
use crate::control::{Request, Response};
use crate::image::Store;
use crate::manifest::{self, Amounts, InPlace};
use crate::state::record::{Amendment, Source};
use crate::state::{PodEntry, Roots};

/// Changes a container's resources and waits until they hold: for its end and restart, where its `resizePolicy` asks for that.
///
/// # Errors
/// The pod does not run, or its supervisor refuses; all is as before then.
pub fn update(roots: &Roots, entry: &PodEntry, container: Option<String>, amounts: Amounts) -> Result<(), Error> {
    ask(roots, entry, &Request::Resize { container, amounts: Box::new(amounts) }, &[])?;
    // It holds; what stands above the pod follows.
    let settled = Cgroupfs::detect().map_err(|e| Error::Host { what: e.to_string() });
    if let Err(e) = settled.and_then(|driver| limits::settle_resized(roots, &driver, &entry.record)) {
        say::say("warn", format_args!("weigh the pods of its class: {e}, continuing; husk gc tries again"));
    }
    Ok(())
}

/// Makes a pod that lives what `wanted` is, where `change` says how they differ: resources first, one container after the other, then in one step labels,
/// annotations, `activeDeadlineSeconds`, where it comes from, and images. It is on disk when this returns; containers that get another image are then started again.
///
/// # Errors
/// An image is not there, or does not fit: nothing has changed then. Or as [`update`]: what came before stays.
pub fn change(
    roots: &Roots,
    entry: &PodEntry,
    wanted: &Pod,
    source: Option<Source>,
    change: &InPlace,
) -> Result<(), Error> {
    let mut amendment = Amendment {
        labels: wanted.metadata.labels.clone(),
        annotations: wanted.metadata.annotations.clone(),
        active_deadline_seconds: wanted.spec.as_ref().and_then(|s| s.active_deadline_seconds),
        source,
        images: Vec::new(),
    };
    let host = |e: &dyn std::fmt::Display| Error::Host { what: e.to_string() };
    let store = (!change.images.is_empty()).then(|| Store::open(&roots.root)).transpose().map_err(|e| host(&e))?;
    // Until the status says that the containers will use them, nobody may remove the images.
    let _held = store.as_ref().map(Store::hold).transpose().map_err(|e| host(&e))?;
    if let Some(store) = &store {
        for name in &change.images {
            let image = manifest::container(wanted, name).and_then(|c| c.image.as_deref()).unwrap_or_default();
            amendment.images.push(resolve::exchanged(store, &entry.record, name, image)?);
        }
        let made: Vec<_> = amendment.images.iter().map(|exchange| exchange.record.clone()).collect();
        apparmor::ensure(&made)?;
    }
    for (container, amounts) in &change.resizes {
        update(roots, entry, Some(container.clone()), amounts.clone())?;
    }
    if !change.amend && amendment.images.is_empty() && amendment.source == entry.record.source {
        return Ok(());
    }
    let file = in_memory(c"amendment", &amendment)?;
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
