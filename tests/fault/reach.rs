//! Somebody reaches into a pod that lives while somebody is killed: files go in and out, a terminal listens.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::play::{Play, entry, first};
use super::tracer::Actor;

const PATIENCE: Duration = Duration::from_secs(5);

/// What a copy that was killed may leave where it wrote.
const DRAFT: &str = ".husk-cp-";

/// `husk cp` replaces a file in a container, and fetches it.
pub fn copy(play: &Play<'_>) {
    play.set_up(&play.manifest(json!({"restartPolicy": "Always", "containers": [play.server("a")]})));
    let (old, new) = ("old\n".repeat(30_000), "the new one\n".repeat(30_000));
    let path = |name: &str| play.witness.join(name).into_os_string().into_string().expect("temp paths are UTF-8");
    fs::write(path("old"), &old).expect("write a file of ours");
    fs::write(path("new"), &new).expect("write a file of ours");
    let inside = format!("{}:/srv/file", play.name);
    let (put, back) = (["cp", &path("new"), &inside], ["cp", &inside, &path("back")]);
    play.must(&["cp", &path("old"), &inside]);
    let said = play.calls([&put, &back]);

    if play.doomed() {
        play.ends();
        return play.undisturbed();
    }
    if play.bereft() {
        play.revives(&["a"]);
    } else {
        play.lives(&[first("a")]);
        if play.victim() == Some(Actor::Cli) {
            let there = content(play);
            play.check(there == old || there == new, || format!("neither old nor new, but {} bytes", there.len()));
            let here = fs::read_to_string(path("back")).unwrap_or_default();
            play.check(["", &old, &new].contains(&&*here), || format!("fetched {} bytes", here.len()));
        } else {
            said.iter().for_each(|said| play.check(said.code == Some(0), || format!("husk cp: {said}")));
        }
    }
    // Whatever happened: doing it again is right.
    play.must(&put);
    play.must(&back);
    play.check(content(play) == new, || "the file inside is not the new one".to_owned());
    let back = fs::read_to_string(path("back")).unwrap_or_default();
    play.check(back == new, || "the file that was fetched is not the new one".to_owned());
    let drafts = [play.witness.clone(), root(play).join("srv")].map(|dir| drafts(&dir));
    let killed = usize::from(play.victim() == Some(Actor::Cli));
    play.check(drafts.iter().sum::<usize>() <= killed, || format!("drafts outside and inside: {drafts:?}"));
    play.undisturbed();
}

/// The root of the container as it sees it.
fn root(play: &Play<'_>) -> std::path::PathBuf {
    Path::new("/proc").join(play.pid("a").unwrap_or(0).to_string()).join("root")
}

fn content(play: &Play<'_>) -> String {
    fs::read_to_string(root(play).join("srv/file")).unwrap_or_default()
}

fn drafts(dir: &Path) -> usize {
    let names = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.filter(|name| name.to_string_lossy().starts_with(DRAFT)).count()
}

/// `husk attach` says a word to a container, hears all that follows from it, and how it ends.
pub fn attach(play: &Play<'_>) {
    let lines: String = (1..=3000).map(|i| format!("{i}\n")).collect();
    let mut listener = play.container("a", "read word; note $word; seq 1 3000; exit 41");
    listener["stdin"] = json!(true);
    play.set_up(&play.manifest(json!({"containers": [listener]})));
    let attach = ["attach", "-i", &play.name];
    play.arm();
    let said = play.watched(&attach).stdin("go\n").finish();
    play.rest();
    play.tracer(|tracer| tracer.disarm());

    let whole = said.code == Some(41) && said.out() == lines && said.err().is_empty();
    match play.victim() {
        None | Some(Actor::Supervisor) => play.check(whole, || format!("husk attach: {said}")),
        Some(Actor::Cli) => {
            std::thread::sleep(Duration::from_millis(100));
            if play.count("go a") == 0 {
                // It died before it had said anything.
                let again = play.host.job(&attach).stdin("go\n").finish();
                play.check(again.code == Some(41) && again.out() == lines, || format!("husk attach, again: {again}"));
            }
        }
        // The container may have been over, or it died with the pod: then no success and no code of its own.
        Some(Actor::Keeper | Actor::Pause) => {
            play.check(whole || matches!(said.code, Some(125 | 137)), || format!("husk attach: {said}"));
            play.ends();
            return play.undisturbed();
        }
    }
    let ended = || play.json()["status"]["phase"] == "Failed";
    if play.within(PATIENCE, "the end of the pod", ended) {
        let status = entry(&play.json(), "a");
        play.check_eq("exit code", &status["state"]["terminated"]["exitCode"], &json!(41));
    }
    play.check_eq("words that it has heard", play.count("go a"), 1);
    play.logged("a", &[], &format!("hello from a\n{lines}"));
    play.undisturbed();
}
