//! What of an OCI runtime spec is supported. Everything else is refused by name: nothing is ignored without a word, except what is the
//! business of whoever calls us.
//!
//! The caller's business: `root.path` (the root comes with the request), `linux.resources` and `linux.cgroupsPath` (cgroups are
//! made and limited before the process is born in them), `annotations`.

use crate::error::Error;
use oci_spec::runtime::{Linux, Process, Spec};
use std::ffi::CString;

/// What comes with the request beside the spec and has a say in what is allowed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Given {
    /// A compiled seccomp program.
    pub seccomp: bool,
    /// A terminal.
    pub terminal: bool,
}

fn refuse_if(there: bool, field: &str) -> Result<(), Error> {
    if there { Err(Error::refused(field, "is not supported")) } else { Ok(()) }
}

fn said(text: Option<&String>) -> bool {
    text.is_some_and(|s| !s.is_empty())
}

/// Refuses what is not supported in the spec as a whole.
pub(crate) fn check(spec: &Spec, given: Given) -> Result<(), Error> {
    if !spec.version().starts_with("1.") {
        let reason = format!("version {:?} is not 1.x", spec.version());
        return Err(Error::refused("ociVersion", reason));
    }
    let hooks = spec.hooks().as_ref().is_some_and(|h| {
        #[allow(deprecated, reason = "prestart is still in the spec, and refused like the others")]
        let all =
            [h.prestart(), h.create_runtime(), h.create_container(), h.start_container(), h.poststart(), h.poststop()];
        all.into_iter().flatten().any(|list| !list.is_empty())
    });
    refuse_if(hooks, "hooks")?;
    refuse_if(spec.solaris().is_some(), "solaris")?;
    refuse_if(spec.windows().is_some(), "windows")?;
    refuse_if(spec.vm().is_some(), "vm")?;
    refuse_if(spec.zos().is_some(), "zos")?;
    if let Some(linux) = spec.linux() {
        check_linux(linux, given)?;
    }
    for (i, m) in spec.mounts().iter().flatten().enumerate() {
        refuse_if(m.uid_mappings().is_some(), &format!("mounts[{i}].uidMappings"))?;
        refuse_if(m.gid_mappings().is_some(), &format!("mounts[{i}].gidMappings"))?;
    }
    match spec.process() {
        Some(process) => check_process(process, given),
        None => Err(Error::refused("process", "is missing")),
    }
}

fn check_linux(linux: &Linux, given: Given) -> Result<(), Error> {
    refuse_if(linux.uid_mappings().as_ref().is_some_and(|m| !m.is_empty()), "linux.uidMappings")?;
    refuse_if(linux.gid_mappings().as_ref().is_some_and(|m| !m.is_empty()), "linux.gidMappings")?;
    refuse_if(linux.net_devices().as_ref().is_some_and(|m| !m.is_empty()), "linux.netDevices")?;
    refuse_if(said(linux.mount_label().as_ref()), "linux.mountLabel")?;
    refuse_if(linux.intel_rdt().is_some(), "linux.intelRdt")?;
    refuse_if(linux.memory_policy().is_some(), "linux.memoryPolicy")?;
    refuse_if(linux.personality().is_some(), "linux.personality")?;
    refuse_if(linux.time_offsets().as_ref().is_some_and(|m| !m.is_empty()), "linux.timeOffsets")?;
    if linux.seccomp().is_some() && !given.seccomp {
        return Err(Error::refused("linux.seccomp", "no compiled filter came with the request"));
    }
    Ok(())
}

/// Refuses what is not supported in the description of a process.
pub(crate) fn check_process(process: &Process, given: Given) -> Result<(), Error> {
    refuse_if(said(process.command_line().as_ref()), "process.commandLine")?;
    refuse_if(said(process.selinux_label().as_ref()), "process.selinuxLabel")?;
    refuse_if(process.io_priority().is_some(), "process.ioPriority")?;
    refuse_if(process.scheduler().is_some(), "process.scheduler")?;
    refuse_if(process.exec_cpu_affinity().is_some(), "process.execCPUAffinity")?;
    refuse_if(said(process.user().username().as_ref()), "process.user.username")?;
    if process.terminal().unwrap_or(false) != given.terminal {
        return Err(Error::refused("process.terminal", "does not agree with the standard streams of the request"));
    }
    if process.console_size().is_some() {
        return Err(Error::refused("process.consoleSize", "is not supported here, the size comes with the request"));
    }
    if process.args().as_ref().is_none_or(|a| a.is_empty()) {
        return Err(Error::refused("process.args", "is empty"));
    }
    let user = process.user();
    let groups = user.additional_gids().iter().flatten().map(|gid| ("process.user.additionalGids", *gid));
    for (what, id) in [("process.user.uid", user.uid()), ("process.user.gid", user.gid())].into_iter().chain(groups) {
        if id > i32::MAX as u32 {
            return Err(Error::refused(what, format!("{id} is larger than 2147483647")));
        }
    }
    Ok(())
}

/// A string for the kernel.
pub(crate) fn cstring(field: &str, text: &str) -> Result<CString, Error> {
    CString::new(text).map_err(|_| Error::refused(field, format!("{text:?} has a NUL byte in it")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{HookBuilder, HooksBuilder, LinuxPersonality, UserBuilder};

    const GIVEN: Given = Given { seccomp: false, terminal: false };

    fn good() -> Spec {
        let mut spec = Spec::default();
        spec.process_mut().as_mut().unwrap().set_terminal(None);
        spec
    }

    #[track_caller]
    fn refused(spec: &Spec, field: &str) {
        let e = check(spec, GIVEN).unwrap_err();
        assert!(e.to_string().starts_with(field), "{e}");
    }

    #[test]
    fn the_default_spec_is_supported() {
        check(&good(), GIVEN).unwrap();
    }

    #[test]
    fn unsupported_fields_are_refused_by_name() {
        let mut spec = good();
        let hook = HookBuilder::default().path("/x").build().unwrap();
        spec.set_hooks(Some(HooksBuilder::default().poststop(vec![hook]).build().unwrap()));
        refused(&spec, "hooks");

        let mut spec = good();
        spec.linux_mut().as_mut().unwrap().set_personality(Some(LinuxPersonality::default()));
        refused(&spec, "linux.personality");

        let mut spec = good();
        spec.linux_mut().as_mut().unwrap().set_mount_label(Some("x".into()));
        refused(&spec, "linux.mountLabel");

        let mut spec = good();
        spec.set_version("2.0".into());
        refused(&spec, "ociVersion");

        let mut spec = good();
        spec.process_mut().as_mut().unwrap().set_selinux_label(Some("x".into()));
        refused(&spec, "process.selinuxLabel");
    }

    #[test]
    fn ids_beyond_2_to_the_31_are_refused() {
        let mut spec = good();
        let user = UserBuilder::default().uid(u32::MAX).gid(0u32).build().unwrap();
        spec.process_mut().as_mut().unwrap().set_user(user);
        refused(&spec, "process.user.uid");
    }

    #[test]
    fn a_terminal_has_to_come_with_the_request() {
        let mut spec = good();
        spec.process_mut().as_mut().unwrap().set_terminal(Some(true));
        refused(&spec, "process.terminal");
    }
}
