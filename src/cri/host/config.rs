//! From what a client writes to what the runtime is told. A field that would have no effect is refused by its name.

use std::collections::BTreeMap;

use super::resources::{enforceable, merge, within_sandbox};
use crate::cgroup::{CgroupDriver, Cgroupfs, DriverKind, Limits, systemd};
use crate::cri::messages::*;
use crate::cri::status::Status;
use crate::network::{Port, Protocol as PortProtocol};
use crate::runtime::apparmor::Wanted;
use crate::runtime::limits::POD_PIDS;
use crate::runtime::resolve::Asked;
use crate::runtime::{Settings, driven, network};
use crate::state::Roots;
use crate::state::record::{
    Access, ClientContainer, ContainerRecord, MountRecord, MountSource, Owner, PidMode, PodRecord, Propagation,
    SandboxRecord, VERSION,
};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub(super) fn wrong(field: &str, what: impl std::fmt::Display) -> Status {
    Status::invalid_argument(format!("{field}: {what}"))
}

fn unsupported(field: &str, what: impl std::fmt::Display) -> Status {
    Status::unimplemented(format!("{field}: {what}"))
}

/// The sandbox that a client asks for.
pub(super) fn sandbox(roots: &Roots, settings: &Settings, request: RunPodSandboxRequest) -> Result<PodRecord, Status> {
    if !request.runtime_handler.is_empty() {
        let what = format!("there is no runtime handler {:?}; leave it empty", request.runtime_handler);
        return Err(wrong("runtimeHandler", what));
    }
    let config = request.config.ok_or_else(|| wrong("config", "must be there"))?;
    let meta = config.metadata.ok_or_else(|| wrong("config.metadata", "must be there"))?;
    for (field, value) in [("name", &meta.name), ("namespace", &meta.namespace), ("uid", &meta.uid)] {
        let field = format!("config.metadata.{field}");
        if value.is_empty() {
            return Err(wrong(&field, "must be there"));
        }
        if value.contains(['/', '\0']) || value.starts_with('.') || value.len() > 253 {
            return Err(wrong(&field, format!("{value:?} cannot be part of a file's name")));
        }
    }
    if config.windows.is_some() {
        return Err(unsupported("config.windows", "this host is linux"));
    }
    if !config.log_directory.is_empty() && !config.log_directory.starts_with('/') {
        return Err(wrong("config.logDirectory", format!("{:?}: must be an absolute path", config.log_directory)));
    }
    let linux = config.linux.unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    let at = "config.linux.securityContext";
    seccomp(at, true, security.seccomp.as_ref(), &security.seccomp_profile_path)?;
    if let Wanted::Named(_) = apparmor(at, security.apparmor.as_ref(), "")? {
        return Err(unsupported(&format!("{at}.apparmor"), "a profile is for containers: pause has none"));
    }
    selinux(at, security.selinux_options.as_ref())?;
    let namespaces = security.namespace_options.unwrap_or_default();
    let at = "config.linux.securityContext.namespaceOptions";
    let host_network = host_or_pod(&format!("{at}.network"), namespaces.network)?;
    let host_ipc = host_or_pod(&format!("{at}.ipc"), namespaces.ipc)?;
    let pid = pid_mode(&format!("{at}.pid"), &namespaces)?;
    let host_pid = pid == PidMode::Node;
    users(&format!("{at}.usernsOptions"), namespaces.userns_options.as_ref())?;
    let id = driven::sandbox_id(&meta.namespace, &meta.name, &meta.uid, meta.attempt);
    let Place { cgroup, cgroup_driver, foreign_cgroup } =
        place(roots, settings.cgroup_driver, &id, &linux.cgroup_parent)?;
    // Of a cgroup that the client has made nothing of this is written: its limits are the client's.
    let mut limits = Limits {
        pids_max: Some(POD_PIDS),
        hugepages: Some(BTreeMap::new()),
        every_hierarchy: true,
        ..Limits::default()
    };
    if let Some(resources) = &linux.resources {
        merge("config.linux.resources", resources, &mut limits)?;
        enforceable("config.linux.resources", &limits)?;
    }
    if let Some(overhead) = &linux.overhead
        && *overhead != LinuxContainerResources::default()
        && linux.resources.is_none()
    {
        merge("config.linux.overhead", overhead, &mut Limits::default())?;
    }
    let ports = ports(&config.port_mappings)?;
    let network =
        network::plan(&settings.network, host_network, ports).map_err(|what| wrong("config.portMappings", what))?;
    let hostname = match (host_network, config.hostname.as_str()) {
        (true, _) => nix::unistd::gethostname().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default(),
        (false, "") => meta.name.chars().take(63).collect(),
        (false, name) if name.len() > 64 || name.contains(['\0', '\n']) => {
            return Err(wrong("config.hostname", "at most 64 bytes, see sethostname(2)"));
        }
        (false, name) => name.to_owned(),
    };
    let log_dir = match config.log_directory.as_str() {
        "" => roots.log_dir(&meta.namespace, &meta.name, &id).to_string_lossy().into_owned(),
        dir => dir.to_owned(),
    };
    let spec = PodSpec {
        // Whatever ends, stays: the client decides.
        restart_policy: Some("Never".into()),
        host_network: host_network.then_some(true),
        host_ipc: host_ipc.then_some(true),
        host_pid: host_pid.then_some(true),
        ..PodSpec::default()
    };
    let metadata = ObjectMeta {
        name: Some(meta.name),
        namespace: Some(meta.namespace),
        uid: Some(meta.uid),
        labels: Some(config.labels.into_iter().collect()),
        annotations: Some(config.annotations.into_iter().collect()),
        ..ObjectMeta::default()
    };
    Ok(PodRecord {
        version: VERSION,
        owner: Owner::Cri,
        source: None,
        id,
        attempt: meta.attempt,
        created_at: jiff::Timestamp::now(),
        cgroup,
        cgroup_driver,
        log_dir,
        pod: Pod { metadata, spec: Some(spec), status: None },
        sandbox: SandboxRecord {
            hostname,
            host_network,
            network,
            host_ipc,
            host_pid,
            sysctls: linux.sysctls.into_iter().collect(),
            volumes: Vec::new(),
            resolv_conf: config.dns_config.map(|dns| resolv_conf(&dns)),
            limits,
            foreign_cgroup,
            runtime_handler: request.runtime_handler,
            // A client mounts a file of its own where it wants to read one.
            messages: false,
            privileged: security.privileged,
            pid,
        },
        containers: Vec::new(),
    })
}

/// Ports of the host that lead to the pod. Those without a number of the host are the client's own notes.
fn ports(mappings: &[PortMapping]) -> Result<Vec<Port>, Status> {
    let mut ports: Vec<Port> = Vec::new();
    for (i, m) in mappings.iter().enumerate().filter(|(_, m)| m.host_port != 0) {
        let at = |field: &str| format!("config.portMappings[{i}].{field}");
        let number = |field: &str, number: i32| {
            let port = u16::try_from(number).ok().filter(|n| *n != 0);
            port.ok_or_else(|| wrong(&at(field), format!("{number}: 1 to 65535")))
        };
        let host_ip = match m.host_ip.as_str() {
            "" => None,
            ip => Some(ip.parse().map_err(|_| wrong(&at("hostIp"), format!("{ip:?} is no IP address")))?),
        };
        let protocol = match Protocol::try_from(m.protocol) {
            Ok(Protocol::Tcp) => PortProtocol::Tcp,
            Ok(Protocol::Udp) => PortProtocol::Udp,
            Ok(Protocol::Sctp) => PortProtocol::Sctp,
            Err(_) => return Err(wrong(&at("protocol"), format!("{} is none", m.protocol))),
        };
        ports.push(Port {
            protocol,
            host_port: number("hostPort", m.host_port)?,
            container_port: number("containerPort", m.container_port)?,
            host_ip: host_ip.filter(|ip: &std::net::IpAddr| !ip.is_unspecified()),
        });
    }
    Ok(ports)
}

/// Where a sandbox lives.
struct Place {
    cgroup: String,
    cgroup_driver: DriverKind,
    foreign_cgroup: bool,
}

/// The pod's cgroup: below the client's parent if it gave one. A slice is systemd's, whatever the instance's driver is; another one that exists
/// already is somebody else's.
fn place(roots: &Roots, driver: DriverKind, id: &str, parent: &str) -> Result<Place, Status> {
    let field = "config.linux.cgroupParent";
    // A client names a slice by its last component, or by all of them.
    let slice = parent.ends_with(".slice").then(|| parent.rsplit('/').next().unwrap_or(parent));
    if slice.is_some() || (parent.is_empty() && driver == DriverKind::Systemd) {
        let scope = systemd::scope_path(&roots.cgroup_parent(), "", id, slice).map_err(|what| wrong(field, what))?;
        if slice.is_some() && !systemd::is_init() {
            let what = format!(
                "{parent:?} is systemd's, and systemd is not this host's init: set the client's cgroup driver to cgroupfs"
            );
            return Err(wrong(field, what));
        }
        let cgroup = format!("{scope}/pod");
        return Ok(Place { cgroup, cgroup_driver: DriverKind::Systemd, foreign_cgroup: false });
    }
    let at = |cgroup: String, foreign_cgroup| Place { cgroup, cgroup_driver: DriverKind::Cgroupfs, foreign_cgroup };
    if parent.is_empty() {
        return Ok(at(format!("{}/pods/pod{id}", roots.cgroup_parent()), false));
    }
    let path = parent.trim_matches('/').to_owned();
    let driver = Cgroupfs::detect().map_err(|e| Status::internal(e.to_string()))?;
    match driver.placement(&path) {
        Ok(_) => Ok(at(path, true)),
        Err(e) if e.errno() == Some(nix::errno::Errno::ENOENT) => Ok(at(path, false)),
        Err(e) => Err(wrong(field, e)),
    }
}

fn resolv_conf(dns: &DnsConfig) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text += &format!("search {}\n", dns.searches.join(" "));
    }
    for server in &dns.servers {
        text += &format!("nameserver {server}\n");
    }
    if !dns.options.is_empty() {
        text += &format!("options {}\n", dns.options.join(" "));
    }
    text
}

fn mode(field: &str, number: i32) -> Result<NamespaceMode, Status> {
    NamespaceMode::try_from(number).map_err(|_| wrong(field, format!("{number} is no namespace mode")))
}

fn host_or_pod(field: &str, number: i32) -> Result<bool, Status> {
    match mode(field, number)? {
        NamespaceMode::Pod => Ok(false),
        NamespaceMode::Node => Ok(true),
        other => Err(wrong(field, format!("{} is not possible here; POD or NODE", other.as_str_name()))),
    }
}

fn pid_mode(field: &str, options: &NamespaceOption) -> Result<PidMode, Status> {
    match mode(field, options.pid)? {
        NamespaceMode::Pod => Ok(PidMode::Pod),
        NamespaceMode::Container => Ok(PidMode::Container),
        NamespaceMode::Node => Ok(PidMode::Node),
        NamespaceMode::Target => Err(wrong(field, "TARGET is for containers")),
    }
}

fn users(field: &str, options: Option<&UserNamespace>) -> Result<(), Status> {
    match options {
        None => Ok(()),
        Some(o) if mode(field, o.mode)? == NamespaceMode::Node && o.uids.is_empty() && o.gids.is_empty() => Ok(()),
        Some(_) => Err(unsupported(field, "user namespaces are not supported yet; use mode NODE")),
    }
}

fn selinux(at: &str, options: Option<&SeLinuxOption>) -> Result<(), Status> {
    match options {
        Some(o) if *o != SeLinuxOption::default() => {
            Err(unsupported(&format!("{at}.selinuxOptions"), "labels are not set by this husk"))
        }
        _ => Ok(()),
    }
}

/// pause makes three system calls in its life: for a sandbox the default profile is kept by having nothing to refuse.
fn seccomp(at: &str, sandbox: bool, seccomp: Option<&SecurityProfile>, seccomp_path: &str) -> Result<(), Status> {
    use security_profile::ProfileType;
    let kind = |field: &str, p: &SecurityProfile| {
        let field = format!("{at}.{field}.profileType");
        ProfileType::try_from(p.profile_type).map_err(|_| wrong(&field, format!("{} is none", p.profile_type)))
    };
    if let Some(profile) = seccomp {
        match kind("seccomp", profile)? {
            ProfileType::Unconfined => {}
            ProfileType::RuntimeDefault if sandbox => {}
            other => {
                let what = format!("{} is not supported yet; use Unconfined", other.as_str_name());
                return Err(unsupported(&format!("{at}.seccomp"), what));
            }
        }
    } else if !(matches!(seccomp_path, "" | "unconfined") || sandbox && seccomp_path == "runtime/default") {
        return Err(unsupported(&format!("{at}.seccompProfilePath"), "profiles are not supported yet; use unconfined"));
    }
    Ok(())
}

/// `apparmor`, or the older form of it.
fn apparmor(at: &str, profile: Option<&SecurityProfile>, older: &str) -> Result<Wanted, Status> {
    use security_profile::ProfileType;
    let named = |field: &str, name: &str| match name {
        "" => Err(wrong(field, "the profile's name is missing")),
        name => Ok(Wanted::Named(name.to_owned())),
    };
    let Some(profile) = profile else {
        return match older {
            "" => Ok(Wanted::Unsaid),
            "unconfined" => Ok(Wanted::Unconfined),
            "runtime/default" => Ok(Wanted::Default),
            other => match other.strip_prefix("localhost/") {
                Some(name) => named(&format!("{at}.apparmorProfile"), name),
                None => Err(wrong(&format!("{at}.apparmorProfile"), format!("{other:?} is no profile"))),
            },
        };
    };
    match ProfileType::try_from(profile.profile_type) {
        Ok(ProfileType::Unconfined) => Ok(Wanted::Unconfined),
        Ok(ProfileType::RuntimeDefault) => Ok(Wanted::Default),
        Ok(ProfileType::Localhost) => named(&format!("{at}.apparmor.localhostRef"), &profile.localhost_ref),
        Err(_) => Err(wrong(&format!("{at}.apparmor.profileType"), format!("{} is none", profile.profile_type))),
    }
}

/// The container that a client asks for, to be resolved against its image.
pub(super) fn container(sandbox: &PodRecord, config: ContainerConfig) -> Result<Asked, Status> {
    let meta = config.metadata.ok_or_else(|| wrong("config.metadata", "must be there"))?;
    if meta.name.is_empty() || meta.name.contains(['/', '\0']) || meta.name.starts_with('.') || meta.name.len() > 253 {
        return Err(wrong("config.metadata.name", format!("{:?} cannot be the name of a directory", meta.name)));
    }
    let image = config.image.ok_or_else(|| wrong("config.image", "must be there"))?;
    let image_name = super::images::name("config.image", Some(&image))?.to_owned();
    if config.windows.is_some() {
        return Err(unsupported("config.windows", "this host is linux"));
    }
    if !config.cdi_devices.is_empty() {
        return Err(unsupported("config.CDIDevices", "not supported yet"));
    }
    let linux = config.linux.unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    let at = "config.linux.securityContext";
    if security.privileged && !sandbox.sandbox.privileged {
        return Err(wrong(&format!("{at}.privileged"), "the pod sandbox is not privileged"));
    }
    seccomp(at, security.privileged, security.seccomp.as_ref(), &security.seccomp_profile_path)?;
    selinux(at, security.selinux_options.as_ref())?;
    let capabilities = security.capabilities.unwrap_or_default();
    if !capabilities.add_ambient_capabilities.is_empty() {
        return Err(unsupported(&format!("{at}.capabilities.addAmbientCapabilities"), "the ambient set stays empty"));
    }
    let mut limits = Limits { memory_oom_group: true, every_hierarchy: true, ..Limits::default() };
    let resources = linux.resources.unwrap_or_default();
    merge("config.linux.resources", &resources, &mut limits)?;
    enforceable("config.linux.resources", &limits)?;
    within_sandbox("config.linux.resources", sandbox, &limits)?;
    let oom = i32::try_from(resources.oom_score_adj).ok().filter(|n| (-1000..=1000).contains(n));
    let oom_score_adj = oom.ok_or_else(|| {
        wrong("config.linux.resources.oomScoreAdj", format!("{}: -1000 to 1000", resources.oom_score_adj))
    })?;
    let mut envs = Vec::new();
    for KeyValue { key, value } in config.envs {
        let field = format!("config.envs[{key:?}]");
        if key.is_empty() || key.contains(['=', '\0']) {
            return Err(wrong(&field, "not the name of a variable"));
        }
        let value = String::from_utf8(value).map_err(|_| unsupported(&field, "the value is not UTF-8"))?;
        if value.contains('\0') {
            return Err(wrong(&field, "the value holds a NUL byte"));
        }
        envs.push((key, value));
    }
    let groups = security.supplemental_groups.iter().map(|g| {
        u32::try_from(*g).map_err(|_| wrong(&format!("{at}.supplementalGroups"), format!("{g} is no group id")))
    });
    let policy = SupplementalGroupsPolicy::try_from(security.supplemental_groups_policy)
        .map_err(|_| wrong(&format!("{at}.supplementalGroupsPolicy"), "no such policy"))?;
    let (pid, pid_target) = container_pid(at, sandbox, security.namespace_options.as_ref())?;
    let log_path = log_path(sandbox, &config.log_path)?;
    Ok(Asked {
        client: ClientContainer {
            id: driven::container_id(&sandbox.id, &meta.name, meta.attempt),
            attempt: meta.attempt,
            labels: config.labels.into_iter().collect(),
            annotations: config.annotations.into_iter().collect(),
            image: image_name,
            user_specified_image: image.user_specified_image,
            log_path,
            created_at: jiff::Timestamp::now(),
        },
        name: meta.name,
        hostname: sandbox.sandbox.hostname.clone(),
        command: config.command,
        args: config.args,
        working_dir: config.working_dir,
        envs,
        mounts: config.mounts.iter().enumerate().map(|(i, m)| mount(i, m)).collect::<Result<_, _>>()?,
        devices: super::devices::asked(&config.devices)?,
        tty: config.tty,
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        pid,
        pid_target,
        privileged: security.privileged,
        add_capabilities: capabilities.add_capabilities,
        drop_capabilities: capabilities.drop_capabilities,
        user: user(at, security.run_as_user, security.run_as_group, &security.run_as_username)?,
        supplemental_groups: groups.collect::<Result<_, _>>()?,
        strict_groups: policy == SupplementalGroupsPolicy::Strict,
        no_new_privileges: security.no_new_privs,
        readonly_root: security.readonly_rootfs,
        masked_paths: security.masked_paths,
        readonly_paths: security.readonly_paths,
        apparmor: apparmor(at, security.apparmor.as_ref(), &security.apparmor_profile)?,
        limits,
        oom_score_adj,
        stop_signal: stop_signal(config.stop_signal)?,
    })
}

/// Without options of its own a container has the sandbox's.
fn container_pid(
    at: &str,
    sandbox: &PodRecord,
    options: Option<&NamespaceOption>,
) -> Result<(PidMode, String), Status> {
    let at = format!("{at}.namespaceOptions");
    let Some(options) = options else { return Ok((sandbox.sandbox.pid, String::new())) };
    for (field, number, of_pod) in
        [("network", options.network, sandbox.sandbox.host_network), ("ipc", options.ipc, sandbox.sandbox.host_ipc)]
    {
        let field = format!("{at}.{field}");
        if host_or_pod(&field, number)? != of_pod {
            return Err(wrong(&field, "must be what the pod sandbox has"));
        }
    }
    users(&format!("{at}.usernsOptions"), options.userns_options.as_ref())?;
    let field = format!("{at}.pid");
    let (pid, target) = match mode(&field, options.pid)? {
        NamespaceMode::Target => target(&format!("{at}.targetId"), sandbox, &options.target_id)?,
        _ => (pid_mode(&field, options)?, String::new()),
    };
    if (pid == PidMode::Node) != sandbox.sandbox.host_pid {
        return Err(wrong(&field, "NODE must be what the pod sandbox has, too"));
    }
    Ok((pid, target))
}

/// Whose processes a container sees that sees those of another one: it may share with somebody itself.
fn target(field: &str, sandbox: &PodRecord, id: &str) -> Result<(PidMode, String), Status> {
    let is = |c: &&ContainerRecord| c.client.as_ref().is_some_and(|client| client.id == id);
    match sandbox.containers.iter().find(is) {
        Some(c) if c.pid == PidMode::Container => Ok((PidMode::Target, id.to_owned())),
        Some(c) => Ok((c.pid, c.pid_target.clone())),
        None => Err(wrong(field, format!("there is no container {id:?} in the pod sandbox"))),
    }
}

/// `uid`, `uid:gid` or a name, as an image's USER is written.
fn user(at: &str, uid: Option<Int64Value>, gid: Option<Int64Value>, name: &str) -> Result<Option<String>, Status> {
    let user = match (uid, name) {
        (Some(_), name) if !name.is_empty() => {
            return Err(wrong(&format!("{at}.runAsUsername"), "only one of runAsUser and runAsUsername"));
        }
        (Some(uid), _) => Some(uid.value.to_string()),
        (None, "") => None,
        (None, name) => Some(name.to_owned()),
    };
    match (user, gid) {
        (Some(user), Some(gid)) => Ok(Some(format!("{user}:{}", gid.value))),
        (None, Some(_)) => Err(wrong(&format!("{at}.runAsGroup"), "only with runAsUser or runAsUsername")),
        (user, None) => Ok(user),
    }
}

fn mount(index: usize, m: &Mount) -> Result<MountRecord, Status> {
    let at = |field: &str| format!("config.mounts[{index}].{field}");
    if !m.container_path.starts_with('/') {
        return Err(wrong(&at("containerPath"), format!("{:?}: must be an absolute path", m.container_path)));
    }
    if m.image.is_some() || !m.image_sub_path.is_empty() {
        return Err(unsupported(&at("image"), "image volumes are not supported yet"));
    }
    if !m.host_path.starts_with('/') {
        return Err(wrong(&at("hostPath"), format!("{:?}: must be an absolute path", m.host_path)));
    }
    if !m.uid_mappings.is_empty() || !m.gid_mappings.is_empty() {
        return Err(unsupported(&at("uidMappings"), "user namespaces are not supported yet"));
    }
    if m.selinux_relabel && std::path::Path::new("/sys/fs/selinux/enforce").exists() {
        return Err(unsupported(&at("selinuxRelabel"), "labels are not set by this husk"));
    }
    if let Some(option) = m.mount_options.first() {
        return Err(unsupported(&at("mountOptions"), format!("{option:?}: not supported yet")));
    }
    let propagation = match MountPropagation::try_from(m.propagation) {
        Ok(MountPropagation::PropagationPrivate) => Propagation::Private,
        Ok(MountPropagation::PropagationHostToContainer) => Propagation::HostToContainer,
        Ok(MountPropagation::PropagationBidirectional) => Propagation::Bidirectional,
        Err(_) => return Err(wrong(&at("propagation"), format!("{} is none", m.propagation))),
    };
    let access = match (m.readonly, m.recursive_read_only) {
        (false, true) => return Err(wrong(&at("recursiveReadOnly"), "only with readonly")),
        (true, true) if propagation != Propagation::Private => {
            return Err(wrong(&at("recursiveReadOnly"), "only with PROPAGATION_PRIVATE"));
        }
        (true, true) => Access::RecursiveReadOnly,
        (true, false) => Access::ReadOnly,
        (false, false) => Access::ReadWrite,
    };
    // What is not there becomes a directory, as with other runtimes.
    let typ = if std::path::Path::new(&m.host_path).exists() { "" } else { "DirectoryOrCreate" };
    Ok(MountRecord {
        volume: m.host_path.clone(),
        destination: m.container_path.clone(),
        source: MountSource::Host { path: m.host_path.clone(), typ: typ.into() },
        sub_path: None,
        access,
        propagation,
    })
}

/// Where the client wants the log; empty: husk's own place.
fn log_path(sandbox: &PodRecord, path: &str) -> Result<String, Status> {
    if path.is_empty() {
        return Ok(String::new());
    }
    let field = "config.logPath";
    let plain = |part: std::path::Component<'_>| matches!(part, std::path::Component::Normal(_));
    if !std::path::Path::new(path).components().all(plain) {
        return Err(wrong(field, format!("{path:?}: must stay below the sandbox's logDirectory")));
    }
    Ok(format!("{}/{path}", sandbox.log_dir.trim_end_matches('/')))
}

/// `None`: the image's.
fn stop_signal(number: i32) -> Result<Option<i32>, Status> {
    let field = "config.stopSignal";
    let signal = Signal::try_from(number).map_err(|_| wrong(field, format!("{number} is none")))?;
    if signal == Signal::RuntimeDefault {
        return Ok(None);
    }
    let name = signal.as_str_name().trim_start_matches("SIGNAL_").replace("PLUS", "+").replace("MINUS", "-");
    signal_number(&name).map(Some).ok_or_else(|| wrong(field, format!("{name} is none here")))
}

/// Numbers of signal(7) for the names that CRI has.
pub(super) fn signal_number(name: &str) -> Option<i32> {
    let real_time = |base: i32, sign: i32, rest: &str| {
        let n: i32 = if rest.is_empty() { 0 } else { rest.get(1..)?.parse().ok()? };
        Some(base + sign * n)
    };
    if let Some(rest) = name.strip_prefix("SIGRTMIN") {
        return real_time(libc::SIGRTMIN(), 1, rest);
    }
    if let Some(rest) = name.strip_prefix("SIGRTMAX") {
        return real_time(libc::SIGRTMAX(), -1, rest);
    }
    match name {
        "SIGCLD" => Some(libc::SIGCHLD),
        "SIGPOLL" => Some(libc::SIGIO),
        "SIGIOT" => Some(libc::SIGABRT),
        other => other.parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32),
    }
}

/// CRI's number of a signal.
pub(super) fn signal(number: i32) -> Signal {
    let all = (1..=1024).map_while(|n| Signal::try_from(n).ok());
    let named = |s: &Signal| s.as_str_name().trim_start_matches("SIGNAL_").replace("PLUS", "+").replace("MINUS", "-");
    all.into_iter().find(|s| signal_number(&named(s)) == Some(number)).unwrap_or(Signal::RuntimeDefault)
}

/// Equality of every pair, as CRI's `label_selector` has it.
pub(super) fn selected<'l>(
    labels: impl Into<Option<&'l BTreeMap<String, String>>>,
    wanted: &BTreeMap<String, String>,
) -> bool {
    let labels = labels.into();
    wanted.iter().all(|(key, value)| labels.is_some_and(|labels| labels.get(key) == Some(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_of_cri_has_a_number_here() {
        let all: Vec<Signal> = (1..=1024).map_while(|n| Signal::try_from(n).ok()).collect();
        assert!(all.len() > 60);
        for s in all {
            let number =
                stop_signal(s as i32).unwrap_or_else(|e| panic!("{}: {e}", s.as_str_name())).expect("a number");
            assert!((1..=64).contains(&number), "{}", s.as_str_name());
        }
        assert_eq!(stop_signal(0), Ok(None));
        assert_eq!(signal(libc::SIGTERM), Signal::Sigterm);
        assert_eq!(signal(0), Signal::RuntimeDefault);
    }

    #[test]
    fn a_log_stays_in_its_directory() {
        let record = |dir: &str| {
            let roots = Roots { root: "/r".into(), state: "/s".into() };
            let metadata = PodSandboxMetadata { name: "n".into(), uid: "u".into(), namespace: "d".into(), attempt: 0 };
            let config = PodSandboxConfig { metadata: Some(metadata), log_directory: dir.into(), ..Default::default() };
            sandbox(&roots, &Settings::default(), RunPodSandboxRequest { config: Some(config), ..Default::default() })
                .unwrap()
        };
        let record = record("/logs/");
        assert_eq!(log_path(&record, "a/0.log").unwrap(), "/logs/a/0.log");
        for bad in ["../x", "/x", "a/../../x"] {
            assert!(log_path(&record, bad).is_err(), "{bad}");
        }
    }
}
