//! From manifest and images to a record: everything that can be decided, and can fail, before the first side effect.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, SecurityContext};

use super::Error;
use crate::image::{HOST_ARCHITECTURE, Image, Store, User, View};
use crate::manifest;
use crate::state::Roots;
use crate::state::record::{ContainerKind, ContainerRecord, Identity, Owner, PodRecord, VERSION};

/// The host as `resourceFieldRef` sees it.
fn node() -> manifest::Node {
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    manifest::Node { cpu_millis: cpus * 1000, memory_bytes: memory_capacity_bytes() }
}

/// The host's memory, bytes; `MemTotal` of `/proc/meminfo`.
pub fn memory_capacity_bytes() -> u64 {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = meminfo
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Decides everything about a pod. The pod has its defaults, was validated, and has a uid.
///
/// # Errors
/// A field that does not fit the image or the host; nothing was changed.
pub fn pod(roots: &Roots, store: &Store, pod: Pod, owner: Owner) -> Result<PodRecord, Error> {
    let spec = pod.spec.clone().unwrap_or_default();
    let name = pod.metadata.name.clone().unwrap_or_default();
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let mut views = HashMap::new();
    let mut containers = Vec::new();
    let lists = [
        ("initContainers", ContainerKind::Init, spec.init_containers.as_deref().unwrap_or_default()),
        ("containers", ContainerKind::App, &spec.containers),
    ];
    for (list, kind, all) in lists {
        for (index, c) in all.iter().enumerate() {
            let field = format!("pod {name}: spec.{list}[{index}]");
            containers.push(container(store, &pod, c, kind, &field, &mut views)?);
        }
    }
    let qos = match manifest::qos_class(&spec) {
        manifest::QosClass::Guaranteed => "",
        manifest::QosClass::Burstable => "burstable/",
        manifest::QosClass::BestEffort => "besteffort/",
    };
    Ok(PodRecord {
        version: VERSION,
        owner,
        attempt: 0,
        created_at: jiff::Timestamp::now(),
        cgroup: format!("{}/pods/{qos}pod{uid}", roots.cgroup_parent()),
        log_dir: roots.log_dir(&namespace, &name, &uid).to_string_lossy().into_owned(),
        pod,
        containers,
    })
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
    let image = store.resolve(named).map_err(|e| at("image", e.to_string()))?;
    if image.os != "linux" || image.architecture != HOST_ARCHITECTURE {
        let (os, arch) = (&image.os, &image.architecture);
        return Err(at("image", format!("image {named} is for {os}/{arch}, this host is linux/{}", HOST_ARCHITECTURE)));
    }
    if !views.contains_key(&image.id) {
        let view = View::open(&image.layers).map_err(|e| at("image", e.to_string()))?;
        views.insert(image.id.clone(), view);
    }
    let view = &views[&image.id];
    let field_error = |e: manifest::FieldError| Error::Image { field: format!("{field}.{}", e.path), what: e.message };
    let declared = manifest::command::env(c, pod, node()).map_err(field_error)?;
    let argv =
        manifest::command::argv(c, &image.config.entrypoint, &image.config.cmd, &declared).map_err(field_error)?;
    let hostname = hostname(pod);
    let env = manifest::command::environment(&image.config.env, &declared, &hostname, c.tty.unwrap_or(false));
    let cwd = match (c.working_dir.as_deref(), image.config.working_dir.as_str()) {
        (Some(dir), _) if !dir.is_empty() => dir.to_owned(),
        (_, "") => "/".to_owned(),
        (_, dir) => dir.to_owned(),
    };
    if !cwd.starts_with('/') {
        return Err(at("workingDir", format!("{cwd:?}: must be an absolute path")));
    }
    let user = identity(pod, c, &image, view).map_err(|(sub, what)| at(sub, what))?;
    executable(c, view, &argv, &cwd, &env).map_err(|what| at("command", what))?;
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
        stop_signal: image.config.stop_signal.unwrap_or(libc::SIGTERM),
    })
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
fn executable(c: &Container, view: &View, argv: &[String], cwd: &str, env: &[String]) -> Result<(), String> {
    let Some(command) = argv.first() else { return Err("is empty, and so are the image's entrypoint and cmd".into()) };
    let path = env.iter().find_map(|e| e.strip_prefix("PATH=")).unwrap_or(manifest::command::DEFAULT_PATH);
    let mounted = |place: &str| {
        let below =
            |m: &str| place == m || place.strip_prefix(m.trim_end_matches('/')).is_some_and(|r| r.starts_with('/'));
        c.volume_mounts.iter().flatten().any(|m| below(&m.mount_path))
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
