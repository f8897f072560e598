//! Real file systems that are too small, out of inodes, or read-only.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

use crate::common::outside::alive;
use crate::common::{Host, container, manifest, sleeper, wait_for};
use crate::stride;

/// A tmpfs of `pages` pages and at most `inodes` files; unmounted when dropped.
struct Small(PathBuf);

impl Small {
    fn new(at: &Path, pages: u64, inodes: u64) -> Small {
        fs::create_dir(at).expect("make a directory");
        let options = format!("size={},nr_inodes={inodes},mode=700", pages * 4096);
        mount(Some("small"), at, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).expect("mount a tmpfs");
        Small(at.to_owned())
    }

    /// Fills it until `pages` pages are left.
    fn fill(&self, pages: u64) {
        let path = self.0.join("ballast");
        drop(fs::remove_file(&path));
        let free = self.free();
        let mut file = fs::File::create(&path).expect("make the ballast");
        for _ in 0..free.saturating_sub(pages) {
            // A log may be growing at the same time.
            if file.write_all(&[0xaa; 4096]).is_err() {
                break;
            }
        }
    }

    fn free(&self) -> u64 {
        nix::sys::statvfs::statvfs(&self.0).expect("look at the file system").blocks_free()
    }

    /// Makes room again.
    fn empty(&self) {
        fs::remove_file(self.0.join("ballast")).expect("remove the ballast");
    }

    /// Another mount of the same on top of it, read-only. What has a file open below goes on writing.
    fn read_only(&self) -> Small {
        let none: Option<&str> = None;
        mount(Some(&self.0), &self.0, none, MsFlags::MS_BIND, none).expect("bind it");
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        mount(none, &self.0, none, flags, none).expect("make it read-only");
        Small(self.0.clone())
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Whatever still uses it: the name must be free for the test's directory to be removed.
        umount2(&self.0, MntFlags::MNT_DETACH).unwrap_or_else(|errno| eprintln!("unmount: {errno}"));
    }
}

/// Said by husk, with the kernel's word.
#[track_caller]
fn says(output: &crate::common::run::Output, errno: &str) {
    let said = output.err();
    let good = said.lines().all(|line| line.starts_with("husk: ")) && said.contains(errno);
    assert!(output.code == Some(1) && good, "{output}");
}

/// Nothing is left but the small file systems themselves.
#[track_caller]
fn untouched(host: &Host) {
    let small = |line: &str| line.starts_with("mount ") && line.contains(" tmpfs small ");
    // Inodes of a small file system have small numbers, which others have too.
    let device = std::os::unix::fs::MetadataExt::dev(&fs::metadata(&host.dir).expect("look at the test's directory"));
    let device = format!(" {:02x}:{:02x}:", nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let foreign = |line: &str| line.starts_with("lock ") && !line.contains(&device);
    let left = host.left_behind_beside(|line| small(line) || foreign(line));
    assert!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
}

#[test]
fn a_pod_is_run_or_refused_with_any_number_of_pages_left_for_the_state() {
    let host = Host::empty();
    let state = Small::new(&host.state, 64, 1000);
    host.load(&crate::common::image::busybox());
    let spec = manifest("tight", json!({"containers": [container("main", "echo out; exit 4", json!({}))]}));
    let (mut refused, mut accepted) = (0, 0);
    for pages in (0..24).step_by(stride(1).min(6)) {
        state.fill(pages);
        let run = host.try_run(&spec);
        if run.code == Some(0) {
            accepted += 1;
            let table = host.husk(&["get", "pods"]);
            assert!(table.out().contains("tight"), "{pages} pages: {table}");
            state.empty();
            let pod = host.pod("tight");
            assert_eq!(pod.terminated("main")["exitCode"], 4, "{pages} pages");
            pod.wait_log("main", "out\n");
            pod.delete(&[]);
        } else {
            refused += 1;
            says(&run, "(ENOSPC)");
            state.empty();
        }
        host.ok(&["gc"]);
        assert_eq!(host.pod_dirs(), Vec::<PathBuf>::new());
    }
    untouched(&host);
    assert!(refused > 0 && accepted > 0, "{refused} refused, {accepted} accepted");
    drop(state);
}

#[test]
fn a_pod_is_run_or_refused_with_any_number_of_inodes_left_for_the_state_and_for_the_root() {
    let host = Host::empty();
    let inodes = 40;
    let state = Small::new(&host.state, 1000, inodes);
    host.load(&crate::common::image::busybox());
    let spec = manifest("tight", json!({"containers": [container("main", "echo out; exit 4", json!({}))]}));
    let (mut refused, mut accepted) = (0, 0);
    for left in (0..12).step_by(stride(1).min(3)) {
        let ballast = host.state.join("ballast");
        fs::create_dir(&ballast).expect("make a directory");
        let free = nix::sys::statvfs::statvfs(&host.state).expect("look").files_free();
        for number in left..free {
            fs::write(ballast.join(number.to_string()), b"").expect("use up an inode");
        }
        let run = host.try_run(&spec);
        fs::remove_dir_all(&ballast).expect("make room");
        if run.code == Some(0) {
            accepted += 1;
            let pod = host.pod("tight");
            assert_eq!(pod.terminated("main")["exitCode"], 4, "{left} inodes");
            pod.wait_log("main", "out\n");
            pod.delete(&[]);
        } else {
            refused += 1;
            says(&run, "(ENOSPC)");
        }
        host.ok(&["gc"]);
        assert_eq!(host.pod_dirs(), Vec::<PathBuf>::new());
    }
    untouched(&host);
    assert!(refused > 0 && accepted > 0, "{refused} refused, {accepted} accepted");
    drop(state);
}

#[test]
fn a_container_whose_log_has_no_room_waits_and_loses_nothing() {
    let host = Host::empty();
    let root = Small::new(&host.root, 4000, 10_000);
    host.load(&crate::common::image::busybox());
    let script = "i=0; while [ $i -lt 40000 ]; do echo line $i; i=$((i+1)); done; exit 6";
    let spec = json!({"containers": [container("main", script, json!({})), sleeper("other")]});
    // Two pages: enough for directories, a few lines of log, and then no more.
    root.fill(2);
    let run = host.try_run(&manifest("full", spec.clone()));
    if run.code != Some(0) {
        says(&run, "(ENOSPC)");
        root.empty();
        let run = host.try_run(&manifest("full", spec));
        assert_eq!(run.code, Some(0), "{run}");
        root.fill(0);
    }
    let pod = host.pod("full");
    std::thread::sleep(std::time::Duration::from_millis(500));
    let main = pod.pid("main");
    assert!(alive(main), "it waits in write(2)");
    assert_eq!(pod.sh("other", "echo fine"), "fine\n");
    assert_eq!(root.free(), 0);
    // A supervisor that comes to a full disk is not lost either.
    let supervisor = pod.supervisor();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(supervisor), nix::sys::signal::Signal::SIGKILL).expect("kill it");
    wait_for("the supervisor is gone", || (!alive(supervisor)).then_some(()));
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(alive(main));
    root.empty();
    assert_eq!(pod.terminated("main")["exitCode"], 6);
    let lines = 40_000;
    let logs =
        wait_for("all of the output", || Some(pod.logs("main", &[])).filter(|logs| logs.lines().count() >= lines));
    assert!(logs.lines().enumerate().all(|(number, line)| line == format!("line {number}")));
    assert_eq!(logs.lines().count(), lines);
    pod.delete(&["--force"]);
    host.ok(&["gc"]);
    drop(root);
}

#[test]
fn the_last_words_of_a_container_that_ended_on_a_full_disk_are_kept() {
    let host = Host::empty();
    let root = Small::new(&host.root, 4000, 10_000);
    host.load(&crate::common::image::busybox());
    let sync = host.dir.join("sync");
    fs::create_dir(&sync).expect("make a directory");
    let script = "until [ -e /sync/go ]; do usleep 2000; done; echo last words; exit 6";
    let spec = json!({
        "restartPolicy": "OnFailure",
        "volumes": [{"name": "sync", "hostPath": {"path": sync}}],
        "containers": [container("main", script, json!({"volumeMounts": [{"name": "sync", "mountPath": "/sync"}]}))],
    });
    let pod = host.run("last", &manifest("last", spec));
    let main = pod.pid("main");
    root.fill(0);
    fs::write(sync.join("go"), b"").expect("let it go");
    wait_for("it is dead", || (!alive(main)).then_some(()));
    // Its end is known, though its words are not written yet; the next instance waits for them.
    pod.wait_container("main", "ended", |status| {
        status["lastState"]["terminated"]["exitCode"] == 6 || status["state"]["terminated"]["exitCode"] == 6
    });
    std::thread::sleep(std::time::Duration::from_millis(700));
    assert_eq!(pod.container("main")["restartCount"], 0);
    let supervisor = pod.supervisor();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(supervisor), nix::sys::signal::Signal::SIGKILL).expect("kill it");
    std::thread::sleep(std::time::Duration::from_millis(700));
    fs::remove_file(sync.join("go")).expect("stop the next one");
    root.empty();
    pod.wait_container("main", "restarted", |status| status["restartCount"] == 1);
    assert_eq!(pod.logs("main", &["--previous"]), "last words\n");
    pod.delete(&["--force"]);
    host.ok(&["gc"]);
    drop(root);
}

#[test]
fn a_pod_is_deleted_on_full_disks() {
    let host = Host::empty();
    let (root, state) = (Small::new(&host.root, 4000, 10_000), Small::new(&host.state, 200, 1000));
    host.load(&crate::common::image::busybox());
    for flags in [&[][..], &["--force"]] {
        let pod = host.run("full", &manifest("full", json!({"containers": [sleeper("a"), sleeper("b")]})));
        let pids = [pod.pid("a"), pod.pid("b"), pod.pause(), pod.keeper()];
        root.fill(0);
        state.fill(0);
        let said = host.refused(&["delete", "pod", "full", "--wait=false"]);
        assert!(said.contains("(ENOSPC)") && said.contains("cannot be recorded"), "{said}");
        assert!(alive(pids[0]), "what was refused did not happen");
        pod.delete(flags);
        assert!(pids.iter().all(|pid| !alive(*pid)));
        assert!(!pod.dir.exists());
        root.empty();
        state.empty();
    }
    host.ok(&["gc"]);
    untouched(&host);
    drop((root, state));
}

#[test]
fn a_read_only_root_is_named_and_what_is_left_goes_later() {
    let host = Host::empty();
    let root = Small::new(&host.root, 4000, 10_000);
    host.load(&crate::common::image::busybox());
    let pod = host.run(
        "stays",
        &manifest("stays", json!({"containers": [container("main", "echo out; sleep 100000", json!({}))]})),
    );
    pod.wait_log("main", "out\n");
    let (main, keeper) = (pod.pid("main"), pod.keeper());

    let frozen = root.read_only();
    says(&host.try_run(&manifest("new", json!({"containers": [sleeper("main")]}))), "(EROFS)");
    assert!(alive(main), "the pod that runs is not touched");
    assert_eq!(pod.logs("main", &[]), "out\n");
    assert_eq!(pod.sh("main", "echo still here"), "still here\n");
    let said = host.refused(&["delete", "pod", "stays"]);
    assert!(said.contains("(EROFS)") && said.contains(host.root.to_str().expect("UTF-8")), "{said}");
    assert!(!alive(main), "it is dead all the same");
    wait_for("keeper has gone", || (!alive(keeper)).then_some(()));
    says(&host.husk(&["gc"]), "(EROFS)");
    drop(frozen);

    host.ok(&["gc"]);
    untouched(&host);
    drop(root);
}

#[test]
fn nothing_is_made_when_the_roots_are_read_only_from_the_start() {
    let host = Host::empty();
    let (root, state) = (Small::new(&host.root, 4000, 10_000), Small::new(&host.state, 100, 1000));
    host.load(&crate::common::image::busybox());
    let spec = manifest("none", json!({"containers": [sleeper("main")]}));
    for small in [&root, &state] {
        let frozen = small.read_only();
        says(&host.try_run(&spec), "(EROFS)");
        drop(frozen);
        untouched(&host);
    }
    host.run("none", &spec).delete(&["--force"]);
    // The bridge, which a root that is gone cannot tell of any more.
    host.ok(&["gc"]);
    drop((root, state));
}
