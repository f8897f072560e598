//! `husk get pods -w`: what is there, then what changes. The kernel tells when to look again.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde::Serialize;

use super::{Format, Found, Get, Output, Shown, name};
use crate::cli::out::{self, Cell, Out};
use crate::cli::watch::Watch;
use crate::cli::{Context, Error, error, status};
use crate::state::{self, Listed};

/// What has become of a pod, in the words of a watch of the API server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum Kind {
    Added,
    Modified,
    Deleted,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Added => "ADDED",
            Kind::Modified => "MODIFIED",
            Kind::Deleted => "DELETED",
        }
    }
}

/// `--output-watch-events -o json`
#[derive(Serialize)]
struct WatchEvent<'a> {
    #[serde(rename = "type")]
    kind: Kind,
    object: &'a Pod,
}

/// The pods that were told of, as they were told.
#[derive(Default)]
struct Told {
    pods: BTreeMap<String, Shown>,
}

impl Told {
    /// What is new since the last call: pods that came and changed in the order of `now`, then those that went.
    fn changes(&mut self, now: Vec<Shown>, same: impl Fn(&Shown, &Shown) -> bool) -> Vec<(Kind, Shown)> {
        let mut changes = Vec::new();
        let here: BTreeSet<String> = now.iter().map(|shown| shown.id().to_owned()).collect();
        for shown in now {
            let kind = match self.pods.get(shown.id()) {
                None => Kind::Added,
                Some(before) if !same(before, &shown) => Kind::Modified,
                Some(_) => continue,
            };
            self.pods.insert(shown.id().to_owned(), shown.clone());
            changes.push((kind, shown));
        }
        let (stay, gone) = std::mem::take(&mut self.pods).into_iter().partition(|(id, _)| here.contains(id));
        self.pods = stay;
        changes.extend(BTreeMap::into_values(gone).map(|shown| (Kind::Deleted, shown)));
        changes
    }
}

/// What is listened to.
struct Ears {
    watch: Watch,
    /// Whose keeper's end is waited for: the directory, and its inode, so that a pod made anew is another.
    locks: BTreeSet<(String, u64)>,
}

impl Ears {
    /// Listens to these pods, too; call it before they are looked at, so that nothing falls in between.
    fn listen(&mut self, context: &Context, ids: &BTreeSet<String>) -> Result<(), Error> {
        self.locks.retain(|(id, _)| ids.contains(id));
        for id in ids {
            let directory = context.roots.pod_dir(id);
            // One that is listened to already is so once.
            if !self.watch.directory(&directory)? {
                continue;
            }
            let Ok(metadata) = std::fs::metadata(&directory) else { continue };
            let lock = (id.clone(), metadata.ino());
            // Without its keeper a pod's status changes no more, and what it means does.
            if !self.locks.contains(&lock) && context.roots.is_live(id) {
                self.watch.lock(&directory)?;
                self.locks.insert(lock);
            }
        }
        Ok(())
    }
}

impl Get {
    /// Shows the pods and then their changes, until those that were named are gone.
    pub(super) fn follow(&self, context: &Context, names: &[String]) -> Result<(), Error> {
        let mut ears = Ears { watch: Watch::new()?, locks: BTreeSet::new() };
        let mut told = Told::default();
        let mut complained = BTreeSet::new();
        let mut printer = Printer { get: self, out: Out::new(), widths: Vec::new(), header: !self.no_headers };
        let mut first = true;
        loop {
            ears.watch.directory(&context.roots.state.join("pods"))?;
            let ids = match names {
                [] => context.roots.ids()?.into_iter().collect(),
                names => named(context, names)?,
            };
            ears.listen(context, &ids)?;
            let Found { pods, complaints } = self.select.find(context, names)?;
            // Who was there and is gone is no complaint.
            if first || names.is_empty() {
                let news = complaints.into_iter().filter(|complaint| complained.insert(complaint.clone()));
                news.for_each(out::say);
            }
            let mut changes = told.changes(pods, |a, b| self.same(a, b));
            if first && self.watch_only {
                changes.clear();
            }
            printer.print(&changes)?;
            first = false;
            if !names.is_empty() && told.pods.is_empty() {
                return if complained.is_empty() { Ok(()) } else { Err(Error::Exit { code: 1 }) };
            }
            ears.watch.wait(None)?;
        }
    }

    /// Whether two looks at a pod print the same, but for what passes with the time alone.
    fn same(&self, a: &Shown, b: &Shown) -> bool {
        if matches!(self.output, Some(Output::Json | Output::Yaml)) {
            return a.pod == b.pod;
        }
        // The number of restarts stands before the time since the last one.
        let timeless = |shown: &Shown| {
            let row = status::row(&shown.pod, Timestamp::UNIX_EPOCH);
            let restarts = row.restarts.split(' ').next().unwrap_or_default().to_owned();
            (row.ready, row.status, restarts, super::reason(&shown.pod).to_owned())
        };
        timeless(a) == timeless(b)
    }
}

/// The directories of these pods, as far as they are there.
fn named(context: &Context, names: &[String]) -> Result<BTreeSet<String>, Error> {
    let mut ids = BTreeSet::new();
    for name in names {
        match context.roots.find_any(&context.namespace, name) {
            Ok(listed) => {
                ids.insert(Listed::id(&listed).to_owned());
            }
            Err(state::Error::NotFound { .. }) => {}
            Err(e) => return Err(Error::failed(error::sentence(&e))),
        }
    }
    Ok(ids)
}

/// Prints changes, in columns that go on.
struct Printer<'a> {
    get: &'a Get,
    out: Out,
    widths: Vec<usize>,
    header: bool,
}

impl Printer<'_> {
    fn print(&mut self, changes: &[(Kind, Shown)]) -> Result<(), Error> {
        if changes.is_empty() {
            return Ok(());
        }
        let events = self.get.output_watch_events;
        match self.get.output {
            Some(Output::Name) => {
                for (kind, shown) in changes {
                    let event = if events { format!("{} ", kind.word()) } else { String::new() };
                    self.out.line(format!("{event}pod/{}", name(&shown.pod)))?;
                }
            }
            Some(format @ (Output::Json | Output::Yaml)) => {
                let format = if format == Output::Json { Format::Json } else { Format::Yaml };
                for (kind, shown) in changes {
                    // Documents of a stream.
                    if format == Format::Yaml {
                        self.out.raw(b"---\n")?;
                    }
                    let text = match events {
                        true => format.render(&WatchEvent { kind: *kind, object: &shown.pod })?,
                        false => format.render(&shown.pod)?,
                    };
                    self.out.raw(text.as_bytes())?;
                }
            }
            None | Some(Output::Wide) => self.rows(changes)?,
        }
        self.out.flush()
    }

    fn rows(&mut self, changes: &[(Kind, Shown)]) -> Result<(), Error> {
        let now = Timestamp::now();
        let mut header = self.get.header();
        let mut rows: Vec<Vec<Cell>> = changes.iter().map(|(_, shown)| self.get.row(shown, now)).collect();
        if self.get.output_watch_events {
            header.insert(0, "EVENT");
            rows.iter_mut().zip(changes).for_each(|(row, (kind, _))| row.insert(0, kind.word().into()));
        }
        match std::mem::take(&mut self.header) {
            true => self.out.first_rows(&header, &rows, &mut self.widths),
            false => self.out.more_rows(&header, &rows, &mut self.widths),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn shown(id: &str, generation: i64) -> Shown {
        let metadata = ObjectMeta { uid: Some(id.into()), generation: Some(generation), ..ObjectMeta::default() };
        Shown { pod: Pod { metadata, ..Pod::default() }, entry: None }
    }

    #[test]
    fn what_came_changed_and_went_is_told_once() {
        let mut told = Told::default();
        let mut look = |now: &[(&str, i64)]| -> Vec<String> {
            let now = now.iter().map(|(id, generation)| shown(id, *generation)).collect();
            let changes = told.changes(now, |a, b| a.pod == b.pod);
            changes.iter().map(|(kind, shown)| format!("{} {}", kind.word(), shown.id())).collect()
        };
        assert_eq!(look(&[("b", 1), ("a", 1)]), ["ADDED b", "ADDED a"]);
        assert_eq!(look(&[("b", 1), ("a", 1)]), Vec::<String>::new());
        assert_eq!(look(&[("b", 1), ("a", 2), ("c", 1)]), ["MODIFIED a", "ADDED c"]);
        assert_eq!(look(&[("a", 2)]), ["DELETED b", "DELETED c"]);
        assert_eq!(look(&[("b", 1), ("a", 2)]), ["ADDED b"]);
    }
}
