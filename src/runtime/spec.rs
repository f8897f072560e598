//! One container of a pod as an OCI runtime spec; pure.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use oci_spec::runtime::{
    Capabilities, Capability, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxDevice, LinuxNamespaceBuilder,
    LinuxNamespaceType, Mount, MountBuilder, Process, ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};

use super::Error;
use crate::state::record::{ContainerRecord, PodRecord};

/// What a container gets when nobody says anything: CRI-O's nine.
const DEFAULT_CAPABILITIES: [Capability; 9] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::Kill,
];

/// containerd's and the kubelet's list.
const MASKED_PATHS: [&str; 13] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    "/sys/fs/selinux",
];

const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The manifest's entry for a container of the record.
pub fn manifest<'a>(record: &'a PodRecord, container: &ContainerRecord) -> Option<&'a Container> {
    let spec = record.pod.spec.as_ref()?;
    let mut all = spec.init_containers.iter().flatten().chain(&spec.containers);
    all.find(|c| c.name == container.name)
}

/// Is the container privileged?
pub fn privileged(c: &Container) -> bool {
    c.security_context.as_ref().and_then(|s| s.privileged).unwrap_or(false)
}

/// What [`container`] needs beyond the records.
#[derive(Debug)]
pub struct Given {
    /// All mounts, `/proc` first, in the order in which they are made.
    pub mounts: Vec<Mount>,
    /// `oom_score_adj` by the kubelet's rule.
    pub oom_score_adj: i32,
    /// The host's devices, for a privileged container.
    pub devices: Vec<LinuxDevice>,
}

/// The runtime spec of one container; OCI runtime-spec "Configuration".
///
/// # Errors
/// The manifest names a capability that does not exist.
pub fn container(record: &PodRecord, container: &ContainerRecord, given: Given) -> Result<Spec, Error> {
    let missing = || Error::Internal { what: format!("container {} is not in the manifest", container.name) };
    let c = manifest(record, container).ok_or_else(missing)?;
    let pod = record.pod.spec.as_ref().ok_or_else(missing)?;
    let security = c.security_context.clone().unwrap_or_default();
    let privileged = privileged(c);
    let process = process(container, c, container.argv.clone(), c.tty.unwrap_or(false), given.oom_score_adj)?;
    let unmasked = privileged || security.proc_mount.as_deref() == Some("Unmasked");
    let strings = |paths: &[&str]| paths.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>();
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces(pod)?)
        .rootfs_propagation("private")
        .devices(given.devices)
        .masked_paths(if unmasked { Vec::new() } else { strings(&MASKED_PATHS) })
        .readonly_paths(if unmasked { Vec::new() } else { strings(&READONLY_PATHS) })
        .build()
        .map_err(build)?;
    // The builder's default is a set of empty limits; ours are written by the cgroup room.
    linux.set_resources(None);
    let root = RootBuilder::default()
        .path("rootfs")
        .readonly(security.read_only_root_filesystem.unwrap_or(false))
        .build()
        .map_err(build)?;
    let mut spec = SpecBuilder::default()
        .version("1.2.0")
        .root(root)
        .mounts(given.mounts)
        .process(process)
        .linux(linux)
        .build()
        .map_err(build)?;
    // The sandbox has its own.
    spec.set_hostname(None);
    Ok(spec)
}

/// The `process` of an exec: the container's own with another command.
///
/// # Errors
/// As [`container`].
pub fn exec_process(
    record: &PodRecord,
    container: &ContainerRecord,
    argv: Vec<String>,
    tty: bool,
) -> Result<Process, Error> {
    let missing = || Error::Internal { what: format!("container {} is not in the manifest", container.name) };
    let c = manifest(record, container).ok_or_else(missing)?;
    let pod = record.pod.spec.as_ref().ok_or_else(missing)?;
    let oom_score_adj = crate::manifest::oom_score_adj(pod, c, super::resolve::memory_capacity_bytes());
    process(container, c, argv, tty, oom_score_adj)
}

fn process(
    container: &ContainerRecord,
    c: &Container,
    argv: Vec<String>,
    tty: bool,
    oom_score_adj: i32,
) -> Result<Process, Error> {
    let security = c.security_context.as_ref();
    let capabilities = capabilities(c, privileged(c))?;
    let sets = LinuxCapabilitiesBuilder::default()
        .bounding(capabilities.clone())
        .permitted(capabilities.clone())
        .effective(capabilities)
        .inheritable(Capabilities::new())
        .ambient(Capabilities::new())
        .build()
        .map_err(build)?;
    let user = UserBuilder::default()
        .uid(container.user.uid)
        .gid(container.user.gid)
        .additional_gids(container.user.groups.clone())
        .umask(0o022_u32)
        .build()
        .map_err(build)?;
    ProcessBuilder::default()
        .terminal(tty)
        .user(user)
        .args(argv)
        .env(container.env.clone())
        .cwd(PathBuf::from(&container.cwd))
        .capabilities(sets)
        .no_new_privileges(security.and_then(|s| s.allow_privilege_escalation) == Some(false))
        .oom_score_adj(oom_score_adj)
        .build()
        .map_err(build)
}

fn build(e: oci_spec::OciSpecError) -> Error {
    Error::Internal { what: format!("runtime spec: {e}") }
}

/// Mount and cgroup namespaces are the container's own; a private PID namespace is nested below the pod's.
fn namespaces(pod: &PodSpec) -> Result<Vec<oci_spec::runtime::LinuxNamespace>, Error> {
    let mut types = vec![LinuxNamespaceType::Mount, LinuxNamespaceType::Cgroup];
    if !pod.host_pid.unwrap_or(false) && !pod.share_process_namespace.unwrap_or(false) {
        types.push(LinuxNamespaceType::Pid);
    }
    types.into_iter().map(|t| LinuxNamespaceBuilder::default().typ(t).build().map_err(build)).collect()
}

/// Drop first, then add, as Kubernetes does; `ALL` in either.
fn capabilities(c: &Container, privileged: bool) -> Result<Capabilities, Error> {
    if privileged {
        return Ok(ALL_CAPABILITIES.into_iter().collect());
    }
    let mut set: Capabilities = DEFAULT_CAPABILITIES.into_iter().collect();
    let asked = c.security_context.as_ref().and_then(|s| s.capabilities.clone()).unwrap_or_default();
    for name in asked.drop.iter().flatten() {
        match name.as_str() {
            "ALL" => set.clear(),
            other => drop(set.remove(&by_name(c, "drop", other)?)),
        }
    }
    for name in asked.add.iter().flatten() {
        match name.as_str() {
            "ALL" => set.extend(ALL_CAPABILITIES),
            other => drop(set.insert(by_name(c, "add", other)?)),
        }
    }
    Ok(set)
}

/// capabilities(7), by number. What the kernel or the caller lacks is left out, with a warning, where they are set.
const ALL_CAPABILITIES: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

fn by_name(c: &Container, list: &str, name: &str) -> Result<Capability, Error> {
    let wanted = name.strip_prefix("CAP_").unwrap_or(name);
    // Both spellings are accepted, as by the kubelet's runtimes.
    wanted.parse::<Capability>().map_err(|_| Error::Container {
        container: c.name.clone(),
        what: format!("securityContext.capabilities.{list}: {name:?} is no capability; see capabilities(7)"),
    })
}

fn mount(destination: &str, typ: &str, source: &str, options: &[&str]) -> Result<Mount, Error> {
    MountBuilder::default()
        .destination(destination)
        .typ(typ)
        .source(source)
        .options(options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>())
        .build()
        .map_err(build)
}

/// A bind mount's entry; its source is given beside the spec.
pub fn bind(destination: &str, source: &str, options: &[&str]) -> Result<Mount, Error> {
    mount(destination, "bind", source, options)
}

/// What every container has, in mount order; containerd's set without `/run`.
pub fn base_mounts(privileged: bool) -> Result<Vec<Mount>, Error> {
    let sys = if privileged { "rw" } else { "ro" };
    Ok(vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"])?,
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"])?,
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        )?,
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"])?,
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", sys])?,
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", sys])?,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{Capabilities as Asked, SecurityContext};

    fn with(add: &[&str], dropped: &[&str]) -> Container {
        let strings = |l: &[&str]| Some(l.iter().map(|s| (*s).to_owned()).collect());
        Container {
            name: "c".into(),
            security_context: Some(SecurityContext {
                capabilities: Some(Asked { add: strings(add), drop: strings(dropped) }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn capabilities_are_dropped_before_they_are_added() {
        let set = capabilities(&with(&["NET_RAW"], &["ALL"]), false).unwrap();
        assert_eq!(set, [Capability::NetRaw].into_iter().collect());
        let set = capabilities(&with(&["CAP_SYS_TIME"], &["KILL"]), false).unwrap();
        assert!(set.contains(&Capability::SysTime) && !set.contains(&Capability::Kill));
        assert_eq!(set.len(), 9);
        assert_eq!(capabilities(&with(&["ALL"], &[]), false).unwrap().len(), 41);
    }

    #[test]
    fn an_unknown_capability_is_an_error_with_its_field() {
        let e = capabilities(&with(&["FLY"], &[]), false).unwrap_err().to_string();
        assert!(e.contains("capabilities.add") && e.contains("FLY"), "{e}");
    }
}
