//! `husk cp`: what arrives, whose it is, and that a hostile container cannot lead it out.

use std::ffi::CString;
use std::fs::{self, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::stat::Mode;
use serde_json::{Value, json};

use crate::common::{Host, Pod, container, manifest, merge, sample, sleeper};

fn one<'h>(host: &'h Host, name: &str, more: Value) -> Pod<'h> {
    let mut main = sleeper("main");
    merge(&mut main, more);
    let volumes = json!([{"name": "disk", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory"}}]);
    host.run(name, &manifest(name, json!({"containers": [main], "volumes": volumes})))
}

fn text(path: &Path) -> String {
    path.to_str().expect("temp paths are UTF-8").to_owned()
}

/// Every entry below `dir`: name, type, mode, content or target.
fn tree(dir: &Path) -> Vec<String> {
    let mut all = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(&next).expect("read a directory").flatten() {
            let (path, meta) = (entry.path(), entry.path().symlink_metadata().expect("look"));
            let name = path.strip_prefix(dir).expect("it is below").display().to_string();
            let mode = meta.mode();
            all.push(match meta.file_type() {
                t if t.is_symlink() => format!("{name} -> {}", fs::read_link(&path).expect("read").display()),
                t if t.is_dir() => {
                    left.push(path);
                    format!("{name}/ {mode:o}")
                }
                _ => format!("{name} {mode:o} {:?}", fs::read(&path).expect("read")),
            });
        }
    }
    all.sort();
    all
}

#[test]
fn files_come_and_go_with_modes_links_and_the_right_owner() {
    let host = Host::new();
    let pod = one(&host, "owner", json!({"securityContext": {"runAsUser": 1000, "runAsGroup": 1001}}));
    let from = host.dir.join("from");
    fs::create_dir_all(from.join("sub/empty")).expect("make");
    for (name, mode) in [("a", 0o640), ("sub/b", 0o4755), ("sub/c d\n", 0o600)] {
        fs::write(from.join(name), name).expect("write");
        fs::set_permissions(from.join(name), Permissions::from_mode(mode)).expect("set");
    }
    fs::set_permissions(from.join("sub"), Permissions::from_mode(0o750)).expect("set");
    symlink("../a", from.join("sub/link")).expect("link");
    symlink("/etc/shadow", from.join("out")).expect("link");

    host.ok(&["cp", &text(&from), "owner:/tmp/"]);
    assert_eq!(
        pod.sh("main", "stat -c '%u:%g %a' /tmp/from /tmp/from/sub /tmp/from/a /tmp/from/sub/b"),
        "1000:1001 755\n1000:1001 750\n1000:1001 640\n1000:1001 755\n",
        "set-id bits are for -p"
    );
    assert_eq!(
        pod.sh("main", "readlink /tmp/from/sub/link; readlink /tmp/from/out; cat /tmp/from/sub/link"),
        "../a\n/etc/shadow\na"
    );
    let modified = |path: &Path| path.symlink_metadata().expect("look").mtime();
    assert_eq!(
        pod.sh("main", "stat -c %Y /tmp/from/a /tmp/from/sub"),
        format!("{}\n{}\n", modified(&from.join("a")), modified(&from.join("sub")))
    );

    // And back, under another name; a second time into the directory that is there by then.
    let to = host.dir.join("to");
    for expected in [to.clone(), to.join("from")] {
        host.ok(&["cp", "owner:/tmp/from", &text(&to)]);
        let mut there = tree(&expected);
        there.retain(|line| !line.starts_with("from"));
        let mut here = tree(&from);
        here.iter_mut().for_each(|line| *line = line.replace("104755", "100755"));
        assert_eq!(there, here);
        assert_eq!(expected.join("a").metadata().expect("look").uid(), 0);
    }
    // Kept, by number.
    host.ok(&["cp", "-p", "owner:/tmp/from/.", &text(&host.dir.join("kept"))]);
    let kept = host.dir.join("kept/a").metadata().expect("look");
    assert_eq!((kept.uid(), kept.gid()), (1000, 1001));
    host.ok(&["cp", "-p", &text(&from.join("sub/b")), "owner:/tmp/b"]);
    assert_eq!(pod.sh("main", "stat -c '%u %a' /tmp/b"), "0 4755\n");
}

#[test]
fn a_file_is_replaced_whole_and_a_directory_is_filled() {
    let host = Host::new();
    let pod = one(&host, "replace", json!({}));
    pod.sh("main", "echo old > /tmp/f; ln -s /etc/passwd /tmp/link; mkdir -p /tmp/d/sub; echo kept > /tmp/d/sub/kept; chmod 700 /tmp/d/sub");
    let file = host.file("f", "new");
    host.ok(&["cp", &file, "replace:/tmp/f"]);
    // The link is replaced, not what it leads to... unless the path goes through it.
    let passwd = pod.sh("main", "cat /etc/passwd");
    host.ok(&["cp", &file, "replace:/tmp/link"]);
    assert_eq!(pod.sh("main", "cat /tmp/f /tmp/link; [ -L /tmp/link ] || echo file"), "newnewfile\n");
    assert_eq!(pod.sh("main", "cat /etc/passwd"), passwd);
    fs::create_dir_all(host.dir.join("d/sub")).expect("make");
    fs::write(host.dir.join("d/sub/more"), "more").expect("write");
    host.ok(&["cp", &text(&host.dir.join("d")), "replace:/tmp"]);
    assert_eq!(pod.sh("main", "cd /tmp/d/sub; cat kept more; stat -c %a ."), "kept\nmore700\n");
    // Relative to the container's working directory.
    host.ok(&["cp", &file, "replace:here"]);
    assert_eq!(pod.sh("main", "cat /here"), "new");
    assert_eq!(pod.sh("main", "ls -a /tmp / | grep -c husk-cp || true"), "0\n");

    for (args, word) in [
        (["cp", &file, "replace:/tmp/d/sub/kept/"], "ENOTDIR"),
        (["cp", &file, "replace:/no/such/dir/f"], "ENOENT"),
        (["cp", "replace:/no/such/file", &file], "ENOENT"),
        (["cp", &text(&host.dir.join("d")), "replace:/tmp/f"], "no directory"),
        (["cp", &file, "replace:/etc/hosts"], "EROFS"),
        (["cp", &file, "none:/f"], "not found"),
    ] {
        let said = host.refused(&args);
        assert!(said.contains(word), "{args:?}: {said}");
    }
    assert_eq!(host.husk(&["cp", &file, &file]).code, Some(2));
    assert_eq!(host.husk(&["cp", "a:/x", "b:/y"]).code, Some(2));
}

#[test]
fn volumes_are_seen_and_what_is_read_only_stays_so() {
    let host = Host::new();
    let mounts = json!([{"name": "disk", "mountPath": "/disk"}, {"name": "memory", "mountPath": "/memory"},
        {"name": "disk", "mountPath": "/ro", "readOnly": true}]);
    let pod =
        one(&host, "volumes", json!({"volumeMounts": mounts, "securityContext": {"readOnlyRootFilesystem": true}}));
    let file = host.file("f", "content");
    for place in ["/disk", "/memory"] {
        host.ok(&["cp", &file, &format!("volumes:{place}/f")]);
        assert_eq!(pod.sh("main", &format!("cat {place}/f")), "content");
    }
    for place in ["/ro/g", "/g"] {
        assert!(host.refused(&["cp", &file, &format!("volumes:{place}")]).contains("EROFS"));
    }
    host.ok(&["cp", "volumes:/ro/f", &text(&host.dir.join("back"))]);
    assert_eq!(fs::read(host.dir.join("back")).expect("read"), b"content");

    // A file that is a mount of its own is written, not replaced: the container would lose the mount.
    let single = host.file("single", "a longer text than the other");
    let volume = json!({"name": "single", "hostPath": {"path": single, "type": "File"}});
    let mut main = sleeper("main");
    merge(&mut main, json!({"volumeMounts": [{"name": "single", "mountPath": "/etc/single"}]}));
    let mounted = host.run("mounted", &manifest("mounted", json!({"containers": [main], "volumes": [volume]})));
    host.ok(&["cp", &file, "mounted:/etc/single"]);
    assert_eq!(mounted.sh("main", "cat /etc/single; grep -c ' /etc/single ' /proc/mounts"), "content1\n");
    assert_eq!(fs::read(host.dir.join("single")).expect("read"), b"content");
    let hosts = mounted.sh("main", "cat /etc/hosts");
    assert!(host.refused(&["cp", &file, "mounted:/etc/hosts"]).contains("EROFS"));
    symlink("x", host.dir.join("hosts")).expect("link");
    fs::create_dir(host.dir.join("etc")).expect("make");
    fs::rename(host.dir.join("hosts"), host.dir.join("etc/hosts")).expect("rename");
    assert!(host.refused(&["cp", &text(&host.dir.join("etc")), "mounted:/"]).contains("something is mounted there"));
    assert_eq!(mounted.sh("main", "cat /etc/hosts"), hosts);

    host.ok(&["cp", "volumes:/proc/meminfo", &text(&host.dir.join("meminfo"))]);
    assert!(fs::read_to_string(host.dir.join("meminfo")).expect("read").contains("MemTotal"));
}

#[test]
fn holes_stay_holes_and_what_is_no_file_is_left_out() {
    let host = Host::new();
    let pod = one(&host, "odd", json!({}));
    pod.sh("main", "mkdir /tmp/odd; cd /tmp/odd; mkfifo pipe; mknod dev c 1 3 2>/dev/null; echo x > file; truncate -s 1G sparse; printf end | dd of=sparse bs=1 seek=1000000000 conv=notrunc 2>/dev/null");
    let to = host.dir.join("odd");
    let output = host.ok(&["cp", "odd:/tmp/odd", &text(&to)]);
    assert!(output.err().contains("pipe: a named pipe, left out"), "{output}");
    assert!(!to.join("pipe").exists() && !to.join("dev").exists());
    let sparse = to.join("sparse").metadata().expect("look");
    assert_eq!(sparse.len(), 1 << 30);
    assert!(sparse.blocks() < 2048, "{} blocks", sparse.blocks());
    let mut end = [0; 3];
    fs::File::open(to.join("sparse")).expect("open").read_exact_at(&mut end, 1_000_000_000).expect("read");
    assert_eq!(&end, b"end");
    host.ok(&["cp", &text(&to.join("sparse")), "odd:/tmp/again"]);
    assert_eq!(
        pod.sh(
            "main",
            "stat -c %s /tmp/again; [ $(stat -c %b /tmp/again) -lt 2048 ] && tail -c +1000000001 /tmp/again | head -c 3"
        ),
        "1073741824\nend"
    );
    assert!(host.refused(&["cp", "odd:/tmp/odd/pipe", &text(&host.dir.join("p"))]).contains("named pipe"));
    // A whole root: what the kernel makes up is left out.
    let output = host.ok(&["cp", "odd:/.", &text(&host.dir.join("all"))]);
    assert!(output.err().contains("proc: a file system of the kernel's"), "{output}");
    assert!(host.dir.join("all/bin/busybox").exists() && !host.dir.join("all/proc").exists());
}

#[test]
fn archives_go_through_standard_input_and_output() {
    let host = Host::new();
    let pod = one(&host, "tar", json!({"securityContext": {"runAsUser": 7}}));
    let long = "n".repeat(150);
    pod.sh("main", &format!("mkdir -p /tmp/t/s; echo a > /tmp/t/s/a; ln -s s/a /tmp/t/l; echo long > /tmp/t/{long}; chmod 600 /tmp/t/s/a"));
    let archive = host.ok(&["cp", "tar:/tmp/t", "-"]).stdout;
    let mut names: Vec<String> = tar::Archive::new(&*archive)
        .entries()
        .expect("an archive")
        .map(|e| e.expect("an entry").path().expect("a name").display().to_string())
        .collect();
    names.sort();
    assert_eq!(names, ["t".to_owned(), "t/l".to_owned(), format!("t/{long}"), "t/s".to_owned(), "t/s/a".to_owned()]);
    pod.sh("main", "mkdir /tmp/again");
    let output = host.job(&["cp", "-", "tar:/tmp/again"]).stdin(archive.clone()).finish();
    assert_eq!(output.code, Some(0), "{output}");
    assert_eq!(
        pod.sh("main", "cd /tmp/again/t; cat s/a; readlink l; cat n*; stat -c '%u %a' s/a"),
        "a\ns/a\nlong\n7 600\n"
    );
    let missing = host.job(&["cp", "-", "tar:/tmp/none"]).stdin(archive.clone()).finish();
    assert!(missing.code == Some(1) && missing.err().contains("no such directory"), "{missing}");
    let cut = host.job(&["cp", "-", "tar:/tmp/again"]).stdin(&archive[..700]).finish();
    assert!(cut.code == Some(1) && cut.err().contains("ends early"), "{cut}");
}

/// An archive whose names climb, and pass through links.
#[test]
fn an_archive_does_not_leave_its_directory() {
    let host = Host::new();
    let pod = one(&host, "climb", json!({}));
    pod.sh("main", "mkdir /tmp/x /tmp/marker");
    let hostile = |name: &[u8], link: Option<&str>| {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(0);
        if let Some(target) = link {
            header.set_entry_type(tar::EntryType::Symlink);
            builder.append_link(&mut header, "way", target).expect("append");
            header = tar::Header::new_gnu();
            header.set_mode(0o644);
        }
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(4);
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_cksum();
        builder.append(&header, &b"evil"[..]).expect("append");
        builder.into_inner().expect("an archive")
    };
    let put = |archive: Vec<u8>| host.job(&["cp", "-", "climb:/tmp/x"]).stdin(archive).finish();
    let climbs = put(hostile(b"../marker/evil", None));
    assert!(climbs.code == Some(1) && climbs.err().contains(".."), "{climbs}");
    put(hostile(b"/tmp/marker/evil", None));
    put(hostile(b"way/evil", Some("/tmp/marker")));
    put(hostile(b"way/evil", Some("../marker")));
    assert_eq!(pod.sh("main", "ls /tmp/marker"), "");
}

#[test]
fn what_does_not_run_is_refused_with_a_sentence() {
    let host = Host::new();
    let spec =
        json!({"restartPolicy": "Never", "containers": [container("main", "exit 0", json!({})), sleeper("other")]});
    let pod = host.run("over", &manifest("over", spec));
    pod.terminated("main");
    let file = host.file("f", "x");
    let said = host.refused(&["cp", &file, "over:/f"]);
    assert!(said.contains("container main: it does not run"), "{said}");
    host.ok(&["cp", &file, "over:/f", "-c", "other"]);
    assert!(host.refused(&["cp", &file, "over:/f", "-c", "none"]).contains("it has main, other"));
}

/// Exchanges a directory and a link to the marker for as long as it lives.
struct Swapper(std::sync::Arc<std::sync::atomic::AtomicBool>, Option<std::thread::JoinHandle<u64>>);

impl Swapper {
    /// `dir` as the host sees a directory of the container's.
    fn new(dir: PathBuf, names: [&'static str; 2]) -> Swapper {
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::spawn(move || {
            let dir = nix::fcntl::open(&dir, nix::fcntl::OFlag::O_DIRECTORY, Mode::empty()).expect("open");
            let [a, b] = names.map(|n| CString::new(n).expect("no NUL"));
            let mut count = 0;
            while !told.load(std::sync::atomic::Ordering::Relaxed) {
                nix::fcntl::renameat2(dir.as_fd(), &*a, dir.as_fd(), &*b, nix::fcntl::RenameFlags::RENAME_EXCHANGE)
                    .expect("exchange");
                count += 1;
            }
            count
        });
        Swapper(stop, Some(thread))
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
        let count = self.1.take().expect("joined once").join();
        if !std::thread::panicking() {
            assert!(count.expect("the swapper") > 100, "there was no race");
        }
    }
}

/// CVE-2019-1002101, CVE-2018-15664: the container exchanges directory and link while we copy.
#[test]
fn a_racing_container_cannot_lead_a_copy_out_of_its_root() {
    let host = Host::new();
    // The links of the container lead to this, by the host's names.
    let marker = host.dir.join("marker");
    fs::create_dir(&marker).expect("make");
    fs::write(marker.join("secret"), "secret of the host").expect("write");
    let before = tree(&marker);
    let pod = one(&host, "race", json!({"volumeMounts": [{"name": "disk", "mountPath": "/disk"}]}));
    let disk = PathBuf::from(format!("/proc/{}/root/disk", pod.pid("main")));
    fs::create_dir_all(disk.join("deep/dir/below")).expect("make");
    fs::write(disk.join("deep/dir/file"), "of the container").expect("write");
    symlink(&marker, disk.join("deep/link")).expect("link");
    symlink(&marker, disk.join("deep/dir/below/other")).expect("link");

    let deadline = Instant::now() + Duration::from_millis(sample(4000));
    let swapper = Swapper::new(disk.join("deep"), ["dir", "link"]);
    let source = host.dir.join("source");
    fs::create_dir_all(source.join("dir/below")).expect("make");
    for n in 0..20 {
        fs::write(source.join(format!("dir/evil{n}")), "evil").expect("write");
    }
    let mut round = 0;
    while Instant::now() < deadline || round < 3 {
        // In: through the name that is exchanged, and as a tree over it.
        host.husk(&["cp", &text(&source.join("dir/evil0")), "race:/disk/deep/dir/evil"]);
        host.husk(&["cp", &text(&source.join("dir")), "race:/disk/deep"]);
        // Out: a path through it, and the tree around it.
        let to = host.dir.join(format!("out{round}"));
        fs::create_dir(&to).expect("make");
        host.husk(&["cp", "race:/disk/deep/dir/secret", &text(&to)]);
        host.husk(&["cp", "race:/disk/deep/link/secret", &text(&to)]);
        host.husk(&["cp", "race:/disk", &text(&to)]);
        assert_eq!(tree(&marker), before, "the host's files were changed in round {round}");
        for line in tree(&to) {
            assert!(
                line.contains(" -> ") || !line.contains("secret"),
                "a file of the host got into the container's copy: {line}"
            );
        }
        round += 1;
    }
    drop(swapper);
}
