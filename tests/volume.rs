//! Volumes against somebody who swaps links, mounts things and digs deep.

use husk::volume::{self, Error, RemoveTree, remove_tree};
use husk_oci::sys;
use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The umask, which what is tested here changes for a moment, is the whole process's.
static UMASK: Mutex<()> = Mutex::new(());

/// A directory of a test, which has the umask for as long.
struct Tmp(PathBuf, #[allow(dead_code, reason = "held, never read")] MutexGuard<'static, ()>);

impl Tmp {
    fn new(name: &str) -> Tmp {
        let turn = UMASK.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = std::env::temp_dir().join(format!("husk-volumetest-{}-{name}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        Tmp(dir, turn)
    }
}

impl Drop for Tmp {
    fn drop(&mut self) {
        remove_tree(&self.0).unwrap();
    }
}

fn c(path: &Path) -> CString {
    CString::new(path.to_str().unwrap()).unwrap()
}

/// Runs `work` where its mounts are nobody else's, and are gone afterwards.
fn with_own_mounts(work: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        sys::process::unshare(sys::process::ns::MOUNT).unwrap();
        sys::mount::set_propagation(c"/", sys::mount::Propagation::Private, true).unwrap();
        work();
    });
    thread.join().unwrap();
}

fn target(fd: &OwnedFd) -> PathBuf {
    fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap()
}

#[test]
fn a_sub_path_swapped_between_directory_and_link_never_leads_out() {
    let tmp = Tmp::new("race");
    let (volume, host) = (tmp.0.join("v"), tmp.0.join("host"));
    fs::create_dir(&volume).unwrap();
    fs::create_dir(&host).unwrap();
    fs::write(host.join("marker"), "mine").unwrap();
    fs::create_dir(volume.join("real")).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let attacker = std::thread::spawn({
        let (volume, host, stop) = (volume.clone(), host.clone(), stop.clone());
        move || {
            let (name, real, link) = (volume.join("a"), volume.join("real"), volume.join("link"));
            while !stop.load(Ordering::Relaxed) {
                symlink(&host, &link).unwrap();
                let _ = fs::rename(&link, &name);
                let _ = fs::remove_file(&name);
                let _ = fs::rename(&real, &name);
                let _ = fs::rename(&name, &real);
                let _ = fs::remove_dir_all(&name);
                let _ = fs::remove_file(&link);
                let _ = fs::create_dir(&real);
            }
        }
    });
    let root = fs::File::open(&volume).unwrap();
    let mut opened = 0;
    for n in 0..3000 {
        match volume::sub_path(root.as_fd(), &format!("a/x{n}/y")) {
            Ok(fd) => {
                opened += 1;
                let at = target(&fd);
                assert!(at.starts_with(&volume), "{} is outside", at.display());
            }
            Err(Error::SubPath { .. }) => {}
            Err(e) => panic!("{e}"),
        }
    }
    stop.store(true, Ordering::Relaxed);
    attacker.join().unwrap();
    assert!(opened > 0);
    let inside: Vec<_> = fs::read_dir(&host).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(inside, ["marker"]);
    assert_eq!(fs::read_to_string(host.join("marker")).unwrap(), "mine");
}

#[test]
fn links_inside_the_volume_are_followed_and_dangling_ones_are_named() {
    let tmp = Tmp::new("links");
    fs::create_dir_all(tmp.0.join("v/data/deep")).unwrap();
    symlink("data", tmp.0.join("v/rel")).unwrap();
    symlink("/data/deep", tmp.0.join("v/abs")).unwrap();
    symlink("nowhere", tmp.0.join("v/gone")).unwrap();
    fs::write(tmp.0.join("v/file"), "x").unwrap();
    let root = fs::File::open(tmp.0.join("v")).unwrap();
    let at = |p: &str| volume::sub_path(root.as_fd(), p).map(|fd| target(&fd));
    assert_eq!(at("rel/deep").unwrap(), tmp.0.join("v/data/deep"));
    assert_eq!(at("abs").unwrap(), tmp.0.join("v/data/deep"));
    assert_eq!(at("./rel//").unwrap(), tmp.0.join("v/data"));
    assert_eq!(at("file").unwrap(), tmp.0.join("v/file"));
    let text = at("gone/x").unwrap_err().to_string();
    assert!(text.contains("gone/x") && text.contains("leads to nothing"), "{text}");
    assert!(at("file/x").unwrap_err().to_string().contains("(ENOTDIR)"));
    assert!(!tmp.0.join("v/nowhere").exists());
}

#[test]
fn a_sub_path_of_a_volume_in_another_mount_namespace_is_found_and_made_there() {
    let tmp = Tmp::new("sandbox");
    let place = tmp.0.join("v");
    fs::create_dir(&place).unwrap();
    // The holder mounts a tmpfs that nobody else sees, as pause does.
    let script = format!(
        "mount --make-rprivate / && mount -t tmpfs -o mode=777 t {0} && mkdir {0}/sub && touch {0}/sub/here && echo ready && exec sleep 1000",
        place.display()
    );
    let mut holder = std::process::Command::new("unshare")
        .args(["-m", "sh", "-c", &script])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(holder.stdout.take().unwrap()), &mut line).unwrap();
    assert_eq!(line, "ready\n");
    let pidfd = sys::process::pidfd_open(holder.id() as i32).unwrap();
    let found = volume::detached_in(pidfd.as_fd(), place.to_str().unwrap(), "sub").unwrap();
    let made = volume::detached_in(pidfd.as_fd(), place.to_str().unwrap(), "new/dir").unwrap();
    let none = volume::detached_in(pidfd.as_fd(), place.to_str().unwrap(), "sub/here/x").unwrap_err();
    holder.kill().unwrap();
    holder.wait().unwrap();
    // The detached mounts outlive the namespace they were cloned from.
    sys::path::openat(found.as_fd(), c"here", libc::O_PATH, 0).unwrap();
    assert_eq!(sys::path::fstat(made.as_fd()).unwrap().st_mode & 0o7777, 0o777);
    assert!(none.to_string().contains("(ENOTDIR)"), "{none}");
    assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
}

#[test]
fn removal_stops_at_a_mount_and_names_it() {
    let tmp = Tmp::new("mount");
    let dir = tmp.0.clone();
    with_own_mounts(move || {
        let (tree, other) = (dir.join("t"), dir.join("other"));
        let at = tree.join("a/b/mnt");
        fs::create_dir_all(&at).unwrap();
        fs::create_dir(&other).unwrap();
        fs::write(other.join("data"), "precious").unwrap();
        // A bind mount of the same file system: device numbers would not tell.
        sys::mount::bind(&c(&other), &c(&at), false).unwrap();
        let error = remove_tree(&tree).unwrap_err();
        assert!(matches!(&error, Error::Mounted { path } if path.ends_with("mnt")), "{error}");
        assert_eq!(fs::read_to_string(other.join("data")).unwrap(), "precious");
        // A file can be a mount point, too.
        let file = dir.join("f");
        fs::create_dir(&file).unwrap();
        fs::write(file.join("x"), "").unwrap();
        sys::mount::bind(&c(&other.join("data")), &c(&file.join("x")), false).unwrap();
        assert!(matches!(remove_tree(&file).unwrap_err(), Error::Mounted { .. }));
        // And so can the tree itself.
        let top = dir.join("top");
        fs::create_dir(&top).unwrap();
        sys::mount::bind(&c(&other), &c(&top), false).unwrap();
        assert!(matches!(remove_tree(&top).unwrap_err(), Error::Mounted { path } if path == top));
        assert_eq!(fs::read_to_string(other.join("data")).unwrap(), "precious");
    });
    assert_eq!(fs::read_to_string(tmp.0.join("other/data")).unwrap(), "precious");
}

#[test]
fn a_hundred_thousand_levels_are_removed_in_small_steps() {
    let tmp = Tmp::new("deep");
    let dir = tmp.0.clone();
    with_own_mounts(move || {
        // In memory, where making that many takes a second.
        sys::mount::mount_at(c"deep", &c(&dir), c"tmpfs", 0, None).unwrap();
        let tree = dir.join("t");
        fs::create_dir(&tree).unwrap();
        let mut at = OwnedFd::from(fs::File::open(&tree).unwrap());
        for _ in 0..100_000 {
            sys::path::mkdirat(at.as_fd(), c"d", 0o700).unwrap();
            at = sys::path::openat(at.as_fd(), c"d", libc::O_RDONLY | libc::O_DIRECTORY, 0).unwrap();
        }
        drop(at);
        let mut removal = RemoveTree::new(&tree).unwrap();
        let mut steps = 0;
        while !removal.step(64).unwrap() {
            steps += 1;
        }
        assert!(steps > 100, "{steps} steps only: each was long");
        assert!(!tree.exists());
    });
}

#[test]
fn a_wide_tree_with_odd_things_in_it_is_removed() {
    let tmp = Tmp::new("wide");
    let tree = tmp.0.join("t");
    for n in 0..300 {
        fs::create_dir_all(tree.join(format!("{n}/x"))).unwrap();
        fs::write(tree.join(format!("{n}/x/f")), "").unwrap();
    }
    nix::unistd::mkfifo(&tree.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::write(tree.join("name\nwith \\ all\u{1}sorts"), "").unwrap();
    fs::write(tree.join(".husk-removed-1"), "in the way").unwrap();
    symlink("/", tree.join("0/x/root")).unwrap();
    remove_tree(&tree).unwrap();
    assert!(!tree.exists());
    // A link in the tree's own place is not a tree.
    symlink("/", &tree).unwrap();
    assert!(remove_tree(&tree).is_err());
    fs::remove_file(&tree).unwrap();
}

#[test]
fn an_empty_dir_is_open_to_all_from_the_first_instant() {
    let tmp = Tmp::new("empty");
    volume::empty_dir(&tmp.0.join("v")).unwrap();
    assert_eq!(tmp.0.join("v").metadata().unwrap().mode() & 0o7777, 0o777);
    fs::set_permissions(tmp.0.join("v"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    volume::empty_dir(&tmp.0.join("v")).unwrap();
    assert_eq!(tmp.0.join("v").metadata().unwrap().mode() & 0o7777, 0o700);
}
