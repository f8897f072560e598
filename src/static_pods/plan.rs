//! What to do so that the pods that are there become those that a source wants. Pure: lists in, steps out.

use std::collections::BTreeMap;

use super::source::{Key, Seen, Wanted};
use crate::manifest::{Difference, InPlace, difference};
use crate::state::PodEntry;
use crate::state::record::Owner;

/// One thing to do about one pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Make it; what a pod without a keeper has left goes first.
    Run,
    /// Change it while it lives.
    Change(InPlace),
    /// End it with its grace period, then make it anew. Why, as sentences.
    Replace(Vec<String>),
    /// End it with its grace period.
    Delete,
}

/// A step, and on what.
#[derive(Clone, Debug, PartialEq)]
pub struct Todo {
    /// Which pod.
    pub key: Key,
    /// What.
    pub step: Step,
    /// What shall be there afterwards.
    pub wanted: Option<Wanted>,
    /// What is there.
    pub there: Option<PodEntry>,
}

/// What follows from one look.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In no particular order; they concern different pods.
    pub todo: Vec<Todo>,
    /// What cannot be done and needs somebody, by what it is about.
    pub troubles: BTreeMap<String, String>,
    /// How many pods of the source there are.
    pub pods: usize,
}

/// Compares what the source at `place` wants with all pods of this instance.
pub fn plan(place: &str, seen: &Seen, all: &[PodEntry]) -> Plan {
    let mut plan = Plan::default();
    let ours = |entry: &&PodEntry| {
        entry.record.owner == Owner::Watch && entry.record.source.as_ref().is_some_and(|s| s.place == place)
    };
    let key_of = |entry: &PodEntry| (entry.record.namespace().to_owned(), entry.record.name().to_owned());
    let there: BTreeMap<Key, &PodEntry> = all.iter().filter(ours).map(|entry| (key_of(entry), entry)).collect();
    plan.pods = there.len();

    for (key, wanted) in claims(seen, &there, &mut plan.troubles) {
        let about = format!("{}/{}", key.0, key.1);
        match there.get(&key) {
            Some(entry) => {
                if let Some(step) = step(wanted, entry) {
                    plan.todo.push(Todo { key, step, wanted: Some(wanted.clone()), there: Some((*entry).clone()) });
                }
            }
            None => {
                let taken = all.iter().find(|entry| !entry.record.driven() && key_of(entry) == key);
                match taken.filter(|entry| entry.live || entry.status.finished_at.is_some()) {
                    Some(other) => {
                        let whose = match &other.record.source {
                            Some(source) => format!("{} has made it", source.place),
                            None => "somebody has made it with husk run".to_owned(),
                        };
                        let path = path(wanted);
                        plan.troubles.insert(
                            about.clone(),
                            format!("{path}: pod {about}: there is one already, and {whose}; it stays as it is"),
                        );
                    }
                    None => plan.todo.push(Todo { key, step: Step::Run, wanted: Some(wanted.clone()), there: None }),
                }
            }
        }
    }

    for (key, entry) in there {
        if seen.wanted.iter().any(|wanted| wanted.key() == key) {
            continue;
        }
        let source = entry.record.source.as_ref();
        // Whether the pod still stands in its file cannot be known.
        if source.and_then(|s| s.file.as_ref()).is_some_and(|file| seen.unread.contains_key(file)) {
            continue;
        }
        let device = source.and_then(|s| s.device);
        if device.is_some() && seen.device.is_some() && device != seen.device {
            let file = source.and_then(|s| s.file.clone()).unwrap_or_default();
            let name = format!("{}/{}", key.0, key.1);
            plan.troubles.insert(
                name.clone(),
                format!(
                    "{place}: pod {name}: its manifest {file} was on another file system than is mounted there now; it is left alone, \
                     husk delete pod {} -n {} ends it",
                    key.1, key.0
                ),
            );
            continue;
        }
        plan.todo.push(Todo { key, step: Step::Delete, wanted: None, there: Some(entry.clone()) });
    }
    plan
}

/// Whose claim on each name counts: the file's that the pod was made from, else the first by name.
fn claims<'a>(
    seen: &'a Seen,
    there: &BTreeMap<Key, &PodEntry>,
    troubles: &mut BTreeMap<String, String>,
) -> BTreeMap<Key, &'a Wanted> {
    let mut claims: BTreeMap<Key, &Wanted> = BTreeMap::new();
    for wanted in &seen.wanted {
        let key = wanted.key();
        let made_from = there.get(&key).and_then(|entry| entry.record.source.as_ref()?.file.as_ref());
        let (loser, winner) = match claims.get(&key) {
            None => {
                claims.insert(key, wanted);
                continue;
            }
            Some(first) if made_from.is_some() && wanted.source.file.as_ref() == made_from => (*first, wanted),
            Some(first) => (wanted, *first),
        };
        let text = format!("{}: pod {}/{}: stands in {} already", path(loser), key.0, key.1, path(winner));
        troubles.insert(path(loser), text);
        claims.insert(key, winner);
    }
    claims
}

/// The file or URL that a pod stands in.
fn path(wanted: &Wanted) -> String {
    let source = &wanted.source;
    source.file.as_ref().map_or_else(|| source.place.clone(), |file| format!("{}/{file}", source.place))
}

/// What to do about a pod that is there and wanted.
fn step(wanted: &Wanted, entry: &PodEntry) -> Option<Step> {
    let ended = entry.status.finished_at.is_some();
    if !entry.live && !ended {
        // Died with its keeper.
        return Some(Step::Run);
    }
    if entry.status.deletion.is_some() {
        return Some(Step::Replace(vec!["it is being deleted".into()]));
    }
    let source = entry.record.source.as_ref();
    if source == Some(&wanted.source) {
        return None;
    }
    let same_text = source.is_some_and(|source| source.hash == wanted.source.hash);
    match difference(&entry.record.pod, &wanted.pod) {
        // What has come to its end for good stays that way until its manifest changes. Only the file's name or file system differs, or the spelling.
        _ if ended && same_text => None,
        Difference::None if ended => None,
        _ if ended => Some(Step::Replace(vec!["it has ended, and its manifest has changed".into()])),
        // Another husk may have other defaults, and somebody may have changed resources by hand: not the manifest's doing.
        _ if same_text => Some(Step::Change(InPlace { amend: true, ..InPlace::default() })),
        Difference::None => Some(Step::Change(InPlace { amend: true, ..InPlace::default() })),
        Difference::InPlace(change) => Some(Step::Change(InPlace { amend: true, ..change })),
        Difference::Replace(reasons) => Some(Step::Replace(reasons)),
    }
}
