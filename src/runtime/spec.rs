//! One container of a pod as an OCI runtime spec; pure.

use std::collections::BTreeSet;
use std::path::PathBuf;

use oci_spec::runtime::{
    Capabilities, Capability, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxDevice, LinuxNamespaceBuilder,
    LinuxNamespaceType, Mount, MountBuilder, Process, ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};

use super::Error;
use crate::state::record::{ContainerRecord, PidMode};

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

/// What [`container`] needs beyond the records.
#[derive(Debug)]
pub struct Given {
    /// All mounts, `/proc` first, in the order in which they are made.
    pub mounts: Vec<Mount>,
    /// Devices of the host.
    pub devices: Vec<LinuxDevice>,
}

/// The runtime spec of one container; OCI runtime-spec "Configuration".
///
/// # Errors
/// The record names a capability that does not exist.
pub fn container(container: &ContainerRecord, given: Given) -> Result<Spec, Error> {
    let process = process(container, container.argv.clone(), container.tty)?;
    let paths = |own: &Option<Vec<String>>, usual: &[&str]| match own {
        Some(own) => own.clone(),
        None => usual.iter().map(|p| (*p).to_owned()).collect(),
    };
    let mut linux = LinuxBuilder::default()
        .namespaces(namespaces(container.pid)?)
        .rootfs_propagation("private")
        .devices(given.devices)
        .masked_paths(paths(&container.masked_paths, &MASKED_PATHS))
        .readonly_paths(paths(&container.readonly_paths, &READONLY_PATHS))
        .build()
        .map_err(build)?;
    // The builder's default is a set of empty limits; ours are written by the cgroup room.
    linux.set_resources(None);
    let root = RootBuilder::default().path("rootfs").readonly(container.readonly_root).build().map_err(build)?;
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

/// The `process` of a container, or of an exec in it: the container's own with another command.
///
/// # Errors
/// As [`container`].
pub fn process(container: &ContainerRecord, argv: Vec<String>, tty: bool) -> Result<Process, Error> {
    let capabilities = set(container)?;
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
    let mut process = ProcessBuilder::default()
        .terminal(tty)
        .user(user)
        .args(argv)
        .env(container.env.clone())
        .cwd(PathBuf::from(&container.cwd))
        .capabilities(sets)
        .no_new_privileges(container.no_new_privileges)
        .oom_score_adj(container.oom_score_adj)
        .build()
        .map_err(build)?;
    process.set_apparmor_profile(container.apparmor.clone());
    Ok(process)
}

fn build(e: oci_spec::OciSpecError) -> Error {
    Error::Internal { what: format!("runtime spec: {e}") }
}

/// Mount and cgroup namespaces are the container's own; a private PID namespace is nested below the pod's.
fn namespaces(pid: PidMode) -> Result<Vec<oci_spec::runtime::LinuxNamespace>, Error> {
    let mut types = vec![LinuxNamespaceType::Mount, LinuxNamespaceType::Cgroup];
    if pid == PidMode::Container {
        types.push(LinuxNamespaceType::Pid);
    }
    types.into_iter().map(|t| LinuxNamespaceBuilder::default().typ(t).build().map_err(build)).collect()
}

fn set(container: &ContainerRecord) -> Result<Capabilities, Error> {
    if container.privileged {
        return Ok(ALL_CAPABILITIES.into_iter().collect());
    }
    let known = |name: &String| {
        capability(name).ok_or_else(|| Error::Container {
            container: container.name.clone(),
            what: format!("{name:?} is no capability; see capabilities(7)"),
        })
    };
    container.capabilities.iter().map(known).collect()
}

/// What a container gets when nobody says anything: CRI-O's nine.
const DEFAULT_CAPABILITIES: [&str; 9] =
    ["CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "SETGID", "SETUID", "SETPCAP", "NET_BIND_SERVICE", "KILL"];

/// The default capabilities without those dropped and with those added, in this order; `ALL` in either list. Names without `CAP_`, sorted.
///
/// # Errors
/// The list (`add` or `drop`) and the name that is no capability.
pub fn capabilities<'a>(
    add: impl IntoIterator<Item = &'a String>,
    drop: impl IntoIterator<Item = &'a String>,
) -> Result<Vec<String>, (&'static str, String)> {
    let plain = |list: &'static str, name: &str| match capability(name) {
        Some(known) => Ok(known.to_string()),
        None => Err((list, name.to_owned())),
    };
    let mut set: BTreeSet<String> = DEFAULT_CAPABILITIES.iter().map(|c| (*c).to_owned()).collect();
    for name in drop {
        match name.as_str() {
            "ALL" => set.clear(),
            other => {
                set.remove(&plain("drop", other)?);
            }
        }
    }
    for name in add {
        match name.as_str() {
            "ALL" => set.extend(ALL_CAPABILITIES.iter().map(ToString::to_string)),
            other => {
                set.insert(plain("add", other)?);
            }
        }
    }
    Ok(set.into_iter().collect())
}

/// A capability by its name, with or without `CAP_`; both spellings are accepted, as by the kubelet's runtimes.
pub fn capability(name: &str) -> Option<Capability> {
    name.strip_prefix("CAP_").unwrap_or(name).parse().ok()
}

/// All of capabilities(7), by number. What the kernel or the caller lacks is left out, with a warning, where they are set.
pub const ALL_CAPABILITIES: [Capability; 41] = [
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

    fn with(add: &[&str], drop: &[&str]) -> Result<Vec<String>, (&'static str, String)> {
        let strings = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        capabilities(&strings(add), &strings(drop))
    }

    #[test]
    fn capabilities_are_dropped_before_they_are_added() {
        assert_eq!(with(&["NET_RAW"], &["ALL"]).unwrap(), ["NET_RAW"]);
        let set = with(&["CAP_SYS_TIME"], &["KILL"]).unwrap();
        assert!(set.contains(&"SYS_TIME".to_owned()) && !set.contains(&"KILL".to_owned()));
        assert_eq!(set.len(), 9);
        assert_eq!(with(&["ALL"], &[]).unwrap().len(), 41);
    }

    #[test]
    fn every_name_that_is_written_down_can_be_read_again() {
        for name in with(&["ALL"], &[]).unwrap() {
            assert!(capability(&name).is_some(), "{name}");
        }
    }

    #[test]
    fn an_unknown_capability_is_named_with_its_list() {
        assert_eq!(with(&["FLY"], &[]), Err(("add", "FLY".to_owned())));
        assert_eq!(with(&[], &["SWIM"]), Err(("drop", "SWIM".to_owned())));
    }
}
