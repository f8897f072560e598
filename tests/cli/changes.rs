//! `get pods -w` of pods that stand in the records.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Stdio};

use serde_json::{Value, json};

use crate::Husk;
use crate::fake::{FakePod, crash_loop, running, terminated};

/// A call that goes on.
struct Watching {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Watching {
    fn new(husk: &Husk, args: &[&str]) -> Watching {
        let mut child =
            husk.command().args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start husk");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        Watching { child, output }
    }

    /// The next line in words, without the age at its end.
    fn next(&mut self) -> Vec<String> {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("read");
        let mut words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        words.pop();
        words
    }

    fn end(mut self) -> Option<i32> {
        self.child.wait().expect("wait").code()
    }

    fn kill(mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }
}

fn forget(pod: &FakePod) {
    pod.roots.forget(&pod.uid, Some(("default", &pod.name))).expect("forget");
}

#[test]
fn a_table_goes_on_with_a_line_for_each_change() {
    let husk = Husk::new("changes");
    let web = FakePod::new(&husk, "web");
    let mut watching = Watching::new(&husk, &["get", "pods", "-w"]);
    assert_eq!(watching.next(), ["NAME", "READY", "STATUS", "RESTARTS"]);
    assert_eq!(watching.next(), ["web", "2/2", "Running", "0"]);
    web.status(crash_loop(), |_| ());
    assert_eq!(watching.next(), ["web", "1/2", "CrashLoopBackOff", "0"]);
    // What no column shows is no change.
    web.status(crash_loop(), |status| status["containers"][2]["state"]["pid"] = json!(7));
    let db = FakePod::new(&husk, "db");
    assert_eq!(watching.next(), ["db", "2/2", "Running", "0"]);
    web.status(running(), |status| {
        let mut last = terminated(0, 3);
        last.as_object_mut().expect("an object").remove("state");
        status["containers"][1]["attempt"] = json!(1);
        status["containers"][1]["last"] = last;
    });
    assert_eq!(watching.next()[..4], ["web", "2/2", "Running", "1"]);
    // Of another namespace.
    let _far = FakePod::in_namespace(&husk, "far", "away");
    forget(&db);
    assert_eq!(watching.next(), ["db", "2/2", "Running", "0"]);
    watching.kill();
}

#[test]
fn the_end_of_a_keeper_is_a_change() {
    let husk = Husk::new("changes-keeper");
    let mut pod = FakePod::new(&husk, "web");
    let mut watching = Watching::new(&husk, &["get", "pod", "web", "-w", "--no-headers"]);
    assert_eq!(watching.next(), ["web", "2/2", "Running", "0"]);
    drop(pod.lock.take());
    let dead = watching.next();
    assert_eq!((dead[0].as_str(), dead[1].as_str()), ("web", "0/2"), "{dead:?}");
    watching.kill();
}

#[test]
fn a_watch_of_names_ends_with_them_and_tells_kinds() {
    let husk = Husk::new("changes-names");
    let (one, two) = (FakePod::new(&husk, "one"), FakePod::new(&husk, "two"));
    let args = ["get", "pod", "one", "two", "-w", "--output-watch-events"];
    let mut watching = Watching::new(&husk, &args);
    assert_eq!(watching.next(), ["EVENT", "NAME", "READY", "STATUS", "RESTARTS"]);
    assert_eq!(watching.next()[..2], ["ADDED", "one"]);
    assert_eq!(watching.next()[..2], ["ADDED", "two"]);
    forget(&two);
    assert_eq!(watching.next()[..2], ["DELETED", "two"]);
    one.status(crash_loop(), |_| ());
    assert_eq!(watching.next()[..2], ["MODIFIED", "one"]);
    forget(&one);
    assert_eq!(watching.next()[..2], ["DELETED", "one"]);
    assert_eq!(watching.end(), Some(0));
    // Nobody there is nobody to wait for.
    husk.call(&["get", "pod", "nobody", "-w"]).refused(1, &["nobody", "not found"]);
    husk.call(&["get", "pods", "--output-watch-events"]).is(2);
}

#[test]
fn objects_are_a_stream() {
    let husk = Husk::new("changes-json");
    let pod = FakePod::new(&husk, "web");
    let args = ["get", "pod", "web", "--watch-only", "-o", "json", "--output-watch-events"];
    let watching = Watching::new(&husk, &args);
    // It listens when it has an inotify instance; what happens before that is what is there.
    let listens = || {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", watching.child.id())).into_iter().flatten().flatten();
        let threads = std::fs::read_dir(format!("/proc/{}/task", watching.child.id())).map_or(0, Iterator::count);
        threads > 1
            && fds
                .filter_map(|fd| std::fs::read_link(fd.path()).ok())
                .any(|to| to.to_string_lossy().contains("inotify"))
    };
    while !listens() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    std::thread::sleep(std::time::Duration::from_millis(200));
    pod.status(crash_loop(), |_| ());
    let mut stream = serde_json::Deserializer::from_reader(watching.output).into_iter::<Value>();
    let first = stream.next().expect("one").expect("JSON");
    assert_eq!((&first["type"], &first["object"]["kind"]), (&json!("MODIFIED"), &json!("Pod")));
    assert_eq!(first["object"]["status"]["containerStatuses"][0]["state"]["waiting"]["reason"], "CrashLoopBackOff");
    forget(&pod);
    assert_eq!(stream.next().expect("one").expect("JSON")["type"], "DELETED");
    assert!(stream.next().is_none());
    let mut child = watching.child;
    assert_eq!(child.wait().expect("wait").code(), Some(0));
}
