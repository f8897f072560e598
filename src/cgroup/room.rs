//! Room below a memory limit that is to come.

use std::path::Path;

use husk_oci::file;

use super::Error;
use super::cgroupfs::{Cgroupfs, check, counter, is_gone, write_file};

impl Cgroupfs {
    /// How much of a cgroup's memory is in use that would not go for a limit of `bytes`, when that is more than the limit; `None` when there is room. On v2 page cache
    /// that is in the way is dropped: a limit below what is in use makes the kernel kill there. On v1 it refuses.
    ///
    /// # Errors
    /// The use cannot be read.
    pub fn over(&self, path: &str, bytes: u64) -> Result<Option<u64>, Error> {
        check(path)?;
        let all = self.hierarchies();
        if let Some(h) = all.v1_with("memory") {
            let dir = h.mount.join(path);
            let Some(used) = amount(&dir.join("memory.usage_in_bytes"))? else { return Ok(None) };
            let stat = dir.join("memory.stat");
            let stat = match file::read_text(&stat, 4096) {
                Ok(text) => text,
                Err(e) if is_gone(&e) => return Ok(None),
                Err(e) => return Err(Error::kernel("read", &stat, &e)),
            };
            let cache = ["total_inactive_file", "total_active_file"].map(|name| counter(&stat, name).unwrap_or(0));
            let used = used.saturating_sub(cache[0].saturating_add(cache[1]));
            return Ok((used > bytes).then_some(used));
        }
        let Some(h) = all.v2_with("memory") else { return Ok(None) };
        let dir = h.mount.join(path);
        let current = dir.join("memory.current");
        let Some(used) = amount(&current)?.filter(|used| *used > bytes) else { return Ok(None) };
        // KERNEL(5.19); EAGAIN when not all of it can go. Either way what counts is what is left.
        let _ = write_file(&dir.join("memory.reclaim"), &used.saturating_sub(bytes).to_string());
        Ok(amount(&current)?.filter(|used| *used > bytes))
    }
}

/// The number in a file; `None` when the cgroup is gone.
fn amount(file: &Path) -> Result<Option<u64>, Error> {
    match file::read_text(file, 64) {
        Ok(text) => Ok(text.trim().parse().ok()),
        Err(e) if is_gone(&e) => Ok(None),
        Err(e) => Err(Error::kernel("read", file, &e)),
    }
}
