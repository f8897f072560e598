//! `ContainerConfig.devices`: nodes of the host that a container asks for.

use std::path::Path;

use crate::cgroup::{DeviceKind, Permissions};
use crate::cri::messages::Device;
use crate::cri::status::Status;
use crate::runtime::devices;
use crate::state::record::DeviceRecord;

use super::config::wrong;

/// Names in `/dev` that are links, or file systems of the container's own, in or under which no node can be put.
const TAKEN: [&str; 8] = ["fd", "stdin", "stdout", "stderr", "ptmx", "pts", "shm", "mqueue"];

/// More than a container has a use for, and few enough: the kernel checks the rules of 256 different ones in a tenth of a second, and the time
/// grows with the square.
const MAX_DEVICES: usize = 256;

/// Looks at the host's devices. A directory stands for all devices in it; links of the host are followed.
///
/// # Errors
/// The field, and what is wrong with it.
pub(super) fn asked(list: &[Device]) -> Result<Vec<(DeviceRecord, Permissions)>, Status> {
    let mut all: Vec<(DeviceRecord, Permissions)> = Vec::new();
    for (index, d) in list.iter().enumerate() {
        let at = |field: &str| format!("config.devices[{index}].{field}");
        container_path(&d.container_path).map_err(|what| wrong(&at("containerPath"), what))?;
        let permissions = d.permissions.parse().map_err(|what| wrong(&at("permissions"), what))?;
        let found = found(&d.host_path, &d.container_path).map_err(|what| wrong(&at("hostPath"), what))?;
        for device in found {
            if all.iter().any(|(other, _)| other.path == device.path) {
                return Err(wrong(&at("containerPath"), format!("{} is there twice", device.path)));
            }
            default_number(&device).map_err(|what| wrong(&at("hostPath"), what))?;
            all.push((device, permissions));
        }
        if all.len() > MAX_DEVICES {
            return Err(wrong("config.devices", format!("{} devices; at most {MAX_DEVICES}", all.len())));
        }
    }
    Ok(all)
}

fn container_path(path: &str) -> Result<(), String> {
    let Some(inner) = path.strip_prefix('/') else { return Err(format!("{path:?}: must be an absolute path")) };
    if path.contains('\0') || inner.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(format!("{path:?}: must have neither empty parts nor \".\" or \"..\""));
    }
    let first = inner.strip_prefix("dev/").and_then(|name| name.split('/').next());
    match first.filter(|name| TAKEN.contains(name)) {
        Some(name) => Err(format!("{path}: /dev/{name} is the container's own")),
        None => Ok(()),
    }
}

/// The devices of every container are what their names say.
fn default_number(d: &DeviceRecord) -> Result<(), String> {
    let is_named = |name: &std::ffi::CStr| d.path.strip_prefix("/dev/").map(str::as_bytes) == Some(name.to_bytes());
    match husk_oci::DEFAULT_DEVICES.iter().find(|(name, ..)| is_named(name)) {
        Some((_, major, minor)) if (d.kind, d.major, d.minor) != (DeviceKind::Char, *major, *minor) => {
            Err(format!("{} must be device {major}:{minor} in every container", d.path))
        }
        _ => Ok(()),
    }
}

fn found(host_path: &str, container_path: &str) -> Result<Vec<DeviceRecord>, String> {
    if !host_path.starts_with('/') {
        return Err(format!("{host_path:?}: must be an absolute path"));
    }
    let said = |e: std::io::Error| format!("{host_path}: {}", husk_oci::errno::io_text(&e));
    let meta = std::fs::metadata(host_path).map_err(said)?;
    if !meta.is_dir() {
        let device = devices::device(&meta, container_path.to_owned());
        return device.map(|d| vec![d]).ok_or_else(|| format!("{host_path}: is neither a device nor a directory"));
    }
    let below = devices::below(Path::new(host_path), container_path).map_err(said)?;
    if below.is_empty() { Err(format!("{host_path}: there is no device in this directory")) } else { Ok(below) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(container_path: &str, host_path: &str, permissions: &str) -> Device {
        Device { container_path: container_path.into(), host_path: host_path.into(), permissions: permissions.into() }
    }

    fn refused(list: &[Device]) -> String {
        asked(list).expect_err("it is refused").message
    }

    #[test]
    fn a_device_keeps_its_number_and_gets_the_containers_name() {
        let found = asked(&[one("/dev/nil", "/dev/null", "rw")]).unwrap();
        let [(d, permissions)] = &found[..] else { panic!("{found:?}") };
        assert_eq!((d.path.as_str(), d.major, d.minor, d.mode), ("/dev/nil", 1, 3, 0o666));
        assert_eq!(permissions.to_string(), "rw");
    }

    #[test]
    fn a_link_stands_for_its_device_and_a_directory_for_all_in_it() {
        let dir = std::env::temp_dir().join(format!("husk-cri-devices-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        std::os::unix::fs::symlink("/dev/zero", dir.join("link")).unwrap();
        let path = dir.to_str().unwrap();
        let linked = asked(&[one("/dev/x", &format!("{path}/link"), "r")]).unwrap();
        let empty = refused(&[one("/dev/x", path, "r")]);
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!((linked[0].0.major, linked[0].0.minor), (1, 5));
        assert_eq!(empty, format!("config.devices[0].hostPath: {path}: there is no device in this directory"));
        let all = asked(&[one("/dev/host", "/dev", "rwm")]).unwrap();
        assert!(all.iter().any(|(d, _)| d.path == "/dev/host/null"));
    }

    #[test]
    fn mistakes_are_told_by_their_field() {
        let null = |permissions: &str| one("/dev/nil", "/dev/null", permissions);
        for (list, sentence) in [
            (vec![null("")], "config.devices[0].permissions: is empty"),
            (vec![null("rx")], "config.devices[0].permissions: \"rx\": 'x' is none of r, w and m"),
            (vec![null("r"), null("w")], "config.devices[1].containerPath: /dev/nil is there twice"),
            (vec![one("dev/x", "/dev/null", "r")], "config.devices[0].containerPath: \"dev/x\": must be an absolute"),
            (vec![one("/dev/../x", "/dev/null", "r")], "config.devices[0].containerPath"),
            (vec![one("/", "/dev/null", "r")], "config.devices[0].containerPath"),
            (vec![one("/dev/pts/3", "/dev/null", "r")], "/dev/pts is the container's own"),
            (vec![one("/dev/null", "/dev/zero", "r")], "config.devices[0].hostPath: /dev/null must be device 1:3"),
            (vec![one("/dev/x", "dev/null", "r")], "config.devices[0].hostPath: \"dev/null\": must be an absolute"),
            (vec![one("/dev/x", "/dev/nosuch", "r")], "config.devices[0].hostPath: /dev/nosuch: no such file"),
            (
                vec![one("/dev/x", "/proc/self/status", "r")],
                "config.devices[0].hostPath: /proc/self/status: is neither",
            ),
        ] {
            let said = refused(&list);
            assert!(said.contains(sentence), "{said}");
        }
    }
}
