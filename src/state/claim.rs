//! Who looks after a source of static pods: a lock on one byte of one file, so that nothing is left of who died.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use super::{Error, Roots};

/// A source that is ours until this is dropped, or the process ends.
#[derive(Debug)]
pub struct Claim(#[allow(dead_code, reason = "held, never read")] File);

impl Roots {
    /// Claims a source of static pods for this process; `None` when another one has it. `number` stands for the source.
    ///
    /// # Errors
    /// The file system's.
    pub fn claim(&self, number: u64) -> Result<Option<Claim>, Error> {
        let path = self.state.join("watch.lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
        let file = options.open(&path).map_err(|e| Error::io("open", &path, &e))?;
        let byte = libc::flock {
            l_type: libc::F_WRLCK as i16,
            l_whence: libc::SEEK_SET as i16,
            l_start: (number >> 2) as i64,
            l_len: 1,
            // What an open file description's lock must have.
            l_pid: 0,
        };
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&byte)) {
            Ok(_) => Ok(Some(Claim(file))),
            Err(Errno::EAGAIN | Errno::EACCES) => Ok(None),
            Err(e) => Err(Error::sys("lock", &path, e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_one_holder_and_others_do_not_matter() {
        let dir = std::env::temp_dir().join(format!("husk-claim-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("make a directory");
        let roots = Roots::new(&dir, &dir).expect("roots");
        let first = roots.claim(u64::MAX).expect("asked").expect("free");
        assert!(roots.claim(u64::MAX).expect("asked").is_none());
        assert!(roots.claim(7).expect("asked").is_some());
        drop(first);
        assert!(roots.claim(u64::MAX).expect("asked").is_some());
        std::fs::remove_dir_all(&dir).expect("clean up");
    }
}
