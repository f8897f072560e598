//! Devices of the host, for privileged containers and for those that ask for some.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceBuilder, LinuxDeviceType};

use super::Error;
use crate::cgroup::DeviceKind;
use crate::state::record::{ContainerRecord, DeviceRecord};

/// Directories of `/dev` that belong to the container itself or hold no devices.
const SKIPPED: [&str; 7] = ["pts", "shm", "mqueue", "fd", "console", "ptmx", "hugepages"];

/// How deep directories of devices are looked into.
const DEPTH: u32 = 8;

/// What `container` gets besides the devices that are in every `/dev`: those it asks for, and when it is privileged all of the host's.
///
/// # Errors
/// `/dev` cannot be read.
pub fn of(container: &ContainerRecord) -> Result<Vec<LinuxDevice>, Error> {
    let mut all = container.devices.clone();
    if container.privileged {
        let host = below(Path::new("/dev"), "/dev").map_err(|e| Error::io("read /dev", &e))?;
        all.extend(host.into_iter().filter(|d| container.devices.iter().all(|asked| asked.path != d.path)));
    }
    all.iter().map(specified).collect()
}

/// Every device node below the directory `dir` of the host, as it is called in a container that has that directory at `path`.
///
/// # Errors
/// A directory cannot be read.
pub fn below(dir: &Path, path: &str) -> std::io::Result<Vec<DeviceRecord>> {
    let mut found = Vec::new();
    collect(dir, path.trim_end_matches('/'), 0, &mut found)?;
    Ok(found)
}

fn collect(dir: &Path, path: &str, depth: u32, found: &mut Vec<DeviceRecord>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)?.flatten() {
        let name = entry.file_name();
        if depth == 0 && SKIPPED.iter().any(|s| name == **s) {
            continue;
        }
        // A device that vanishes while we look is not there, and one whose name is no text cannot be asked for.
        let (Ok(meta), Some(name)) = (entry.path().symlink_metadata(), name.to_str()) else { continue };
        let path = format!("{path}/{name}");
        if meta.is_dir() && depth < DEPTH {
            collect(&entry.path(), &path, depth + 1, found)?;
        } else {
            found.extend(device(&meta, path));
        }
    }
    Ok(())
}

/// The node of the host that `meta` is about, called `path` in the container; `None` when it is no device.
pub fn device(meta: &std::fs::Metadata, path: String) -> Option<DeviceRecord> {
    let kind = match meta.file_type() {
        t if t.is_char_device() => DeviceKind::Char,
        t if t.is_block_device() => DeviceKind::Block,
        _ => return None,
    };
    Some(DeviceRecord {
        path,
        kind,
        major: nix::sys::stat::major(meta.rdev()) as u32,
        minor: nix::sys::stat::minor(meta.rdev()) as u32,
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
    })
}

fn specified(d: &DeviceRecord) -> Result<LinuxDevice, Error> {
    let typ = match d.kind {
        DeviceKind::Char => LinuxDeviceType::C,
        DeviceKind::Block => LinuxDeviceType::B,
    };
    let built = LinuxDeviceBuilder::default()
        .typ(typ)
        .path(&d.path)
        .major(i64::from(d.major))
        .minor(i64::from(d.minor))
        .file_mode(d.mode)
        .uid(d.uid)
        .gid(d.gid)
        .build();
    built.map_err(|e| Error::Internal { what: format!("device {}: {e}", d.path) })
}
