//! What a v1 cpuset needs before a task may enter it.

use super::Error;
use super::cgroupfs::write_setting;
use husk_oci::file;
use std::path::Path;

/// A new cpuset has neither CPUs nor memory nodes, and no task may enter it: it gets what its parent has, and so do parents that are as empty.
pub(super) fn inherit(mount: &Path, path: &str) -> Result<(), Error> {
    ["cpuset.cpus", "cpuset.mems"].into_iter().try_for_each(|name| filled(mount, Path::new(path), name).map(drop))
}

/// The value of `name` in `path`, which is filled from above first when it is empty.
fn filled(mount: &Path, path: &Path, name: &str) -> Result<String, Error> {
    let file = mount.join(path).join(name);
    let own = file::read_text(&file, 256).map_err(|e| Error::kernel("read", &file, &e))?;
    match path.parent() {
        Some(parent) if own.trim().is_empty() => {
            let value = filled(mount, parent, name)?;
            write_setting(&file, value.trim())?;
            Ok(value)
        }
        // The root of a hierarchy has everything.
        _ => Ok(own),
    }
}
