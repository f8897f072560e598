//! Processes that the kernel has killed for want of memory: how many, and when to look.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use husk_oci::file;
use husk_oci::sys::fd;

use super::Error;
use super::cgroupfs::{Cgroupfs, check, counter, is_gone};

/// How many processes `memory.events` or `memory.oom_control` tell of. When the kernel kills a whole cgroup it counts the process that it
/// struck first once more with the others. KERNEL(5.17): before, it does not say that it was a group.
pub(super) fn kills(text: &str) -> u64 {
    let [kills, groups] = ["oom_kill", "oom_group_kill"].map(|name| counter(text, name).unwrap_or(0));
    kills.saturating_sub(groups).max(kills.min(1))
}

/// The kernel's word about one cgroup's want of memory. It holds one descriptor and costs nothing while nothing happens.
#[derive(Debug)]
pub struct OomEvents {
    /// v1: an eventfd; v2: `memory.events` itself.
    fd: File,
    /// Where the number stands.
    counter: PathBuf,
    version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

impl OomEvents {
    /// How many processes of the cgroup (on v2 also of cgroups below it) were killed for want of memory since it was made, whosever limit it was.
    /// What has happened so far makes the descriptor ready no more. `None`: the cgroup is gone.
    ///
    /// # Errors
    /// The kernel's.
    pub fn kills(&mut self) -> Result<Option<u64>, Error> {
        let text = match self.version {
            Version::V1 => {
                // EAGAIN: nothing has happened.
                let _ = self.fd.read(&mut [0; 8]);
                file::read_text(&self.counter, 256)
            }
            Version::V2 => {
                let mut bytes = [0; 512];
                let got = self.fd.read_at(&mut bytes, 0);
                got.map(|n| String::from_utf8_lossy(&bytes[..n]).into_owned())
            }
        };
        match text {
            Ok(text) => Ok(Some(kills(&text))),
            Err(e) if is_gone(&e) => Ok(None),
            Err(e) => Err(Error::kernel("read", &self.counter, &e)),
        }
    }

    /// The descriptor tells by priority (`POLLPRI`), not by being readable, which it always is.
    pub fn by_priority(&self) -> bool {
        self.version == Version::V2
    }
}

impl AsFd for OomEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Cgroupfs {
    /// Has the kernel tell when processes of a cgroup may have been killed for want of memory. It may speak without a cause, and on v1 speaks
    /// right before the kill. `None`: there is no memory controller, or no such cgroup.
    ///
    /// # Errors
    /// The kernel's; on v1 some builds (`PREEMPT_RT`) do not offer this.
    pub fn oom_events(&self, path: &str) -> Result<Option<OomEvents>, Error> {
        check(path)?;
        let all = self.hierarchies();
        let (dir, version, name) = match (all.v1_with("memory"), all.v2_with("memory")) {
            (Some(h), _) => (h.mount.join(path), Version::V1, "memory.oom_control"),
            (None, Some(h)) => (h.mount.join(path), Version::V2, "memory.events"),
            (None, None) => return Ok(None),
        };
        let counter = dir.join(name);
        let file = match File::open(&counter) {
            Ok(file) => file,
            Err(e) if is_gone(&e) => return Ok(None),
            Err(e) => return Err(Error::kernel("open", &counter, &e)),
        };
        if version == Version::V2 {
            return Ok(Some(OomEvents { fd: file, counter, version }));
        }
        let event = File::from(fd::eventfd().map_err(|e| Error::kernel("make an eventfd for", &counter, &e.into()))?);
        let control = dir.join("cgroup.event_control");
        let words = format!("{} {}", event.as_raw_fd(), file.as_raw_fd());
        let done = OpenOptions::new().write(true).open(&control).and_then(|mut f| f.write_all(words.as_bytes()));
        done.map_err(|e| Error::kernel(format!("write {words} to"), &control, &e))?;
        Ok(Some(OomEvents { fd: event, counter, version }))
    }
}

#[cfg(test)]
mod tests {
    use super::kills;

    #[test]
    fn the_first_victim_of_a_group_counts_once() {
        for (text, want) in [
            ("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", 3),
            ("low 0\noom 1\noom_kill 2\noom_group_kill 1\n", 1),
            ("oom_kill 1\noom_group_kill 1\n", 1),
            ("oom_kill 4\noom_group_kill 1\n", 3),
            ("oom_kill 0\noom_group_kill 0\n", 0),
            ("oom 1\n", 0),
        ] {
            assert_eq!(kills(text), want, "{text}");
        }
    }
}
