//! A container gets other resources while somebody is killed: old or new, in the kernel, the record and what is shown, and never a mix.

use husk::cgroup::Cgroupfs;
use husk::state::record::State;
use serde_json::{Value, json};

use super::play::{Play, entry, first};
use super::tracer::Actor;
use crate::common::merge;

const MIB: u64 = 1 << 20;

/// A server with 32 MiB.
fn limited(play: &Play<'_>, name: &str) -> Value {
    let mut all = play.server(name);
    let amounts = json!({"requests": {"memory": "8Mi"}, "limits": {"memory": "32Mi"}});
    merge(&mut all, json!({"resources": amounts}));
    all
}

/// The memory limit of container `a` in MiB, if all who tell of it agree.
fn agreed(play: &Play<'_>) -> Option<u64> {
    let status = play.status()?;
    let text = std::fs::read(play.pod_dir().join("pod.json")).ok()?;
    let record: husk::state::record::PodRecord = serde_json::from_slice(&text).ok()?;
    let driver = Cgroupfs::detect().ok()?;
    let State::Running { id, .. } = &status.containers[0].state else { return None };
    let limit = |path: &str| driver.usage(path).ok().flatten().and_then(|usage| usage.memory_limit_bytes);
    let own = limit(&format!("{}/{id}", record.cgroup))?;
    let pod = play.json();
    let shown = format!("{}Mi", own / MIB);
    let agree = status.resize.is_none()
        && record.containers[0].limits.memory_limit_bytes == Some(own)
        && limit(&record.cgroup) == Some(own + 32 * MIB)
        && record.sandbox.limits.memory_limit_bytes == Some(own + 32 * MIB)
        && pod["spec"]["containers"][0]["resources"]["limits"]["memory"] == shown
        && entry(&pod, "a")["resources"]["limits"]["memory"] == shown;
    agree.then_some(own / MIB)
}

/// Memory goes up, then down.
pub fn update(play: &Play<'_>) {
    let spec = json!({"restartPolicy": "Always", "containers": [limited(play, "a"), limited(play, "b")]});
    play.set_up(&play.manifest(spec));
    let pids = [play.pid("a"), play.pid("b")];
    let change = |size: u64| ["update".to_owned(), play.name.clone(), "-c=a".to_owned(), format!("--memory={size}Mi")];
    let (up, down) = (change(48), change(16));
    let said = play.calls([&up.each_ref().map(String::as_str), &down.each_ref().map(String::as_str)]);

    if play.doomed() {
        play.ends();
        return play.undisturbed();
    }
    if play.bereft() {
        play.revives(&["a", "b"]);
        play.must(&down.each_ref().map(String::as_str));
        play.within(std::time::Duration::from_secs(3), "16 MiB by all accounts", || agreed(play) == Some(16));
        return play.undisturbed();
    }
    if play.victim() == Some(Actor::Cli) {
        play.within(std::time::Duration::from_secs(3), "old or new, and not a mix", || {
            agreed(play).is_some_and(|size| [32, 48, 16].contains(&size))
        });
        play.must(&down.each_ref().map(String::as_str));
    } else {
        for said in &said {
            play.check(said.code == Some(0), || format!("husk update: {said}"));
        }
    }
    play.check_eq("memory limit in MiB, by all accounts", agreed(play), Some(16));
    play.check_eq("pids", [play.pid("a"), play.pid("b")], pids);
    play.lives(&[first("a"), first("b")]);
    play.check_eq("starts of a", play.count("start a"), 1);
}
