//! Each call of husk that changes a file fails once, or fails from there on until the disk is well again: in the command line, in keeper, in
//! the supervisor and in the set-up of a container, wherever the count happens to fall.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use serde_json::{Value, json};

use crate::common::inject::{Calls, Fault, Injector, Lasting};
use crate::common::run::Output;
use crate::common::{Host, container, manifest, scaled};

const LINES: usize = 50;

/// Prints, waits to be let go, prints the rest to the other stream, and ends with a code of its own.
fn pod(sync: &Path) -> String {
    let script = format!(
        "i=0; while [ $i -lt {LINES} ]; do echo line $i; i=$((i+1)); done; until [ -e /sync/go ]; do usleep 3000; done; echo end >&2; exit 7"
    );
    let spec = json!({
        "volumes": [{"name": "v", "emptyDir": {}}, {"name": "sync", "hostPath": {"path": sync}}],
        "initContainers": [container("first", "echo init > /v/init", json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}))],
        "containers": [container("main", &script, json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}, {"name": "sync", "mountPath": "/sync"}]}))],
    });
    manifest("faulty", spec)
}

fn expected() -> Vec<String> {
    (0..LINES).map(|i| format!("line {i}")).collect()
}

/// Whether it becomes true in time.
fn wait_until(patience: Duration, mut probe: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + scaled(patience);
    while !probe() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

/// A failure is one or more sentences that begin with our name and say what the kernel said.
#[track_caller]
fn sentence(what: &str, output: &Output, codes: &[i32], context: &dyn Fn() -> String) {
    let said = output.err();
    let fine = output.code.is_some_and(|code| codes.contains(&code))
        && said.lines().all(|line| line.starts_with("husk: "))
        && !said.trim().is_empty()
        && !said.contains("panicked")
        && !said.contains("defect of husk");
    assert!(fine, "{what}: not a good failure: {output}\n{}", context());
}

struct Round<'a> {
    host: &'a Host,
    injector: &'a Injector,
    fault: Fault,
    /// Shared with the container; no call on it fails.
    sync: PathBuf,
    /// What the calls came to.
    said: RefCell<Vec<String>>,
}

impl Round<'_> {
    fn call(&self, args: &[&str], stdin: &str) -> Output {
        let output = self.injector.start(self.host.job(args).stdin(stdin).patience(Duration::from_secs(30))).finish();
        self.said.borrow_mut().push(format!("husk {}: {:?} {}", args.join(" "), output.code, output.err().trim()));
        output
    }

    fn context(&self) -> String {
        let (failed, said) = (self.injector.failed().join("\n  "), self.said.borrow().join("\n  "));
        let mut text = format!("{:?}; made to fail:\n  {failed}\nsaid:\n  {said}", self.fault);
        for dir in self.host.pod_dirs() {
            for file in ["status.json", "supervisor.log"] {
                text += &format!("\n-- {file}\n{}", std::fs::read_to_string(dir.join(file)).unwrap_or_default());
            }
        }
        text
    }

    /// From here on the disk is well.
    fn heal(&self) {
        if self.fault.lasting == Lasting::On && !self.injector.failed().is_empty() {
            self.injector.disarm();
        }
    }

    /// One life of a pod; false when nothing was made to fail.
    fn live(&self) -> bool {
        let context = || self.context();
        self.injector.arm(self.fault);
        let run = self.call(&["run", "-"], &pod(&self.sync));
        let mut gone = false;
        if run.code == Some(0) {
            self.follow();
        } else {
            sentence("run", &run, &[1], &context);
            let errno = format!("({:?})", self.fault.errno);
            assert!(run.err().contains(&errno), "run does not say why: {run}\n{}", context());
            gone = true;
            self.heal();
        }
        let get = self.call(&["get", "pods", "-A"], "");
        if get.code != Some(0) {
            sentence("get", &get, &[1], &context);
        }
        let delete = self.call(&["delete", "pod", "faulty"], "");
        self.heal();
        if delete.code != Some(0) {
            sentence("delete", &delete, &[1], &context);
            if !gone {
                let again = self.call(&["delete", "pod", "faulty", "--ignore-not-found"], "");
                if again.code != Some(0) {
                    // One that came to its end and only could not be taken away.
                    sentence("delete again", &again, &[1], &context);
                }
            }
        }
        let gc = self.call(&["gc"], "");
        if gc.code != Some(0) {
            sentence("gc", &gc, &[1], &context);
        }
        let context = self.context();
        self.injector.disarm();
        let left = self.host.left_behind();
        if !left.is_empty() {
            // What could not be removed while the disk was ill goes with the next collection.
            let gc = self.host.husk(&["gc"]);
            assert_eq!(gc.code, Some(0), "gc on a disk that is well: {gc}\n{context}");
            let left = self.host.left_behind();
            assert!(left.is_empty(), "left behind:\n  {}\n{context}", left.join("\n  "));
        }
        !self.injector.failed().is_empty()
    }

    /// `run` has come back after the first init container; a later one that could not be started has said so, and why, in its status.
    fn start_error(&self) -> bool {
        let pod = self.host.husk(&["get", "pod", "faulty", "-o", "json"]);
        let Ok(pod) = serde_json::from_slice::<Value>(&pod.stdout) else { return false };
        let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
        let why = ended["message"].as_str().unwrap_or_default();
        ended["reason"] == "StartError"
            && ended["exitCode"] == 128
            && why.contains(&format!("({:?})", self.fault.errno))
    }

    /// A pod that `run` has acknowledged: it is there, its output is whole, its exit code exact.
    fn follow(&self) {
        let context = || self.context();
        if self.fault.lasting == Lasting::On && !self.injector.failed().is_empty() {
            // Long enough for the supervisor to try more than once.
            std::thread::sleep(Duration::from_millis(150));
        }
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let exec = self.call(&["exec", "faulty", "-c", "main", "--", "/bin/sh", "-c", "echo out; exit 5"], "");
            if exec.code == Some(5) {
                assert_eq!(exec.out(), "out\n", "{exec}\n{}", context());
                break;
            }
            sentence("exec", &exec, &[125], &context);
            if self.start_error() {
                return;
            }
            assert!(Instant::now() < deadline, "exec never works: {exec}\n{}", context());
            self.heal();
            std::thread::sleep(Duration::from_millis(20));
        }
        if self.fault.lasting == Lasting::On && !self.injector.failed().is_empty() {
            std::fs::write(self.sync.join("go"), b"").expect("let the container go");
            std::thread::sleep(Duration::from_millis(150));
            self.injector.disarm();
        }
        std::fs::write(self.sync.join("go"), b"").expect("let the container go");
        let mut last = String::new();
        let mut pod = Value::Null;
        let ended = wait_until(Duration::from_secs(10), || {
            let get = self.call(&["get", "pod", "faulty", "-o", "json"], "");
            self.heal();
            last = get.to_string();
            pod = serde_json::from_slice(&get.stdout).unwrap_or_default();
            pod["status"]["phase"] == "Failed"
        });
        assert!(ended, "it does not end: {last}\n{}", context());
        let code = &pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"];
        assert_eq!(code, 7, "{}\n{}", pod["status"], context());
        let code = &pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"];
        assert_eq!(code, 0, "{}\n{}", pod["status"], context());
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0, "{}", context());
        let logs = self.call(&["logs", "faulty", "-c", "main"], "");
        if logs.code != Some(0) {
            sentence("logs", &logs, &[1], &context);
        }
        // What waited for room is written after the exit code.
        let mut logs = String::new();
        let whole = wait_until(Duration::from_secs(10), || {
            logs = self.host.husk(&["logs", "faulty", "-c", "main"]).out();
            // Two pipes: their order is not known.
            let (end, lines): (Vec<_>, Vec<_>) = logs.lines().partition(|line| *line == "end");
            end.len() == 1 && lines == expected()
        });
        assert!(whole, "not the whole output:\n{logs}\n{}", context());
    }
}

/// Fails call 0, `stride`, 2 * `stride`, … until a round sees no failure any more. `HUSK_FAULT_AT` chooses one call.
fn sweep(calls: Calls, errno: Errno, lasting: Lasting, stride: usize) {
    let host = Host::new();
    let injector = Injector::new(&host.dir);
    let sync = host.dir.join("sync");
    std::fs::create_dir(&sync).expect("make a directory");
    let begun = Instant::now();
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let only = number("HUSK_FAULT_AT");
    let stride = crate::stride(stride) as u64;
    let mut at = only.unwrap_or(0);
    let mut rounds = 0;
    loop {
        drop(std::fs::remove_file(sync.join("go")));
        let fault = Fault { calls, at, errno, lasting };
        // Captured, and shown when the test fails.
        println!("{fault:?}");
        let round = Round { host: &host, injector: &injector, fault, sync: sync.clone(), said: RefCell::default() };
        if !round.live() || only.is_some() {
            break;
        }
        rounds += 1;
        at += stride;
    }
    println!("{errno:?} {calls:?} {lasting:?}: {rounds} points up to call {at}, {:?}", begun.elapsed());
    assert!(only.is_some() || at > 10, "the injector has lost its aim: {at} calls");
}

#[test]
fn an_input_output_error_at_every_write() {
    sweep(Calls::Writes, Errno::EIO, Lasting::Once, 1);
}

#[test]
fn a_disk_that_is_full_from_every_write_on() {
    sweep(Calls::Writes, Errno::ENOSPC, Lasting::On, 1);
}

#[test]
fn a_disk_that_is_read_only_from_a_write_on() {
    sweep(Calls::Writes, Errno::EROFS, Lasting::On, 3);
}

#[test]
fn a_descriptor_that_cannot_be_had() {
    sweep(Calls::Descriptors, Errno::EMFILE, Lasting::Once, 13);
}

#[test]
fn memory_that_cannot_be_had_for_a_descriptor() {
    sweep(Calls::Descriptors, Errno::ENOMEM, Lasting::Once, 17);
}

#[test]
fn a_file_that_cannot_be_read() {
    sweep(Calls::Reads, Errno::EIO, Lasting::Once, 3);
}
