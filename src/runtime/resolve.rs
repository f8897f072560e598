//! From manifest and images to a record: everything that can be decided, and can fail, before the first side effect. What a pod is once
//! made stands in its record alone: nothing below reads a manifest.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{
    self, Container, EphemeralContainer, Pod, PodSecurityContext, PodSpec, ResourceRequirements, SecurityContext,
    VolumeMount,
};

use super::apparmor::{self, Wanted};
use super::{Error, Settings, limits, network, spec};
use crate::cgroup::{DeviceRule, DeviceRules, DriverKind, Hierarchies, Limits, Permissions, systemd};
use crate::image::{HOST_ARCHITECTURE, Image, Store, User, View};
use crate::manifest;
use crate::state::Roots;
use crate::state::record::{
    Access, ClientContainer, ContainerKind, ContainerRecord, DeviceRecord, EndMessage, Exchange, HookAction, Hooks,
    Identity, MountRecord, MountSource, Owner, PidMode, PodRecord, Propagation, Restart, RestartAction, RestartPolicy,
    RestartRule, SandboxRecord, VERSION, VolumeRecord,
};

/// The host as `resourceFieldRef` sees it.
fn node() -> manifest::Node {
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    manifest::Node { cpu_millis: cpus * 1000, memory_bytes: memory_capacity_bytes() }
}

/// The host's memory, bytes: `MemTotal` of `/proc/meminfo`, without making the rest of that file.
pub fn memory_capacity_bytes() -> u64 {
    nix::sys::sysinfo::sysinfo().map_or(0, |info| info.ram_total())
}

/// Decides everything about a pod for a host with these cgroup hierarchies. The pod has its defaults, was validated, and has a uid.
///
/// # Errors
/// A field that does not fit the image or the host; nothing was changed.
pub fn pod(
    roots: &Roots,
    settings: &Settings,
    store: &Store,
    host: &Hierarchies,
    pod: Pod,
    owner: Owner,
) -> Result<PodRecord, Error> {
    let spec = pod.spec.clone().unwrap_or_default();
    let name = pod.metadata.name.clone().unwrap_or_default();
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let of_field = |e: manifest::FieldError| Error::Image { field: format!("pod {name}: {}", e.path), what: e.message };
    let mut views = HashMap::new();
    let mut containers = Vec::new();
    let lists = [
        ("initContainers", ContainerKind::Init, spec.init_containers.as_deref().unwrap_or_default()),
        ("containers", ContainerKind::App, &spec.containers),
    ];
    for (list, kind, all) in lists {
        for (index, c) in all.iter().enumerate() {
            let at = format!("spec.{list}[{index}]");
            let limits = limits::of_container(host, &pod, &spec, c, &at).map_err(of_field)?;
            limits::check(host, &pod, &limits, Some((c, &at)))?;
            let field = format!("pod {name}: {at}");
            let made = container(store, &pod, c, kind, &field, &mut views)?;
            let limits = Limits { devices: made.limits.devices.clone(), ..limits };
            containers.push(ContainerRecord { limits, ..made });
        }
    }
    let of_containers = containers.iter().map(|c| (c.name.as_str(), &c.limits)).collect();
    let whole = limits::of_pod(host, &pod, &spec, &of_containers).map_err(of_field)?;
    limits::check(host, &pod, &whole, None)?;
    let class = match manifest::qos_class(&spec) {
        manifest::QosClass::Guaranteed => "",
        manifest::QosClass::Burstable => "burstable",
        manifest::QosClass::BestEffort => "besteffort",
    };
    let parent = roots.cgroup_parent();
    let cgroup_driver = settings.cgroup_driver;
    let cgroup = match cgroup_driver {
        DriverKind::Cgroupfs if class.is_empty() => format!("{parent}/pods/pod{uid}"),
        DriverKind::Cgroupfs => format!("{parent}/pods/{class}/pod{uid}"),
        DriverKind::Systemd => systemd::scope_path(&parent, class, &uid, None)
            .map(|scope| format!("{scope}/pod"))
            .map_err(|what| Error::Pod { pod: format!("{namespace}/{name}"), what: format!("metadata.uid: {what}") })?,
    };
    Ok(PodRecord {
        version: VERSION,
        owner,
        source: None,
        attempt: 0,
        created_at: jiff::Timestamp::now(),
        cgroup,
        cgroup_driver,
        log_dir: roots.log_dir(&namespace, &name, &uid).to_string_lossy().into_owned(),
        id: uid,
        sandbox: sandbox(settings, &pod, &spec, whole)?,
        pod,
        containers,
    })
}

fn sandbox(settings: &Settings, pod: &Pod, spec: &PodSpec, limits: Limits) -> Result<SandboxRecord, Error> {
    let host = |e: manifest::FieldError| Error::Host { what: e.to_string() };
    let security = spec.security_context.as_ref();
    let sysctls = security.and_then(|s| s.sysctls.as_deref()).unwrap_or_default();
    let mut volumes = Vec::new();
    for v in spec.volumes.iter().flatten().filter(|v| v.empty_dir.is_some()) {
        let memory = manifest::is_memory(v);
        let size_bytes = if memory { manifest::memory_volume_bytes(v).map_err(host)? } else { None };
        volumes.push(VolumeRecord { name: v.name.clone(), memory, size_bytes });
    }
    let host_network = spec.host_network.unwrap_or(false);
    let network = network::plan(&settings.network, host_network, network::ports(spec)).map_err(|what| {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        Error::Image { field: format!("pod {name}: {}", network::first_host_port(spec)), what }
    })?;
    if let Some(field) = super::wishes::misplaced(&pod.metadata, network.mode) {
        let what =
            format!("is for the plugins of --network cni, and this pod has the network {}; remove it", network.mode);
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        return Err(Error::Image { field: format!("pod {name}: {field}"), what });
    }
    Ok(SandboxRecord {
        hostname: hostname(pod),
        host_network: network.mode == crate::network::Mode::Host,
        network,
        host_ipc: spec.host_ipc.unwrap_or(false),
        host_pid: spec.host_pid.unwrap_or(false),
        sysctls: sysctls.iter().map(|s| (s.name.clone(), s.value.clone())).collect(),
        volumes,
        resolv_conf: manifest::dns::resolv_conf(spec, &host_resolv_conf()).0,
        limits,
        messages: true,
        ..SandboxRecord::default()
    })
}

/// The record of a pod of which one container has other resources. What else followed from them once (environment variables) stays, as it does
/// over restarts.
///
/// # Errors
/// An amount that is none.
pub fn resized(
    host: &Hierarchies,
    record: &PodRecord,
    name: &str,
    resources: ResourceRequirements,
) -> Result<PodRecord, Error> {
    let wrong = |e: manifest::FieldError| Error::Host { what: e.to_string() };
    let mut new = record.clone();
    manifest::set_resources(&mut new.pod, name, resources);
    let spec = new.pod.spec.clone().unwrap_or_default();
    for made in new.containers.iter_mut().filter(|made| made.name == name) {
        if let Some(c) = manifest::container(&new.pod, name) {
            let limits = limits::of_container(host, &new.pod, &spec, c, &format!("container {name}")).map_err(wrong)?;
            made.limits = Limits { devices: made.limits.devices.take(), ..limits };
            made.oom_score_adj = manifest::oom_score_adj(&spec, c, memory_capacity_bytes());
        }
    }
    let of_containers = new.containers.iter().map(|c| (c.name.as_str(), &c.limits)).collect();
    new.sandbox.limits = limits::of_pod(host, &new.pod, &spec, &of_containers).map_err(wrong)?;
    Ok(new)
}

/// What the next instance of a container is made of that gets another image; its resources are those of now.
///
/// # Errors
/// There is no such container or image, or what the manifest says does not fit it.
pub fn exchanged(store: &Store, record: &PodRecord, name: &str, image: &str) -> Result<Exchange, Error> {
    let nowhere = || Error::Container { container: name.to_owned(), what: "it is not in this pod".into() };
    let had = record.containers.iter().find(|c| c.name == name).ok_or_else(nowhere)?;
    let mut pod = record.pod.clone();
    manifest::set_image(&mut pod, name, image);
    let c = manifest::container(&pod, name).ok_or_else(nowhere)?;
    let field = format!("pod {}: container {name}", record.name());
    let made = container(store, &pod, c, had.kind, &field, &mut HashMap::new())?;
    let record = ContainerRecord { limits: had.limits.clone(), oom_score_adj: had.oom_score_adj, ..made };
    Ok(Exchange { image: image.to_owned(), record })
}

/// What every container may open, and what it asks for; a privileged one has no limit. A `hostPath` of a device asks for nothing, as with the
/// kubelet: it is a mount, and to open what is mounted needs a rule.
fn device_rules(privileged: bool, asked: &[(DeviceRecord, Permissions)]) -> Option<DeviceRules> {
    if privileged {
        return None;
    }
    let mut rules = DeviceRules::container();
    for (d, permissions) in asked {
        let (major, minor) = (Some(d.major), Some(d.minor));
        rules.allow(DeviceRule { kind: d.kind, major, minor, permissions: *permissions });
    }
    Some(rules)
}

/// The container's word before the pod's.
fn apparmor_wanted(spec: &PodSpec, own: &SecurityContext) -> Wanted {
    let of_pod = spec.security_context.as_ref().and_then(|pod| pod.app_armor_profile.as_ref());
    match own.app_armor_profile.as_ref().or(of_pod) {
        None => Wanted::Unsaid,
        Some(profile) => match (profile.type_.as_str(), &profile.localhost_profile) {
            ("Unconfined", _) => Wanted::Unconfined,
            ("Localhost", Some(name)) => Wanted::Named(name.clone()),
            // Nothing else passes validation.
            _ => Wanted::Default,
        },
    }
}

/// Drop first, then add, as Kubernetes does; `ALL` in either.
fn capabilities(c: &Container) -> Result<Vec<String>, Error> {
    let asked = c.security_context.as_ref().and_then(|s| s.capabilities.clone()).unwrap_or_default();
    spec::capabilities(asked.add.iter().flatten(), asked.drop.iter().flatten()).map_err(|(list, name)| {
        Error::Container {
            container: c.name.clone(),
            what: format!("securityContext.capabilities.{list}: {name:?} is no capability; see capabilities(7)"),
        }
    })
}

/// Mounts in the order in which they are made: parents before what is below them.
fn mounts(spec: &PodSpec, c: &Container) -> Result<Vec<MountRecord>, Error> {
    let mut asked: Vec<&VolumeMount> = c.volume_mounts.iter().flatten().collect();
    asked.sort_by_key(|m| depth(&m.mount_path));
    let volume = |m: &VolumeMount| {
        let v = spec.volumes.iter().flatten().find(|v| v.name == m.name).ok_or_else(|| Error::Container {
            container: c.name.clone(),
            what: format!("volume {} on {} is not in spec.volumes", m.name, m.mount_path),
        })?;
        let source = match &v.host_path {
            Some(h) => MountSource::Host { path: h.path.clone(), typ: h.type_.clone().unwrap_or_default() },
            None if manifest::is_memory(v) => MountSource::Memory { name: v.name.clone() },
            None => MountSource::Volume { name: v.name.clone() },
        };
        Ok(MountRecord {
            volume: m.name.clone(),
            destination: m.mount_path.clone(),
            source,
            // `subPathExpr` is refused by the manifest room.
            sub_path: m.sub_path.clone().filter(|s| !s.is_empty()),
            access: match (m.read_only.unwrap_or(false), m.recursive_read_only.as_deref()) {
                (true, Some("IfPossible" | "Enabled")) => Access::RecursiveReadOnly,
                (true, _) => Access::ReadOnly,
                (false, _) => Access::ReadWrite,
            },
            propagation: match m.mount_propagation.as_deref() {
                Some("Bidirectional") => Propagation::Bidirectional,
                Some("HostToContainer") => Propagation::HostToContainer,
                _ => Propagation::Private,
            },
        })
    };
    asked.into_iter().map(volume).collect()
}

fn container(
    store: &Store,
    pod: &Pod,
    c: &Container,
    kind: ContainerKind,
    field: &str,
    views: &mut HashMap<String, View>,
) -> Result<ContainerRecord, Error> {
    let at = |sub: &str, what: String| Error::Image { field: format!("{field}.{sub}"), what };
    let named = c.image.as_deref().unwrap_or_default();
    let image = usable(store, named).map_err(|what| at("image", what))?;
    if !views.contains_key(&image.id) {
        let view = View::open(&image.layers).map_err(|e| at("image", e.to_string()))?;
        views.insert(image.id.clone(), view);
    }
    let view = &views[&image.id];
    let field_error = |e: manifest::FieldError| Error::Image { field: format!("{field}.{}", e.path), what: e.message };
    let of_pod = pod.spec.clone().unwrap_or_default();
    let declared = manifest::command::env(c, pod, &node).map_err(field_error)?;
    let argv =
        manifest::command::argv(c, &image.config.entrypoint, &image.config.cmd, &declared).map_err(field_error)?;
    let hostname = hostname(pod);
    let env = manifest::command::environment(&image.config.env, &declared, &hostname, c.tty.unwrap_or(false));
    let cwd = working_dir(c.working_dir.as_deref(), &image).map_err(|what| at("workingDir", what))?;
    let user = identity(pod, c, &image, view).map_err(|(sub, what)| at(sub, what))?;
    let mounts = mounts(&of_pod, c)?;
    executable(&mounts, view, &argv, &cwd, &env).map_err(|what| at("command", what))?;
    let security = c.security_context.clone().unwrap_or_default();
    let privileged = security.privileged.unwrap_or(false);
    let unmasked = privileged || security.proc_mount.as_deref() == Some("Unmasked");
    let nothing = unmasked.then(Vec::new);
    Ok(ContainerRecord {
        name: c.name.clone(),
        kind,
        image_id: image.id.clone(),
        image_ref: image.names.first().cloned().unwrap_or_else(|| named.to_owned()),
        layers: image.layers.iter().map(|l| l.to_string_lossy().into_owned()).collect(),
        argv,
        env,
        cwd,
        user,
        stop_signal: stop_signal(c).or(image.config.stop_signal).unwrap_or(libc::SIGTERM),
        probes: super::probes::of(c).map_err(|(sub, what)| at(&sub, what))?,
        restart: restart(c),
        hooks: hooks(c).map_err(|(sub, what)| at(&sub, what))?,
        message: end_message(c),
        tty: c.tty.unwrap_or(false),
        stdin: c.stdin.unwrap_or(false),
        stdin_once: c.stdin_once.unwrap_or(false),
        pid: if of_pod.host_pid.unwrap_or(false) {
            PidMode::Node
        } else if of_pod.share_process_namespace.unwrap_or(false) {
            PidMode::Pod
        } else {
            PidMode::Container
        },
        pid_target: String::new(),
        privileged,
        capabilities: capabilities(c)?,
        no_new_privileges: security.allow_privilege_escalation == Some(false),
        readonly_root: security.read_only_root_filesystem.unwrap_or(false),
        masked_paths: nothing.clone(),
        readonly_paths: nothing,
        apparmor: apparmor::choose(apparmor_wanted(&of_pod, &security), privileged)
            .map_err(|what| at("securityContext.appArmorProfile", what))?,
        limits: Limits { devices: device_rules(privileged, &[]), ..Limits::default() },
        oom_score_adj: manifest::oom_score_adj(&of_pod, c, memory_capacity_bytes()),
        mounts,
        devices: Vec::new(),
        client: None,
    })
}

/// Decides everything about an ephemeral container of a pod that is there. It was validated against that pod.
///
/// # Errors
/// A field that does not fit the image or the host.
pub fn ephemeral(
    host: &Hierarchies,
    store: &Store,
    record: &PodRecord,
    asked: &EphemeralContainer,
) -> Result<ContainerRecord, Error> {
    let (pod, c) = (&record.pod, manifest::ephemeral::container(asked));
    let field = format!("pod {}: spec.ephemeralContainers[{}]", record.name(), record.containers.len());
    let spec = pod.spec.clone().unwrap_or_default();
    let limits = limits::of_container(host, pod, &spec, &c, &field)
        .map_err(|e| Error::Image { field: e.path, what: e.message })?;
    let made = container(store, pod, &c, ContainerKind::Ephemeral, &field, &mut HashMap::new())?;
    let target = asked.target_container_name.clone().filter(|name| !name.is_empty());
    let limits = Limits { devices: made.limits.devices.clone(), ..limits };
    Ok(match target {
        // In a namespace of the pod's or the host's the other container is seen anyway.
        Some(pid_target) if made.pid == PidMode::Container => {
            ContainerRecord { pid: PidMode::Target, pid_target, limits, ..made }
        }
        _ => ContainerRecord { limits, ..made },
    })
}

/// `lifecycle.stopSignal`, a signal as validation has it.
fn stop_signal(c: &Container) -> Option<i32> {
    c.lifecycle.as_ref()?.stop_signal.as_deref().and_then(crate::image::parse_signal)
}

/// `terminationMessagePath` and its policy. A relative path begins at the root, as with the kubelet.
fn end_message(c: &Container) -> Option<EndMessage> {
    let path = c.termination_message_path.as_deref().filter(|path| !path.is_empty())?;
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let or_log = c.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
    Some(EndMessage { path, or_log })
}

fn restart(c: &Container) -> Restart {
    let policy = c.restart_policy.as_deref().map(|word| match word {
        "OnFailure" => RestartPolicy::OnFailure,
        "Never" => RestartPolicy::Never,
        _ => RestartPolicy::Always,
    });
    let rule = |rule: &v1::ContainerRestartRule| RestartRule {
        action: match rule.action.as_str() {
            "RestartAllContainers" => RestartAction::RestartAllContainers,
            _ => RestartAction::Restart,
        },
        not: rule.exit_codes.as_ref().is_some_and(|codes| codes.operator == "NotIn"),
        exit_codes: rule.exit_codes.as_ref().and_then(|codes| codes.values.clone()).unwrap_or_default(),
    };
    Restart { policy, rules: c.restart_policy_rules.iter().flatten().map(rule).collect() }
}

/// The hooks of a container that was validated, or the field below the container and what is wrong with it.
fn hooks(c: &Container) -> Result<Hooks, (String, String)> {
    let Some(lifecycle) = &c.lifecycle else { return Ok(Hooks::default()) };
    let one = |field: &str, handler: &Option<v1::LifecycleHandler>| {
        let Some(handler) = handler else { return Ok(None) };
        let action = if let Some(exec) = &handler.exec {
            HookAction::Exec { command: exec.command.clone().unwrap_or_default() }
        } else if let Some(action) = &handler.http_get {
            let got = super::probes::http_get(c, action);
            HookAction::HttpGet(got.map_err(|what| (format!("lifecycle.{field}.httpGet.port"), what))?)
        } else if let Some(sleep) = &handler.sleep {
            HookAction::Sleep { seconds: u64::try_from(sleep.seconds).unwrap_or(0) }
        } else {
            return Err((format!("lifecycle.{field}"), "a hook needs something to do".to_owned()));
        };
        Ok(Some(action))
    };
    Ok(Hooks { post_start: one("postStart", &lifecycle.post_start)?, pre_stop: one("preStop", &lifecycle.pre_stop)? })
}

/// An image of the store that this host can execute.
fn usable(store: &Store, named: &str) -> Result<Image, String> {
    let image = store.resolve(named).map_err(|e| e.to_string())?;
    if image.os != "linux" || image.architecture != HOST_ARCHITECTURE {
        let (os, arch) = (&image.os, &image.architecture);
        return Err(format!("image {named} is for {os}/{arch}, this host is linux/{HOST_ARCHITECTURE}"));
    }
    Ok(image)
}

/// The asked one, else the image's, else the root.
fn working_dir(asked: Option<&str>, image: &Image) -> Result<String, String> {
    let dir = match (asked, image.config.working_dir.as_str()) {
        (Some(dir), _) if !dir.is_empty() => dir,
        (_, "") => "/",
        (_, dir) => dir,
    };
    if dir.starts_with('/') { Ok(dir.to_owned()) } else { Err(format!("{dir:?}: must be an absolute path")) }
}

/// What a CRI client says about a container; the fields of `ContainerConfig` that decide anything.
#[derive(Debug, Default)]
pub struct Asked {
    /// Name, id, labels and the like, kept as they are.
    pub client: ClientContainer,
    /// `metadata.name`.
    pub name: String,
    /// The pod's name for itself.
    pub hostname: String,
    /// Replaces ENTRYPOINT, and drops CMD.
    pub command: Vec<String>,
    /// Replaces CMD.
    pub args: Vec<String>,
    /// Empty: the image's.
    pub working_dir: String,
    /// Names and values.
    pub envs: Vec<(String, String)>,
    /// In any order.
    pub mounts: Vec<MountRecord>,
    /// With what it may do with each.
    pub devices: Vec<(DeviceRecord, Permissions)>,
    /// A terminal.
    pub tty: bool,
    /// A standard input that can be attached to.
    pub stdin: bool,
    /// By one client, once.
    pub stdin_once: bool,
    /// Which processes it sees.
    pub pid: PidMode,
    /// With [`PidMode::Target`]: whose.
    pub pid_target: String,
    /// Everything is allowed.
    pub privileged: bool,
    /// `capabilities.add_capabilities`.
    pub add_capabilities: Vec<String>,
    /// `capabilities.drop_capabilities`.
    pub drop_capabilities: Vec<String>,
    /// `run_as_user` or `run_as_username`, with `run_as_group` behind a colon; `None`: the image's.
    pub user: Option<String>,
    /// `supplemental_groups`.
    pub supplemental_groups: Vec<u32>,
    /// `supplemental_groups_policy` Strict: groups of the image's `/etc/group` do not count.
    pub strict_groups: bool,
    /// `no_new_privs`.
    pub no_new_privileges: bool,
    /// `readonly_rootfs`.
    pub readonly_root: bool,
    /// `masked_paths`.
    pub masked_paths: Vec<String>,
    /// `readonly_paths`.
    pub readonly_paths: Vec<String>,
    /// `apparmor`, or what `apparmor_profile` says in the older form.
    pub apparmor: Wanted,
    /// `linux.resources`.
    pub limits: Limits,
    /// `linux.resources.oom_score_adj`.
    pub oom_score_adj: i32,
    /// `stop_signal`; `None`: the image's.
    pub stop_signal: Option<i32>,
}

/// Decides everything about a client's container.
///
/// # Errors
/// The field, by its name in CRI, and what does not fit the image or the host.
pub fn client_container(store: &Store, mut asked: Asked) -> Result<ContainerRecord, (&'static str, String)> {
    let image = usable(store, &asked.client.image).map_err(|what| ("image", what))?;
    let view = View::open(&image.layers).map_err(|e| ("image", e.to_string()))?;
    let cwd = working_dir(Some(&asked.working_dir), &image).map_err(|what| ("working_dir", what))?;
    let env = manifest::command::environment(&image.config.env, &asked.envs, &asked.hostname, asked.tty);
    let argv = match (asked.command.is_empty(), asked.args.is_empty()) {
        (false, _) => [asked.command, asked.args].concat(),
        (true, false) => [image.config.entrypoint.clone(), asked.args].concat(),
        (true, true) => [image.config.entrypoint.clone(), image.config.cmd.clone()].concat(),
    };
    let (field, text) = match &asked.user {
        Some(user) => ("linux.security_context.run_as_user", user.as_str()),
        None => ("image", image.config.user.as_str()),
    };
    let found: User = view.resolve_user(text).map_err(|e| (field, e.to_string()))?;
    let mut groups = if asked.strict_groups { Vec::new() } else { found.groups };
    groups.extend(asked.supplemental_groups);
    groups.sort_unstable();
    groups.dedup();
    asked.mounts.sort_by_key(|m| depth(&m.destination));
    executable(&asked.mounts, &view, &argv, &cwd, &env).map_err(|what| ("command", what))?;
    let capabilities =
        spec::capabilities(&asked.add_capabilities, &asked.drop_capabilities).map_err(|(list, name)| {
            let field = match list {
                "add" => "linux.security_context.capabilities.add_capabilities",
                _ => "linux.security_context.capabilities.drop_capabilities",
            };
            (field, format!("{name:?} is no capability; see capabilities(7)"))
        })?;
    let paths = |list: Vec<String>| Some(if asked.privileged { Vec::new() } else { list });
    Ok(ContainerRecord {
        name: asked.name,
        kind: ContainerKind::App,
        image_id: image.id.clone(),
        image_ref: image.names.first().cloned().unwrap_or_else(|| asked.client.image.clone()),
        layers: image.layers.iter().map(|l| l.to_string_lossy().into_owned()).collect(),
        argv,
        env,
        cwd,
        user: Identity { uid: found.uid, gid: found.gid, groups },
        stop_signal: asked.stop_signal.or(image.config.stop_signal).unwrap_or(libc::SIGTERM),
        // Its client's affair.
        probes: crate::probe::Probes::default(),
        restart: Restart::default(),
        hooks: Hooks::default(),
        message: None,
        tty: asked.tty,
        stdin: asked.stdin,
        stdin_once: asked.stdin_once,
        pid: asked.pid,
        pid_target: asked.pid_target,
        privileged: asked.privileged,
        capabilities,
        no_new_privileges: asked.no_new_privileges,
        readonly_root: asked.readonly_root,
        masked_paths: paths(asked.masked_paths),
        readonly_paths: paths(asked.readonly_paths),
        apparmor: apparmor::choose(asked.apparmor, asked.privileged)
            .map_err(|what| ("linux.security_context.apparmor", what))?,
        limits: Limits { devices: device_rules(asked.privileged, &asked.devices), ..asked.limits },
        oom_score_adj: asked.oom_score_adj,
        mounts: asked.mounts,
        devices: asked.devices.into_iter().map(|(device, _)| device).collect(),
        client: Some(Box::new(asked.client)),
    })
}

/// Number of directories on the way to a mount point.
fn depth(path: &str) -> usize {
    path.split('/').filter(|part| !part.is_empty()).count()
}

/// The host's, or nothing where it has none.
pub fn host_resolv_conf() -> String {
    std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default()
}

/// The pod's name for itself; the host's own on the host's network.
pub fn hostname(pod: &Pod) -> String {
    if pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or(false) {
        return nix::unistd::gethostname().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    }
    crate::pod::hostname(pod)
}

/// The identity by the kubelet's rules: container over pod over image; groups are those of the image's `/etc/group` and the pod's.
fn identity(pod: &Pod, c: &Container, image: &Image, view: &View) -> Result<Identity, (&'static str, String)> {
    let of_pod: PodSecurityContext = pod.spec.as_ref().and_then(|s| s.security_context.clone()).unwrap_or_default();
    let own: SecurityContext = c.security_context.clone().unwrap_or_default();
    let asked_uid = own.run_as_user.or(of_pod.run_as_user);
    let asked_gid = own.run_as_group.or(of_pod.run_as_group);
    let (text, source) = match asked_uid {
        Some(uid) => (uid.to_string(), "securityContext.runAsUser"),
        None => (image.config.user.clone(), "image"),
    };
    let found: User = view.resolve_user(&text).map_err(|e| (source, e.to_string()))?;
    let mut groups = found.groups;
    for group in of_pod.supplemental_groups.iter().flatten() {
        let group = u32::try_from(*group)
            .map_err(|_| ("securityContext.supplementalGroups", format!("{group} is no group id")))?;
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    let gid = match asked_gid {
        Some(gid) => u32::try_from(gid).map_err(|_| ("securityContext.runAsGroup", format!("{gid} is no group id")))?,
        None => found.gid,
    };
    if own.run_as_non_root.or(of_pod.run_as_non_root).unwrap_or(false) {
        let path = "securityContext.runAsNonRoot";
        if found.uid == 0 {
            return Err((path, "the container would run as root (uid 0); set runAsUser".into()));
        }
        if asked_uid.is_none() && !found.name_was_numeric {
            let what = format!("cannot be verified: the image's user {text:?} is not numeric; set runAsUser");
            return Err((path, what));
        }
    }
    Ok(Identity { uid: found.uid, gid, groups })
}

/// Looks for the command in the image, unless a volume may bring it.
fn executable(mounts: &[MountRecord], view: &View, argv: &[String], cwd: &str, env: &[String]) -> Result<(), String> {
    let Some(command) = argv.first() else { return Err("is empty, and so are the image's entrypoint and cmd".into()) };
    let path = env.iter().find_map(|e| e.strip_prefix("PATH=")).unwrap_or(manifest::command::DEFAULT_PATH);
    let mounted = |place: &str| {
        let below =
            |m: &str| place == m || place.strip_prefix(m.trim_end_matches('/')).is_some_and(|r| r.starts_with('/'));
        mounts.iter().any(|m| below(&m.destination))
    };
    let covered = if command.starts_with('/') {
        mounted(command)
    } else if command.contains('/') {
        mounted(&format!("{cwd}/{command}"))
    } else {
        path.split(':').any(mounted)
    };
    match view.find_executable(command, cwd, path) {
        Err(e) if !covered => Err(e.to_string()),
        _ => Ok(()),
    }
}
