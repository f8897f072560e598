//! A pod that lives gets something else while somebody is killed: another image for a container, one more container and none again.

use std::time::Duration;

use husk::state::record::{PodRecord, State};
use serde_json::{Value, json};

use super::play::{Play, Running, first};
use super::tracer::Actor;
use crate::common::BUSYBOX;
use crate::common::image::Image;

const NEXT: &str = "husk.test/next:1";
const PATIENCE: Duration = Duration::from_secs(5);

/// Container `a` runs with an environment of this image's, and all who tell of it agree.
fn has_image(play: &Play<'_>, image: &str) -> bool {
    let record = std::fs::read(play.pod_dir().join("pod.json")).ok();
    let record = record.and_then(|text| serde_json::from_slice::<PodRecord>(&text).ok());
    let (Some(record), Some(status)) = (record, play.status()) else { return false };
    let is_next = record.containers[0].env.contains(&"OF=next".to_owned());
    let wanted = record.pod.spec.as_ref().and_then(|spec| spec.containers[0].image.as_deref());
    wanted == Some(image)
        && is_next == (image == NEXT)
        && status.containers[0].next.is_none()
        && matches!(status.containers[0].state, State::Running { .. })
}

/// `husk apply` with another image for one of two containers.
pub fn exchange(play: &Play<'_>) {
    exchanged(play);
    let log = std::fs::read_to_string(play.pod_dir().join("supervisor.log")).unwrap_or_default();
    play.check(!log.contains("panicked"), || format!("a supervisor panicked: {log}"));
    // Others count the images of this host.
    play.husk(&["delete", "pod", &play.name, "--force"]);
    play.must(&["image", "rm", NEXT]);
}

fn exchanged(play: &Play<'_>) {
    let archive = Image::on_busybox(NEXT).set("Env", json!(["OF=next"])).write(&play.witness.join("next.tar"));
    play.host.load(&archive);
    let with = |image: &str| -> String {
        let mut a: Value = play.server("a");
        a["image"] = json!(image);
        play.manifest(json!({"restartPolicy": "Always", "containers": [a, play.server("b")]}))
    };
    play.set_up(&with(BUSYBOX));
    let other = play.pid("b");
    play.arm();
    let said = play.watched(&["apply", "-f", "-"]).stdin(with(NEXT)).finish();
    if said.code == Some(0) {
        play.until("the next instance", || has_image(play, NEXT));
    }
    play.rest();
    play.tracer(|tracer| tracer.disarm());

    if play.doomed() && said.out().contains("created") {
        // It had ended before anybody looked, and its manifest was for a pod that is not there.
        return play.lives(&[first("a"), first("b")]);
    }
    if play.doomed() {
        play.ends();
        return play.undisturbed();
    }
    if play.bereft() || play.victim() == Some(Actor::Cli) {
        // Who asked may have died before it had asked, and the sandbox before it could be answered.
        play.within(PATIENCE, "one image or the other, and not a mix", || {
            has_image(play, NEXT) || has_image(play, BUSYBOX)
        });
        let again = play.host.job(&["apply", "-f", "-"]).stdin(with(NEXT)).finish();
        play.check(again.code == Some(0), || format!("husk apply, once more: {again}"));
        play.within(PATIENCE, "the next image by all accounts", || has_image(play, NEXT));
        if play.bereft() {
            play.revives(&["a", "b"]);
            return play.undisturbed();
        }
    } else {
        play.check(said.code == Some(0), || format!("husk apply: {said}"));
        play.within(PATIENCE, "the next image by all accounts", || has_image(play, NEXT));
    }
    play.check_eq("pid of b", play.pid("b"), other);
    let attempt = play.status().map_or(0, |status| status.containers[0].attempt);
    // A command line that died when the wish was written, and was called again, may have had it started once more.
    let most = if play.victim() == Some(Actor::Cli) { 2 } else { 1 };
    play.check((1..=most).contains(&attempt), || format!("restarts of a: {attempt}"));
    play.lives(&[Running { container: "a", attempt }, first("b")]);
    let starts = usize::try_from(attempt).unwrap_or(0) + 1;
    play.within(PATIENCE, "the last instance's first word", || play.count("start a") == starts);
    play.check_eq("starts of b", play.count("start b"), 1);
}

/// `husk debug` adds a container and takes it away.
pub fn debug(play: &Play<'_>) {
    play.set_up(&play.manifest(json!({"restartPolicy": "Always", "containers": [play.server("a")]})));
    let add = ["debug", &play.name, "--image", BUSYBOX, "--name", "d", "--", "sleep", "1000"];
    let remove = ["debug", &play.name, "--remove", "d"];
    let [added, removed] = play.calls([&add, &remove]);

    if play.doomed() {
        play.ends();
        return play.undisturbed();
    }
    let is_there = || play.status().is_some_and(|status| status.containers.iter().any(|c| c.name == "d"));
    if play.bereft() || play.victim() == Some(Actor::Cli) {
        if is_there() {
            play.must(&remove);
        }
    } else {
        play.check(added.code == Some(0), || format!("husk debug: {added}"));
        play.check(removed.code == Some(0), || format!("husk debug --remove: {removed}"));
    }
    play.within(PATIENCE, "the added container to be gone", || !is_there());
    if play.bereft() {
        play.revives(&["a"]);
        return play.undisturbed();
    }
    play.lives(&[first("a")]);
    play.check_eq("starts of a", play.count("start a"), 1);
}
