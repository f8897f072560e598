//! Tables for the plan: a source, pods, and what follows.

use super::plan::{Plan, Step, plan};
use super::source::{Reader, Seen, Setting, Wanted};
use crate::manifest::InPlace;
use crate::pod::{Now, initial};
use crate::state::PodEntry;
use crate::state::record::{Deletion, Owner, PodRecord, SandboxRecord, Source, VERSION};

const PLACE: &str = "/m";

fn read(file: &str, text: &str) -> Vec<Wanted> {
    let of = Setting { namespace: "default".into(), host: "h".into(), host_network: false };
    let reader = Reader { place: PLACE, file: Some(file), device: Some(1), of: &of };
    reader.read(text.as_bytes()).expect("valid")
}

fn text(name: &str, more: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{containers: [{{name: c, image: x{more}}}]}}}}"
    )
}

fn seen(files: &[(&str, &str)]) -> Seen {
    let wanted = files.iter().flat_map(|(file, text)| read(file, text)).collect();
    Seen { wanted, device: Some(1), ..Seen::default() }
}

/// The pod that was made of it.
fn made(wanted: &Wanted) -> PodEntry {
    let mut pod = wanted.pod.clone();
    pod.metadata.uid = Some(wanted.uid.clone());
    let record = PodRecord {
        version: VERSION,
        owner: Owner::Watch,
        source: Some(wanted.source.clone()),
        id: wanted.uid.clone(),
        attempt: 0,
        created_at: jiff::Timestamp::UNIX_EPOCH,
        cgroup: "husk/u".into(),
        cgroup_driver: Default::default(),
        log_dir: "/l".into(),
        sandbox: SandboxRecord::default(),
        pod,
        containers: Vec::new(),
    };
    let status = initial(&record, "boot", Now { boot_ns: 0, wall: jiff::Timestamp::UNIX_EPOCH });
    PodEntry { id: record.id.clone(), record, status, live: true }
}

fn one(file: &str, name: &str, more: &str) -> PodEntry {
    made(&read(file, &text(name, more))[0])
}

fn steps(plan: &Plan) -> Vec<(&str, &Step)> {
    plan.todo.iter().map(|todo| (todo.key.1.as_str(), &todo.step)).collect()
}

#[test]
fn what_is_wanted_and_not_there_is_made_and_the_reverse_ended() {
    let seen = seen(&[("a.yaml", &text("a", "")), ("b.yaml", &text("b", ""))]);
    let plan = plan(PLACE, &seen, &[one("b.yaml", "b", ""), one("c.yaml", "c", "")]);
    assert_eq!(steps(&plan), [("a", &Step::Run), ("c", &Step::Delete)]);
    assert_eq!((plan.pods, plan.troubles.len()), (2, 0));
}

#[test]
fn pods_of_others_are_never_touched() {
    let mut by_hand = one("a.yaml", "a", "");
    (by_hand.record.owner, by_hand.record.source) = (Owner::Cli, None);
    let mut elsewhere = one("b.yaml", "b", "");
    elsewhere.record.source = Some(Source { place: "/other".into(), ..elsewhere.record.source.clone().expect("one") });
    let found = plan(PLACE, &seen(&[("a.yaml", &text("a", ""))]), &[by_hand.clone(), elsewhere]);
    assert!(found.todo.is_empty(), "{found:?}");
    let said = &found.troubles["default/a"];
    assert!(said.contains("/m/a.yaml: pod default/a: there is one already, and somebody has made it"), "{said}");
    // What has died without an end is nobody's.
    by_hand.live = false;
    let found = plan(PLACE, &seen(&[("a.yaml", &text("a", ""))]), &[by_hand]);
    assert_eq!(steps(&found), [("a", &Step::Run)]);
}

#[test]
fn a_changed_manifest_is_a_change_in_place_or_a_new_pod() {
    let small = ", resources: {requests: {cpu: 100m}}";
    let entry = one("a.yaml", "a", small);
    let with = |more: &str| plan(PLACE, &seen(&[("a.yaml", &text("a", more))]), std::slice::from_ref(&entry));
    assert!(with(small).todo.is_empty());
    let other = with(", resources: {requests: {cpu: 200m}}");
    assert!(
        matches!(steps(&other)[..], [("a", Step::Change(InPlace { resizes, amend: true, .. }))] if resizes.len() == 1)
    );
    assert!(matches!(steps(&with(", tty: true"))[..], [("a", Step::Replace(_))]));
    // The file was renamed.
    let renamed = plan(PLACE, &seen(&[("z.yaml", &text("a", small))]), std::slice::from_ref(&entry));
    assert!(
        matches!(steps(&renamed)[..], [("a", Step::Change(InPlace { resizes, amend: true, .. }))] if resizes.is_empty())
    );
}

#[test]
fn what_was_changed_by_hand_stays_until_the_manifest_changes() {
    let small = ", resources: {requests: {cpu: 100m}}";
    let mut entry = one("a.yaml", "a", ", resources: {requests: {cpu: 150m}}");
    let written = &read("a.yaml", &text("a", small))[0];
    entry.record.source = Some(written.source.clone());
    assert!(plan(PLACE, &seen(&[("a.yaml", &text("a", small))]), std::slice::from_ref(&entry)).todo.is_empty());
}

#[test]
fn the_end_of_a_pod_is_for_good_until_its_manifest_changes() {
    let mut entry = one("a.yaml", "a", "");
    (entry.live, entry.status.finished_at) = (false, Some(jiff::Timestamp::UNIX_EPOCH));
    let with = |more: &str| plan(PLACE, &seen(&[("a.yaml", &text("a", more))]), std::slice::from_ref(&entry));
    assert!(with("").todo.is_empty());
    assert!(matches!(steps(&with(", tty: true"))[..], [("a", Step::Replace(_))]));
    assert_eq!(steps(&plan(PLACE, &seen(&[]), std::slice::from_ref(&entry))), [("a", &Step::Delete)]);
}

#[test]
fn what_died_with_its_keeper_or_was_deleted_by_hand_is_made_again() {
    let mut entry = one("a.yaml", "a", "");
    let seen = seen(&[("a.yaml", &text("a", ""))]);
    entry.live = false;
    assert_eq!(steps(&plan(PLACE, &seen, std::slice::from_ref(&entry))), [("a", &Step::Run)]);
    entry.live = true;
    let requested_at = jiff::Timestamp::UNIX_EPOCH;
    entry.status.deletion = Some(Deletion { requested_at, grace_seconds: 30, deadline_boot_ns: 0, force: false });
    assert!(matches!(steps(&plan(PLACE, &seen, std::slice::from_ref(&entry)))[..], [("a", Step::Replace(_))]));
}

#[test]
fn a_file_that_cannot_be_read_and_a_file_system_that_is_gone_keep_their_pods() {
    let pods = [one("a.yaml", "a", ""), one("b.yaml", "b", "")];
    let mut broken = seen(&[]);
    broken.unread.insert("a.yaml".into(), Some("broken".into()));
    broken.unread.insert("b.yaml".into(), None);
    assert!(plan(PLACE, &broken, &pods).todo.is_empty());

    let unmounted = Seen { device: Some(2), ..Seen::default() };
    let found = plan(PLACE, &unmounted, &pods);
    assert!(found.todo.is_empty());
    assert!(found.troubles["default/a"].contains("was on another file system"), "{found:?}");
    // On the new one they are adopted.
    let mut mounted = seen(&[("a.yaml", &text("a", ""))]);
    mounted.device = Some(2);
    mounted.wanted[0].source.device = Some(2);
    assert!(matches!(steps(&plan(PLACE, &mounted, &pods))[..], [("a", Step::Change(_))]));
}

#[test]
fn the_first_to_claim_a_name_keeps_it() {
    let two = seen(&[("a.yaml", &text("same", "")), ("b.yaml", &text("same", ", tty: true"))]);
    let found = plan(PLACE, &two, &[]);
    assert_eq!(found.todo.len(), 1);
    assert_eq!(found.todo[0].wanted.as_ref().expect("wanted").source.file.as_deref(), Some("a.yaml"));
    assert_eq!(found.troubles["/m/b.yaml"], "/m/b.yaml: pod default/same: stands in /m/a.yaml already");
    // b.yaml's runs, and a.yaml came later.
    let found = plan(PLACE, &two, &[one("b.yaml", "same", ", tty: true")]);
    assert!(found.todo.is_empty());
    assert_eq!(found.troubles["/m/a.yaml"], "/m/a.yaml: pod default/same: stands in /m/b.yaml already");
}
