//! The driver that works on the mounted hierarchies directly, with as few system calls as the kernel allows.

use super::hierarchies::{Hierarchies, V1, V2};
use super::limits::{Limits, PERIOD_US, Setting};
use super::{CgroupDriver, Error, Placement, classes, cpuset, devices, enforce, hugepages};
use husk_oci::errno::Sys;
use husk_oci::file;
use husk_oci::sys;
use nix::errno::Errno;
use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What we set or read: a cgroup of ours lives in the hierarchies that have one of these.
const OURS: &[&str] = &["cpu", "cpuacct", "devices", "memory", "pids"];

/// What is enabled on the way down a v2 tree. memory also without a limit, since its `memory.events` tells of OOM kills; io for its accounts. Others
/// come with a limit that needs them: each costs memory in every cgroup that has it.
const V2_OURS: &[&str] = &["cpu", "memory", "pids", "io"];

/// How often something is tried again that lost a race with another husk process which removes empty parents.
const RACES: usize = 100;

/// How many rounds a kill without help of the kernel takes before it gives up; a pause of a millisecond between two.
const KILL_ROUNDS: usize = 500;

/// The `cgroupfs` driver.
#[derive(Debug, Clone)]
pub struct Cgroupfs {
    all: Hierarchies,
}

impl Cgroupfs {
    /// A driver for this host.
    ///
    /// # Errors
    /// As [`Hierarchies::detect`].
    pub fn detect() -> Result<Self, Error> {
        Ok(Cgroupfs::new(Hierarchies::detect()?))
    }

    /// A driver for the given mounts.
    pub fn new(all: Hierarchies) -> Self {
        Cgroupfs { all }
    }

    /// The hierarchies it works on.
    pub fn hierarchies(&self) -> &Hierarchies {
        &self.all
    }

    /// Makes the cgroup in every hierarchy, without a limit, and moves the calling process there. Unlike [`CgroupDriver::create`] it enables nothing
    /// above, which on v2 no parent with a process of its own could do: it is for that process to make way. Slow, by `cgroup.procs`.
    ///
    /// # Errors
    /// [`Error::Kernel`].
    pub fn enter(&self, path: &str) -> Result<(), Error> {
        check(path)?;
        let mut made = Made(Vec::new());
        let cpusets: Vec<&Path> = self.all.v1.iter().filter(|h| h.has("cpuset")).map(|h| h.mount.as_path()).collect();
        for mount in self.mounts() {
            let file = make_dir(mount, path, &mut made)?.join("cgroup.procs");
            if cpusets.contains(&mount) {
                cpuset::inherit(mount, path)?;
            }
            write_file(&file, "0").map_err(|e| Error::kernel("write 0 to", &file, &e))?;
        }
        made.commit();
        Ok(())
    }

    /// Whether a cgroup of ours is made in `h`. The freezer is only a means to kill, and a v2 tree has a better one.
    fn is_ours(&self, h: &V1) -> bool {
        OURS.iter().any(|c| h.has(c)) || (self.all.v2.is_none() && h.has("freezer"))
    }

    /// Mounts of all hierarchies, v2 first: it answers most questions with the fewest calls.
    fn mounts(&self) -> impl Iterator<Item = &Path> {
        self.all.v2.iter().map(|h| h.mount.as_path()).chain(self.all.v1.iter().map(|h| h.mount.as_path()))
    }

    fn create_v1(&self, h: &V1, path: &str, limits: &Limits, sizes: &[u64], made: &mut Made) -> Result<(), Error> {
        let dir = make_dir(&h.mount, path, made)?;
        if h.has("cpuset") {
            cpuset::inherit(&h.mount, path)?;
        }
        if let Some(rules) = limits.devices.as_ref().filter(|_| h.has("devices")) {
            devices::v1(&dir, rules, made.has(&dir))?;
        }
        for controller in &h.controllers {
            let mut files = limits.v1_files(controller, sizes);
            if made.has(&dir) {
                // The period that a new one has.
                files.retain(|file| file.file != "cpu.cfs_period_us" || limits.cpu_period_us != PERIOD_US);
            }
            match write_all(&dir, &files) {
                // Memory may never be above memory and swap together, nor the share of a quota in its period above that of the cgroup above, not even in
                // between: what is raised goes the other way round.
                Err(e) if matches!(controller.as_str(), "cpu" | "memory") && e.errno() == Some(Errno::EINVAL) => {
                    files.reverse();
                    write_all(&dir, &files)?;
                }
                other => other?,
            }
        }
        match limits.memory_limit_bytes.filter(|_| h.has("memory")) {
            Some(bytes) => enforce::memory_taken(&dir, "memory.limit_in_bytes", bytes),
            None => Ok(()),
        }
    }

    fn create_v2(&self, h: &V2, path: &str, limits: &Limits, sizes: &[u64], made: &mut Made) -> Result<(), Error> {
        let dir = make_dir(&h.mount, path, made)?;
        if let Some(rules) = limits.devices.as_ref().filter(|_| self.all.v1_with("devices").is_none()) {
            devices::v2(&dir, rules, made.has(&dir))?;
        }
        let wanted = V2_OURS.iter().copied().chain(limits.v2_controllers(sizes));
        let wanted: Vec<&'static str> = wanted.filter(|c| self.all.v2_with(c).is_some()).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let mut have = controllers_of(&dir)?;
        if wanted.iter().any(|c| !have.contains(*c)) {
            enable(&h.mount, path, &wanted)?;
            have = controllers_of(&dir)?;
        }
        for controller in wanted {
            let files = limits.v2_files(controller, sizes);
            if !files.is_empty() && !have.contains(controller) {
                return Err(Error::MissingController { controller, path: path.to_owned() });
            }
            write_all(&dir, &files)?;
        }
        if self.all.v2_with("cpuset").is_some() {
            enforce::cpuset_taken(&dir, limits)?;
        }
        match limits.memory_limit_bytes.filter(|_| self.all.v2_with("memory").is_some()) {
            Some(bytes) => enforce::memory_taken(&dir, "memory.max", bytes),
            None => Ok(()),
        }
    }

    /// The first hierarchy in which the cgroup exists, among those that all its processes are in.
    fn where_processes_are(&self, path: &str) -> Option<PathBuf> {
        let v2 = self.all.v2.iter().map(|h| &h.mount);
        let v1 = self.all.v1.iter().filter(|h| self.is_ours(h)).map(|h| &h.mount);
        v2.chain(v1).map(|mount| mount.join(path)).find(|dir| dir.is_dir())
    }
}

impl CgroupDriver for Cgroupfs {
    fn create(&self, path: &str, limits: &Limits) -> Result<(), Error> {
        check(path)?;
        for controller in limits.controllers() {
            if !self.all.offers(controller) {
                return Err(Error::MissingController { controller, path: path.to_owned() });
            }
        }
        if limits.devices.is_some() && self.all.v1_with("devices").is_none() && self.all.v2.is_none() {
            return Err(Error::NoDeviceControl { path: path.to_owned() });
        }
        if limits.special() {
            let why = |(_, why)| Error::Unenforceable { path: path.to_owned(), why };
            self.all.enforceable(limits).map_err(why)?;
        }
        let counted = limits.hugepages.is_some() && self.all.offers("hugetlb");
        let sizes = if counted { hugepages::host_sizes()? } else { &[] };
        let mut made = Made(Vec::new());
        // What `placement` insists on comes last, so that who finds that finds everything, also after a creator that was killed.
        for ours in [false, true] {
            for h in self.all.v1.iter().filter(|h| self.is_ours(h) == ours) {
                if limits.every_hierarchy || ours || limits.controllers().iter().any(|c| h.has(c)) {
                    self.create_v1(h, path, limits, sizes, &mut made)?;
                }
            }
        }
        if let Some(h) = &self.all.v2 {
            self.create_v2(h, path, limits, sizes, &mut made)?;
        }
        made.commit();
        Ok(())
    }

    fn placement(&self, path: &str) -> Result<Placement, Error> {
        check(path)?;
        let mut place = Placement::default();
        if let Some(h) = &self.all.v2 {
            place.into_cgroup = Some(open_dir(&h.mount.join(path))?);
        }
        for h in &self.all.v1 {
            let file = h.mount.join(path).join("tasks");
            match OpenOptions::new().write(true).open(&file) {
                Ok(fd) => place.tasks.push(fd.into()),
                // Not made there: see `Limits::every_hierarchy`. Where it carries a limit it was made before those that are insisted on.
                Err(e) if e.kind() == ErrorKind::NotFound && !self.is_ours(h) => {}
                Err(e) => return Err(Error::kernel("open", &file, &e)),
            }
        }
        Ok(place)
    }

    fn create_group(&self, path: &str, name: &str) -> Result<Placement, Error> {
        let group = format!("{path}/{name}");
        check(&group)?;
        let make = |dir: &Path| std::fs::create_dir(dir).map_err(|e| Error::kernel("make", dir, &e));
        let mut place = self.placement(path)?;
        if let Some(h) = &self.all.v2 {
            let dir = h.mount.join(&group);
            make(&dir)?;
            place.into_cgroup = Some(open_dir(&dir)?);
            return Ok(place);
        }
        let killing = self.all.v1_with("freezer").or_else(|| self.all.v1.iter().find(|h| self.is_ours(h)));
        let Some(h) = killing else { return Err(Error::NoHierarchy) };
        make(&h.mount.join(&group))?;
        // The last one counts: the process enters the cgroup itself first, and the group below it then.
        let file = h.mount.join(&group).join("tasks");
        let fd = OpenOptions::new().write(true).open(&file).map_err(|e| Error::kernel("open", &file, &e))?;
        place.tasks.push(fd.into());
        Ok(place)
    }

    fn kill(&self, path: &str) -> Result<(), Error> {
        check(path)?;
        if let Some(h) = &self.all.v2 {
            let file = h.mount.join(path).join("cgroup.kill");
            match write_file(&file, "1") {
                Ok(()) => return Ok(()),
                // The cgroup is not there, or it has no such file. KERNEL(5.14)
                Err(e) if matches!(e.kind(), ErrorKind::NotFound) || e.raw_os_error() == Some(libc::ENODEV) => {}
                Err(e) => return Err(Error::kernel("write 1 to", &file, &e)),
            }
        }
        let Some(dir) = self.where_processes_are(path) else { return Ok(()) };
        match self.all.v1_with("freezer").map(|h| h.mount.join(path)).filter(|dir| dir.is_dir()) {
            Some(freezer) => kill_frozen(&freezer, &dir, path),
            None => kill_by_rounds(&dir, path),
        }
    }

    fn try_remove(&self, path: &str) -> Result<bool, Error> {
        check(path)?;
        let mut gone = true;
        let mut first_error = None;
        for mount in self.mounts() {
            match remove_tree(mount.join(path)) {
                Ok(this) => gone &= this,
                Err(e) => first_error = first_error.or(Some(e)),
            }
        }
        match first_error {
            Some(e) => Err(e),
            None => Ok(gone),
        }
    }

    fn remove_empty_parents(&self, path: &str) -> Result<(), Error> {
        check(path)?;
        for mount in self.mounts() {
            for parent in Path::new(path).ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()) {
                let dir = mount.join(parent);
                match std::fs::remove_dir(&dir) {
                    Ok(()) => {}
                    Err(e) if e.kind() == ErrorKind::NotFound => {}
                    Err(e) if is_busy(&e) => break,
                    Err(e) => return Err(Error::kernel("remove", &dir, &e)),
                }
            }
        }
        Ok(())
    }

    fn exists(&self, path: &str) -> Result<bool, Error> {
        check(path)?;
        Ok(self.mounts().any(|mount| mount.join(path).is_dir()))
    }

    fn settle(&self, pods: &str, memory: bool) -> Result<(), Error> {
        classes::settle(&self.all, pods, memory)
    }

    fn due(&self, parent: &str) -> Result<Vec<classes::Due>, Error> {
        check(parent)?;
        classes::due(&self.all, parent)
    }

    fn children(&self, path: &str) -> Result<Vec<String>, Error> {
        check(path)?;
        let mut names = std::collections::BTreeSet::new();
        for mount in self.mounts() {
            let inner = children(&mount.join(path))?;
            names.extend(inner.iter().filter_map(|dir| Some(dir.file_name()?.to_string_lossy().into_owned())));
        }
        Ok(names.into_iter().collect())
    }

    fn processes(&self, path: &str) -> Result<Vec<i32>, Error> {
        check(path)?;
        self.where_processes_are(path).map_or(Ok(Vec::new()), |dir| members(&dir))
    }

    fn oom_kills(&self, path: &str) -> Result<u64, Error> {
        check(path)?;
        let file = match (self.all.v1_with("memory"), self.all.v2_with("memory")) {
            (Some(h), _) => h.mount.join(path).join("memory.oom_control"),
            (None, Some(h)) => h.mount.join(path).join("memory.events"),
            (None, None) => return Ok(0),
        };
        match file::read_text(&file, 256) {
            Ok(text) => Ok(super::oom::kills(&text)),
            Err(e) if is_gone(&e) => Ok(0),
            Err(e) => Err(Error::kernel("read", &file, &e)),
        }
    }
}

fn open_dir(dir: &Path) -> Result<OwnedFd, Error> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY);
    Ok(options.open(dir).map_err(|e| Error::kernel("open", dir, &e))?.into())
}

/// Directories made by a call that has not succeeded yet.
#[must_use = "dropping it removes what was made"]
struct Made(Vec<PathBuf>);

impl Made {
    /// Whether this call has made `dir`.
    fn has(&self, dir: &Path) -> bool {
        self.0.iter().any(|made| made == dir)
    }

    fn commit(mut self) {
        self.0.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for dir in self.0.iter().rev() {
            // A parent that somebody else has begun to use stays, rightly; and an empty cgroup that stays costs nothing and is found by the
            // collector. The error that brought us here is the one to report.
            let _ = std::fs::remove_dir(dir);
        }
    }
}

/// Refuses a path that could lead out of the hierarchies.
pub(super) fn check(path: &str) -> Result<(), Error> {
    let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(char::is_control);
    if path.split('/').all(plain) { Ok(()) } else { Err(Error::Path { path: path.to_owned() }) }
}

/// Makes `path` below `mount`, with its parents if they are missing, and returns its full name.
fn make_dir(mount: &Path, path: &str, made: &mut Made) -> Result<PathBuf, Error> {
    let leaf = mount.join(path);
    let mut builder = std::fs::DirBuilder::new();
    builder.mode(0o755);
    let mut make = |dir: &Path| match builder.create(dir) {
        Ok(()) => {
            made.0.push(dir.to_path_buf());
            Ok(())
        }
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(e),
    };
    let mut last = None;
    for _ in 0..RACES {
        match make(&leaf) {
            Ok(()) => return Ok(leaf),
            Err(e) if e.kind() == ErrorKind::NotFound => last = Some(e),
            Err(e) => return Err(Error::kernel("make", &leaf, &e)),
        }
        let mut parents: Vec<&Path> =
            Path::new(path).ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()).collect();
        parents.reverse();
        for parent in parents {
            let dir = mount.join(parent);
            match make(&dir) {
                Ok(()) => {}
                // Its own parent was just removed by somebody who found it empty: begin again.
                Err(e) if e.kind() == ErrorKind::NotFound => break,
                Err(e) => return Err(Error::kernel("make", &dir, &e)),
            }
        }
    }
    let e = last.unwrap_or_else(|| ErrorKind::NotFound.into());
    Err(Error::kernel("make", &leaf, &e))
}

/// Enables controllers in every parent of `path`, the root first. Writing what is enabled already is free and always allowed.
fn enable(mount: &Path, path: &str, controllers: &[&str]) -> Result<(), Error> {
    let value: Vec<String> = controllers.iter().map(|c| format!("+{c}")).collect();
    let value = value.join(" ");
    let mut parents: Vec<&Path> = Path::new(path).ancestors().skip(1).collect();
    parents.reverse();
    for parent in parents {
        let file = mount.join(parent).join("cgroup.subtree_control");
        write_file(&file, &value).map_err(|e| {
            let Sys(errno) = Sys::from(&e);
            let advice = match errno {
                Errno::EBUSY => "that cgroup has processes of its own, move them to a leaf below it",
                Errno::EOPNOTSUPP => "that cgroup is threaded; husk needs a domain",
                _ => return Error::kernel(format!("write {value} to"), &file, &e),
            };
            Error::Kernel { doing: format!("write {value} to"), path: file.clone(), errno, advice }
        })?;
    }
    Ok(())
}

fn controllers_of(dir: &Path) -> Result<HashSet<String>, Error> {
    let file = dir.join("cgroup.controllers");
    let text = file::read_text(&file, 256).map_err(|e| Error::kernel("read", &file, &e))?;
    Ok(text.split_ascii_whitespace().map(str::to_owned).collect())
}

fn write_all(dir: &Path, settings: &[Setting]) -> Result<(), Error> {
    for Setting { file, value, optional } in settings {
        let file = dir.join(file.as_ref());
        match write_setting(&file, value) {
            Err(Error::Kernel { errno: Errno::ENOENT, .. }) if *optional => {}
            other => other?,
        }
    }
    Ok(())
}

pub(super) fn write_setting(file: &Path, value: &str) -> Result<(), Error> {
    write_file(file, value).map_err(|e| {
        let Sys(errno) = Sys::from(&e);
        let advice = match errno {
            Errno::EBUSY => "the cgroup already uses more than that",
            Errno::EINVAL | Errno::ERANGE => "the kernel does not take this value here, or a parent allows less",
            _ => return Error::kernel(format!("write {value} to"), file, &e),
        };
        Error::Kernel { doing: format!("write {value} to"), path: file.to_path_buf(), errno, advice }
    })
}

/// One write to a file that must be there: cgroup files take a value per write(2), and are never created by us.
pub(super) fn write_file(file: &Path, value: &str) -> std::io::Result<()> {
    let n = OpenOptions::new().write(true).open(file)?.write(value.as_bytes())?;
    if n == value.len() { Ok(()) } else { Err(ErrorKind::WriteZero.into()) }
}

/// The pids in `dir` and below.
fn members(dir: &Path) -> Result<Vec<i32>, Error> {
    let mut pids = Vec::new();
    let mut todo = vec![dir.to_path_buf()];
    while let Some(dir) = todo.pop() {
        let file = dir.join("cgroup.procs");
        match file::read_text(&file, 1024) {
            // 0 stands for a process that our PID namespace can't see.
            Ok(text) => pids.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()).filter(|pid| *pid > 0)),
            Err(e) if is_gone(&e) => continue,
            // A threaded cgroup: its processes are listed by the domain above it.
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
            Err(e) => return Err(Error::kernel("read", &file, &e)),
        }
        todo.extend(children(&dir)?);
    }
    Ok(pids)
}

pub(super) fn children(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if is_gone(&e) => return Ok(found),
        Err(e) => return Err(Error::kernel("list", dir, &e)),
    };
    for entry in entries {
        match entry.and_then(|e| Ok((e.file_type()?.is_dir(), e.path()))) {
            Ok((true, path)) => found.push(path),
            Ok((false, _)) => {}
            Err(e) if is_gone(&e) => break,
            Err(e) => return Err(Error::kernel("list", dir, &e)),
        }
    }
    Ok(found)
}

/// Kills on v1: nobody can be born while the freezer holds them, so one pass over the list reaches all.
fn kill_frozen(freezer: &Path, dir: &Path, path: &str) -> Result<(), Error> {
    let state = freezer.join("freezer.state");
    let set = |value: &str| match write_file(&state, value) {
        Err(e) if !is_gone(&e) => Err(Error::kernel(format!("write {value} to"), &state, &e)),
        _ => Ok(()),
    };
    set("FROZEN")?;
    // A task in an uninterruptible sleep freezes when that ends; it can't fork before, so waiting for it is not needed for long.
    for _ in 0..20 {
        match file::read_text(&state, 64) {
            Ok(text) if text.trim() == "FREEZING" => std::thread::sleep(Duration::from_millis(1)),
            _ => break,
        }
    }
    let signalled = signal_members(dir);
    // Whatever happened: a frozen cgroup must not be left, its processes could not even die.
    set("THAWED")?;
    signalled?;
    // What was still on its way into the cgroup.
    kill_by_rounds(dir, path)
}

/// Kills without help of the kernel: until a round finds nobody who was not signalled before.
fn kill_by_rounds(dir: &Path, path: &str) -> Result<(), Error> {
    let mut before: HashSet<i32> = HashSet::new();
    for round in 0..KILL_ROUNDS {
        let now = signal_members(dir)?;
        if now.is_subset(&before) {
            return Ok(());
        }
        if round > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        before = now;
    }
    Err(Error::StillAlive { path: path.to_owned(), processes: before.len() })
}

/// SIGKILL to every member, and nobody else: a number from the list may belong to a stranger by the time it is used. So each is opened, the list
/// is read again, and only who stands in the second list is signalled: if the opened process is alive at the signal, it has had this number
/// all the time, and was the one in the list.
fn signal_members(dir: &Path) -> Result<HashSet<i32>, Error> {
    let mut opened: Vec<(i32, OwnedFd)> = Vec::new();
    let mut signalled = HashSet::new();
    let first = members(dir)?;
    // A few at a time: a fork bomb must not cost us all our descriptors.
    for some in first.chunks(64) {
        opened.clear();
        opened.extend(some.iter().filter_map(|pid| Some((*pid, sys::process::pidfd_open(*pid).ok()?))));
        let second: HashSet<i32> = members(dir)?.into_iter().collect();
        for (pid, fd) in opened.iter().filter(|(pid, _)| second.contains(pid)) {
            match sys::process::pidfd_send_signal(fd.as_fd(), libc::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => signalled.insert(*pid),
                Err(errno) => {
                    let doing = format!("kill process {pid} in");
                    return Err(Error::Kernel { doing, path: dir.to_path_buf(), errno, advice: "" });
                }
            };
        }
    }
    Ok(signalled)
}

/// Removes `top` and all below it, deepest first. `false`: something in it is in use.
fn remove_tree(top: PathBuf) -> Result<bool, Error> {
    let mut gone = true;
    // Each with whether its children were put on the stack already.
    let mut todo = vec![(top, false)];
    while let Some((dir, visited)) = todo.pop() {
        match std::fs::remove_dir(&dir) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) if is_busy(&e) && visited => gone = false,
            Err(e) if is_busy(&e) => {
                let below = children(&dir)?;
                if below.is_empty() {
                    gone = false;
                } else {
                    todo.push((dir, true));
                    todo.extend(below.into_iter().map(|d| (d, false)));
                }
            }
            Err(e) => return Err(Error::kernel("remove", &dir, &e)),
        }
    }
    Ok(gone)
}

/// `12` out of a line `name 12`.
pub(super) fn counter(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

fn is_busy(e: &std::io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EBUSY | libc::ENOTEMPTY))
}

/// The cgroup was removed while we looked at it.
pub(super) fn is_gone(e: &std::io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A directory tree that looks like a v2 hierarchy; the kernel's part (files in a new directory) is played by `cgroup`.
    struct Fake(PathBuf);

    impl Fake {
        fn new(name: &str) -> Fake {
            let root = std::env::temp_dir().join(format!("husk-cgroup-{}-{name}", std::process::id()));
            fs::create_dir(&root).unwrap();
            fs::write(root.join("cgroup.subtree_control"), "").unwrap();
            Fake(root)
        }

        fn cgroup(&self, path: &str, controllers: &str) {
            let dir = self.0.join(path);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("cgroup.controllers"), controllers).unwrap();
            for file in [
                "cgroup.subtree_control",
                "cpu.weight",
                "cpu.max",
                "memory.max",
                "memory.oom.group",
                "pids.max",
                "cgroup.kill",
            ] {
                fs::write(dir.join(file), "").unwrap();
            }
        }

        fn driver(&self, controllers: &[&str]) -> Cgroupfs {
            let controllers = controllers.iter().map(|c| c.to_string()).collect();
            Cgroupfs::new(Hierarchies { v1: vec![], v2: Some(V2 { mount: self.0.clone(), controllers }) })
        }

        fn read(&self, path: &str) -> String {
            fs::read_to_string(self.0.join(path)).unwrap()
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn v2_limits_are_written_in_v2_words() {
        let fake = Fake::new("words");
        fake.cgroup("a", "cpu memory pids");
        let limits = Limits {
            cpu_shares: Some(1024),
            cpu_quota_us: Some(50_000),
            memory_limit_bytes: Some(4096),
            pids_max: Some(7),
            memory_oom_group: true,
            ..Limits::default()
        };
        fake.driver(&["cpu", "memory", "pids"]).create("a", &limits).unwrap();
        for (file, value) in [
            ("cpu.weight", "100"),
            ("cpu.max", "50000 100000"),
            ("memory.max", "4096"),
            ("memory.oom.group", "1"),
            ("pids.max", "7"),
        ] {
            assert_eq!(fake.read(&format!("a/{file}")), value, "{file}");
        }
        // There was no memory.swap.max (no swap in that kernel), and none was created.
        assert!(!fake.0.join("a/memory.swap.max").exists());
        // Everything was enabled: the parents were left alone.
        assert_eq!(fake.read("cgroup.subtree_control"), "");
    }

    #[test]
    fn v2_controllers_are_enabled_in_every_parent_and_not_in_the_leaf() {
        let fake = Fake::new("enable");
        fake.cgroup("a", "");
        fake.cgroup("a/b", "");
        let limits = Limits { pids_max: Some(7), ..Limits::default() };
        let error = fake.driver(&["cpu", "pids", "hugetlb"]).create("a/b", &limits).unwrap_err();
        // The fake kernel does not react, so the controller is still missing afterwards, and is named.
        assert_eq!(error, Error::MissingController { controller: "pids", path: "a/b".into() });
        assert_eq!(fake.read("cgroup.subtree_control"), "+cpu +pids");
        assert_eq!(fake.read("a/cgroup.subtree_control"), "+cpu +pids");
        assert_eq!(fake.read("a/b/cgroup.subtree_control"), "");
    }

    #[test]
    fn a_limit_without_its_controller_is_refused_before_anything_is_made() {
        let fake = Fake::new("missing");
        let limits = Limits { memory_limit_bytes: Some(4096), ..Limits::default() };
        let error = fake.driver(&["pids"]).create("x/y", &limits).unwrap_err();
        assert!(error.to_string().contains("no memory controller"), "{error}");
        assert!(!fake.0.join("x").exists());
    }

    #[test]
    fn what_was_made_is_undone_when_the_rest_fails() {
        let fake = Fake::new("undo");
        // No file appears in the new directories, so reading the controllers fails.
        let error = fake.driver(&["pids"]).create("x/y", &Limits::default()).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::ENOENT));
        assert!(!fake.0.join("x").exists());
    }

    #[test]
    fn v2_kill_is_one_write() {
        let fake = Fake::new("kill");
        fake.cgroup("a", "");
        fake.driver(&[]).kill("a").unwrap();
        assert_eq!(fake.read("a/cgroup.kill"), "1");
        fake.driver(&[]).kill("gone").unwrap();
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        let fake = Fake::new("paths");
        for path in ["", "/a", "a/", "a//b", "..", "a/../../b", "./a", "a\nb", "a\0b"] {
            let error = fake.driver(&[]).create(path, &Limits::default()).unwrap_err();
            assert!(matches!(error, Error::Path { .. }), "{path:?}");
        }
    }

    #[test]
    fn the_counter_is_the_one_with_the_whole_name() {
        assert_eq!(counter("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", "oom_kill"), Some(3));
        assert_eq!(counter("oom 4\noom_kill 3\noom_group_kill 9\n", "oom_kill"), Some(3));
        assert_eq!(counter("", "oom_kill"), None);
    }
}
