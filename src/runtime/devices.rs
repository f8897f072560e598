//! The host's devices, for privileged containers.

use oci_spec::runtime::{LinuxDevice, LinuxDeviceBuilder, LinuxDeviceType};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::Error;

/// Directories of `/dev` that belong to the container itself or hold no devices.
const SKIPPED: [&str; 7] = ["pts", "shm", "mqueue", "fd", "console", "ptmx", "hugepages"];

/// Every device node below the host's `/dev`, as a privileged container sees it.
///
/// # Errors
/// `/dev` cannot be read.
pub fn host() -> Result<Vec<LinuxDevice>, Error> {
    let mut found = Vec::new();
    collect(Path::new("/dev"), 0, &mut found)?;
    Ok(found)
}

fn collect(dir: &Path, depth: u32, found: &mut Vec<LinuxDevice>) -> Result<(), Error> {
    let entries = std::fs::read_dir(dir).map_err(|e| Error::io(format_args!("read {}", dir.display()), &e))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        if depth == 0 && SKIPPED.iter().any(|s| name == **s) {
            continue;
        }
        // A device that vanishes while we look is not there.
        let Ok(meta) = entry.path().symlink_metadata() else { continue };
        let kind = meta.file_type();
        if kind.is_dir() && depth < 8 {
            collect(&entry.path(), depth + 1, found)?;
            continue;
        }
        let typ = match (kind.is_char_device(), kind.is_block_device()) {
            (true, _) => LinuxDeviceType::C,
            (_, true) => LinuxDeviceType::B,
            _ => continue,
        };
        let device = LinuxDeviceBuilder::default()
            .typ(typ)
            .path(entry.path())
            .major(i64::from(nix::sys::stat::major(meta.rdev()) as u32))
            .minor(i64::from(nix::sys::stat::minor(meta.rdev()) as u32))
            .file_mode(meta.mode() & 0o7777)
            .uid(meta.uid())
            .gid(meta.gid())
            .build();
        found.push(device.map_err(|e| Error::Internal { what: format!("device {}: {e}", entry.path().display()) })?);
    }
    Ok(())
}
