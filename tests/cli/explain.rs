//! `explain` of pods that stand in the records.

use serde_json::{Value, json};

use crate::Husk;
use crate::fake::{FakePod, crash_loop, running};

/// Spans and times of day, which no two runs share, made the same.
fn filtered(text: &str) -> String {
    let same = |word: &str| {
        let core = word.trim_matches(|c: char| matches!(c, '(' | ')' | ',' | ':' | ';'));
        let digits = core.starts_with(|c: char| c.is_ascii_digit());
        let span = digits
            && core.ends_with(['s', 'm', 'h', 'd', 'y'])
            && core.chars().all(|c| c.is_ascii_digit() || "smhdy".contains(c));
        let time = digits && core.len() == 9 && core.ends_with('Z');
        match (span, time) {
            (true, _) => word.replace(core, "SPAN"),
            (_, true) => word.replace(core, "TIME"),
            _ => word.to_owned(),
        }
    };
    let line = |line: &str| line.split(' ').map(same).collect::<Vec<_>>().join(" ");
    text.lines().map(|it| line(it) + "\n").collect()
}

#[test]
fn a_crash_loop_is_explained_on_one_screen() {
    let husk = Husk::new("explain");
    let pod = FakePod::new(&husk, "web");
    pod.status(crash_loop(), |status| {
        let mut last = crate::fake::terminated(2, 3);
        last.as_object_mut().expect("an object").remove("state");
        status["containers"][1]["attempt"] = json!(2);
        status["containers"][1]["last"] = last;
        status["containers"][1]["backoff"] = json!({"delay_ms": 20000, "updated_boot_ns": 1});
    });
    pod.log(
        "2.log",
        "2026-01-01T00:00:01Z stdout F reading\n2026-01-01T00:00:02Z stderr F cannot open \u{1b}[31m/etc/app\n",
    );
    let said = husk.call(&["explain", "web"]);
    let expected = "\
Pod default/web: CrashLoopBackOff, 1/2 ready
Why: container main ended with exit code 3, SPAN ago, after it had run for SPAN
Next:
  in SPAN (TIME): container main is started for the 4th time
  if container main fails again, the next start is SPAN after that
Last output of container main:
  | reading
  | cannot open \\x1b[31m/etc/app
More:
  husk logs web -c main
  husk describe pod web
";
    assert_eq!(filtered(&said.is(0).stdout), expected, "{}", said.stdout);
    for other in [&["explain", "pod", "web"][..], &["explain", "pod/web"], &["explain", &pod.uid]] {
        assert_eq!(filtered(&husk.call(other).is(0).stdout), expected, "{other:?}");
    }
    let json: Value = serde_json::from_str(&husk.call(&["explain", "web", "-o", "json"]).is(0).stdout).expect("JSON");
    assert_eq!(
        (&json["stage"], &json["ready"], &json["next"][0]["inSeconds"]),
        (&json!("restart"), &json!(false), &json!(0))
    );
    assert_eq!(json["log"]["lines"], json!(["reading", "cannot open \u{1b}[31m/etc/app"]));
    let yaml = husk.call(&["explain", "web", "-o", "yaml"]);
    assert!(yaml.is(0).stdout.contains("stage: restart\n"), "{}", yaml.stdout);
}

#[test]
fn what_is_well_what_is_dead_and_what_cannot_be_read_are_told_apart() {
    let husk = Husk::new("explain-kinds");
    let mut pod = FakePod::new(&husk, "web");
    let stage = || {
        let said = husk.call(&["explain", "web", "-o", "json"]);
        let json: Value = serde_json::from_str(&said.is(0).stdout).expect("JSON");
        json["stage"].as_str().expect("a stage").to_owned()
    };
    pod.status(running(), |_| ());
    assert_eq!(stage(), "none");
    pod.status(running(), |status| status["boot_id"] = json!("of-before"));
    drop(pod.lock.take());
    assert_eq!(stage(), "lost");
    std::fs::write(pod.roots.pod_dir(&pod.uid).join("status.json"), "{").expect("write");
    assert_eq!(stage(), "unreadable");
    husk.call(&["explain", "nobody"]).refused(1, &["nobody", "not found in namespace default"]);
}
