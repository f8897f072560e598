//! The mounts of one container: the base set, the pod's `/dev/shm` and names, its volumes.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use husk_oci::spawn::Source;
use k8s_openapi::api::core::v1::{Container, Volume, VolumeMount};
use oci_spec::runtime::Mount;

use super::{Error, spec};
use crate::manifest;
use crate::state::Roots;
use crate::state::record::PodRecord;
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
    c: &Container,
    privileged: bool,
    sandbox: BorrowedFd<'_>,
) -> Result<Mounted, Error> {
    let mut all = Mounted::default();
    for mount in spec::base_mounts(privileged)? {
        all.push(mount, Origin::Spec);
    }
    let asked: Vec<&VolumeMount> = c.volume_mounts.iter().flatten().collect();
    let taken = |path: &str| asked.iter().any(|m| m.mount_path.trim_end_matches('/') == path);
    if !taken("/dev/shm") {
        let shm = CString::new(SHM).map_err(|_| Error::Internal { what: "a NUL byte in a constant".into() })?;
        all.push(spec::bind("/dev/shm", SHM, &["bind", "nosuid", "nodev", "noexec"])?, Origin::Sandbox(shm));
    }
    for name in NAME_FILES {
        let destination = format!("/etc/{name}");
        if taken(&destination) {
            continue;
        }
        let file = name_dir(roots, record.uid()).join(name);
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
    let volumes = record.pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
    let mut ordered = asked.clone();
    ordered.sort_by_key(|m| m.mount_path.split('/').filter(|p| !p.is_empty()).count());
    for m in ordered {
        let failed = |what: String| Error::Host { what: format!("volume {} on {}: {what}", m.name, m.mount_path) };
        let v = volumes.iter().find(|v| v.name == m.name).ok_or_else(|| failed("is not in spec.volumes".into()))?;
        let (shown, origin) = source(roots, record, v, m, sandbox).map_err(|e| failed(e.to_string()))?;
        all.push(spec::bind(&m.mount_path, &shown, &options(m, v))?, origin);
    }
    Ok(all)
}

/// `subPathExpr` is refused by the manifest room, so `subPath` is all there is.
fn source(
    roots: &Roots,
    record: &PodRecord,
    v: &Volume,
    m: &VolumeMount,
    sandbox: BorrowedFd<'_>,
) -> Result<(String, Origin), volume::Error> {
    let sub = m.sub_path.as_deref().filter(|s| !s.is_empty());
    if manifest::is_memory(v) {
        let shown = memory_volume(&v.name);
        let origin = match sub {
            None => match CString::new(shown.as_str()) {
                Ok(path) => Origin::Sandbox(path),
                Err(_) => return Err(volume::Error::SubPath { sub_path: shown, why: "holds a NUL byte".into() }),
            },
            Some(sub) => Origin::Detached(volume::detached_in(sandbox, &shown, sub)?),
        };
        return Ok((shown, origin));
    }
    let (path, typ) = match &v.host_path {
        Some(h) => (PathBuf::from(&h.path), h.type_.clone().unwrap_or_default()),
        None => (volume_dir(roots, record.uid(), &v.name), "Directory".to_owned()),
    };
    let gone = || volume::Error::Kernel { doing: "open volume", path: path.clone(), errno: nix::errno::Errno::ENOENT };
    let volume_fd = volume::host_path(&path, &typ, true)?.ok_or_else(gone)?;
    let fd = match sub {
        None => volume_fd,
        Some(sub) => volume::sub_path(volume_fd.as_fd(), sub)?,
    };
    // Mounts of the host below a hostPath belong to it.
    let origin = Origin::Detached(volume::detached(fd.as_fd(), &path, v.host_path.is_some())?);
    let shown = sub.map_or(path.clone(), |s| Path::join(&path, s));
    Ok((shown.to_string_lossy().into_owned(), origin))
}

/// `readOnly`, `recursiveReadOnly` and `mountPropagation` as mount options; `VolumeMount`.
fn options(m: &VolumeMount, v: &Volume) -> Vec<&'static str> {
    let mut options = vec![if v.host_path.is_some() { "rbind" } else { "bind" }];
    options.push(match m.mount_propagation.as_deref() {
        Some("Bidirectional") => "rshared",
        Some("HostToContainer") => "rslave",
        _ => "rprivate",
    });
    options.push(match (m.read_only.unwrap_or(false), m.recursive_read_only.as_deref()) {
        (true, Some("IfPossible" | "Enabled")) => "rro",
        (true, _) => "ro",
        _ => "rw",
    });
    options
}
