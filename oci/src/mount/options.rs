//! The words in `mounts[].options`, as in `mount(8)` and the runtime-spec's table "Linux mount options".

use crate::sys::mount::{Propagation, attr};
use libc::c_ulong;

/// What the options of one mount come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// `MS_*` for a new file system.
    pub flags: c_ulong,
    /// The same as mount attributes, for a bind: bits to set on the mount itself.
    pub set: u64,
    /// Bits of the access time field to clear, with `set`.
    pub clear: u64,
    /// Bits to set on the mount and all below it.
    pub set_recursive: u64,
    /// See `clear`, for `set_recursive`.
    pub clear_recursive: u64,
    /// New propagation and whether it is for all mounts below, too.
    pub propagation: Option<(Propagation, bool)>,
    /// `bind` or `rbind` was among the words: `Some(recursive)`.
    pub bind: Option<bool>,
    /// What is not ours goes to the file system.
    pub data: String,
}

/// Reads the words. A word that only restates a default (`rw`, `suid`, ...) asks for nothing: a flag that the source of a bind has
/// stays.
///
/// # Errors
/// A sentence for a word that is known and not supported.
pub(crate) fn parse<S: AsRef<str>>(words: &[S]) -> Result<Options, String> {
    use Propagation::{Private, Shared, Slave, Unbindable};
    let mut o = Options::default();
    for word in words {
        let word = word.as_ref();
        match word {
            "defaults" | "rw" | "suid" | "dev" | "exec" | "atime" | "diratime" | "async" | "nomand" | "noiversion"
            | "symfollow" | "loud" | "nolazytime" | "rrw" | "rsuid" | "rdev" | "rexec" | "rdiratime" | "rsymfollow" => {
            }
            "ro" => o.flag(libc::MS_RDONLY, attr::RDONLY),
            "nosuid" => o.flag(libc::MS_NOSUID, attr::NOSUID),
            "nodev" => o.flag(libc::MS_NODEV, attr::NODEV),
            "noexec" => o.flag(libc::MS_NOEXEC, attr::NOEXEC),
            "nodiratime" => o.flag(libc::MS_NODIRATIME, attr::NODIRATIME),
            "nosymfollow" => o.flag(256, attr::NOSYMFOLLOW),
            "relatime" => o.atime(libc::MS_RELATIME, 0),
            "noatime" => o.atime(libc::MS_NOATIME, attr::NOATIME),
            "strictatime" => o.atime(libc::MS_STRICTATIME, attr::STRICTATIME),
            "rro" => o.set_recursive |= attr::RDONLY,
            "rnosuid" => o.set_recursive |= attr::NOSUID,
            "rnodev" => o.set_recursive |= attr::NODEV,
            "rnoexec" => o.set_recursive |= attr::NOEXEC,
            "rnodiratime" => o.set_recursive |= attr::NODIRATIME,
            "rnosymfollow" => o.set_recursive |= attr::NOSYMFOLLOW,
            "rrelatime" => o.clear_recursive |= attr::ATIME,
            "rnoatime" => {
                o.clear_recursive |= attr::ATIME;
                o.set_recursive |= attr::NOATIME;
            }
            "rstrictatime" => {
                o.clear_recursive |= attr::ATIME;
                o.set_recursive |= attr::STRICTATIME;
            }
            "sync" => o.flags |= libc::MS_SYNCHRONOUS,
            "dirsync" => o.flags |= libc::MS_DIRSYNC,
            "lazytime" => o.flags |= 1 << 25,
            "silent" => o.flags |= libc::MS_SILENT,
            "bind" => o.bind = Some(o.bind.unwrap_or(false)),
            "rbind" => o.bind = Some(true),
            "private" => o.propagation = Some((Private, false)),
            "rprivate" => o.propagation = Some((Private, true)),
            "slave" => o.propagation = Some((Slave, false)),
            "rslave" => o.propagation = Some((Slave, true)),
            "shared" => o.propagation = Some((Shared, false)),
            "rshared" => o.propagation = Some((Shared, true)),
            "unbindable" => o.propagation = Some((Unbindable, false)),
            "runbindable" => o.propagation = Some((Unbindable, true)),
            "remount" | "mand" | "iversion" | "norelatime" | "nostrictatime" | "ratime" | "rnorelatime"
            | "rnostrictatime" | "tmpcopyup" | "idmap" | "ridmap" | "move" => {
                return Err(format!("{word:?} is not supported"));
            }
            "" => return Err("an empty word".into()),
            other => {
                if !o.data.is_empty() {
                    o.data.push(',');
                }
                o.data.push_str(other);
            }
        }
    }
    Ok(o)
}

impl Options {
    fn flag(&mut self, ms: c_ulong, attr: u64) {
        self.flags |= ms;
        self.set |= attr;
    }

    fn atime(&mut self, ms: c_ulong, bits: u64) {
        self.flags = self.flags & !(libc::MS_RELATIME | libc::MS_NOATIME | libc::MS_STRICTATIME) | ms;
        self.clear |= attr::ATIME;
        self.set = self.set & !attr::ATIME | bits;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_binds_propagation_and_data_are_told_apart() {
        let o = parse(&["rbind", "rslave", "ro", "nosuid", "mode=755", "size=64k", "rw"]).unwrap();
        assert_eq!(o.bind, Some(true));
        assert_eq!(o.propagation, Some((Propagation::Slave, true)));
        assert_eq!(o.set, attr::RDONLY | attr::NOSUID);
        assert_eq!(o.flags, libc::MS_RDONLY | libc::MS_NOSUID);
        assert_eq!(o.data, "mode=755,size=64k");
    }

    #[test]
    fn the_last_word_on_access_times_counts() {
        let o = parse(&["noatime", "relatime"]).unwrap();
        assert_eq!((o.set, o.clear, o.flags), (0, attr::ATIME, libc::MS_RELATIME));
    }

    #[test]
    fn a_known_word_that_is_not_supported_is_refused() {
        assert!(parse(&["idmap"]).unwrap_err().contains("idmap"));
        assert!(parse(&[""]).is_err());
    }
}
