//! Security contexts and sysctls.

use super::{Report, has_control};
use k8s_openapi::api::core::v1::{
    AppArmorProfile, Capabilities, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext, Sysctl,
};
use std::collections::BTreeSet;

/// Which of the host's namespaces the pod shares, as far as sysctls care.
#[derive(Clone, Copy)]
pub(super) struct Host {
    pub ipc: bool,
    pub network: bool,
}

/// The sysctls that Kubernetes calls safe: they belong to a namespace of the pod and can't harm anybody else.
const SAFE_SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// capabilities(7), without `CAP_`.
const CAPABILITIES: &[&str] = &[
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// `spec.securityContext`.
pub(super) fn check_pod(context: &PodSecurityContext, host: Host, r: &mut Report) {
    let PodSecurityContext {
        app_armor_profile,
        fs_group,
        fs_group_change_policy,
        run_as_group,
        run_as_non_root: _,
        run_as_user,
        se_linux_change_policy,
        se_linux_options,
        seccomp_profile,
        supplemental_groups,
        supplemental_groups_policy,
        sysctls,
        windows_options,
    } = context;
    let at = |field: &str| format!("spec.securityContext.{field}");
    check_apparmor(app_armor_profile, at("appArmorProfile"), r);
    r.refuse(at("fsGroup"), fs_group.is_some());
    r.refuse(at("fsGroupChangePolicy"), fs_group_change_policy.is_some());
    r.refuse(at("seLinuxChangePolicy"), se_linux_change_policy.is_some());
    r.refuse(at("seLinuxOptions"), se_linux_options.is_some());
    r.refuse(at("windowsOptions"), windows_options.is_some());
    r.id(at("runAsUser"), *run_as_user);
    r.id(at("runAsGroup"), *run_as_group);
    for (i, group) in supplemental_groups.iter().flatten().enumerate() {
        r.id(format!("spec.securityContext.supplementalGroups[{i}]"), Some(*group));
    }
    r.word(at("supplementalGroupsPolicy"), supplemental_groups_policy, &["Merge", "Strict"]);
    r.refuse(at("supplementalGroupsPolicy"), supplemental_groups_policy.as_deref() == Some("Strict"));
    check_seccomp(seccomp_profile, at("seccompProfile"), r);
    check_sysctls(sysctls.as_deref().unwrap_or_default(), host, r);
}

fn check_sysctls(sysctls: &[Sysctl], host: Host, r: &mut Report) {
    let mut known = BTreeSet::new();
    for (i, Sysctl { name, value }) in sysctls.iter().enumerate() {
        let path = format!("spec.securityContext.sysctls[{i}]");
        if !SAFE_SYSCTLS.contains(&name.as_str()) {
            let safe = SAFE_SYSCTLS.join(", ");
            r.add(format!("{path}.name"), format!("{name:?} is not one of the safe sysctls: {safe}"));
        } else if !known.insert(name) {
            r.add(format!("{path}.name"), format!("duplicate: {name} is already set"));
        } else if host.network && name.starts_with("net.") {
            r.add(format!("{path}.name"), format!("{name} is the host's with hostNetwork; a pod may not change it"));
        } else if host.ipc && name.starts_with("kernel.shm") {
            r.add(format!("{path}.name"), format!("{name} is the host's with hostIPC; a pod may not change it"));
        }
        if value.is_empty() {
            r.add(format!("{path}.value"), "required");
        } else if value.bytes().any(|b| !(b.is_ascii_digit() || matches!(b, b' ' | b'\t' | b'-' | b','))) {
            // All of the safe ones hold numbers, so nothing else has to reach the kernel.
            r.add(format!("{path}.value"), format!("{value:?} must consist of numbers"));
        }
    }
}

/// The longest name of a profile that Kubernetes takes.
const MAX_PROFILE: usize = 4095;

fn check_apparmor(profile: &Option<AppArmorProfile>, path: String, r: &mut Report) {
    let Some(AppArmorProfile { localhost_profile, type_ }) = profile else { return };
    let at = |field: &str| format!("{path}.{field}");
    if type_.is_empty() {
        return r.add(at("type"), "required: Localhost, RuntimeDefault or Unconfined");
    }
    r.word(at("type"), &Some(type_.clone()), &["Localhost", "RuntimeDefault", "Unconfined"]);
    match (type_ == "Localhost", localhost_profile.as_deref()) {
        (false, Some(_)) => r.add(at("localhostProfile"), "can only be set when type is Localhost"),
        (true, None) => r.add(at("localhostProfile"), "required when type is Localhost"),
        (true, Some(name)) => {
            let blank = name.trim();
            if blank.is_empty() {
                r.add(at("localhostProfile"), "required when type is Localhost");
            } else if blank.len() != name.len() {
                r.add(at("localhostProfile"), format!("{name:?} must not begin or end with blanks"));
            } else if name.len() > MAX_PROFILE {
                r.add(at("localhostProfile"), format!("must have at most {MAX_PROFILE} bytes"));
            }
            check_plain(name, at("localhostProfile"), r);
        }
        (false, None) => {}
    }
}

fn check_seccomp(profile: &Option<SeccompProfile>, path: String, r: &mut Report) {
    let Some(SeccompProfile { localhost_profile, type_ }) = profile else { return };
    match type_.as_str() {
        "Unconfined" => r.refuse(format!("{path}.localhostProfile"), localhost_profile.is_some()),
        "RuntimeDefault" | "Localhost" => {
            r.add(
                format!("{path}.type"),
                format!("{type_} is not supported yet; only Unconfined, Kubernetes' default, is"),
            );
        }
        other => r.add(format!("{path}.type"), format!("{other:?} is none of Unconfined, RuntimeDefault, Localhost")),
    }
}

/// `securityContext` of one container.
pub(super) fn check_container(context: &SecurityContext, path: &str, r: &mut Report) {
    let SecurityContext {
        allow_privilege_escalation,
        app_armor_profile,
        capabilities,
        privileged,
        proc_mount,
        read_only_root_filesystem: _,
        run_as_group,
        run_as_non_root: _,
        run_as_user,
        se_linux_options,
        seccomp_profile,
        windows_options,
    } = context;
    let at = |field: &str| format!("{path}.securityContext.{field}");
    check_apparmor(app_armor_profile, at("appArmorProfile"), r);
    r.refuse(at("seLinuxOptions"), se_linux_options.is_some());
    r.refuse(at("windowsOptions"), windows_options.is_some());
    r.id(at("runAsUser"), *run_as_user);
    r.id(at("runAsGroup"), *run_as_group);
    r.word(at("procMount"), proc_mount, &["Default", "Unmasked"]);
    check_seccomp(seccomp_profile, at("seccompProfile"), r);
    let mut adds_sys_admin = false;
    if let Some(Capabilities { add, drop }) = capabilities {
        for (field, list) in [("add", add), ("drop", drop)] {
            for (i, name) in list.iter().flatten().enumerate() {
                adds_sys_admin |= field == "add" && matches!(name.as_str(), "SYS_ADMIN" | "ALL");
                let path = at(&format!("capabilities.{field}[{i}]"));
                check_capability(name, path, r);
            }
        }
    }
    if *allow_privilege_escalation == Some(false) {
        if *privileged == Some(true) {
            r.add(at("allowPrivilegeEscalation"), "must not be false for a privileged container");
        } else if adds_sys_admin {
            r.add(at("allowPrivilegeEscalation"), "must not be false together with the capability SYS_ADMIN");
        }
    }
}

fn check_capability(name: &str, path: String, r: &mut Report) {
    if name == "ALL" || CAPABILITIES.contains(&name) {
        return;
    }
    let upper = name.to_ascii_uppercase();
    let plain = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if plain == "ALL" || CAPABILITIES.contains(&plain) {
        r.add(path, format!("{name:?} must be written {plain}"));
    } else {
        r.add(path, format!("{name:?} is no capability of Linux"));
    }
}

/// `runAsNonRoot` against the user that the manifest itself gives; what the image gives is checked when it is resolved.
pub(super) fn check_non_root(context: Option<&SecurityContext>, spec: &PodSpec, path: &str, r: &mut Report) {
    let pod = spec.security_context.as_ref();
    let own_non_root = context.and_then(|c| c.run_as_non_root);
    let non_root = own_non_root.or(pod.and_then(|p| p.run_as_non_root)) == Some(true);
    let user = context.and_then(|c| c.run_as_user).or(pod.and_then(|p| p.run_as_user));
    if non_root && user == Some(0) {
        let message = "must not be true when runAsUser is 0";
        if own_non_root.is_some() || context.is_some_and(|c| c.run_as_user.is_some()) {
            r.add(format!("{path}.securityContext.runAsNonRoot"), message);
        } else if !r.errors.iter().any(|e| e.path == "spec.securityContext.runAsNonRoot") {
            r.add("spec.securityContext.runAsNonRoot", message);
        }
    }
}

/// No NUL and no other control character can be part of a single-line word.
pub(super) fn check_plain(value: &str, path: String, r: &mut Report) {
    if has_control(value) {
        r.add(path, format!("{value:?} must not contain control characters"));
    }
}
