//! Which cgroup hierarchies this host has, read once from `/proc/self/mountinfo`.

use super::Error;
use husk_oci::file;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Controllers that a v1 mount may name among its options; the rest of the options is no controller.
const KNOWN: &[&str] = &[
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "devices",
    "freezer",
    "blkio",
    "pids",
    "net_cls",
    "net_prio",
    "perf_event",
    "hugetlb",
    "rdma",
    "misc",
    "debug",
];

/// One mounted v1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct V1 {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Its controllers; empty for a named one.
    pub controllers: Vec<String>,
}

/// The v2 tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct V2 {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// What its root offers: `cgroup.controllers`.
    pub controllers: Vec<String>,
}

/// All hierarchies of the host: v2 alone, v1 alone, or a hybrid (controllers on v1, a v2 tree beside them).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchies {
    /// v1 hierarchies, each once, in the order of the mount table.
    pub v1: Vec<V1>,
    /// The v2 tree, when it is mounted.
    pub v2: Option<V2>,
}

impl V1 {
    /// Whether `controller` is one of its controllers.
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }
}

impl V2 {
    /// Whether its root offers `controller`.
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }
}

impl Hierarchies {
    /// Reads the mount table and the v2 root's controllers.
    ///
    /// # Errors
    /// [`Error::NoHierarchy`] when nothing is mounted.
    pub fn detect() -> Result<Self, Error> {
        let file = Path::new("/proc/self/mountinfo");
        let table = file::read(file, 4 << 10).map_err(|e| Error::kernel("read", file, &e))?;
        let mut all = parse_mountinfo(&table);
        if let Some(v2) = &mut all.v2 {
            let file = v2.mount.join("cgroup.controllers");
            let text = file::read_text(&file, 256).map_err(|e| Error::kernel("read", &file, &e))?;
            v2.controllers = text.split_ascii_whitespace().map(str::to_owned).collect();
        }
        if all.v1.is_empty() && all.v2.is_none() { Err(Error::NoHierarchy) } else { Ok(all) }
    }

    /// The v1 hierarchy that has `controller`.
    pub fn v1_with(&self, controller: &str) -> Option<&V1> {
        self.v1.iter().find(|h| h.has(controller))
    }

    /// The v2 tree, when it is the one that has `controller`: a controller is on v1 or on v2, never on both.
    pub fn v2_with(&self, controller: &str) -> Option<&V2> {
        self.v2.as_ref().filter(|h| h.has(controller) && self.v1_with(controller).is_none())
    }

    /// Whether a limit on `controller` can be enforced here.
    pub fn offers(&self, controller: &str) -> bool {
        self.v1_with(controller).is_some() || self.v2_with(controller).is_some()
    }
}

/// Finds the cgroup mounts in the text of a mountinfo file (`proc_pid_mountinfo(5)`). Lines that make no sense are passed over: the
/// kernel wrote them, and what we do not understand is not a cgroup. The v2 controllers are left empty, they are not in this table.
pub fn parse_mountinfo(table: &[u8]) -> Hierarchies {
    let mut found = Hierarchies { v1: Vec::new(), v2: None };
    for line in table.split(|b| *b == b'\n') {
        // 36 35 98:0 /root /mount/point rw,noatime shared:1 - fstype source super,options
        let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
        let Some(dash) = fields.iter().position(|f| *f == b"-") else { continue };
        let (Some(mount), Some(kind), Some(options)) = (fields.get(4), fields.get(dash + 1), fields.get(dash + 3))
        else {
            continue;
        };
        let mount = PathBuf::from(OsString::from_vec(unescape(mount)));
        match *kind {
            // The first one found; a second mount shows the same tree.
            b"cgroup2" if found.v2.is_none() => found.v2 = Some(V2 { mount, controllers: Vec::new() }),
            b"cgroup" => {
                let options = String::from_utf8_lossy(options);
                let controllers: Vec<String> =
                    options.split(',').filter(|o| KNOWN.contains(o)).map(str::to_owned).collect();
                let named = options.split(',').any(|o| o.starts_with("name="));
                let again = found
                    .v1
                    .iter()
                    .any(|h| h.mount == mount || (h.controllers == controllers && !controllers.is_empty()));
                if !again && (named || !controllers.is_empty()) {
                    found.v1.push(V1 { mount, controllers });
                }
            }
            _ => {}
        }
    }
    found
}

/// Undoes the kernel's octal escapes of space, tab, newline and backslash.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                out.push(first);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_v2_host_has_one_tree() {
        let table = b"24 30 0:22 / /sys rw,nosuid shared:7 - sysfs sysfs rw\n\
            31 24 0:27 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n";
        let h = parse_mountinfo(table);
        assert_eq!(h.v2.unwrap().mount, Path::new("/sys/fs/cgroup"));
        assert!(h.v1.is_empty());
    }

    #[test]
    fn a_v1_host_has_each_hierarchy_once_and_joint_controllers_together() {
        let table = b"31 23 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n\
            32 31 0:29 / /sys/fs/cgroup/systemd rw shared:11 - cgroup cgroup rw,xattr,release_agent=/lib/agent,name=systemd\n\
            33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw shared:12 - cgroup cgroup rw,cpu,cpuacct\n\
            34 31 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory,clone_children\n\
            35 27 0:30 / /mnt/again rw - cgroup cgroup rw,cpu,cpuacct\n";
        let h = parse_mountinfo(table);
        assert!(h.v2.is_none());
        assert_eq!(h.v1.len(), 3);
        assert_eq!(h.v1_with("cpuacct").unwrap().mount, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(h.v1_with("memory").unwrap().controllers, ["memory"]);
        assert!(h.v1[0].controllers.is_empty());
        assert!(h.offers("cpu") && !h.offers("pids"));
    }

    #[test]
    fn a_hybrid_host_has_both_and_a_controller_is_on_one_side() {
        let table = b"36 31 0:33 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let mut h = parse_mountinfo(table);
        h.v2.as_mut().unwrap().controllers = vec!["hugetlb".into(), "pids".into()];
        assert!(h.v1_with("pids").is_some());
        assert!(h.v2_with("pids").is_none());
        assert!(h.v2_with("hugetlb").is_some());
    }

    #[test]
    fn mount_points_with_spaces_and_backslashes_are_decoded() {
        let table = b"41 31 0:38 / /a\\040b\\134c rw - cgroup2 cgroup2 rw\n";
        assert_eq!(parse_mountinfo(table).v2.unwrap().mount, Path::new("/a b\\c"));
        assert_eq!(unescape(b"x\\04"), b"x\\04");
    }

    #[test]
    fn nonsense_lines_are_passed_over() {
        let h = parse_mountinfo(b"\n - cgroup2\n1 2 3 - cgroup\n\xff\xfe - -\n1 2 3 4 5 6 - cgroup c rw,xattr\n");
        assert!(h.v1.is_empty() && h.v2.is_none());
    }
}
