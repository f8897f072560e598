//! Many clients on few pods, at random: no deadlock, no leak, and every answer is one that can be true.
//!
//! `HUSK_STRESS_SECONDS` says how long (120), `HUSK_STRESS_SEED` repeats the clients' choices.

mod common;

use std::fmt::Write as _;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use common::run::Output;
use common::{Host, container, manifest, wait_for};

const CLIENTS: u64 = 24;
const PODS: u64 = 10;

/// Nothing here takes longer, however busy the machine is: the grace of a pod is a second.
const PATIENCE: Duration = Duration::from_secs(90);

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Run,
    RunSameUid,
    Exec,
    ExecCode,
    Logs,
    Get,
    List,
    Delete,
    Kill,
    DeleteNoWait,
    Gc,
    Upgrade,
    Wait,
}

/// One call, for the history of a pod and for those who come to think about it afterwards.
struct Event {
    client: u64,
    pod: u64,
    deed: Deed,
    from: Duration,
    to: Duration,
    code: Option<i32>,
    said: String,
}

/// xorshift64*: small, and the same on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }
}

fn deed(random: &mut Random) -> Deed {
    match random.below(100) {
        0..22 => Deed::Run,
        22..26 => Deed::RunSameUid,
        26..40 => Deed::Exec,
        40..46 => Deed::ExecCode,
        46..58 => Deed::Logs,
        58..68 => Deed::Get,
        68..76 => Deed::List,
        76..84 => Deed::Delete,
        84..90 => Deed::Kill,
        90..93 => Deed::DeleteNoWait,
        93..96 => Deed::Gc,
        96..98 => Deed::Upgrade,
        _ => Deed::Wait,
    }
}

/// A pod that runs until it is deleted, or one that comes to its end by itself.
fn spec(pod: u64, token: &str, short: bool) -> String {
    let end = if short { "usleep 200000; exit 3" } else { "trap 'exit 0' TERM; while :; do sleep 100 & wait; done" };
    let script = format!("echo begin {token}; echo second {token} >&2; {end}");
    manifest(
        &format!("p{pod}"),
        json!({
            "volumes": [{"name": "v", "emptyDir": {}}],
            "initContainers": [container("init", &format!("echo {token} > /v/token"), json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}))],
            "containers": [container("main", &script, json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}))],
        }),
    )
}

fn with_uid(pod: u64, manifest: &str) -> String {
    let mut value: Value = serde_json::from_str(manifest).expect("JSON");
    value["metadata"]["uid"] = json!(format!("fixed-{pod}"));
    value.to_string()
}

/// Why an answer cannot be right; `None` when it can.
fn wrong(deed: Deed, pod: u64, output: &Output, token: &str) -> Option<String> {
    let (out, err) = (output.out(), output.err());
    let sentences = err.lines().all(|line| line.starts_with("husk: "));
    if !sentences || err.contains("panicked") || err.contains("defect of husk") {
        return Some("said something that is no sentence of husk".into());
    }
    let name = format!("p{pod}");
    let says = |words: &[&str]| words.iter().any(|word| err.contains(word));
    let absent = || says(&["not found in namespace", "is being made"]) && err.contains(&name);
    let failed = |codes: &[i32], words: &[&str]| {
        if !output.code.is_some_and(|code| codes.contains(&code)) {
            return Some(format!("exit code {:?} is not one of {codes:?}", output.code));
        }
        (!(absent() || says(words))).then(|| "failed for no reason that can be".to_owned())
    };
    match (deed, output.code) {
        (Deed::Run | Deed::RunSameUid, Some(0)) => {
            let fine = out == format!("pod/{name} created\n") || out == format!("pod/{name} unchanged\n");
            (!fine).then(|| "run said something else".into())
        }
        // Of a deletion in the middle of a start it may hear the reason or only the effect.
        (Deed::Run | Deed::RunSameUid, _) => failed(
            &[1],
            &["already exists with uid", "belongs to pod", "from another spec", "was deleted", "is being deleted"],
        ),
        (Deed::Exec, Some(0)) => (out != format!("out {token}\n") || err != format!("husk: err {token}\n"))
            .then(|| "exec lost or mixed up its output".into()),
        (Deed::ExecCode, Some(37)) => (!out.is_empty()).then(|| "exec printed what nobody wrote".into()),
        // 137: the pod was killed under it. 143: its stop signal reached it too.
        (Deed::Exec | Deed::ExecCode, Some(137)) => None,
        (Deed::Exec | Deed::ExecCode, _) => failed(
            &[125],
            &[
                "does not run any more",
                "is not running",
                "exec: its supervisor",
                "hear from its supervisor",
                "send the command to its supervisor",
                "just being started or removed",
                "the sandbox is dead",
                "the process that holds them is dead",
                "PID namespace has lost its init",
                "it was killed",
                "was killed before it was released",
            ],
        ),
        (Deed::Logs, Some(0)) => {
            let lines: Vec<&str> = out.lines().collect();
            let fine = lines.iter().all(|line| line.starts_with("begin t") || line.starts_with("second t"))
                && lines.len() <= 2;
            (!fine).then(|| "logs of somebody else, or twice".into())
        }
        (Deed::Logs, _) => failed(
            &[1],
            &["no log", "has not", "was not started", "waiting to start", "not been started", "no such file"],
        ),
        (Deed::Get, Some(0)) => {
            let pod: Value = match serde_json::from_slice(&output.stdout) {
                Ok(pod) => pod,
                Err(e) => return Some(format!("no JSON: {e}")),
            };
            let phase = pod["status"]["phase"].as_str().unwrap_or_default();
            let fine = pod["metadata"]["name"] == name.as_str()
                && matches!(phase, "Pending" | "Running" | "Succeeded" | "Failed");
            (!fine).then(|| format!("a pod in phase {phase:?}"))
        }
        (Deed::Get, _) => failed(&[1], &[]),
        (Deed::List, Some(0)) => {
            let all = out.lines().all(|line| line.starts_with("pod/p"));
            let mut names: Vec<&str> = out.lines().collect();
            names.dedup();
            (!all || names.len() != out.lines().count()).then(|| "a list with a stranger, or a pod twice".into())
        }
        (Deed::List, _) => Some("a list failed".into()),
        (Deed::Delete | Deed::Kill | Deed::DeleteNoWait, Some(0)) => None,
        (Deed::Delete | Deed::Kill | Deed::DeleteNoWait, _) => failed(&[1], &[]),
        (Deed::Gc, Some(0)) => None,
        (Deed::Gc, _) => Some("gc failed".into()),
        (Deed::Upgrade, Some(0)) => {
            (out != format!("pod/{name} upgraded\n")).then(|| "upgrade said something else".into())
        }
        (Deed::Upgrade, _) => failed(&[1], &["does not run any more", "has come to its end"]),
        (Deed::Wait, Some(0)) => None,
        (Deed::Wait, _) => failed(&[1], &["timed out", "waited in vain"]),
    }
}

#[test]
fn twenty_four_clients_on_ten_pods() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let time = Duration::from_secs(number("HUSK_STRESS_SECONDS").unwrap_or(120));
    let seed = number("HUSK_STRESS_SEED").unwrap_or_else(|| u64::from(std::process::id()) + 1);
    println!("HUSK_STRESS_SEED={seed}, {time:?}");
    let host = Host::new();
    let begun = Instant::now();
    let history: Mutex<Vec<Event>> = Mutex::new(Vec::new());
    let complaint: Mutex<Option<(u64, String)>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (host, history, complaint) = (&host, &history, &complaint);
            scope.spawn(move || {
                let mut random = Random((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (client + 1) << 32 | 1);
                let mut serial = 0;
                while begun.elapsed() < time && complaint.lock().expect("no panic").is_none() {
                    let (deed, pod) = (deed(&mut random), random.below(PODS));
                    serial += 1;
                    let token = format!("t{client}.{serial}");
                    let from = begun.elapsed();
                    let output = act(host, deed, pod, &token, random.below(4) == 0);
                    let to = begun.elapsed();
                    let said = format!("{}{}", output.out(), output.err());
                    let said: String = said.chars().take(300).collect();
                    let why = wrong(deed, pod, &output, &token);
                    let mut history = history.lock().expect("no panic");
                    history.push(Event { client, pod, deed, from, to, code: output.code, said });
                    if let Some(why) = why {
                        complaint
                            .lock()
                            .expect("no panic")
                            .get_or_insert((pod, format!("client {client}, {deed:?}: {why}: {output}")));
                    }
                }
            });
        }
    });
    let history = history.into_inner().expect("no panic");
    if let Some((pod, why)) = complaint.into_inner().expect("no panic") {
        panic!("seed {seed}: {why}\n{}", story(&history, pod));
    }
    acknowledged_pods_are_there(&host, &history, seed);
    let count = |deed: Deed| {
        let of = || history.iter().filter(move |event| event.deed == deed);
        format!("{deed:?} {}/{}", of().filter(|event| matches!(event.code, Some(0 | 37))).count(), of().count())
    };
    let deeds = [
        Deed::Run,
        Deed::RunSameUid,
        Deed::Exec,
        Deed::ExecCode,
        Deed::Logs,
        Deed::Get,
        Deed::List,
        Deed::Delete,
        Deed::Kill,
        Deed::DeleteNoWait,
        Deed::Gc,
        Deed::Upgrade,
        Deed::Wait,
    ];
    println!("{} calls; done/asked: {}", history.len(), deeds.map(count).join(", "));
    let slowest = history.iter().max_by_key(|event| event.to - event.from).expect("somebody did something");
    println!("the slowest: {:?} of p{} in {:?}", slowest.deed, slowest.pod, slowest.to - slowest.from);
    // The pods that are left are deleted all at once, by several at once; nothing is left then.
    let calls: Vec<_> =
        (0..4).map(|_| host.job(&["delete", "pods", "--all", "--force"]).patience(PATIENCE).start()).collect();
    for call in calls {
        let output = call.finish();
        assert_eq!(output.code, Some(0), "seed {seed}: {output}");
    }
    host.ok(&["gc"]);
    host.assert_untouched();
}

fn act(host: &Host, deed: Deed, pod: u64, token: &str, short: bool) -> Output {
    let name = format!("p{pod}");
    let call = |args: &[&str]| host.job(args).patience(PATIENCE);
    match deed {
        Deed::Run => call(&["run", "-"]).stdin(spec(pod, token, short)).finish(),
        Deed::RunSameUid => call(&["run", "-"]).stdin(with_uid(pod, &spec(pod, "t", false))).finish(),
        Deed::Exec => {
            // The command says what looks like a sentence of ours, so that all of stderr can be held to one rule.
            let script = format!("echo out {token}; echo husk: err {token} >&2");
            call(&["exec", &name, "--", "/bin/sh", "-c", &script]).finish()
        }
        Deed::ExecCode => call(&["exec", &name, "-c", "main", "--", "/bin/sh", "-c", "exit 37"]).finish(),
        Deed::Logs => call(&["logs", &name, "-c", "main"]).finish(),
        Deed::Get => call(&["get", "pod", &name, "-o", "json"]).finish(),
        Deed::List => call(&["get", "pods", "-o", "name"]).finish(),
        Deed::Delete => call(&["delete", "pod", &name]).finish(),
        Deed::Kill => call(&["delete", "pod", &name, "--force"]).finish(),
        Deed::DeleteNoWait => call(&["delete", "pod", &name, "--wait=false"]).finish(),
        Deed::Gc => call(&["gc"]).finish(),
        Deed::Upgrade => call(&["upgrade", &name]).finish(),
        Deed::Wait => call(&["wait", &name, "--for=condition=Ready", "--timeout=1s"]).finish(),
    }
}

/// A pod that `run` has acknowledged is there, unless somebody asked for its deletion after that (or was about to).
fn acknowledged_pods_are_there(host: &Host, history: &[Event], seed: u64) {
    // Deletions that only have been asked for are still under way.
    wait_for("the last deletions", || {
        let pods = host.ok(&["get", "pods", "-o", "json"]);
        let pods: Value = serde_json::from_slice(&pods.stdout).expect("JSON");
        let pods = pods["items"].as_array().cloned().unwrap_or_else(|| vec![pods]);
        pods.iter().all(|pod| pod["metadata"]["deletionTimestamp"].is_null()).then_some(())
    });
    let there = host.ok(&["get", "pods", "-o", "name"]).out();
    for pod in 0..PODS {
        let of = || history.iter().filter(move |event| event.pod == pod);
        let made =
            of().filter(|e| matches!(e.deed, Deed::Run | Deed::RunSameUid) && e.code == Some(0)).map(|e| e.from).max();
        let Some(made) = made else { continue };
        let deleted = of().any(|e| matches!(e.deed, Deed::Delete | Deed::Kill | Deed::DeleteNoWait) && e.to >= made);
        let is_there = there.lines().any(|line| line == format!("pod/p{pod}"));
        assert!(deleted || is_there, "seed {seed}: p{pod} is gone though nobody deleted it\n{}", story(history, pod));
    }
}

/// The last things that were done to a pod, in the order of their ends.
fn story(history: &[Event], pod: u64) -> String {
    let mut all: Vec<&Event> = history.iter().filter(|e| e.pod == pod || e.deed == Deed::Gc).collect();
    all.sort_by_key(|event| event.to);
    let mut text = format!("the history of p{pod}:\n");
    for Event { client, deed, from, to, code, said, .. } in all.iter().rev().take(40).rev() {
        // Writing to a String can't fail.
        let _ = writeln!(
            text,
            "{from:>12.3?} to {to:>12.3?} client {client:>2} {deed:?} {code:?} {}",
            said.trim().replace('\n', " | ")
        );
    }
    text
}
