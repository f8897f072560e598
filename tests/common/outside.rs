//! The machine as seen from outside: what belongs to one pair of roots, read from `/proc`, `/sys` and the disk, never asked of husk.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Everything on the machine that can be put down to one test, and what is shared by all.
pub struct Snapshot {
    /// `pid command` of every process with this test's directory or cgroup in its life.
    processes: BTreeSet<String>,
    /// cgroup directories, in every hierarchy.
    cgroups: BTreeSet<String>,
    /// Lines of the mount table that name this test's directory, and network namespaces that are mounted anywhere.
    mounts: BTreeSet<String>,
    /// Files and directories below the test's directory, images and the like left out.
    files: BTreeSet<String>,
    /// Locks held on files below the test's directory.
    locks: BTreeSet<String>,
    /// Network interfaces of the namespace that this thread is in.
    interfaces: BTreeSet<String>,
    /// Tables of the packet filter there.
    tables: BTreeSet<String>,
}

impl Snapshot {
    /// How it is for a test whose directory was made just now: nothing can be put down to it, so only what is shared is looked at.
    pub fn before(dir: &Path) -> Snapshot {
        let [processes, cgroups, files, locks] = [const { BTreeSet::new() }; 4];
        let (mounts, interfaces, tables) = (mounts(dir), interfaces(), super::netns::tables());
        Snapshot { processes, cgroups, mounts, files, locks, interfaces, tables }
    }

    /// Looks.
    pub fn take(dir: &Path, state: &Path) -> Snapshot {
        let parent = cgroup_parent(state);
        Snapshot {
            processes: processes(dir, &parent).into_iter().map(describe).collect(),
            cgroups: cgroups(&parent).into_iter().map(|path| path.display().to_string()).collect(),
            mounts: mounts(dir),
            files: files(dir),
            locks: locks(dir),
            interfaces: interfaces(),
            tables: super::netns::tables(),
        }
    }

    /// What `after` has and `self` had not.
    pub fn compare(&self, after: &Snapshot) -> Vec<String> {
        let sets = [
            ("process", &self.processes, &after.processes),
            ("cgroup", &self.cgroups, &after.cgroups),
            ("mount", &self.mounts, &after.mounts),
            ("file", &self.files, &after.files),
            ("lock", &self.locks, &after.locks),
            ("interface", &self.interfaces, &after.interfaces),
            ("nftables table", &self.tables, &after.tables),
        ];
        sets.iter()
            .flat_map(|(kind, before, after)| after.difference(before).map(move |item| format!("{kind} {item}")))
            .collect()
    }

    /// Prints the state of a failed test's pods, for whoever reads the failure.
    pub fn describe(&self, dir: &Path, state: &Path) {
        for pod in fs::read_dir(state.join("pods")).into_iter().flatten().flatten() {
            let status = fs::read_to_string(pod.path().join("status.json")).unwrap_or_default();
            eprintln!("-- {}\n{}", pod.path().display(), status);
            for file in ["supervisor.log", "log"] {
                if let Ok(text) = fs::read_to_string(pod.path().join(file)) {
                    eprintln!("-- {file}\n{text}");
                }
            }
        }
        for pid in processes(dir, &cgroup_parent(state)) {
            eprintln!("-- process {}", describe(pid));
        }
    }
}

/// Name of the cgroup that holds every pod of the state directory `state`.
pub fn cgroup_parent(state: &Path) -> String {
    // The root plays no part in the name.
    husk::state::Roots::new(state, state).expect("a path of ours is a good one").cgroup_parent()
}

/// Kills and removes whatever is left of one test.
pub fn sweep(dir: &Path, state: &Path) {
    let parent = cgroup_parent(state);
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let left = processes(dir, &parent);
        if left.is_empty() || Instant::now() > deadline {
            break;
        }
        for pid in left {
            if let Err(errno) = kill(Pid::from_raw(pid), Signal::SIGKILL) {
                eprintln!("kill {pid}: {errno}");
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    for line in mounts(dir) {
        if let Some(point) = line.split(' ').nth(4)
            && let Err(errno) = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH)
        {
            eprintln!("unmount {point}: {errno}");
        }
    }
    let mut paths = cgroups(&parent);
    paths.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    for path in paths {
        if let Err(error) = fs::remove_dir(&path) {
            eprintln!("remove {}: {error}", path.display());
        }
    }
}

/// Every process that names `dir` in its arguments, environment, directories, fds or mounts, or that sits in the cgroup `parent`.
pub fn processes(dir: &Path, parent: &str) -> Vec<i32> {
    let text = dir.to_str().expect("temp paths are UTF-8");
    let own = i32::try_from(std::process::id()).expect("a pid is positive");
    // What names the directory names something in it; without the slash that of the first test would be found in that of the tenth.
    let (inside, tops) = (format!("{text}/"), tops(parent));
    pids().into_iter().filter(|pid| *pid != own && belongs(*pid, own, text, &inside, &tops)).collect()
}

/// `own`: this very process.
fn belongs(pid: i32, own: i32, dir: &str, inside: &str, tops: &[String]) -> bool {
    let Some(Stat { state, parent, of_the_kernel }) = stat(pid) else { return false };
    if of_the_kernel {
        return false;
    }
    if state == 'Z' {
        // A zombie has no directories left, but still its cgroup. One that waits for the host's init is nobody else's affair.
        return parent != 1 && in_cgroup(pid, tops);
    }
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let exe = |pid: i32| fs::read_link(format!("/proc/{pid}/exe")).ok();
    // A child of ours that has not yet called `execve` is a copy of us, with our fds.
    if parent == own && exe(pid) == exe(own) {
        return false;
    }
    in_cgroup(pid, tops)
        || ["cmdline", "environ"]
            .iter()
            .any(|name| fs::read(proc.join(name)).is_ok_and(|bytes| contains(&bytes, inside)))
        || ["cwd", "root", "exe"]
            .iter()
            .any(|name| fs::read_link(proc.join(name)).is_ok_and(|path| path.starts_with(dir)))
        || fs::read_dir(proc.join("fd"))
            .into_iter()
            .flatten()
            .flatten()
            .any(|fd| fs::read_link(fd.path()).is_ok_and(|path| path.starts_with(dir)))
}

fn in_cgroup(pid: i32, tops: &[String]) -> bool {
    let names = |path: &str| path.split('/').any(|part| tops.iter().any(|top| top == part));
    fs::read_to_string(format!("/proc/{pid}/cgroup"))
        .is_ok_and(|text| text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).any(names))
}

fn contains(bytes: &[u8], text: &str) -> bool {
    // The library's search, which is quick in a test that is not.
    String::from_utf8_lossy(bytes).contains(text)
}

/// All processes.
pub fn pids() -> Vec<i32> {
    fs::read_dir("/proc")
        .expect("read /proc")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Arguments of a process; none once it is dead.
pub fn cmdline(pid: i32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect()
}

/// One line about a process: pid, state, parent, name, arguments.
fn describe(pid: i32) -> String {
    let (state, parent) = stat(pid).map_or(('?', 0), |stat| (stat.state, stat.parent));
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    format!("{pid} ({state}, child of {parent}) {}: {}", name.trim(), cmdline(pid).join(" "))
}

/// What the kernel says of a process in one line.
struct Stat {
    /// Its state letter.
    state: char,
    parent: i32,
    /// A thread of the kernel's, of which there are many.
    of_the_kernel: bool,
}

/// `None` once it is reaped.
fn stat(pid: i32) -> Option<Stat> {
    const PF_KTHREAD: u64 = 0x0020_0000;
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit(')').next()?.split_whitespace();
    let (state, parent) = (fields.next()?.chars().next()?, fields.next()?.parse().ok()?);
    // The ninth of all fields is the flags.
    let flags: u64 = fields.nth(4)?.parse().ok()?;
    Some(Stat { state, parent, of_the_kernel: flags & PF_KTHREAD != 0 })
}

/// Is there a process that is not a zombie?
pub fn alive(pid: i32) -> bool {
    stat(pid).is_some_and(|stat| !matches!(stat.state, 'Z' | 'X'))
}

/// Parent of a process.
pub fn parent(pid: i32) -> Option<i32> {
    stat(pid).map(|stat| stat.parent)
}

/// Children of a process.
pub fn children(pid: i32) -> Vec<i32> {
    pids().into_iter().filter(|child| parent(*child) == Some(pid)).collect()
}

/// Inode of a namespace of a process: `net`, `pid`, `mnt`, …
pub fn namespace(pid: i32, kind: &str) -> u64 {
    fs::metadata(format!("/proc/{pid}/ns/{kind}"))
        .unwrap_or_else(|error| panic!("{kind} namespace of {pid}: {error}"))
        .ino()
}

/// Mount points of the cgroup hierarchies, v1 and v2.
pub fn hierarchies() -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mounts").expect("read the mount table");
    table
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .filter(|fields| matches!(fields.get(2), Some(&"cgroup" | &"cgroup2")))
        .map(|fields| PathBuf::from(fields[1]))
        .collect()
}

/// The mount point of the v1 controller `name`, or of the v2 hierarchy.
pub fn hierarchy(name: &str) -> Option<PathBuf> {
    hierarchies().into_iter().find(|path| {
        path.file_name().is_some_and(|last| last.to_str().is_some_and(|last| last.split(',').any(|c| c == name)))
    })
}

/// What an instance's cgroup is called by each driver.
fn tops(parent: &str) -> [String; 2] {
    [parent.to_owned(), husk::cgroup::systemd::parent_slice(parent)]
}

/// cgroup directories of `parent` in every hierarchy, those of its slice included.
pub fn cgroups(parent: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for hierarchy in hierarchies() {
        for top in tops(parent).map(|name| hierarchy.join(name)).into_iter().filter(|top| top.is_dir()) {
            walk(&top, &mut |entry| {
                if is_dir(entry) {
                    found.push(entry.path());
                }
                true
            });
            found.push(top);
        }
    }
    found
}

/// Calls `visit` for everything below `dir`, without following links; it tells whether to go on into a directory.
fn walk(dir: &Path, visit: &mut impl FnMut(&fs::DirEntry) -> bool) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if visit(&entry) && is_dir(&entry) {
            walk(&entry.path(), visit);
        }
    }
}

fn is_dir(entry: &fs::DirEntry) -> bool {
    entry.file_type().is_ok_and(|kind| kind.is_dir())
}

fn mounts(dir: &Path) -> BTreeSet<String> {
    let inside = format!("{}/", dir.to_str().expect("temp paths are UTF-8"));
    let table = fs::read_to_string("/proc/self/mountinfo").expect("read the mount table");
    table.lines().filter(|line| line.contains(&inside) || line.contains(" nsfs ")).map(str::to_owned).collect()
}

/// Everything below the two roots, but for images and for the empty frame that any call of husk makes.
fn files(dir: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for top in ["root", "state"] {
        let top = dir.join(top);
        walk(&top, &mut |entry| {
            let path = entry.path();
            let inner = path.strip_prefix(&top).expect("walked below it");
            if ["images", "image"].iter().any(|p| inner == Path::new(p)) {
                return false;
            }
            let frame =
                inner.components().count() == 1 && (is_dir(entry) || path.metadata().is_ok_and(|meta| meta.len() == 0));
            // `root/state-directory` ties the root to its state directory for good.
            let frame = frame || inner == Path::new("state-directory");
            // The ranges of pods are chosen for good, too.
            let frame = frame
                || ["network/instance.json", "network/lock", "network/leases"].iter().any(|p| inner == Path::new(p));
            if !frame {
                found.insert(path.display().to_string());
            }
            true
        });
    }
    found
}

/// Lines of `/proc/locks` on files below `dir`.
fn locks(dir: &Path) -> BTreeSet<String> {
    let mut inodes = BTreeSet::new();
    walk(dir, &mut |entry| {
        if entry.file_type().is_ok_and(|kind| !kind.is_symlink()) {
            inodes.insert(entry.ino().to_string());
        }
        true
    });
    let table = fs::read_to_string("/proc/locks").unwrap_or_default();
    table
        .lines()
        .filter_map(|line| line.split_once(' ').map(|(_, rest)| rest))
        .filter(|line| {
            line.split_whitespace().any(|word| {
                word.rsplit(':').next().is_some_and(|inode| word.matches(':').count() == 2 && inodes.contains(inode))
            })
        })
        .map(str::to_owned)
        .collect()
}

/// `/sys/class/net` would be those of whoever mounted it.
fn interfaces() -> BTreeSet<String> {
    let table = fs::read_to_string("/proc/thread-self/net/dev").expect("read the list of interfaces");
    table.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim().to_owned())).collect()
}

/// A value of `/proc/<pid>/status`.
pub fn status_field(pid: i32, field: &str) -> String {
    let text =
        fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_else(|error| panic!("status of {pid}: {error}"));
    text.lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .unwrap_or_else(|| panic!("no field {field} in the status of {pid}"))
        .trim()
        .to_owned()
}

/// Absolute directory of the cgroup in which `pid` sits, in the v1 hierarchy of `controller` or else in v2.
pub fn cgroup_of(pid: i32, controller: &str) -> PathBuf {
    let text =
        fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_else(|error| panic!("cgroup of {pid}: {error}"));
    let find = |wanted: &str| {
        text.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            controllers.split(',').any(|c| c == wanted).then(|| path.trim_start_matches('/').to_owned())
        })
    };
    match (find(controller), hierarchy(controller)) {
        (Some(path), Some(mount)) => mount.join(path),
        _ => hierarchy("unified").unwrap_or_else(|| PathBuf::from("/sys/fs/cgroup")).join(find("").unwrap_or_default()),
    }
}
