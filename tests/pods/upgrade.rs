//! Another husk takes over pods that run, and the pods notice nothing; one that does not understand what it finds touches nothing.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use husk::control::client::Client;
use husk::control::{Formats, Refusal, Request, Response};
use husk::state::record::VERSION;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::common::outside::alive;
use crate::common::run::Job;
use crate::common::{Host, Pod, container, manifest, sleeper, wait_for};

/// The program under test with `more` bytes at its end, which the kernel does not care about: another file, of another version for all we know.
fn version(host: &Host, name: &str, more: usize) -> PathBuf {
    let path = host.dir.join(name);
    fs::copy(env!("CARGO_BIN_EXE_husk"), &path).expect("copy husk");
    let mut file = fs::OpenOptions::new().append(true).open(&path).expect("open the copy");
    file.write_all(&vec![0; more]).expect("append to the copy");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("make it executable");
    path
}

fn job(host: &Host, program: &Path, args: &[&str]) -> Job {
    Job::new(program.to_str().expect("UTF-8"), args).env("HUSK_ROOT", &host.root).env("HUSK_STATE", &host.state)
}

/// The size of what the pod's supervisor runs.
fn size(pod: &Pod<'_>) -> u64 {
    fs::metadata(format!("/proc/{}/exe", pod.supervisor())).expect("look at the supervisor's executable").len()
}

fn sigkill(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap_or_else(|errno| panic!("kill {pid}: {errno}"));
}

#[test]
fn supervisors_are_exchanged_and_nothing_in_the_pod_notices() {
    let host = Host::new();
    let (one, two) = (version(&host, "husk-one", 4096), version(&host, "husk-two", 8192));
    let script = "trap 'echo PIPE' PIPE; trap 'echo HUP' HUP; i=0; until [ -e /sync/stop ]; do i=$((i+1)); echo line $i; echo line $i >&2; usleep 500; done; echo last $i; exit 43";
    let sync = host.dir.join("sync");
    fs::create_dir(&sync).expect("make a directory");
    let spec = json!({
        "volumes": [{"name": "sync", "hostPath": {"path": sync}}],
        "containers": [
            container("main", script, json!({"volumeMounts": [{"name": "sync", "mountPath": "/sync"}]})),
            container("tty", "until [ -e /sync/stop ]; do echo tick; usleep 2000; done; exit 44", json!({"tty": true, "volumeMounts": [{"name": "sync", "mountPath": "/sync"}]})),
        ],
    });
    let run = job(&host, &one, &["run", "-"]).stdin(manifest("watched", spec)).finish();
    assert_eq!(run.code, Some(0), "{run}");
    let pod = host.pod("watched");
    let all = [pod.pid("main"), pod.pid("tty"), pod.pause(), pod.keeper()];
    assert_eq!(size(&pod), fs::metadata(&one).expect("look").len());

    let follower = host.job(&["logs", "watched", "-c", "main", "-f"]).start();
    let script = "i=0; until [ -e /sync/over ]; do i=$((i+1)); echo exec $i; usleep 1000; done; echo over $i; exit 45";
    let exec = host.job(&["exec", "watched", "-c", "main", "--", "/bin/sh", "-c", script]).start();
    for (round, program) in [&two, &one, &two, &two, &one].into_iter().enumerate() {
        let before = pod.supervisor();
        let from = Instant::now();
        let upgrade = job(&host, program, &["upgrade", "watched"]).finish();
        assert_eq!((upgrade.code, upgrade.out().as_str()), (Some(0), "pod/watched upgraded\n"), "{round}: {upgrade}");
        println!("exchange {round}: {:?}", from.elapsed());
        assert_ne!(pod.supervisor(), before);
        assert_eq!(size(&pod), fs::metadata(program).expect("look").len(), "{round}");
        assert_eq!(pod.sh("main", "echo exec works"), "exec works\n", "{round}");
        assert_eq!([pod.pid("main"), pod.pid("tty"), pod.pause(), pod.keeper()], all, "{round}");
    }
    // A supervisor that dies is followed by one of the same version.
    sigkill(pod.supervisor());
    wait_for("the successor", || (size(&pod) == fs::metadata(&one).expect("look").len()).then_some(()));

    // The end of its container would be its own.
    fs::write(sync.join("over"), b"").expect("let the exec end");
    let exec = exec.finish();
    fs::write(sync.join("stop"), b"").expect("let them stop");
    assert_eq!(exec.code, Some(45), "{exec}");
    let told = exec.out();
    let last: usize =
        told.lines().last().and_then(|l| l.strip_prefix("over ")).expect("the last line").parse().expect("a number");
    let expected: Vec<String> = (1..=last).map(|i| format!("exec {i}")).chain([format!("over {last}")]).collect();
    assert_eq!(told.lines().collect::<Vec<_>>(), expected);
    assert_eq!((&pod.terminated("main")["exitCode"], &pod.terminated("tty")["exitCode"]), (&json!(43), &json!(44)));
    let followed = follower.finish();
    assert_eq!(followed.code, Some(0), "{followed}");
    for logs in [pod.logs("main", &[]), followed.out()] {
        let last: usize =
            logs.lines().find_map(|l| l.strip_prefix("last ")).expect("the last line").parse().expect("a number");
        // Both streams have each line once and in order.
        let mut seen = [0, 0];
        for line in logs.lines().filter(|line| !line.starts_with("last ")) {
            let number: usize =
                line.strip_prefix("line ").unwrap_or_else(|| panic!("{line:?}")).parse().expect("a number");
            let stream = if seen[0] + 1 == number { 0 } else { 1 };
            assert_eq!(seen[stream] + 1, number, "a line is missing, or is there twice");
            seen[stream] = number;
        }
        assert_eq!(seen, [last, last]);
    }
    let log = fs::read_to_string(pod.dir.join("supervisor.log")).expect("read supervisor.log");
    assert!(!log.contains("error:"), "{log}");
    pod.delete(&["--force"]);
}

#[test]
fn a_file_that_was_replaced_harms_no_pod_and_is_used_when_asked_for() {
    let host = Host::new();
    let (program, other) = (version(&host, "husk-used", 4096), version(&host, "husk-next", 12288));
    let old = fs::metadata(&program).expect("look").len();
    for (name, replace) in [("renamed", true), ("removed", false)] {
        fs::copy(&program, host.dir.join("installed")).expect("install");
        let installed = host.dir.join("installed");
        let spec = manifest(name, json!({"containers": [sleeper("main")]}));
        let run = job(&host, &installed, &["run", "-"]).stdin(spec).finish();
        assert_eq!(run.code, Some(0), "{run}");
        let pod = host.pod(name);
        let main = pod.pid("main");
        if replace {
            fs::copy(&other, host.dir.join("draft")).expect("copy");
            fs::rename(host.dir.join("draft"), &installed).expect("install the next version");
        } else {
            fs::remove_file(&installed).expect("uninstall");
        }
        let first = pod.supervisor();
        sigkill(first);
        wait_for("the successor", || (pod.supervisor() != first).then_some(()));
        assert_eq!(size(&pod), old, "{name}");
        assert_eq!(pod.sh("main", "echo works"), "works\n");
        if replace {
            let upgrade = job(&host, &installed, &["upgrade", "--all"]).finish();
            assert_eq!(upgrade.code, Some(0), "{upgrade}");
            assert_eq!(size(&pod), fs::metadata(&other).expect("look").len());
        }
        assert_eq!(pod.pid("main"), main);
        pod.delete(&["--force"]);
        drop(fs::remove_file(&installed));
    }
}

#[test]
fn a_husk_that_does_not_know_what_it_would_find_is_refused_and_all_is_left_as_it_is() {
    let host = Host::new();
    let pod = host.run("kept", &manifest("kept", json!({"containers": [sleeper("main")]})));
    let supervisor = pod.supervisor();
    let exe = fs::File::open(env!("CARGO_BIN_EXE_husk")).expect("open husk");
    let good = husk::supervisor::upgrade::formats();
    let strange: [(&str, Formats); 4] = [
        ("records", Formats { records: vec![VERSION + 1], ..good.clone() }),
        ("keeper's protocol", Formats { keeper: vec![], ..good.clone() }),
        ("keeper's slots", Formats { slots: vec![77], ..good.clone() }),
        ("journal", Formats { journal: vec![0], ..good.clone() }),
    ];
    let ask = |knows: &Formats, with: bool| {
        let fds = [std::os::fd::AsFd::as_fd(&exe)];
        let request = Request::Upgrade { knows: knows.clone() };
        Client::ask(&pod.dir, &request, if with { &fds } else { &[] }, || false).expect("an answer").1
    };
    for (what, knows) in &strange {
        match ask(knows, true) {
            Response::Error { message, why: Refusal::FailedPrecondition, .. } => {
                assert!(message.contains(what), "{message}")
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(ask(&good, false), Response::Error { .. }), "without an executable");
    assert_eq!(pod.supervisor(), supervisor);

    // Records of a newer husk: neither this pod nor its neighbour is touched.
    let other = host.run("other", &manifest("other", json!({"containers": [sleeper("main")]})));
    let neighbour = other.supervisor();
    let path = pod.dir.join("pod.json");
    let text = fs::read_to_string(&path).expect("read");
    let (ours, newer) = (format!("\"version\":{VERSION}"), format!("\"version\":{}", VERSION + 1));
    fs::write(&path, text.replacen(&ours, &newer, 1)).expect("write");
    for args in
        [&["upgrade", "kept"][..], &["upgrade", "other", "kept"], &["upgrade", "--all"], &["upgrade", "--all", "-A"]]
    {
        let said = host.refused(args);
        assert!(said.contains(&format!("version {}", VERSION + 1)), "{said}");
    }
    assert_eq!((pod.supervisor(), other.supervisor()), (supervisor, neighbour));
    fs::write(&path, &text).expect("write");
    host.ok(&["upgrade", "--all"]);
    assert!(pod.supervisor() != supervisor && other.supervisor() != neighbour);
}

#[test]
fn a_supervisor_that_cannot_read_its_records_harms_nothing_and_goes_on_when_it_can() {
    let host = Host::new();
    let sync = host.dir.join("sync");
    fs::create_dir(&sync).expect("make a directory");
    let spec = json!({
        "volumes": [{"name": "sync", "hostPath": {"path": sync}}],
        "containers": [container("main", "echo begin; until [ -e /sync/stop ]; do usleep 2000; done; echo end; exit 46", json!({"volumeMounts": [{"name": "sync", "mountPath": "/sync"}]}))],
    });
    for (name, damage) in [("newer", None), ("torn", Some("{\"version\":")), ("gone", Some(""))] {
        drop(fs::remove_file(sync.join("stop")));
        let pod = host.run(name, &manifest(name, spec.clone()));
        let (main, first, keeper) = (pod.pid("main"), pod.supervisor(), pod.keeper());
        let path = pod.dir.join("pod.json");
        let text = fs::read_to_string(&path).expect("read");
        let newer = text.replacen(&format!("\"version\":{VERSION}"), &format!("\"version\":{}", VERSION + 1), 1);
        match damage {
            None => fs::write(&path, newer).expect("write"),
            Some("") => fs::remove_file(&path).expect("remove"),
            Some(damage) => fs::write(&path, damage).expect("write"),
        }
        sigkill(first);
        let second = wait_for("the next supervisor", || Some(pod.supervisor()).filter(|pid| *pid != first));
        // It ends while nobody who understands looks after it.
        fs::write(sync.join("stop"), b"").expect("let it stop");
        wait_for("the container has ended", || (!alive(main)).then_some(()));
        std::thread::sleep(Duration::from_millis(1500));
        assert_eq!(pod.supervisor(), second, "{name}: it does not spin");
        assert!(alive(keeper), "{name}");
        let log = fs::read_to_string(pod.dir.join("supervisor.log")).expect("read supervisor.log");
        assert!(log.lines().last().is_some_and(|line| line.contains("pod.json")), "{log}");
        let said = host.refused(&["delete", "pod", name]);
        assert!(said.contains("pod.json") && said.contains("--force"), "{said}");
        fs::write(&path, &text).expect("write");
        assert_eq!(pod.terminated("main")["exitCode"], 46, "{name}");
        pod.wait_log("main", "begin\nend\n");
        pod.delete(&[]);
    }
    // And if it shall end all the same.
    drop(fs::remove_file(sync.join("stop")));
    let pod = host.run("forced", &manifest("forced", spec));
    let (main, first) = (pod.pid("main"), pod.supervisor());
    fs::write(pod.dir.join("pod.json"), b"?").expect("write");
    sigkill(first);
    wait_for("the next supervisor", || Some(pod.supervisor()).filter(|pid| *pid != first));
    host.ok(&["delete", "pod", "forced", "--force"]);
    assert!(!alive(main) && !pod.dir.exists());
    host.assert_empty();
}

#[test]
fn a_supervisor_that_does_not_answer_is_no_hindrance_to_force() {
    let host = Host::new();
    let pod = host.run("hung", &manifest("hung", json!({"containers": [sleeper("main")]})));
    let (main, supervisor) = (pod.pid("main"), pod.supervisor());
    kill(Pid::from_raw(supervisor), Signal::SIGSTOP).expect("stop it");
    host.ok(&["delete", "pod", "hung", "--force"]);
    assert!(!alive(main) && !alive(supervisor) && !pod.dir.exists());
    host.assert_empty();
}

#[test]
fn fields_of_a_newer_husk_are_tolerated() {
    let host = Host::new();
    let pod = host
        .run("future", &manifest("future", json!({"containers": [container("main", "sleep 1; exit 47", json!({}))]})));
    for file in ["pod.json", "status.json"] {
        let path = pod.dir.join(file);
        let text = fs::read_to_string(&path).expect("read").replacen('{', "{\"ofTheFuture\":{\"a\":[1]},", 1);
        fs::write(&path, text).expect("write");
    }
    let first = pod.supervisor();
    sigkill(first);
    assert_eq!(pod.terminated("main")["exitCode"], 47);
}
