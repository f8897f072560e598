//! The scenarios: what is done while somebody is killed, and what must be true afterwards.
//!
//! The rule behind all checks: the death of the command line or of the supervisor is noticed by nobody, but that a command line that was killed cannot say
//! what it did, and that doing it again is then right. The death of keeper ends the pod, wholly and at once, and the pod can be run again. The death of pause does the same to
//! its containers; a pod that was up begins anew in another sandbox, unless it restarts nothing.

use std::fs;
use std::time::{Duration, Instant};

use husk::state::record::State;
use serde_json::json;

use super::play::{Play, Running, entry, first};
use super::tracer::{ACTORS, Actor, Pair};
use crate::common::image::{self, Archive, Image};
use crate::common::outside::alive;
use crate::common::run::Output;
use crate::common::{BUSYBOX, scaled};

/// A scenario by its name.
pub struct Scenario {
    /// For `--scenario`.
    pub name: &'static str,
    /// Who is killed in it, and by whose clock.
    pub pairs: fn() -> Vec<Pair>,
    /// About how long one run takes, in seconds; the points of a sample are chosen by it.
    pub cost: f64,
    /// Plays it.
    pub play: fn(&Play<'_>),
}

/// All of them.
pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "run", pairs: everybody, cost: 0.5, play: run },
    Scenario { name: "restart", pairs: but_the_cli, cost: 0.5, play: restart },
    Scenario { name: "backoff", pairs: but_the_cli, cost: 0.5, play: backoff },
    Scenario { name: "exec", pairs: everybody, cost: 0.5, play: exec },
    Scenario { name: "delete", pairs: everybody, cost: 3.0, play: delete },
    Scenario { name: "delete-force", pairs: everybody, cost: 0.4, play: delete_force },
    Scenario { name: "update", pairs: everybody, cost: 0.6, play: super::update::update },
    Scenario { name: "exchange", pairs: everybody, cost: 0.8, play: super::change::exchange },
    Scenario { name: "debug", pairs: everybody, cost: 0.8, play: super::change::debug },
    Scenario { name: "copy", pairs: everybody, cost: 0.5, play: super::reach::copy },
    Scenario { name: "attach", pairs: everybody, cost: 0.5, play: super::reach::attach },
    Scenario { name: "hooks", pairs: but_the_cli, cost: 0.7, play: hooks },
    Scenario { name: "delete-hooks", pairs: but_the_cli, cost: 0.8, play: delete_hooks },
    // Most of its points are the same few calls for another portion.
    Scenario { name: "logs", pairs: but_the_cli, cost: 2.0, play: logs },
    Scenario { name: "gc", pairs: the_cli, cost: 0.5, play: gc },
    Scenario { name: "run-again", pairs: the_cli, cost: 0.5, play: run_again },
    Scenario { name: "image-load", pairs: the_cli, cost: 0.4, play: image_load },
    Scenario { name: "image-import", pairs: the_cli, cost: 0.4, play: image_import },
    Scenario { name: "image-rm", pairs: the_cli, cost: 0.4, play: image_rm },
];

fn pairs(victims: &[Actor], clocks: &[Actor]) -> Vec<Pair> {
    victims.iter().flat_map(|victim| clocks.iter().map(|clock| Pair { victim: *victim, clock: *clock })).collect()
}

/// Everybody, by everybody's clock.
fn everybody() -> Vec<Pair> {
    pairs(&ACTORS, &ACTORS)
}

/// The same where no command line has a part.
fn but_the_cli() -> Vec<Pair> {
    pairs(&ACTORS[1..], &ACTORS[1..])
}

/// Where nobody else has a part.
fn the_cli() -> Vec<Pair> {
    pairs(&[Actor::Cli], &[Actor::Cli])
}

/// What the events of [`run`]'s pod must be: init containers one after the other, each once, then the others, each once.
fn init_order(play: &Play<'_>, complete: bool) {
    in_order(play, &play.events(), complete);
}

/// The same of a pod that has begun anew, which may have been at any moment.
fn init_order_anew(play: &Play<'_>) {
    let events = play.events();
    let begins = events.iter().rposition(|e| e == "start i1").unwrap_or(0);
    in_order(play, &events[..begins], false);
    in_order(play, &events[begins..], true);
}

fn in_order(play: &Play<'_>, events: &[String], complete: bool) {
    let order = ["start i1", "end i1", "start i2", "end i2"];
    let (init, rest): (Vec<_>, Vec<_>) = events.iter().map(String::as_str).partition(|e| e.contains(" i"));
    play.check(order.starts_with(&init), || format!("init containers: {events:?}"));
    play.check(init.len() == 4 || rest.is_empty(), || {
        format!("a container before the init containers' end: {events:?}")
    });
    for name in ["start a", "start b"] {
        let count = rest.iter().filter(|e| **e == name).count();
        play.check(count <= 1 && (count == 1 || !complete), || format!("{name}: {count} times in {events:?}"));
    }
}

/// A pod with two init containers and two others comes up.
fn run(play: &Play<'_>) {
    let init = |name: &str| play.container(name, &format!("note end; echo done {name} >&2"));
    let spec = json!({
        "restartPolicy": "Always",
        "initContainers": [init("i1"), init("i2")],
        "containers": [play.server("a"), play.server("b")],
    });
    let manifest = play.manifest(spec);
    let all = [first("a"), first("b")];
    play.arm();
    let said = play.watched(&["run", "-"]).stdin(manifest.clone()).finish();
    play.until("the pod runs", || play.all_run(&all) || said.code != Some(0));

    if play.bereft() && said.code == Some(0) {
        play.revives(&["a", "b"]);
        play.undisturbed();
        return init_order_anew(play);
    }
    if play.doomed() || play.bereft() {
        play.ends();
        init_order(play, false);
        play.undisturbed();
        refused_or_recorded(play, &said);
        play.must(&["delete", &play.name, "--ignore-not-found"]);
        play.forget();
        play.again(&manifest, &all);
        return init_order(play, true);
    }
    if play.victim() != Some(Actor::Cli) {
        play.check(said.code == Some(0), || format!("husk run: {said}"));
    }
    if said.code != Some(0) {
        // Whether there is a pod or not, the same call makes it right.
        play.again(&manifest, &all);
    } else {
        play.lives(&all);
    }
    init_order(play, true);
    for name in ["i1", "i2"] {
        play.logged(name, &[], &format!("hello from {name}\ndone {name}\n"));
        let state = entry(&play.json(), name)["state"]["terminated"].clone();
        play.check(state["exitCode"] == 0 && state["reason"] == "Completed", || format!("{name} ended as {state}"));
    }
    for name in ["a", "b"] {
        play.logged(name, &[], &format!("hello from {name}\n"));
    }
}

/// A `husk run` whose pod was killed: it failed and left nothing, or it was done before and the pod is there, ended.
fn refused_or_recorded(play: &Play<'_>, said: &Output) {
    match said.code {
        Some(0) => {
            play.check(play.pod_dir().exists(), || "husk run said 0, and there is no record of the pod".to_owned())
        }
        Some(1) => play.is_gone(),
        _ => play.violation(format!("husk run: {said}")),
    }
}

/// Shell: waits for a file in `/w`.
pub fn await_file(name: &str) -> String {
    format!("while [ ! -e /w/{name} ]; do usleep 1000; done; ")
}

/// Makes a file in `/w`.
pub fn tell(play: &Play<'_>, name: &str) {
    fs::write(play.witness.join(name), b"").expect("write a file of ours");
}

/// A container crashes for the first time and is started again at once; another one is not concerned.
fn restart(play: &Play<'_>) {
    let flaky = format!(
        "trap 'note TERM; exit 0' TERM; if [ ! -e /w/first ]; then : >/w/first; {} note crash; echo words >/dev/termination-log; exit 7; fi; while :; do sleep 1000 & wait $!; done",
        await_file("go")
    );
    let spec =
        json!({"restartPolicy": "Always", "containers": [play.container("flaky", &flaky), play.server("steady")]});
    play.set_up(&play.manifest(spec));
    let steady = play.pid("steady");
    let expected = [Running { container: "flaky", attempt: 1 }, first("steady")];
    play.arm();
    tell(play, "go");
    play.until("the container runs again", || play.all_run(&expected));

    if play.bereft() {
        // The other one may have crashed twice in all, and waits.
        return play.revives(&["steady"]);
    }
    play.check(play.count("crash flaky") <= 1, || format!("crashed more than once: {:?}", play.events()));
    if play.doomed() {
        play.ends();
        return play.undisturbed();
    }
    play.lives(&expected);
    play.check_eq("starts of flaky", play.count("start flaky"), 2);
    play.check_eq("starts of steady", play.count("start steady"), 1);
    play.check_eq("pid of steady", play.pid("steady"), steady);
    let status = entry(&play.json(), "flaky");
    play.check_eq("lastState's exit code", &status["lastState"]["terminated"]["exitCode"], &json!(7));
    play.check_eq("lastState's message", &status["lastState"]["terminated"]["message"], &json!("words\n"));
    play.check_eq("restartCount", &status["restartCount"], &json!(1));
    play.logged("flaky", &[], "hello from flaky\n");
    play.logged("flaky", &["--previous"], "hello from flaky\n");
    not_postponed(play, 0);
}

/// A container crashes for the second time, and waits for ten seconds.
fn backoff(play: &Play<'_>) {
    let script = format!("{} note crash; echo crash >&2; exit 9", await_file("go"));
    let mut flaky = play.container("flaky", &script);
    flaky["terminationMessagePolicy"] = json!("FallbackToLogsOnError");
    let spec = json!({"restartPolicy": "Always", "containers": [flaky, play.server("steady")]});
    play.set_up(&play.manifest(spec));
    play.arm();
    tell(play, "go");
    let waits = || {
        play.status().is_some_and(|status| {
            matches!(&status.containers[0].state, State::Waiting { reason, .. } if reason == "CrashLoopBackOff")
        })
    };
    play.until("the container waits for its next start", waits);

    if play.bereft() {
        return play.revives(&["steady"]);
    }
    if play.doomed() {
        play.ends();
        play.check(play.count("start flaky") <= 2, || format!("started too often: {:?}", play.events()));
        return play.undisturbed();
    }
    play.within(Duration::from_secs(5), "the container waits for its next start", waits);
    play.lives(&[first("steady")]);
    play.check_eq("crashes", play.count("crash flaky"), 2);
    play.check_eq("starts", play.count("start flaky"), 2);
    let status = entry(&play.json(), "flaky");
    play.check_eq("restartCount", &status["restartCount"], &json!(1));
    play.check_eq("lastState's exit code", &status["lastState"]["terminated"]["exitCode"], &json!(9));
    let said = json!("hello from flaky\ncrash\n");
    play.check_eq("lastState's message", &status["lastState"]["terminated"]["message"], &said);
    play.logged("flaky", &[], "hello from flaky\ncrash\n");
    play.logged("flaky", &["--previous"], "hello from flaky\ncrash\n");
    not_postponed(play, 10_000);
}

/// The first container's back-off has this length and begins with its last exit: neither doubled nor lost nor begun anew.
fn not_postponed(play: &Play<'_>, delay_ms: u64) {
    let Some(status) = play.status() else { return };
    let c = &status.containers[0];
    let (Some(exit), Some(backoff)) = (&c.last, &c.backoff) else {
        return play.violation(format!("no exit or no back-off in the record: {c:?}"));
    };
    play.check_eq("back-off", backoff.delay_ms, delay_ms);
    play.check_eq("end of the back-off", backoff.updated_boot_ns, exit.finished_boot_ns + delay_ms * 1_000_000);
}

/// A command in a container, with output on both streams and an exit code.
fn exec(play: &Play<'_>) {
    play.set_up(&play.manifest(json!({"restartPolicy": "Always", "containers": [play.server("a"), play.server("b")]})));
    let lines: String = (1..=3000).map(|i| format!("{i}\n")).collect();
    let script = "echo ran >>/w/events; echo err >&2; seq 1 3000; exit 41";
    let marker = play.marker("exec");
    play.arm();
    let said = play.watched(&["exec", &play.name, "-c", "a", "--", "sh", "-c", script, &marker]).finish();
    play.rest();
    play.tracer(|tracer| tracer.disarm());

    let whole = said.code == Some(41) && said.out() == lines && said.err() == "err\n";
    play.check(play.count("ran") <= 1, || format!("the command ran more than once: {:?}", play.events()));
    match play.victim() {
        None | Some(Actor::Supervisor) => {
            play.check(whole, || format!("husk exec: {said}"));
            play.check_eq("runs of the command", play.count("ran"), 1);
        }
        Some(Actor::Cli) => {}
        // The command may have been over, or it died with the pod: then no success and no code of its own.
        Some(Actor::Keeper | Actor::Pause) => {
            play.check(whole || matches!(said.code, Some(125 | 137)), || format!("husk exec: {said}"));
            return if play.bereft() { play.revives(&["a", "b"]) } else { play.ends() };
        }
    }
    play.within(Duration::from_secs(3), "the command is over", || {
        !play.anybody().iter().any(|pid| crate::common::outside::cmdline(*pid).contains(&marker))
    });
    play.lives(&[first("a"), first("b")]);
    play.check_eq("starts of a", play.count("start a"), 1);
}

/// How much later than its deadline a container may die, with the start of a new supervisor in between.
const LATE: Duration = Duration::from_millis(800);
const GRACE: Duration = Duration::from_secs(2);

/// A pod is deleted: one container goes when it is asked to, another one has to be killed at the end of its grace.
fn delete(play: &Play<'_>) {
    let slow = "trap 'note TERM; usleep 200000; note bye; exit 0' TERM; while :; do sleep 1000 & wait $!; done";
    let deaf = "trap 'note TERM' TERM; while :; do sleep 1000 & wait $!; done";
    let spec =
        json!({"restartPolicy": "Always", "containers": [play.container("slow", slow), play.container("deaf", deaf)]});
    play.set_up(&play.manifest(spec));
    let deaf = play.pid("deaf").expect("it runs");
    play.arm();
    let asked = Instant::now();
    let deletion = play.watched(&["delete", &play.name, "--grace-period=2"]).start();
    play.until("the deaf one is dead", || !alive(deaf));

    if play.doomed() || play.bereft() {
        let said = deletion.finish();
        play.ends();
        play.check(said.code == Some(0), || format!("husk delete: {said}"));
        return play.is_gone();
    }
    let mut since = asked;
    if play.victim() == Some(Actor::Cli) {
        deletion.finish();
        let recorded = || !play.pod_dir().exists() || play.status().is_some_and(|status| status.deletion.is_some());
        let deadline = Instant::now() + scaled(Duration::from_millis(300));
        while !recorded() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        if !recorded() {
            // It was killed before it could ask: nothing has happened.
            play.check_eq("events", play.count("TERM slow") + play.count("TERM deaf"), 0);
            play.lives(&[first("slow"), first("deaf")]);
            since = Instant::now();
            play.must(&["delete", &play.name, "--wait=false", "--grace-period=2"]);
        }
        dies_in_time(play, deaf, since);
        play.within(Duration::from_secs(5), "the pod is gone", || !play.pod_dir().exists());
        play.must(&["delete", &play.name, "--ignore-not-found"]);
        play.ends();
        play.is_gone();
    } else {
        dies_in_time(play, deaf, since);
        let said = deletion.finish();
        play.check(said.code == Some(0), || format!("husk delete: {said}"));
        play.is_gone();
    }
    for event in ["TERM slow", "bye slow", "TERM deaf"] {
        play.check_eq(event, play.count(event), 1);
    }
    play.undisturbed();
}

fn dies_in_time(play: &Play<'_>, pid: i32, since: Instant) {
    play.within(GRACE + Duration::from_secs(3), "the deaf container is dead", || !alive(pid));
    let lived = since.elapsed();
    play.check(lived >= GRACE && lived < GRACE + scaled(LATE), || {
        format!("killed after {lived:?}, its grace is {GRACE:?}")
    });
}

/// A pod is deleted without grace.
fn delete_force(play: &Play<'_>) {
    play.set_up(&play.manifest(json!({"restartPolicy": "Always", "containers": [play.server("a"), play.server("b")]})));
    play.arm();
    let said = play.watched(&["delete", &play.name, "--force"]).finish();
    play.rest();
    play.tracer(|tracer| tracer.disarm());

    if play.victim() == Some(Actor::Cli) {
        play.check(play.count("TERM a") + play.count("TERM b") == 0, || "a forced deletion asked first".to_owned());
        if play.status().is_some_and(|status| status.deletion.is_none()) {
            play.lives(&[first("a"), first("b")]);
        }
        play.must(&["delete", &play.name, "--force", "--ignore-not-found"]);
        // The first one's wish may have been done but for keeper's last step when the second one found nothing.
        play.ends();
    } else {
        play.check(said.code == Some(0), || format!("husk delete: {said}"));
    }
    play.is_gone();
}

/// A pod with a sidecar, and a container with hooks before another one.
fn hooked(play: &Play<'_>) -> String {
    let hook = |word: &str| {
        let script = format!("echo {word} begins >>/w/events; usleep 50000; echo {word} ends >>/w/events");
        json!({"exec": {"command": ["/bin/sh", "-c", script, play.marker("hook")]}})
    };
    let mut side = play.server("side");
    side["restartPolicy"] = json!("Always");
    let mut a = play.server("a");
    a["lifecycle"] = json!({"postStart": hook("postStart"), "preStop": hook("preStop")});
    play.manifest(json!({
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": 10,
        "initContainers": [side],
        "containers": [a, play.server("b")],
    }))
}

/// The events come in this order, each once; others do not count.
fn ordered(play: &Play<'_>, order: &[&str]) {
    let events = play.events();
    let seen: Vec<&str> = events.iter().map(String::as_str).filter(|e| order.contains(e)).collect();
    play.check(seen == order, || format!("{order:?} are {events:?}"));
}

/// It comes up: the next one waits for a hook, and a hook is begun once.
fn hooks(play: &Play<'_>) {
    let manifest = hooked(play);
    let all = [first("side"), first("a"), first("b")];
    play.arm();
    let said = play.watched(&["run", "-"]).stdin(manifest.clone()).finish();
    play.until("the pod runs", || play.all_run(&all) || said.code != Some(0));

    if play.bereft() && said.code == Some(0) {
        play.revives(&["side", "a", "b"]);
        return play.undisturbed();
    }
    if play.doomed() || play.bereft() {
        play.ends();
        play.undisturbed();
        refused_or_recorded(play, &said);
        play.must(&["delete", &play.name, "--ignore-not-found"]);
        play.forget();
        play.again(&manifest, &all);
    } else {
        play.check(said.code == Some(0), || format!("husk run: {said}"));
        play.lives(&all);
    }
    // A container is running before it has said anything.
    play.within(Duration::from_secs(3), "the last one has begun", || play.count("start b") == 1);
    ordered(play, &["postStart begins", "postStart ends", "start b"]);
    for event in ["start side", "start a"] {
        play.check_eq(event, play.count(event), 1);
    }
}

/// It is deleted: the hook is before the signal, the sidecar is the last.
fn delete_hooks(play: &Play<'_>) {
    play.set_up(&hooked(play));
    play.within(Duration::from_secs(5), "all run", || play.count("start b") == 1);
    play.arm();
    let said = play.watched(&["delete", &play.name]).finish();
    play.rest();
    play.tracer(|tracer| tracer.disarm());

    play.check(said.code == Some(0), || format!("husk delete: {said}"));
    play.ends();
    play.is_gone();
    play.undisturbed();
    if !play.doomed() && !play.bereft() {
        ordered(play, &["preStop begins", "preStop ends", "TERM a", "TERM side"]);
        ordered(play, &["TERM b", "TERM side"]);
    }
}

/// A container prints quickly on both streams and ends, and with it the pod.
fn logs(play: &Play<'_>) {
    const LINES: u32 = 2000;
    let script = format!(
        "{} i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); echo line $i || note EPIPE; done; printf rest; exit 5",
        await_file("go")
    );
    let errors = format!(
        "{} i=0; while [ $i -lt 300 ]; do i=$((i+1)); echo error $i >&2 || note EPIPE; done; exit 6",
        await_file("go")
    );
    play.set_up(
        &play.manifest(json!({"containers": [play.container("out", &script), play.container("err", &errors)]})),
    );
    play.arm();
    tell(play, "go");
    let finished = || play.status().is_some_and(|status| status.finished_at.is_some());
    play.until("the pod has ended", || finished() && play.keepers().is_empty());

    // Its policy is Never.
    if play.doomed() || play.bereft() {
        play.ends();
        return play.undisturbed();
    }
    play.within(Duration::from_secs(10), "the pod has ended", || finished() && play.keepers().is_empty());
    play.ends();
    play.undisturbed();
    let pod = play.json();
    play.check_eq("status.phase", &pod["status"]["phase"], &json!("Failed"));
    for (name, code) in [("out", 5), ("err", 6)] {
        let status = entry(&pod, name);
        let ended = &status["state"]["terminated"];
        play.check(ended["exitCode"] == code && ended["signal"].is_null(), || format!("{name} ended as {status}"));
        play.check_eq("starts", play.count(&format!("start {name}")), 1);
    }
    let numbered = |word: &str, last: u32| (1..=last).map(|i| format!("{word} {i}\n")).collect::<String>();
    play.logged("out", &[], &format!("hello from out\n{}rest", numbered("line", LINES)));
    play.logged("err", &[], &format!("hello from err\n{}", numbered("error", 300)));
}

/// A pod whose keeper is dead.
fn dead_pod(play: &Play<'_>) -> String {
    let manifest = play.manifest(json!({
        "restartPolicy": "Always",
        "volumes": [{"name": "w", "hostPath": {"path": play.witness}}, {"name": "scratch", "emptyDir": {}}],
        "containers": [play.server("a"), play.server("b")],
    }));
    play.set_up(&manifest);
    for keeper in play.keepers() {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(keeper), nix::sys::signal::Signal::SIGKILL)
            .expect("kill keeper");
    }
    play.ends();
    play.forget();
    manifest
}

/// A dead pod is collected beside a living one.
fn gc(play: &Play<'_>) {
    let manifest = dead_pod(play);
    let bystander = "bystander";
    let output =
        play.host.try_run(&crate::common::manifest(bystander, json!({"containers": [crate::common::sleeper("a")]})));
    assert_eq!(output.code, Some(0), "the bystander: {output}");
    let pid = play.host.pod(bystander).pid("a");
    play.arm();
    let said = play.watched(&["gc"]).finish();
    play.tracer(|tracer| tracer.disarm());
    if play.victim().is_none() {
        play.check(said.code == Some(0), || format!("husk gc: {said}"));
        play.is_gone();
    }
    play.must(&["gc"]);
    play.is_gone();
    play.check(alive(pid), || "a living pod was collected".to_owned());
    play.again(&manifest, &[first("a"), first("b")]);
    play.must(&["delete", bystander, "--force"]);
}

/// A dead pod is run again, which collects it first.
fn run_again(play: &Play<'_>) {
    let manifest = dead_pod(play);
    let all = [first("a"), first("b")];
    play.arm();
    let said = play.watched(&["run", "-"]).stdin(manifest.clone()).finish();
    play.until("the pod runs", || said.code != Some(0) || play.all_run(&all));
    if play.victim().is_none() {
        play.check(said.code == Some(0), || format!("husk run: {said}"));
    }
    if said.code == Some(0) {
        play.lives(&all);
    } else {
        play.again(&manifest, &all);
    }
    play.check_eq("starts of a", play.count("start a"), 1);
}

/// The smallest root file system that shows [`CONTENT`]; with that file, or for a layer that brings it.
fn small_root(with_content: bool) -> Archive {
    let mut root = Archive::default();
    root.dir("bin", 0o755);
    root.file("bin/busybox", 0o755, &fs::read(image::find_busybox()).expect("read busybox"));
    root.link("bin/sh", "busybox");
    root.link("bin/cat", "busybox");
    for dir in ["proc", "sys", "dev", "etc"] {
        root.dir(dir, 0o755);
    }
    if with_content {
        root.file("etc/content", 0o644, CONTENT.as_bytes());
    }
    root
}

/// By this an image is known to be whole.
const CONTENT: &str = "as it was packed\n";

/// An image of two small layers.
fn small_image(name: &str) -> Image {
    let mut top = Archive::default();
    top.dir("etc", 0o755);
    top.file("etc/content", 0o644, CONTENT.as_bytes());
    Image::new(name).layer(small_root(false).finish()).layer(top.finish())
}

/// Names of the images in the store, by `husk image ls`.
fn images(play: &Play<'_>) -> Vec<String> {
    let mut names: Vec<String> = play.must(&["image", "ls", "-o", "name"]).out().lines().map(str::to_owned).collect();
    names.sort();
    names
}

/// A pod of the image runs and shows its content; the image goes again, and the store is as it was.
fn usable(play: &Play<'_>, image: &str, before: &[String]) {
    let mut container = play.container("show", "");
    container["image"] = json!(image);
    container["command"] = json!(["/bin/sh", "-c", "cat /etc/content", play.marker("show")]);
    let output = play.host.try_run(&play.manifest(json!({"containers": [container]})));
    play.check(output.code == Some(0), || format!("run a pod of the image: {output}"));
    if output.code == Some(0) {
        play.within(Duration::from_secs(5), "the pod has ended", || {
            play.status().is_some_and(|s| s.finished_at.is_some())
        });
        play.logged("show", &[], CONTENT);
        play.must(&["delete", &play.name]);
    }
    play.must(&["image", "rm", image]);
    play.check_eq("images after all", images(play), before.to_vec());
    as_before(play);
}

/// Nothing is below `images/` but what the one image of the host needs.
fn as_before(play: &Play<'_>) {
    for dir in ["layers", "configs"] {
        let count = fs::read_dir(play.host.root.join("images").join(dir)).into_iter().flatten().count();
        play.check_eq(&format!("entries in images/{dir}"), count, 1);
    }
}

/// What a call that stores an image has said and done, and that it can be done again.
fn stored(play: &Play<'_>, said: &Output, image: &str, before: &[String], args: &[&str]) {
    let now = images(play);
    let has = now.iter().any(|name| name == image);
    if play.victim().is_none() {
        play.check(said.code == Some(0), || format!("husk {args:?}: {said}"));
    }
    let acknowledged = said.code == Some(0) || said.out().contains("loaded");
    play.check(has || !acknowledged, || format!("it was said to be loaded, and is not there: {now:?}"));
    play.check(now.iter().any(|name| name == BUSYBOX), || format!("another image is gone: {now:?}"));
    if !has {
        play.must(&["gc"]);
        as_before(play);
        play.must(args);
    }
    usable(play, image, before);
}

/// An image is loaded from an archive.
fn image_load(play: &Play<'_>) {
    const NAME: &str = "husk.test/small:1";
    let archive = small_image(NAME).write(&play.witness.join("image.tar"));
    let archive = archive.to_str().expect("temp paths are UTF-8").to_owned();
    let before = images(play);
    let args = ["image", "load", archive.as_str()];
    play.arm();
    let said = play.watched(&args).finish();
    play.tracer(|tracer| tracer.disarm());
    stored(play, &said, NAME, &before, &args);
}

/// A root file system becomes an image.
fn image_import(play: &Play<'_>) {
    const NAME: &str = "husk.test/imported:1";
    let path = play.witness.join("rootfs.tar");
    fs::write(&path, small_root(true).finish()).expect("write an archive");
    let before = images(play);
    let args = ["image", "import", path.to_str().expect("temp paths are UTF-8"), NAME];
    play.arm();
    let said = play.watched(&args).finish();
    play.tracer(|tracer| tracer.disarm());
    stored(play, &said, NAME, &before, &args);
}

/// An image is removed.
fn image_rm(play: &Play<'_>) {
    const NAME: &str = "husk.test/small:1";
    let archive = small_image(NAME).write(&play.witness.join("image.tar"));
    let archive = archive.to_str().expect("temp paths are UTF-8");
    let before = images(play);
    play.host.load(std::path::Path::new(archive));
    play.arm();
    let said = play.watched(&["image", "rm", NAME]).finish();
    play.tracer(|tracer| tracer.disarm());
    let has = images(play).iter().any(|name| name == NAME);
    if play.victim().is_none() {
        play.check(said.code == Some(0), || format!("husk image rm: {said}"));
    }
    play.check(!has || said.code != Some(0), || "it was said to be removed, and is still there".to_owned());
    if has {
        return usable(play, NAME, &before);
    }
    play.must(&["gc"]);
    play.check_eq("images after all", images(play), before);
    as_before(play);
}
