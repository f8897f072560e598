//! Which cgroup hierarchies this host has, for a `cgroup` mount in a container.

use crate::file;
use crate::sys::path;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::OnceLock;

/// One hierarchy as it appears below `/sys/fs/cgroup`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// Name of the directory.
    pub name: String,
    /// Options of the v1 mount, `None` = the v2 tree.
    pub v1: Option<String>,
}

/// What `/sys/fs/cgroup` looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// One v2 tree.
    Unified,
    /// A tmpfs with a directory for each.
    Split(Vec<Hierarchy>),
}

/// Reads the layout, once.
pub(crate) fn layout() -> Result<&'static Layout, std::io::Error> {
    static LAYOUT: OnceLock<Layout> = OnceLock::new();
    if let Some(known) = LAYOUT.get() {
        return Ok(known);
    }
    let dir = std::fs::File::open("/sys/fs/cgroup")?;
    let found = if path::fs_magic(dir.as_fd())? == libc::CGROUP2_SUPER_MAGIC {
        Layout::Unified
    } else {
        Layout::Split(hierarchies(&file::read_text(Path::new("/proc/self/cgroup"), 1024)?))
    };
    Ok(LAYOUT.get_or_init(|| found))
}

/// Reads lines like `4:memory:/a`, `1:name=systemd:/a`, `0::/a`.
fn hierarchies(text: &str) -> Vec<Hierarchy> {
    let one = |line: &str| {
        let mut fields = line.splitn(3, ':');
        let (number, controllers) = (fields.next()?, fields.next()?);
        Some(match controllers.strip_prefix("name=") {
            _ if number == "0" => Hierarchy { name: "unified".into(), v1: None },
            Some(name) => Hierarchy { name: name.into(), v1: Some(format!("none,name={name}")) },
            None => Hierarchy { name: controllers.into(), v1: Some(controllers.into()) },
        })
    };
    let mut all: Vec<_> = text.lines().filter_map(one).collect();
    all.reverse();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_named_hierarchies_and_the_unified_tree_are_told_apart() {
        let all = hierarchies("9:cpu,cpuacct:/a\n1:name=systemd:/a:b\n0::/\n");
        assert_eq!(
            all,
            [
                Hierarchy { name: "unified".into(), v1: None },
                Hierarchy { name: "systemd".into(), v1: Some("none,name=systemd".into()) },
                Hierarchy { name: "cpu,cpuacct".into(), v1: Some("cpu,cpuacct".into()) },
            ]
        );
    }
}
