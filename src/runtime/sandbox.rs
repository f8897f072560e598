//! The pod sandbox: its cgroup, its directories, and pause.

use std::ffi::CString;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use husk_oci::sandbox as oci;
use husk_oci::sys::process::ns;
use k8s_openapi::api::core::v1::PodSpec;

use super::{Error, container, mounts, remove, resolve};
use crate::cgroup::CgroupDriver;
use crate::manifest;
use crate::state::Roots;
use crate::state::record::PodRecord;
use crate::volume;

/// pause's own user and group: nobody else's on a host (65535 is "nobody" in the pause image's tradition).
const PAUSE_ID: u32 = 65535;
/// The kubelet's value for pause.
const PAUSE_OOM_SCORE_ADJ: i32 = -998;
/// A fork bomb must not take the host down; the kubelet leaves this to the node's own limit.
const POD_PIDS: u64 = 8192;
/// `/dev/shm` of a pod, as containerd makes it.
const SHM_BYTES: u64 = 64 << 20;

fn host(e: impl std::fmt::Display) -> Error {
    Error::Host { what: e.to_string() }
}

/// Starts the sandbox of a pod and returns while pause is still setting itself up.
///
/// # Errors
/// The cgroup, a directory or pause cannot be made. What was made goes with the pod.
pub fn start(roots: &Roots, driver: &dyn CgroupDriver, record: &PodRecord) -> Result<oci::Launching, Error> {
    let spec = record.pod.spec.clone().unwrap_or_default();
    let image = crate::embedded::memfd(c"pause", crate::embedded::PAUSE)
        .map_err(|e| Error::io("create a memory file for pause", &e))?;
    let launching = launch(record, &spec, std::os::fd::AsFd::as_fd(&image))?;
    // pause makes its namespaces meanwhile.
    let limits = container::from_resources(manifest::pod_resources(&spec).map_err(host)?);
    let limits = crate::cgroup::Limits { pids_max: Some(POD_PIDS), ..limits };
    driver.create(&record.cgroup, &limits).map_err(host)?;
    directories(roots, record, &spec)?;
    Ok(launching)
}

fn launch(record: &PodRecord, spec: &PodSpec, image: std::os::fd::BorrowedFd<'_>) -> Result<oci::Launching, Error> {
    let mut namespaces = 0;
    let off = |flag: Option<bool>| !flag.unwrap_or(false);
    if off(spec.host_network) {
        // With the host's network come the host's names.
        namespaces |= ns::NET | ns::UTS;
    }
    if off(spec.host_ipc) {
        namespaces |= ns::IPC;
    }
    if off(spec.host_pid) {
        namespaces |= ns::PID;
    }
    let text = |s: String| CString::new(s).map_err(|_| Error::Internal { what: "a NUL byte in the manifest".into() });
    let hostname = if off(spec.host_network) { Some(text(resolve::hostname(&record.pod))?) } else { None };
    let mut tmpfs =
        vec![oci::Tmpfs { path: text(mounts::SHM.into())?, size_bytes: Some(SHM_BYTES), mode: 0o1777, noexec: true }];
    for v in spec.volumes.iter().flatten().filter(|v| manifest::is_memory(v)) {
        let size_bytes = manifest::memory_volume_bytes(v).map_err(host)?;
        tmpfs.push(oci::Tmpfs { path: text(mounts::memory_volume(&v.name))?, size_bytes, mode: 0o777, noexec: false });
    }
    let security = spec.security_context.as_ref();
    let mut sysctls = Vec::new();
    for sysctl in security.and_then(|s| s.sysctls.as_deref()).unwrap_or_default() {
        sysctls.push((text(sysctl.name.replace('.', "/"))?, text(sysctl.value.clone())?));
    }
    oci::start(&oci::Sandbox {
        namespaces,
        hostname: hostname.as_deref(),
        sysctls: &sysctls,
        tmpfs: &tmpfs,
        image,
        uid: PAUSE_ID,
        gid: PAUSE_ID,
        sibling: true,
        oom_score_adj: PAUSE_OOM_SCORE_ADJ,
        user: None,
    })
    .map_err(host)
}

/// Volumes on disk, and the files that tell the pod's names.
fn directories(roots: &Roots, record: &PodRecord, spec: &PodSpec) -> Result<(), Error> {
    let uid = record.uid();
    let private = |dir: &Path| -> Result<(), Error> {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(|e| Error::io(format_args!("create {}", dir.display()), &e))
    };
    let names = mounts::name_dir(roots, uid);
    private(&names)?;
    let on_disk = |v: &&k8s_openapi::api::core::v1::Volume| v.empty_dir.is_some() && !manifest::is_memory(v);
    for v in spec.volumes.iter().flatten().filter(on_disk) {
        let dir = mounts::volume_dir(roots, uid, &v.name);
        private(dir.parent().unwrap_or(&dir))?;
        volume::empty_dir(&dir).map_err(host)?;
    }
    let host_network = spec.host_network.unwrap_or(false);
    let hostname = resolve::hostname(&record.pod);
    let hosts = if host_network { host_file("/etc/hosts") } else { hosts_file(&hostname) };
    for (name, content) in
        mounts::NAME_FILES.into_iter().zip([hosts, format!("{hostname}\n"), host_file("/etc/resolv.conf")])
    {
        let path = names.join(name);
        let opened = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&path);
        let written = opened.and_then(|mut f| f.write_all(content.as_bytes()));
        written.map_err(|e| Error::io(format_args!("write {}", path.display()), &e))?;
    }
    Ok(())
}

/// The host's own file, or nothing where it has none.
fn host_file(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The kubelet's managed hosts file, for a pod without an address.
fn hosts_file(hostname: &str) -> String {
    format!(
        "# Managed by husk.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
         fe00::\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n127.0.0.1\t{hostname}\n"
    )
}

/// Frees what a finished pod needs no more: cgroups, volumes, upper directories. Its records and logs stay.
///
/// # Errors
/// All that could not be removed.
pub fn free(roots: &Roots, driver: &dyn CgroupDriver, record: &PodRecord) -> Result<(), Vec<Error>> {
    let mut errors = Vec::new();
    if let Err(e) = remove::cgroup(driver, &record.cgroup) {
        errors.push(e);
    }
    if let Err(e) = driver.remove_empty_parents(&record.cgroup) {
        errors.push(host(e));
    }
    if let Err(e) = volume::remove_tree(&roots.data_dir(record.uid())) {
        errors.push(host(e));
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}
