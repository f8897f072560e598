//! The look from outside itself: it must see what it is there to see.

use std::fs;
use std::process::Command;

use crate::common::{Host, outside};

#[test]
fn everything_that_may_be_left_is_found_and_swept() {
    let host = Host::empty();
    host.assert_untouched();

    let parent = outside::cgroup_parent(&host.state);
    let cgroup = outside::hierarchies().into_iter().next().expect("a cgroup hierarchy").join(&parent);
    fs::create_dir(&cgroup).expect("make a cgroup");
    fs::create_dir_all(host.state.join("pods/left")).expect("make a directory");
    fs::create_dir_all(host.root.join("images/kept")).expect("make a directory");
    fs::write(host.root.join("record"), b"x").expect("write a file");
    let none: Option<&str> = None;
    let point = host.state.join("pods/left");
    nix::mount::mount(Some("left"), &point, Some("tmpfs"), nix::mount::MsFlags::empty(), none).expect("mount a tmpfs");
    let mut process = Command::new("sleep").arg("1000").current_dir(&host.dir).spawn().expect("start a process");

    let left = host.left_now().join("\n");
    outside::sweep(&host.dir, &host.state);
    process.wait().expect("reap it");
    fs::remove_dir_all(&host.state).expect("nothing is mounted there any more");
    fs::remove_file(host.root.join("record")).expect("it is there");

    for (kind, word) in [
        ("process", "sleep 1000"),
        ("cgroup", parent.as_str()),
        ("mount", "pods/left"),
        ("file", "pods/left"),
        ("file", "root/record"),
    ] {
        assert!(
            left.lines().any(|line| line.starts_with(kind) && line.contains(word)),
            "{kind} {word} is not in:\n{left}"
        );
    }
    assert!(!left.contains("kept"), "images are no left-overs:\n{left}");
    host.assert_untouched();
}

#[test]
fn a_lock_on_a_file_below_the_roots_is_found() {
    let host = Host::empty();
    fs::create_dir(&host.state).expect("make a directory");
    let path = host.state.join("lock");
    let file = fs::File::create(&path).expect("make a file");
    file.lock().expect("lock it");
    let left = host.left_now();
    assert!(left.iter().any(|line| line.starts_with("lock") && line.contains("FLOCK")), "{left:?}");
    file.unlock().expect("unlock it");
    host.assert_untouched();
}
