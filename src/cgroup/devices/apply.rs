//! Gives rules to a cgroup: line by line on v1, as one program on v2.

use super::DeviceRules;
use super::program::{self, NAME};
use crate::cgroup::Error;
use husk_oci::errno::Sys;
use husk_oci::file;
use husk_oci::sys::bpf;
use nix::errno::Errno;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Room for the programs of one cgroup; the kernel's own limit (`BPF_CGROUP_MAX_PROGS`).
const MAX_PROGRAMS: usize = 64;

/// Makes a v1 cgroup of the `devices` hierarchy allow `rules` and nothing else. `new`: nobody has touched it since it was made, so nobody is inside.
///
/// # Errors
/// [`Error::Kernel`]; the cgroup may then allow less than `rules`, and, if it was not `new`, more.
pub(in crate::cgroup) fn v1(dir: &Path, rules: &DeviceRules, new: bool) -> Result<(), Error> {
    let present = if new { None } else { list(dir)? };
    let Some(present) = present else {
        // Everything is allowed: that goes first, so that there is never more than the rules.
        write(dir, "devices.deny", ["a"])?;
        return write(dir, "devices.allow", rules.iter());
    };
    // Only what differs: a container that runs meanwhile must not lose for a moment what it keeps.
    write(dir, "devices.allow", rules.beyond(&present))?;
    write(dir, "devices.deny", present.beyond(rules))
}

fn list(dir: &Path) -> Result<Option<DeviceRules>, Error> {
    let path = dir.join("devices.list");
    let text = file::read_text(&path, 1 << 10).map_err(|e| Error::kernel("read", &path, &e))?;
    // A line that makes no sense to us: what it allows is unknown, so it all goes.
    Ok(DeviceRules::from_list(&text).unwrap_or(None))
}

/// The file takes one line per write(2).
fn write<T: ToString>(dir: &Path, name: &str, lines: impl IntoIterator<Item = T>) -> Result<(), Error> {
    let mut lines = lines.into_iter().peekable();
    if lines.peek().is_none() {
        return Ok(());
    }
    let path = dir.join(name);
    let mut file = OpenOptions::new().write(true).open(&path).map_err(|e| Error::kernel("open", &path, &e))?;
    for line in lines {
        let line = line.to_string();
        file.write_all(line.as_bytes()).map_err(|e| {
            let Sys(errno) = Sys::from(&e);
            let advice = match errno {
                Errno::EPERM => "a cgroup above allows less, or husk lacks CAP_SYS_ADMIN",
                Errno::EINVAL => "the cgroup has others below it",
                _ => "",
            };
            Error::Kernel { doing: format!("write {line:?} to"), path: path.clone(), errno, advice }
        })?;
    }
    Ok(())
}

/// Makes a v2 cgroup allow `rules` and nothing else, whatever device programs of ours it has, and beside those of others. `new`: as for [`v1`].
///
/// The change from old rules to new is one call; who opens a device meanwhile is judged by the one or by the other.
///
/// # Errors
/// [`Error::Kernel`]; the rules are then what they were, or more than one program of ours applies, which is never more than `rules`.
pub(in crate::cgroup) fn v2(dir: &Path, rules: &DeviceRules, new: bool) -> Result<(), Error> {
    let cgroup = open(dir)?;
    let program = bpf::load_device_program(&program::compile(rules), &NAME).map_err(|errno| {
        let advice = match errno {
            Errno::EPERM => "husk needs CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN, to limit devices on cgroup v2",
            Errno::ENOSYS => "this kernel has no bpf(2); it needs CONFIG_BPF_SYSCALL to limit devices on cgroup v2",
            Errno::EINVAL => {
                "this kernel has no device programs; it needs CONFIG_CGROUP_BPF to limit devices on cgroup v2"
            }
            _ => "",
        };
        Error::Kernel { doing: "load the device program of".into(), path: dir.to_path_buf(), errno, advice }
    })?;
    let mut old = if new { Vec::new() } else { ours(dir, &cgroup)? }.into_iter();
    let first = old.next();
    let attached = bpf::attach_device_program(cgroup.as_fd(), program.as_fd(), first.as_ref().map(AsFd::as_fd));
    attached.map_err(|errno| {
        let advice = match errno {
            Errno::EPERM => "a cgroup above has a device program and allows none below it (systemd: set Delegate=yes)",
            Errno::EINVAL | Errno::ENOSYS => "this kernel has no CONFIG_CGROUP_BPF",
            Errno::E2BIG => "the cgroup and those above it have too many device programs",
            _ => "",
        };
        Error::Kernel { doing: "attach a device program to".into(), path: dir.to_path_buf(), errno, advice }
    })?;
    // Two makers of the same cgroup have left one each.
    for more in old {
        match bpf::detach_device_program(cgroup.as_fd(), more.as_fd()) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(failed("take an old device program off", dir, errno)),
        }
    }
    Ok(())
}

/// The programs that we have attached to this cgroup. A manager of services may have its own there.
fn ours(dir: &Path, cgroup: &OwnedFd) -> Result<Vec<OwnedFd>, Error> {
    let mut ids = [0; MAX_PROGRAMS];
    let ids =
        bpf::device_programs(cgroup.as_fd(), &mut ids).map_err(|e| failed("list the device programs of", dir, e))?;
    let mut found = Vec::new();
    for id in ids {
        let program = match bpf::program_by_id(*id) {
            Ok(program) => program,
            // Taken off meanwhile.
            Err(Errno::ENOENT) => continue,
            Err(errno) => return Err(failed("open a device program of", dir, errno)),
        };
        let name = bpf::name(program.as_fd()).map_err(|e| failed("look at a device program of", dir, e))?;
        if name == NAME {
            found.push(program);
        }
    }
    Ok(found)
}

fn failed(doing: &str, dir: &Path, errno: Errno) -> Error {
    let advice = if errno == Errno::EPERM { "husk needs CAP_SYS_ADMIN for that" } else { "" };
    Error::Kernel { doing: doing.into(), path: dir.to_path_buf(), errno, advice }
}

fn open(dir: &Path) -> Result<OwnedFd, Error> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_DIRECTORY);
    Ok(options.open(dir).map_err(|e| Error::kernel("open", dir, &e))?.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::DeviceRule;
    use std::path::PathBuf;

    /// A directory with the three files of v1; what is written stays there line after line.
    struct Fake(PathBuf);

    impl Fake {
        fn new(name: &str, list: &str) -> Fake {
            let dir = std::env::temp_dir().join(format!("husk-devices-{}-{name}", std::process::id()));
            std::fs::create_dir(&dir).unwrap();
            for (file, text) in [("devices.list", list), ("devices.allow", ""), ("devices.deny", "")] {
                std::fs::write(dir.join(file), text).unwrap();
            }
            Fake(dir)
        }

        fn read(&self, file: &str) -> String {
            std::fs::read_to_string(self.0.join(file)).unwrap()
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn rules(lines: &[&str]) -> DeviceRules {
        lines.iter().map(|line| line.parse::<DeviceRule>().unwrap()).collect()
    }

    #[test]
    fn a_new_cgroup_allows_nothing_before_it_allows_something() {
        let fake = Fake::new("new", "not read");
        v1(&fake.0, &rules(&["c 1:3 rwm", "b *:* m"]), true).unwrap();
        assert_eq!(
            (fake.read("devices.deny").as_str(), fake.read("devices.allow").as_str()),
            ("a", "c 1:3 rwmb *:* m")
        );
    }

    #[test]
    fn one_whose_maker_died_is_made_as_a_new_one() {
        let fake = Fake::new("died", "a *:* rwm\n");
        v1(&fake.0, &rules(&["c 1:3 rwm"]), false).unwrap();
        assert_eq!((fake.read("devices.deny").as_str(), fake.read("devices.allow").as_str()), ("a", "c 1:3 rwm"));
    }

    #[test]
    fn of_one_in_use_only_the_difference_is_written() {
        let fake = Fake::new("used", "c 1:3 rwm\nb 7:0 r\n");
        v1(&fake.0, &rules(&["c 1:3 rwm", "c 10:1 r"]), false).unwrap();
        assert_eq!((fake.read("devices.deny").as_str(), fake.read("devices.allow").as_str()), ("b 7:0 r", "c 10:1 r"));
    }
}
