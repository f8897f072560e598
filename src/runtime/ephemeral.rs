//! `husk debug`: one more container for a pod that runs, and its removal.

use std::os::fd::AsFd;

use k8s_openapi::api::core::v1::EphemeralContainer;

use super::update::{ask, in_memory};
use super::{Error, apparmor, resolve};
use crate::cgroup::Cgroupfs;
use crate::control::Request;
use crate::image::Store;
use crate::state::record::Added;
use crate::state::{PodEntry, Roots};

/// Adds a container, which was validated against the pod, and waits until it runs.
///
/// # Errors
/// It does not fit its image or the host, or could not be started; nothing of it is left then.
pub fn add(roots: &Roots, entry: &PodEntry, asked: EphemeralContainer) -> Result<(), Error> {
    let host = |e: &dyn std::fmt::Display| Error::Host { what: e.to_string() };
    let store = Store::open(&roots.root).map_err(|e| host(&e))?;
    // Until the record says that the container uses it, nobody may remove its image.
    let _held = store.hold().map_err(|e| host(&e))?;
    let driver = Cgroupfs::detect().map_err(|e| host(&e))?;
    let record = resolve::ephemeral(driver.hierarchies(), &store, &entry.record, &asked)?;
    apparmor::ensure(std::slice::from_ref(&record))?;
    let file = in_memory(c"container", &Added { record, asked })?;
    ask(roots, entry, &Request::AddEphemeral, &[file.as_fd()])
}

/// Ends an ephemeral container and takes it away, its log included. One that is not there is gone.
///
/// # Errors
/// The pod does not run, or its status cannot be written.
pub fn remove(roots: &Roots, entry: &PodEntry, name: &str) -> Result<(), Error> {
    ask(roots, entry, &Request::RemoveEphemeral { name: name.to_owned() }, &[])
}
