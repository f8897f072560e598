//! The list for a container's first process: namespaces, root, mounts, devices.

use super::fds::Fds;
use super::process::{self, Context};
use super::{Change, Keep, Origin, Plan, Step, Target, cgroup};
use crate::error::Error;
use crate::mount::options::{self, Options};
use crate::spawn::{Create, PidNamespace, Root, Source, Stdio};
use crate::spec::{self, Given, cstring};
use crate::sys::mount::{self, Propagation, attr};
use crate::sys::path::{self, CWD};
use crate::sys::process::ns;
use crate::sysctl;
use oci_spec::runtime::{Linux, LinuxNamespaceType, Mount, Spec};
use std::os::fd::AsFd;
use std::path::Path;

/// A place in the container: absolute, without `..`.
pub(crate) fn target(field: &str, text: &str, no_symlinks: bool) -> Result<Target, Error> {
    if !text.starts_with('/') {
        return Err(Error::refused(field, format!("{text:?} is not absolute")));
    }
    let mut relative = String::with_capacity(text.len());
    for part in text.split('/').filter(|p| !p.is_empty() && *p != ".") {
        if part == ".." {
            return Err(Error::refused(field, format!("{text:?} has \"..\" in it")));
        }
        if !relative.is_empty() {
            relative.push('/');
        }
        relative.push_str(part);
    }
    if relative.len() >= libc::PATH_MAX as usize {
        return Err(Error::refused(field, "is longer than a path can be"));
    }
    Ok(Target { container_path: format!("/{relative}"), relative: cstring(field, &relative)?, no_symlinks })
}

pub(super) fn utf8<'p>(field: &str, path: &'p Path) -> Result<&'p str, Error> {
    path.to_str().ok_or_else(|| Error::refused(field, "is not UTF-8"))
}

/// What the rooms of the plan add to, one after another.
pub(super) struct Builder<'r, 'a> {
    req: &'r Create<'a>,
    pub(super) spec: &'a Spec,
    pub(super) steps: Vec<Step>,
    pub(super) fds: Fds<'a>,
    cells: usize,
    /// The container lives in a user namespace.
    pub(super) user: bool,
}

/// Makes the plan of a container and the table of fds its child keeps.
pub(crate) fn plan<'a>(req: &Create<'a>) -> Result<(Plan, Fds<'a>), Error> {
    let spec = req.spec;
    let terminal = matches!(req.stdio, Stdio::Terminal { .. });
    spec::check(spec, Given { seccomp: req.seccomp.is_some(), terminal })?;
    let process = spec.process().as_ref().ok_or_else(|| Error::refused("process", "is missing"))?;
    let user = req.join.as_ref().is_some_and(|j| j.user);
    let mut b = Builder { req, spec, steps: Vec::with_capacity(96), fds: Fds::default(), cells: 0, user };
    let stdio = match req.stdio {
        Stdio::Fds(fds) => Some(fds),
        Stdio::Terminal { .. } => None,
    };
    process::first_steps(&mut b.steps, &mut b.fds, process, stdio, req.cgroup.tasks)?;
    let shared = b.steps.len();
    b.mounts()?;
    let mounts = b.steps.split_off(shared);
    b.namespaces(&mounts)?;
    b.attach_root()?;
    b.steps.extend(mounts.into_iter().filter(|s| !matches!(s, Step::CloneShared { .. })));
    if let Stdio::Terminal { rows, cols } = req.stdio {
        let console = Some(target("/dev/console", "/dev/console", true)?);
        b.steps.push(Step::Terminal { rows, cols, uid: process.user().uid(), console });
    }
    let linux = spec.linux().as_ref();
    b.sysctls(linux)?;
    b.steps.push(Step::OpenCwd { target: process::cwd(process)?, create: true });
    b.hidden_paths(linux)?;
    b.root_attributes(linux)?;
    b.steps.push(Step::Pivot);
    b.names()?;
    let mut warnings = Vec::new();
    let context = Context {
        user_namespace: user,
        seccomp: req.seccomp,
        die_with_parent: req.die_with_parent,
        start: Some(req.start),
    };
    process::last_steps(&mut b.steps, &mut b.fds, &mut warnings, process, &context)?;
    let plan = Plan { steps: b.steps, cells: b.cells, program: process::program(process)?, warnings };
    Ok((plan, b.fds))
}

impl<'a> Builder<'_, 'a> {
    /// Joins and makes namespaces. `mounts` has the clones that must be made in between.
    fn namespaces(&mut self, mounts: &[Step]) -> Result<(), Error> {
        let nested = self.req.pid_namespace == PidNamespace::Nested;
        if let Some(join) = &self.req.join {
            let of = self.fds.lend(join.pidfd).map_err(|e| Error::prepare("keep the sandbox's pidfd", e))?;
            // A nested child was cloned by a helper that is in the user namespace already.
            let user = if join.user && !nested { ns::USER } else { 0 };
            let namespaces = user | ns::NET | ns::IPC | ns::UTS | ns::MOUNT;
            self.steps.push(Step::Join { of, namespaces, what: "the sandbox".into() });
            if join.user {
                self.steps.push(Step::BecomeRoot);
            }
        } else if self.req.pid_namespace == PidNamespace::Sandbox {
            return Err(Error::refused("pid namespace", "there is no sandbox to be a member of"));
        }
        let mut new = 0;
        let list = self.spec.linux().as_ref().and_then(|l| l.namespaces().as_ref());
        for (i, n) in list.into_iter().flatten().enumerate() {
            let field = format!("linux.namespaces[{i}]");
            let bit = match n.typ() {
                LinuxNamespaceType::Mount => ns::MOUNT,
                LinuxNamespaceType::Cgroup => ns::CGROUP,
                LinuxNamespaceType::Network => ns::NET,
                LinuxNamespaceType::Ipc => ns::IPC,
                LinuxNamespaceType::Uts => ns::UTS,
                LinuxNamespaceType::Pid => {
                    if !nested || n.path().is_some() {
                        return Err(Error::refused(field, "does not agree with the PID namespace of the request"));
                    }
                    continue;
                }
                LinuxNamespaceType::User | LinuxNamespaceType::Time => {
                    return Err(Error::refused(field, format!("a new {} namespace is not supported", n.typ())));
                }
            };
            match n.path() {
                None => new |= bit,
                Some(_) if bit == ns::MOUNT => {
                    return Err(Error::refused(field, "joining a mount namespace by path is not supported"));
                }
                Some(path) => {
                    let what = path.display().to_string();
                    let c = cstring(&field, utf8(&field, path)?)?;
                    let fd = path::openat(CWD, &c, libc::O_RDONLY, 0)
                        .map_err(|e| Error::prepare(format!("open namespace {what}"), e))?;
                    let of = self.fds.own(fd).map_err(|e| Error::prepare(format!("keep namespace {what}"), e))?;
                    self.steps.push(Step::Join { of, namespaces: bit, what });
                }
            }
        }
        if new & ns::MOUNT == 0 {
            return Err(Error::refused("linux.namespaces", "a container needs a mount namespace of its own"));
        }
        for step in mounts {
            if let Step::CloneShared { path, recursive, cell, container_path } = step {
                let (path, container_path) = (path.clone(), container_path.clone());
                self.steps.push(Step::CloneShared { path, recursive: *recursive, cell: *cell, container_path });
            }
        }
        self.steps.extend([Step::Unshare { namespaces: new }, Step::PrivateMounts]);
        Ok(())
    }

    fn attach_root(&mut self) -> Result<(), Error> {
        let slot = match self.req.root {
            Root::Detached(fd) => self.fds.lend(fd),
            Root::Path(dir) => {
                let what = format!("open the root file system {}", dir.display());
                let c = cstring("root.path", utf8("root.path", dir)?)?;
                let tree = mount::clone_tree(CWD, &c, true).map_err(|e| Error::prepare(what.clone(), e))?;
                let change =
                    mount::SetAttr { propagation: Some(Propagation::Private), recursive: true, ..Default::default() };
                mount::mount_setattr(tree.as_fd(), change).map_err(|e| Error::prepare(what, e))?;
                self.fds.own(tree)
            }
        };
        let root = slot.map_err(|e| Error::prepare("keep the root file system", e))?;
        self.steps.push(Step::AttachRoot { root, at: self.req.attach_at.to_owned() });
        Ok(())
    }

    /// All mounts in the spec's order, and devices once `/dev` is there.
    fn mounts(&mut self) -> Result<(), Error> {
        let spec: &'a Spec = self.spec;
        let mounts: &'a [Mount] = spec.mounts().as_deref().unwrap_or_default();
        if !self.req.sources.is_empty() && self.req.sources.len() != mounts.len() {
            let reason = format!("{} sources for {} mounts", self.req.sources.len(), mounts.len());
            return Err(Error::refused("mounts", reason));
        }
        let mut dev_is_ours = true;
        let mut dev_done = false;
        for (i, m) in mounts.iter().enumerate() {
            let source = self.req.sources.get(i).copied().unwrap_or(Source::Spec);
            let new = self.mount(i, m, source)?;
            if m.destination() == Path::new("/dev") {
                dev_is_ours = new;
                if new {
                    self.devices(mounts)?;
                    dev_done = true;
                }
            }
        }
        if dev_is_ours && !dev_done {
            self.steps.push(Step::OpenDev { target: target("/dev", "/dev", true)? });
            self.devices(&[])?;
        }
        Ok(())
    }

    /// One mount; whether it is a new file system.
    fn mount(&mut self, i: usize, m: &'a Mount, source: Source<'a>) -> Result<bool, Error> {
        let field = format!("mounts[{i}]");
        let text = utf8(&field, m.destination())?;
        let words = m.options().as_deref().unwrap_or_default();
        let o = options::parse(words).map_err(|e| Error::refused(format!("{field}.options"), e))?;
        let fstype = m.typ().as_deref().unwrap_or("none");
        let guarded = matches!(fstype, "proc" | "sysfs" | "cgroup" | "cgroup2") || text == "/dev";
        let to = target(&format!("{field}.destination"), text, guarded)?;
        if to.relative.is_empty() {
            return Err(Error::refused(format!("{field}.destination"), "the root can't be mounted over"));
        }
        let keep_fd = |e| Error::prepare(format!("keep the source of the mount on {text}"), e);
        let from = match source {
            Source::Detached(fd) => Origin::Slot(self.fds.lend(fd).map_err(keep_fd)?),
            Source::Sandbox(path) => {
                let cell = self.cells;
                self.cells += 1;
                let (path, container_path) = (path.to_owned(), text.to_owned());
                self.steps.push(Step::CloneShared { path, recursive: o.bind == Some(true), cell, container_path });
                Origin::Cell(cell)
            }
            Source::Spec if o.bind.is_some() || fstype == "bind" => {
                let path = m.source().as_deref().unwrap_or(Path::new(""));
                if !path.is_absolute() {
                    return Err(Error::refused(format!("{field}.source"), format!("{path:?} is not absolute")));
                }
                let c = cstring(&field, utf8(&field, path)?)?;
                let tree = mount::clone_tree(CWD, &c, o.bind == Some(true)).map_err(|e| {
                    Error::prepare(format!("bind mount on {text}: open its source {}", path.display()), e)
                })?;
                Origin::Slot(self.fds.own(tree).map_err(keep_fd)?)
            }
            Source::Spec => {
                self.new_filesystem(&field, m, fstype, to, o)?;
                return Ok(true);
            }
        };
        if !o.data.is_empty() {
            return Err(Error::refused(
                format!("{field}.options"),
                format!("{:?} means nothing for a bind mount", o.data),
            ));
        }
        self.steps.push(Step::MountExisting { target: to, from, changes: changes(&o) });
        Ok(false)
    }

    fn new_filesystem(&mut self, field: &str, m: &Mount, fstype: &str, to: Target, o: Options) -> Result<(), Error> {
        if o.set_recursive != 0 || o.clear_recursive != 0 {
            return Err(Error::refused(format!("{field}.options"), "a recursive option needs a bind mount"));
        }
        if o.propagation.is_some_and(|(p, _)| p != Propagation::Private) {
            return Err(Error::refused(
                format!("{field}.options"),
                "propagation other than private needs a bind mount",
            ));
        }
        let keep = match fstype {
            "proc" => Some(Keep::Proc),
            "sysfs" => Some(Keep::Sys),
            "tmpfs" if to.container_path == "/dev" => Some(Keep::Dev),
            "devpts" if to.container_path == "/dev/pts" && matches!(self.req.stdio, Stdio::Terminal { .. }) => {
                Some(Keep::Pts)
            }
            "tmpfs" | "mqueue" | "devpts" => None,
            "cgroup" | "cgroup2" => return self.cgroup(to, &o),
            other => {
                let reason = format!("file system {other:?} is not supported, bind mount it instead");
                return Err(Error::refused(format!("{field}.type"), reason));
            }
        };
        let data = if o.data.is_empty() { None } else { Some(cstring(field, &o.data)?) };
        let name = cstring(field, fstype)?;
        let source = match m.source() {
            Some(s) => cstring(field, utf8(field, s)?)?,
            None => name.clone(),
        };
        self.steps.push(Step::MountNew { target: to, fstype: name, source, flags: o.flags, data, keep });
        Ok(())
    }

    /// One v2 mount, or a tmpfs with a mount for each hierarchy.
    fn cgroup(&mut self, to: Target, o: &Options) -> Result<(), Error> {
        let layout = cgroup::layout().map_err(|e| {
            Error::prepare("find out which cgroup hierarchies there are", crate::errno::Sys::from(&e).0)
        })?;
        let flags = o.flags & !libc::MS_RELATIME;
        let v2 = |target| Step::MountNew {
            target,
            fstype: c"cgroup2".into(),
            source: c"cgroup2".into(),
            flags,
            data: None,
            keep: None,
        };
        let cgroup::Layout::Split(list) = layout else {
            self.steps.push(v2(to));
            return Ok(());
        };
        self.steps.push(Step::MountNew {
            target: to,
            fstype: c"tmpfs".into(),
            source: c"tmpfs".into(),
            flags: (flags | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC) & !libc::MS_RDONLY,
            data: Some(c"mode=755,size=64k".into()),
            keep: Some(Keep::Cgroup),
        });
        for h in list {
            let field = "linux cgroup mount";
            let v1 = h.v1.as_deref().map(|data| cstring(field, data)).transpose()?;
            self.steps.push(Step::CgroupHierarchy { name: cstring(field, &h.name)?, v1, flags });
        }
        if flags & libc::MS_RDONLY != 0 {
            self.steps.push(Step::CgroupReadonly);
        }
        Ok(())
    }

    fn sysctls(&mut self, linux: Option<&Linux>) -> Result<(), Error> {
        let Some(all) = linux.and_then(|l| l.sysctl().as_ref()) else { return Ok(()) };
        let mut all: Vec<_> = all.iter().collect();
        all.sort();
        for (name, value) in all {
            let field = format!("linux.sysctl[{name:?}]");
            let path = sysctl::path(name).map_err(|e| Error::refused(&field, e))?;
            sysctl::value(value).map_err(|e| Error::refused(&field, e))?;
            if !self.steps.iter().any(|s| matches!(s, Step::MountNew { keep: Some(Keep::Proc), .. })) {
                return Err(Error::refused(field, "needs a proc mount"));
            }
            let path = cstring(&field, &format!("sys/{path}"))?;
            self.steps.push(Step::Sysctl { name: name.clone(), path, value: value.clone() });
        }
        Ok(())
    }

    fn hidden_paths(&mut self, linux: Option<&Linux>) -> Result<(), Error> {
        let Some(linux) = linux else { return Ok(()) };
        for path in linux.masked_paths().iter().flatten() {
            self.steps.push(Step::Mask { target: target("linux.maskedPaths", path, false)? });
        }
        for path in linux.readonly_paths().iter().flatten() {
            self.steps.push(Step::ReadonlyPath { target: target("linux.readonlyPaths", path, false)? });
        }
        Ok(())
    }

    fn root_attributes(&mut self, linux: Option<&Linux>) -> Result<(), Error> {
        if self.spec.root().as_ref().is_some_and(|r| r.readonly().unwrap_or(false)) {
            let change = Change { set: attr::RDONLY, clear: 0, propagation: None, recursive: false };
            self.steps.push(Step::RootAttributes { change });
        }
        let Some(word) = linux.and_then(|l| l.rootfs_propagation().as_deref()).filter(|w| !w.is_empty()) else {
            return Ok(());
        };
        match options::parse(&[word]).ok().and_then(|o| o.propagation) {
            Some((propagation, recursive)) => {
                let change = Change { set: 0, clear: 0, propagation: Some(propagation), recursive };
                self.steps.push(Step::RootAttributes { change });
                Ok(())
            }
            None => Err(Error::refused("linux.rootfsPropagation", format!("{word:?} is no kind of propagation"))),
        }
    }

    fn names(&mut self) -> Result<(), Error> {
        let own = self.steps.iter().any(|s| matches!(s, Step::Unshare { namespaces } if namespaces & ns::UTS != 0));
        let set = |name: Option<&String>, field: &str| match name.filter(|n| !n.is_empty()) {
            None => Ok(None),
            Some(_) if !own => Err(Error::refused(field, "needs a UTS namespace of the container's own")),
            Some(n) if n.len() > 64 => Err(Error::refused(field, "is longer than 64 bytes")),
            Some(n) => cstring(field, n).map(Some),
        };
        if let Some(name) = set(self.spec.hostname().as_ref(), "hostname")? {
            self.steps.push(Step::Hostname { name });
        }
        if let Some(name) = set(self.spec.domainname().as_ref(), "domainname")? {
            self.steps.push(Step::Domainname { name });
        }
        Ok(())
    }
}

pub(super) const PRIVATE: Change =
    Change { set: 0, clear: 0, propagation: Some(Propagation::Private), recursive: true };

/// The fewest calls that set what the options ask for on a bind mount: at most one for all mounts in it and one for its top.
fn changes(o: &Options) -> Vec<Change> {
    let (propagation, deep) = o.propagation.unwrap_or((Propagation::Private, true));
    let whole = Change {
        set: o.set_recursive,
        clear: o.clear_recursive,
        propagation: if deep { Some(propagation) } else { None },
        recursive: true,
    };
    let top = Change {
        set: o.set,
        clear: o.clear,
        propagation: if deep { None } else { Some(propagation) },
        recursive: false,
    };
    // A bind that is not recursive is one mount: both are the same then, and can be said in one call.
    if o.bind == Some(false) && whole.clear & top.clear == 0 {
        let propagation = whole.propagation.or(top.propagation);
        return vec![Change {
            set: whole.set | top.set,
            clear: whole.clear | top.clear,
            propagation,
            recursive: false,
        }];
    }
    let nothing = |c: &Change| c.set == 0 && c.clear == 0 && c.propagation.is_none();
    [whole, top].into_iter().filter(|c| !nothing(c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::spawn::{Join, Placement};
    use oci_spec::runtime::{LinuxNamespaceBuilder, MountBuilder};
    use std::fs::File;

    fn spec() -> Spec {
        let mut spec = Spec::default();
        spec.set_hostname(None);
        let own = [LinuxNamespaceType::Mount, LinuxNamespaceType::Cgroup, LinuxNamespaceType::Pid];
        let own = own.map(|typ| LinuxNamespaceBuilder::default().typ(typ).build().unwrap());
        spec.linux_mut().as_mut().unwrap().set_namespaces(Some(own.to_vec()));
        spec.process_mut().as_mut().unwrap().set_terminal(None);
        spec.root_mut().as_mut().unwrap().set_readonly(Some(true));
        spec
    }

    /// Plans with /dev/null for every fd.
    fn plan_of(spec: &Spec, sources: &[Source<'_>], user: bool) -> Result<Plan, Error> {
        let null = File::open("/dev/null").unwrap();
        let tasks = [File::open("/dev/null").unwrap().into()];
        let fd = null.as_fd();
        let req = Create {
            spec,
            root: Root::Detached(fd),
            sources,
            join: Some(Join { pidfd: fd, user }),
            pid_namespace: PidNamespace::Nested,
            pid_namespace_of: None,
            cgroup: Placement { into_cgroup: None, tasks: &tasks },
            stdio: Stdio::Fds([fd; 3]),
            start: fd,
            sibling: true,
            die_with_parent: true,
            attach_at: c"/root",
            seccomp: Some(&[]),
        };
        plan(&req).map(|(plan, _)| plan)
    }

    /// Positions of the steps, by the name of their variant.
    fn position(plan: &Plan, name: &str) -> usize {
        let is = |s: &Step| format!("{s:?}").split([' ', '(', '{']).next() == Some(name);
        plan.steps.iter().position(is).unwrap_or_else(|| panic!("no step {name}"))
    }

    #[test]
    fn the_order_of_steps_is_a_contract() {
        let mut s = spec();
        s.process_mut().as_mut().unwrap().set_oom_score_adj(Some(5));
        s.linux_mut().as_mut().unwrap().set_sysctl(Some([("net.ipv4.ip_forward".into(), "1".into())].into()));
        let options = vec!["bind".to_string()];
        let shared =
            MountBuilder::default().destination("/s").typ("bind").source("/s").options(options).build().unwrap();
        let mut sources = vec![Source::Spec; s.mounts().as_ref().unwrap().len()];
        s.mounts_mut().as_mut().unwrap().push(shared);
        sources.push(Source::Sandbox(c"/s"));
        let p = plan_of(&s, &sources, false).unwrap();
        let order = [
            "NotDumpable",
            "CloseOthers",
            "Stdio",
            "Session",
            "EnterCgroup",
            "OomScoreAdj",
            "Join",
            "CloneShared",
            "Unshare",
            "PrivateMounts",
            "AttachRoot",
            "MountNew",
            "DevDirectory",
            "Device",
            "Sysctl",
            "OpenCwd",
            "Mask",
            "ReadonlyPath",
            "RootAttributes",
            "Pivot",
            "Keyring",
            "EnterCwd",
            "Umask",
            "Bounding",
            "Ids",
            "Capabilities",
            "NoNewPrivs",
            "SeccompLate",
            "FindProgram",
            "CloseOnExec",
            "DieWithParent",
            "ReportCreated",
            "AwaitStart",
            "Exec",
        ];
        let found: Vec<usize> = order.iter().map(|name| position(&p, name)).collect();
        assert!(found.is_sorted(), "{:?}", order.iter().zip(found).collect::<Vec<_>>());
        assert_eq!((position(&p, "Exec"), p.cells), (p.steps.len() - 1, 1));
    }

    #[test]
    fn a_filter_without_no_new_privs_comes_before_the_capabilities_go() {
        let mut s = spec();
        s.process_mut().as_mut().unwrap().set_no_new_privileges(Some(false));
        let p = plan_of(&s, &[], false).unwrap();
        assert!(position(&p, "SeccompEarly") < position(&p, "Bounding"));
    }

    #[test]
    fn in_a_user_namespace_devices_are_bound_and_a_nested_child_does_not_join_it_again() {
        let p = plan_of(&spec(), &[], true).unwrap();
        assert!(!p.steps.iter().any(|s| matches!(s, Step::Device { .. })));
        let joined = p.steps.iter().find_map(|s| match s {
            Step::Join { namespaces, .. } => Some(*namespaces),
            _ => None,
        });
        assert_eq!(joined.unwrap() & ns::USER, 0);
        assert!(position(&p, "BecomeRoot") < position(&p, "Unshare"));
    }

    #[test]
    fn sources_have_to_match_the_mounts() {
        let e = plan_of(&spec(), &[Source::Spec], false).unwrap_err();
        assert_eq!(e.kind(), Kind::Refused);
    }

    #[test]
    fn targets_are_cleaned_and_can_not_go_up() {
        let t = target("x", "//a/./b//c/", false).unwrap();
        assert_eq!((t.container_path.as_str(), t.relative.as_c_str()), ("/a/b/c", c"a/b/c"));
        assert_eq!(target("x", "/", false).unwrap().relative.as_c_str(), c"");
        for bad in ["a", "", "/a/../b", "/..", "/a\0b"] {
            assert!(target("x", bad, false).is_err(), "{bad:?}");
        }
        assert!(target("x", &format!("/{}", "a".repeat(5000)), false).is_err());
    }

    #[test]
    fn a_bind_is_changed_with_as_few_calls_as_can_be() {
        let of = |words: &[&str]| changes(&options::parse(words).unwrap());
        assert_eq!(of(&["bind", "ro"]).len(), 1);
        assert_eq!(of(&["rbind"]), [PRIVATE]);
        let two = of(&["rbind", "ro", "rslave"]);
        assert_eq!(two.len(), 2);
        assert_eq!((two[0].propagation, two[0].recursive), (Some(Propagation::Slave), true));
        assert_eq!((two[1].set, two[1].recursive), (attr::RDONLY, false));
    }
}
