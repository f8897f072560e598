//! The pod sandbox: its cgroup, its directories, and pause.

use std::ffi::CString;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use husk_oci::sandbox as oci;
use husk_oci::sys::process::ns;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Error, hosts, messages, mounts, network, remove};
use crate::cgroup::CgroupDriver;
use crate::manifest::dns;
use crate::network::{Mode, sysctl};
use crate::state::Roots;
use crate::state::record::{PodRecord, SandboxRecord};
use crate::volume;

/// pause's own user and group: nobody else's on a host (65535 is "nobody" in the pause image's tradition).
const PAUSE_ID: u32 = 65535;
/// The kubelet's value for pause.
const PAUSE_OOM_SCORE_ADJ: i32 = -998;
/// `/dev/shm` of a pod, as containerd makes it.
const SHM_BYTES: u64 = 64 << 20;

fn host(e: impl std::fmt::Display) -> Error {
    Error::Host { what: e.to_string() }
}

/// A sandbox as `oci` wants to know it.
#[derive(Debug)]
pub struct Design {
    namespaces: u64,
    hostname: Option<CString>,
    tmpfs: Vec<oci::Tmpfs>,
    sysctls: Vec<(CString, CString)>,
}

impl Design {
    /// What the record asks for.
    ///
    /// # Errors
    /// A defect of the checks before.
    pub fn new(sandbox: &SandboxRecord) -> Result<Design, Error> {
        let mut namespaces = 0;
        if !sandbox.host_network {
            // With the host's network come the host's names.
            namespaces |= ns::NET | ns::UTS;
        }
        if !sandbox.host_ipc {
            namespaces |= ns::IPC;
        }
        if !sandbox.host_pid {
            namespaces |= ns::PID;
        }
        let text = |s: String| CString::new(s).map_err(|_| Error::Internal { what: "a NUL byte in the record".into() });
        let hostname = if sandbox.host_network { None } else { Some(text(sandbox.hostname.clone())?) };
        let shm = text(mounts::SHM.into())?;
        let mut tmpfs = vec![oci::Tmpfs { path: shm, size_bytes: Some(SHM_BYTES), mode: 0o1777, noexec: true }];
        for v in sandbox.volumes.iter().filter(|v| v.memory) {
            let path = text(mounts::memory_volume(&v.name))?;
            tmpfs.push(oci::Tmpfs { path, size_bytes: v.size_bytes, mode: 0o777, noexec: false });
        }
        if sandbox.messages {
            // Nobody but us looks in there: a container has a file of it.
            let size_bytes = Some(messages::BYTES);
            tmpfs.push(oci::Tmpfs { path: text(messages::DIR.into())?, size_bytes, mode: 0o700, noexec: true });
        }
        let mut sysctls = Vec::new();
        if !sandbox.host_network {
            // containerd's `enable_unprivileged_ports` and `enable_unprivileged_icmp`: what is the pod's own needs no capability.
            for (name, value) in
                [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")]
            {
                if !sandbox.sysctls.iter().any(|(own, _)| own == name) {
                    sysctls.push((text(name.replace('.', "/"))?, text(value.into())?));
                }
            }
        }
        for (name, value) in &sandbox.sysctls {
            sysctls.push((text(name.replace('.', "/"))?, text(value.clone())?));
        }
        if sandbox.network.mode == Mode::Bridge {
            // Last, whatever the pod has said.
            for (name, value) in sysctl::of_pod() {
                sysctls.push((text(name.replace('.', "/"))?, text((*value).to_owned())?));
            }
        }
        Ok(Design { namespaces, hostname, tmpfs, sysctls })
    }

    /// With pause's program; `sibling`: pause becomes a child of our parent.
    pub fn sandbox<'a>(&'a self, image: BorrowedFd<'a>, sibling: bool) -> oci::Sandbox<'a> {
        oci::Sandbox {
            namespaces: self.namespaces,
            hostname: self.hostname.as_deref(),
            sysctls: &self.sysctls,
            tmpfs: &self.tmpfs,
            image,
            uid: PAUSE_ID,
            gid: PAUSE_ID,
            sibling,
            oom_score_adj: PAUSE_OOM_SCORE_ADJ,
            user: None,
        }
    }
}

/// pause's program in memory.
///
/// # Errors
/// The kernel's.
pub fn image() -> Result<OwnedFd, Error> {
    crate::embedded::memfd(c"pause", crate::embedded::PAUSE)
        .map_err(|e| Error::io("create a memory file for pause", &e))
}

/// Clones pause as our sibling and returns while it is still setting itself up.
///
/// # Errors
/// pause cannot be cloned.
pub fn launch(record: &PodRecord) -> Result<oci::Launching, Error> {
    let image = image()?;
    oci::start(&Design::new(&record.sandbox)?.sandbox(image.as_fd(), true)).map_err(host)
}

/// Takes charge of the pause that was cloned ahead, by our parent.
///
/// # Errors
/// A defect of the checks before.
pub fn adopt(record: &PodRecord, cloned: oci::Cloned) -> Result<oci::Launching, Error> {
    let design = Design::new(&record.sandbox)?;
    Ok(oci::adopt(&design.sysctls, &design.tmpfs, true, cloned))
}

/// Makes what a pod has besides its processes: its cgroup, volumes on disk, name files. What is there already is fine.
///
/// # Errors
/// The cgroup or a directory cannot be made. What was made goes with the pod.
pub fn prepare(roots: &Roots, driver: &dyn CgroupDriver, record: &PodRecord) -> Result<(), Error> {
    if !record.sandbox.foreign_cgroup {
        driver.create(&record.cgroup, &record.sandbox.limits).map_err(host)?;
    }
    directories(roots, record)
}

/// Volumes on disk, and the files that tell the pod's names.
fn directories(roots: &Roots, record: &PodRecord) -> Result<(), Error> {
    let sandbox = &record.sandbox;
    let private = |dir: &Path| -> Result<(), Error> {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(|e| Error::io(format_args!("create {}", dir.display()), &e))
    };
    let names = mounts::name_dir(roots, &record.id);
    private(&names)?;
    for v in sandbox.volumes.iter().filter(|v| !v.memory) {
        let dir = mounts::volume_dir(roots, &record.id, &v.name);
        private(dir.parent().unwrap_or(&dir))?;
        volume::empty_dir(&dir).map_err(host)?;
    }
    let hostname = &sandbox.hostname;
    let host = sandbox.host_network.then(|| host_file("/etc/hosts"));
    // Addresses come later: `hosts::own`.
    let hosts = if record.driven() {
        host.unwrap_or_else(|| driven_hosts(hostname))
    } else {
        dns::hosts(&record.pod, &[], host.as_deref())
    };
    let resolv_conf = sandbox.resolv_conf.clone().unwrap_or_else(|| host_file("/etc/resolv.conf"));
    for (name, content) in mounts::NAME_FILES.into_iter().zip([hosts, format!("{hostname}\n"), resolv_conf]) {
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

/// A hosts file for a client's pod; most clients mount their own.
fn driven_hosts(hostname: &str) -> String {
    let metadata = ObjectMeta { name: Some(hostname.to_owned()), ..ObjectMeta::default() };
    dns::hosts(&Pod { metadata, ..Pod::default() }, &[], None)
}

/// Frees what a finished pod needs no more: cgroups, addresses, volumes, upper directories. Its records and logs stay.
///
/// # Errors
/// All that could not be removed.
pub fn free(roots: &Roots, driver: &dyn CgroupDriver, record: &PodRecord) -> Result<(), Vec<Error>> {
    let mut errors = remove::cgroups(driver, record);
    hosts::leave(roots, &record.id);
    errors.extend(network::detach(roots, &record.id, Some(record)));
    if let Err(e) = volume::remove_tree(&roots.data_dir(&record.id)) {
        errors.push(host(e));
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}
