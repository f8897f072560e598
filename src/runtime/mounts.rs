//! The mounts of one container: the base set, the pod's `/dev/shm` and names, its volumes.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use husk_oci::spawn::Source;
use oci_spec::runtime::Mount;

use super::{Error, messages, spec};
use crate::state::Roots;
use crate::state::record::{Access, ContainerRecord, MountRecord, MountSource, PodRecord, Propagation};
use crate::volume;

/// Where a mount of the spec comes from.
#[derive(Debug)]
pub enum Origin {
    /// As the spec says.
    Spec,
    /// This detached mount.
    Detached(OwnedFd),
    /// This path in pause's mount namespace.
    Sandbox(CString),
}

impl Origin {
    /// As `oci` takes it.
    pub fn as_source(&self) -> Source<'_> {
        match self {
            Origin::Spec => Source::Spec,
            Origin::Detached(fd) => Source::Detached(fd.as_fd()),
            Origin::Sandbox(path) => Source::Sandbox(path),
        }
    }
}

/// Mounts and, position by position, where they come from.
#[derive(Debug, Default)]
pub struct Mounted {
    /// For the spec.
    pub mounts: Vec<Mount>,
    /// Beside it.
    pub origins: Vec<Origin>,
}

impl Mounted {
    fn push(&mut self, mount: Mount, origin: Origin) {
        self.mounts.push(mount);
        self.origins.push(origin);
    }
}

/// The pod's `/dev/shm` in pause's mount namespace.
pub const SHM: &str = "/shm";

/// A `medium: Memory` volume in pause's mount namespace.
pub fn memory_volume(name: &str) -> String {
    format!("/v/{name}")
}

/// The files that husk writes for a pod and mounts read-only: a container that could write them could fill the host's disk (CVE-2020-8557).
pub const NAME_FILES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

/// Directory of [`NAME_FILES`].
pub fn name_dir(roots: &Roots, uid: &str) -> PathBuf {
    roots.data_dir(uid).join("etc")
}

/// Directory of an emptyDir on disk.
pub fn volume_dir(roots: &Roots, uid: &str, name: &str) -> PathBuf {
    roots.data_dir(uid).join("volumes").join(name)
}

/// Everything that one container mounts, in order: parents before what is below them.
///
/// # Errors
/// A volume cannot be opened or is not what it should be; the error names its mount path.
pub fn container(
    roots: &Roots,
    record: &PodRecord,
    container: &ContainerRecord,
    attempt: u32,
    sandbox: BorrowedFd<'_>,
) -> Result<Mounted, Error> {
    let mut all = Mounted::default();
    for mount in spec::base_mounts(container.privileged)? {
        all.push(mount, Origin::Spec);
    }
    let taken = |path: &str| container.mounts.iter().any(|m| m.destination.trim_end_matches('/') == path);
    if !taken("/dev/shm") {
        let shm = CString::new(SHM).map_err(|_| Error::Internal { what: "a NUL byte in a constant".into() })?;
        all.push(spec::bind("/dev/shm", SHM, &["bind", "nosuid", "nodev", "noexec"])?, Origin::Sandbox(shm));
    }
    for name in NAME_FILES {
        let destination = format!("/etc/{name}");
        if taken(&destination) {
            continue;
        }
        let file = name_dir(roots, &record.id).join(name);
        let opened = volume::host_path(&file, "File", false).map_err(|e| Error::Host { what: e.to_string() })?;
        let fd = opened.ok_or_else(|| Error::Host { what: format!("{} is gone", file.display()) })?;
        let origin = Origin::Detached(
            volume::detached(fd.as_fd(), &file, false).map_err(|e| Error::Host { what: e.to_string() })?,
        );
        all.push(
            spec::bind(&destination, &file.to_string_lossy(), &["bind", "ro", "nosuid", "nodev", "noexec"])?,
            origin,
        );
    }
    for m in &container.mounts {
        let failed = |e: volume::Error| Error::Host { what: format!("volume {} on {}: {e}", m.volume, m.destination) };
        let (shown, origin) = source(roots, record, m, sandbox).map_err(failed)?;
        all.push(spec::bind(&m.destination, &shown, &options(m))?, origin);
    }
    // Last, as the kubelet does: whatever else is mounted there, the message has its file.
    if let Some((place, file)) = messages::of(record, container, attempt) {
        let shown = format!("{}/{file}", messages::DIR);
        let path = CString::new(shown.as_str()).map_err(|_| Error::Internal { what: "a NUL byte in a name".into() })?;
        let options = ["bind", "rprivate", "rw", "nosuid", "nodev", "noexec"];
        all.push(spec::bind(&place.path, &shown, &options)?, Origin::Sandbox(path));
    }
    Ok(all)
}

fn source(
    roots: &Roots,
    record: &PodRecord,
    m: &MountRecord,
    sandbox: BorrowedFd<'_>,
) -> Result<(String, Origin), volume::Error> {
    let sub = m.sub_path.as_deref();
    let (path, typ) = match &m.source {
        MountSource::Memory { name } => {
            let shown = memory_volume(name);
            let origin = match sub {
                None => match CString::new(shown.as_str()) {
                    Ok(path) => Origin::Sandbox(path),
                    Err(_) => return Err(volume::Error::SubPath { sub_path: shown, why: "holds a NUL byte".into() }),
                },
                Some(sub) => Origin::Detached(volume::detached_in(sandbox, &shown, sub)?),
            };
            return Ok((shown, origin));
        }
        MountSource::Host { path, typ } => (PathBuf::from(path), typ.as_str()),
        MountSource::Volume { name } => (volume_dir(roots, &record.id, name), "Directory"),
    };
    let gone = || volume::Error::Kernel { doing: "open volume", path: path.clone(), errno: nix::errno::Errno::ENOENT };
    let volume_fd = volume::host_path(&path, typ, true)?.ok_or_else(gone)?;
    let fd = match sub {
        None => volume_fd,
        Some(sub) => volume::sub_path(volume_fd.as_fd(), sub)?,
    };
    // Mounts of the host below a hostPath belong to it.
    let origin = Origin::Detached(volume::detached(fd.as_fd(), &path, is_host(m))?);
    let shown = sub.map_or(path.clone(), |s| Path::join(&path, s));
    Ok((shown.to_string_lossy().into_owned(), origin))
}

fn is_host(m: &MountRecord) -> bool {
    matches!(m.source, MountSource::Host { .. })
}

fn options(m: &MountRecord) -> Vec<&'static str> {
    vec![
        if is_host(m) { "rbind" } else { "bind" },
        match m.propagation {
            Propagation::Bidirectional => "rshared",
            Propagation::HostToContainer => "rslave",
            Propagation::Private => "rprivate",
        },
        match m.access {
            Access::RecursiveReadOnly => "rro",
            Access::ReadOnly => "ro",
            Access::ReadWrite => "rw",
        },
    ]
}
