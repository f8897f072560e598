//! What containers print, as `husk logs` shows it and as it lies on the disk.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::common::{Host, Pod, container, manifest, sample, sleeper, wait_for};

fn finished<'h>(host: &'h Host, name: &str, script: &str) -> Pod<'h> {
    let pod = host.run(name, &manifest(name, json!({"containers": [container("main", script, json!({}))]})));
    pod.terminated("main");
    pod
}

/// The files of `container`'s log, newest name first.
fn files(pod: &Pod, container: &str) -> Vec<PathBuf> {
    let dir = PathBuf::from(pod.record().log_dir).join(container);
    let mut list: Vec<PathBuf> = fs::read_dir(&dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .flatten()
        .map(|entry| entry.path())
        .collect();
    list.sort();
    list
}

#[test]
fn both_streams_are_kept_in_the_cri_format() {
    let host = Host::new();
    let pod = finished(&host, "both", "echo to stdout; echo to stderr >&2; printf 'no end'");
    let output = host.ok(&["logs", "both", "-c", "main"]);
    let all = output.out() + &output.err();
    for text in ["to stdout\n", "to stderr\n", "no end"] {
        assert!(all.contains(text), "{text:?} in {output}");
    }
    let text = fs::read_to_string(files(&pod, "main").first().expect("a log file")).expect("the log is text");
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        let (time, stream, tag) =
            (words.next().expect("a time"), words.next().expect("a stream"), words.next().expect("a tag"));
        assert!(time.parse::<jiff::Timestamp>().is_ok() && time.contains('.'), "{line}");
        assert!(matches!(stream, "stdout" | "stderr") && matches!(tag, "P" | "F"), "{line}");
    }
    assert!(text.contains(" stdout F to stdout\n") && text.contains(" stderr F to stderr\n"), "{text}");
}

#[test]
fn tail_since_and_timestamps_do_what_their_names_say() {
    let host = Host::new();
    let pod = finished(&host, "flags", "echo one; echo two; sleep 1.5; echo three");
    assert_eq!(pod.logs("main", &[]), "one\ntwo\nthree\n");
    assert_eq!(pod.logs("main", &["--tail", "2"]), "two\nthree\n");
    assert_eq!(pod.logs("main", &["--tail", "0"]), "");
    assert_eq!(pod.logs("main", &["--tail", "-1"]), "one\ntwo\nthree\n");
    assert_eq!(pod.logs("main", &["--tail", "100"]), "one\ntwo\nthree\n");
    assert_eq!(pod.logs("main", &["--since", "1h"]), "one\ntwo\nthree\n");
    let stamped = pod.logs("main", &["--timestamps"]);
    let times: Vec<&str> = stamped.lines().map(|line| line.split(' ').next().expect("a word")).collect();
    assert_eq!(times.len(), 3);
    assert!(
        times.windows(2).all(|pair| pair[0] <= pair[1])
            && times.iter().all(|time| time.parse::<jiff::Timestamp>().is_ok()),
        "{stamped}"
    );
    let before: jiff::Timestamp = times[2].parse().expect("a time");
    let cut = before.checked_sub(jiff::SignedDuration::from_millis(700)).expect("a time before");
    assert_eq!(pod.logs("main", &["--since-time", &cut.to_string()]), "three\n");
}

#[test]
fn one_container_needs_no_name_and_several_do() {
    let host = Host::new();
    finished(&host, "single", "echo alone");
    assert_eq!(host.ok(&["logs", "single"]).out(), "alone\n");
    host.run("double", &manifest("double", json!({"containers": [sleeper("a"), sleeper("b")]})));
    let said = host.husk(&["logs", "double", "-c", "nobody"]);
    assert_eq!(said.code, Some(1), "{said}");
    assert!(said.err().contains("nobody"), "{said}");
}

#[test]
fn long_lines_without_end_come_back_whole() {
    let host = Host::new();
    let pod = finished(
        &host,
        "long",
        "head -c 100000 /dev/zero | tr '\\0' x; echo; head -c 16384 /dev/zero | tr '\\0' y; echo; head -c 40000 /dev/zero | tr '\\0' z",
    );
    let expected = format!("{}\n{}\n{}", "x".repeat(100_000), "y".repeat(16_384), "z".repeat(40_000));
    let got = pod.logs("main", &[]);
    assert_eq!(got.trim_end_matches('\n').len(), expected.len());
    assert!(got.trim_end_matches('\n') == expected, "the content differs");
    let text = fs::read_to_string(files(&pod, "main").first().expect("a log file")).expect("text");
    assert!(
        text.lines().all(|line| line.splitn(4, ' ').nth(3).is_some_and(|rest| rest.len() <= 16 * 1024)),
        "no piece is over 16 KiB"
    );
}

#[test]
fn binary_output_is_kept_byte_for_byte() {
    let host = Host::new();
    let pod = finished(&host, "binary", "cat /bin/busybox; echo");
    let mut expected = pod_file("/bin/busybox");
    expected.push(b'\n');
    let output = host.ok(&["logs", "binary"]);
    assert_eq!(output.stdout.len(), expected.len());
    assert_eq!(Sha256::digest(&output.stdout), Sha256::digest(&expected));
    drop(pod);
}

fn pod_file(path: &str) -> Vec<u8> {
    [path, "/usr/bin/busybox"].iter().find_map(|path| fs::read(path).ok()).expect("busybox is on this host")
}

#[test]
fn forty_megabytes_as_fast_as_possible_are_complete() {
    let host = Host::new();
    let pad = "x".repeat(1000);
    let lines = sample(40_000);
    let pod = finished(&host, "flood", &format!("awk 'BEGIN {{ for (i = 1; i <= {lines}; i++) print i, \"{pad}\" }}'"));
    let output = host.ok(&["logs", "flood"]);
    let mut expected = 0_u64;
    for line in output.out().lines() {
        expected += 1;
        assert!(
            line == format!("{expected} {pad}"),
            "line {expected} is missing or torn: {}",
            line.chars().take(80).collect::<String>()
        );
    }
    assert_eq!(expected, lines);
    drop(pod);
}

#[test]
fn a_flood_is_rotated_at_ten_mebibytes_and_five_files_are_kept() {
    let host = Host::new();
    let pod = finished(
        &host,
        "rotated",
        "yes 0123456789012345678901234567890123456789012345678901234567890123456789012345678 | head -n 1250000; echo the end",
    );
    let list = files(&pod, "main");
    assert_eq!(list.len(), 5, "{list:?}");
    for file in &list {
        let size = fs::metadata(file).expect("it is there").len();
        assert!(size <= 10 * 1024 * 1024 + 64 * 1024, "{} has {size} bytes", file.display());
    }
    assert_eq!(pod.logs("main", &["--tail", "1"]), "the end\n");
    let text = pod.logs("main", &[]);
    // The first line may be the rest of one whose beginning went with an older file.
    let torn = text.lines().skip(1).find(|line| line.len() != 79 && *line != "the end");
    assert_eq!(torn, None, "a line is torn by the rotation");
    assert!(text.len() > 25 * 1024 * 1024, "only {} bytes are left", text.len());
}

#[test]
fn follow_crosses_rotations_and_supervisors_and_ends_with_the_container() {
    let host = Host::new();
    let script = "for i in 1 2 3 4 5; do yes $i 4567890123456789012345678901234567890 | head -n 60000; sleep 0.3; done; echo the end";
    let pod = host.run(
        "followed",
        &manifest("followed", json!({"containers": [container("main", script, json!({})), sleeper("other")]})),
    );
    let follower = host.job(&["logs", "-f", "followed", "-c", "main"]).start();
    std::thread::sleep(Duration::from_millis(500));
    kill(Pid::from_raw(pod.supervisor()), Signal::SIGKILL).expect("kill the supervisor");
    let output = follower.finish();
    assert_eq!(output.code, Some(0));
    let text = output.out();
    let mut counts = std::collections::BTreeMap::new();
    for line in text.lines() {
        *counts.entry(line.to_owned()).or_insert(0) += 1;
    }
    assert_eq!(counts.get("the end"), Some(&1), "ends with the container");
    for i in 1..=5 {
        assert_eq!(
            counts.get(&format!("{i} 4567890123456789012345678901234567890")),
            Some(&60_000),
            "chunk {i}: {:?}",
            counts.keys().take(10).collect::<Vec<_>>()
        );
    }
    assert_eq!(counts.len(), 6);
}

#[test]
fn follow_of_a_deleted_pod_ends() {
    let host = Host::new();
    let pod = host.run(
        "gone",
        &manifest("gone", json!({"containers": [container("main", "echo here; exec sleep 10000", json!({}))]})),
    );
    pod.wait_log("main", "here");
    let follower = host.job(&["logs", "-f", "gone"]).start();
    pod.delete(&["--force"]);
    let output = follower.finish();
    assert!(output.out().contains("here") || output.code == Some(1), "{output}");
}

#[test]
fn previous_shows_the_instance_before() {
    let host = Host::new();
    let script = "echo $RANDOM$RANDOM$RANDOM; exit 1";
    let pod = host.run(
        "prev",
        &manifest("prev", json!({"restartPolicy": "OnFailure", "containers": [container("main", script, json!({}))]})),
    );
    let early = host.husk(&["logs", "prev", "--previous"]);
    assert!(early.code == Some(1) || !early.out().is_empty(), "{early}");
    pod.wait_container("main", "restarted", |status| {
        status["restartCount"] == 1 && status["state"]["waiting"].is_object()
    });
    let (previous, current) = (pod.logs("main", &["--previous"]), pod.logs("main", &[]));
    assert!(!previous.is_empty() && !current.is_empty() && previous != current, "{previous:?} {current:?}");
}

#[test]
fn output_written_while_no_supervisor_lives_is_kept() {
    let host = Host::new();
    let script = "i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo $i; usleep 3000; done";
    let pod =
        host.run("unwatched", &manifest("unwatched", json!({"containers": [container("main", script, json!({}))]})));
    for _ in 0..3 {
        let supervisor = pod.supervisor();
        kill(Pid::from_raw(supervisor), Signal::SIGKILL).expect("kill the supervisor");
        wait_for("another supervisor", || (pod.supervisor() != supervisor).then_some(()));
    }
    pod.terminated("main");
    let expected: Vec<String> = (1..=300).map(|i| i.to_string()).collect();
    assert_eq!(pod.logs("main", &[]).lines().collect::<Vec<_>>(), expected);
}

#[test]
fn a_child_that_keeps_the_pipe_open_does_not_hold_the_exit_back() {
    let host = Host::new();
    let spec = json!({"shareProcessNamespace": true, "containers": [container("main", "setsid sleep 10000 & echo done", json!({}))]});
    let pod = host.run("held", &manifest("held", spec));
    assert_eq!(pod.terminated("main")["exitCode"], 0);
    assert_eq!(pod.logs("main", &[]), "done\n");
    pod.wait_phase("Succeeded");
}
