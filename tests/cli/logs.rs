//! `logs`, from files that the test writes.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use serde_json::json;

use crate::Husk;
use crate::fake::{FakePod, crash_loop, terminated};

fn line(second: u32, tag: &str, text: &str) -> String {
    format!("2026-01-01T00:00:{second:02}.123456789Z stdout {tag} {text}\n")
}

fn logs(husk: &Husk, args: &[&str]) -> String {
    let all: Vec<&str> = ["logs", "web", "-c", "main"].iter().chain(args).copied().collect();
    husk.call(&all).is(0).stdout.clone()
}

#[test]
fn output_comes_back_as_it_was_written() {
    let husk = Husk::new("logs");
    let pod = FakePod::new(&husk, "web");
    assert_eq!(logs(&husk, &[]), "");
    pod.log("0.log.1", &(line(1, "F", "one") + &line(2, "P", "tw") + &line(2, "F", "o")));
    pod.log("0.log", &(line(3, "F", "three") + "2026-01-01T00:00:04.5Z stderr F four\n" + &line(5, "P", "five")));
    assert_eq!(logs(&husk, &[]), "one\ntwo\nthree\nfour\nfive");
    assert_eq!(logs(&husk, &["--tail=2"]), "four\nfive");
    assert_eq!(logs(&husk, &["--tail=0"]), "");
    assert_eq!(logs(&husk, &["--tail=-1"]), "one\ntwo\nthree\nfour\nfive");
    assert_eq!(logs(&husk, &["--since-time=2026-01-01T00:00:04Z"]), "four\nfive");
    assert_eq!(logs(&husk, &["--since=5s"]), "");
    assert_eq!(
        logs(&husk, &["--timestamps", "--tail=4"]),
        "2026-01-01T00:00:02.123456789Z two\n2026-01-01T00:00:03.123456789Z three\n\
         2026-01-01T00:00:04.5Z four\n2026-01-01T00:00:05.123456789Z five"
    );
    assert_eq!(logs(&husk, &["--prefix", "--tail=1"]), "[pod/web/main] five");
    let first = husk.call(&["logs", "pod/web"]);
    assert_eq!(first.is(0).stdout, "one\ntwo\nthree\nfour\nfive");
    assert!(first.stderr.contains("main") && first.stderr.contains("other"), "{}", first.stderr);
    husk.call(&["logs", "web", "-c", "nobody"]).refused(1, &["web", "nobody", "main"]);
}

#[test]
fn previous_is_the_instance_before() {
    let husk = Husk::new("previous");
    let pod = FakePod::new(&husk, "web");
    husk.call(&["logs", "web", "-c", "main", "-p"]).refused(1, &["web", "main", "previous"]);
    for attempt in 0..3 {
        pod.log(&format!("{attempt}.log"), &line(1, "F", &format!("instance {attempt}")));
    }
    pod.attempt(2);
    assert_eq!(logs(&husk, &[]), "instance 2\n");
    assert_eq!(logs(&husk, &["--previous"]), "instance 1\n");
    let last = |attempt: u32| {
        let mut last = terminated(attempt, 1);
        last.as_object_mut().expect("an object").remove("state");
        last
    };
    pod.status(crash_loop(), |status| status["containers"][1]["last"] = last(2));
    assert_eq!(logs(&husk, &[]), "instance 2\n");
    assert_eq!(logs(&husk, &["--previous"]), "instance 1\n");
    pod.status(crash_loop(), |status| status["containers"][1]["last"] = last(0));
    assert_eq!(logs(&husk, &["--previous"]), "instance 0\n");
    pod.status(json!({"state": "waiting", "reason": "PodInitializing", "message": ""}), |_| ());
    husk.call(&["logs", "web", "-c", "main"]).refused(1, &["web", "main", "PodInitializing"]);
}

#[test]
fn following_crosses_rotations_and_ends_with_the_container() {
    let husk = Husk::new("follow");
    let pod = FakePod::new(&husk, "web");
    pod.log("0.log", &line(1, "F", "one"));
    let mut child =
        husk.command().args(["logs", "web", "-c", "main", "-f"]).stdout(Stdio::piped()).spawn().expect("start husk");
    let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut next = || {
        let mut line = String::new();
        output.read_line(&mut line).expect("read");
        line
    };
    assert_eq!(next(), "one\n");
    pod.log("0.log", &line(2, "F", "two"));
    assert_eq!(next(), "two\n");
    let directory = pod.log_directory();
    std::fs::rename(directory.join("0.log"), directory.join("0.log.1")).expect("rotate");
    pod.log("0.log", &line(3, "F", "three"));
    assert_eq!(next(), "three\n");
    pod.log("0.log", &line(4, "F", "four"));
    pod.status(terminated(0, 0), |_| ());
    assert_eq!(next(), "four\n");
    let mut rest = String::new();
    output.read_to_string(&mut rest).expect("read");
    assert_eq!(rest, "");
    assert_eq!(child.wait().expect("wait").code(), Some(0));
}

#[test]
fn following_ends_when_the_pod_dies_or_goes_or_nobody_reads() {
    let husk = Husk::new("follow-end");
    for way in ["dies", "goes", "unread"] {
        let mut pod = FakePod::new(&husk, &format!("pod-{way}"));
        pod.log("0.log", &line(1, "F", "one"));
        let mut child = husk
            .command()
            .args(["logs", &pod.name, "-c", "main", "-f"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("start husk");
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut first = String::new();
        output.read_line(&mut first).expect("read");
        assert_eq!(first, "one\n");
        let code = match way {
            "dies" => {
                pod.lock = None;
                0
            }
            "goes" => {
                pod.roots.forget(&pod.uid, Some(("default", &pod.name))).expect("forget");
                0
            }
            _ => {
                drop(output);
                141
            }
        };
        assert_eq!(child.wait().expect("wait").code(), Some(code), "{way}");
    }
}
