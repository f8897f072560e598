//! `husk events`: what has happened to pods, as `kubectl events` tells it.

use std::collections::{BTreeMap, HashSet};

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event as Object;

use super::get::{Format, List};
use super::out::{self, Cell, Out, Tone};
use super::watch::Watch;
use super::{Context, Error, names, span};
use crate::pod;
use crate::state::events::{Event, EventType};
use crate::state::{self, Listed, PodEntry};

/// Tell what has happened to pods.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  husk events demo\n  husk events --for pod/demo --types=Warning --watch")]
pub struct Events {
    /// The pod's name, with or without pod in front; without one, all of the namespace
    #[arg(value_name = "[KIND] NAME")]
    what: Vec<String>,
    /// The same, as kubectl has it: pod/NAME
    #[arg(long = "for", value_name = "pod/NAME")]
    about: Option<String>,
    /// Events of all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Only these: Normal, Warning
    #[arg(long, value_name = "TYPE", value_delimiter = ',', ignore_case = true)]
    types: Vec<Types>,
    /// Go on with what happens from now on
    #[arg(short, long)]
    watch: bool,
    /// json, yaml or name instead of the table
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Output>,
    /// Leave out the header of the table
    #[arg(long)]
    no_headers: bool,
}

/// `--types`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Types {
    /// As it should be.
    #[value(name = "Normal")]
    Normal,
    /// Something is wrong, or may be.
    #[value(name = "Warning")]
    Warning,
}

/// `--output`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Indented JSON.
    Json,
    /// YAML.
    Yaml,
    /// One `event/name` a line.
    Name,
}

/// An event and whose it is.
struct Told {
    pod: PodEntry,
    event: Event,
}

/// What makes an event of a pod this one and no other.
type Key = (String, String, Option<String>, String);

impl Told {
    fn key(&self) -> Key {
        let e = &self.event;
        (self.pod.id.clone(), e.reason.clone(), e.field_path.clone(), e.message.clone())
    }

    fn object(&self, host: &str) -> Object {
        pod::event_to_v1(&self.pod.record, &self.event, host)
    }
}

impl Events {
    pub(super) fn run(self, context: &Context) -> Result<(), Error> {
        let mut words = self.what.clone();
        words.extend(self.about.clone());
        let names = names::names(&words).map_err(Error::usage)?;
        let name = match names.names.as_slice() {
            [] => None,
            [name] => Some(name.as_str()),
            _ => return Err(Error::usage("one pod at a time, or all of the namespace")),
        };
        if name.is_some() && self.all_namespaces {
            return Err(Error::usage("a name cannot be combined with -A"));
        }
        let mut watch = self.watch.then(Watch::new).transpose()?;
        let mut watched = HashSet::new();
        let mut seen: BTreeMap<Key, u64> = BTreeMap::new();
        let mut out = Out::new();
        let mut header = !self.no_headers;
        let mut begun = false;
        loop {
            if let Some(watch) = &watch {
                watch.directory(&context.roots.state.join("pods"))?;
                // A pod that is just being made has a directory, and no record yet.
                for id in if name.is_none() { context.roots.ids()? } else { Vec::new() } {
                    watch.directory(&context.roots.pod_dir(&id))?;
                }
            }
            let pods = match self.pods(context, name) {
                // Who named a pod is told of it to its end.
                Err(state::Error::NotFound { .. }) if begun => return Ok(()),
                other => other?,
            };
            if let Some(watch) = &watch {
                // Read after the watch was set, so that nothing falls in between.
                for pod in &pods {
                    if watched.insert(pod.id.clone()) {
                        watch.directory(&context.roots.pod_dir(&pod.id))?;
                    }
                }
            }
            let mut news = self.told(context, pods)?;
            news.retain(|told| seen.insert(told.key(), told.event.count) != Some(told.event.count));
            if news.is_empty() && watch.is_none() && !matches!(self.output, Some(Output::Json | Output::Yaml)) {
                out::say(match (name, self.all_namespaces) {
                    (Some(name), _) => format!("no events found of pod {name}"),
                    (None, true) => "no events found".to_owned(),
                    (None, false) => format!("no events found in namespace {}", context.namespace),
                });
            }
            self.print(&mut out, &news, &mut header)?;
            out.flush()?;
            begun = true;
            match &mut watch {
                Some(watch) => watch.wait(None)?,
                None => return Ok(()),
            };
        }
    }

    fn pods(&self, context: &Context, name: Option<&str>) -> Result<Vec<PodEntry>, state::Error> {
        if let Some(name) = name {
            return Ok(vec![context.roots.find(&context.namespace, name)?]);
        }
        let listed = context.roots.list()?.into_iter().filter_map(|listed| match listed {
            Listed::Pod(entry) => Some(*entry),
            // Nobody knows whose events they are.
            Listed::Unfinished { .. } | Listed::Unreadable(_) => None,
        });
        let here = |entry: &PodEntry| self.all_namespaces || entry.record.namespace() == context.namespace;
        Ok(listed.filter(here).collect())
    }

    /// What there is to tell, in the order in which it was last seen.
    fn told(&self, context: &Context, pods: Vec<PodEntry>) -> Result<Vec<Told>, Error> {
        let mut all = Vec::new();
        for pod in pods {
            let events = context.roots.events(&pod.id)?;
            all.extend(events.into_iter().map(|event| Told { pod: pod.clone(), event }));
        }
        let meant = |told: &Told| {
            let own = match told.event.typ {
                EventType::Normal => Types::Normal,
                EventType::Warning => Types::Warning,
            };
            self.types.is_empty() || self.types.contains(&own)
        };
        all.retain(meant);
        all.sort_by_key(|told| told.event.last);
        Ok(all)
    }

    fn print(&self, out: &mut Out, news: &[Told], header: &mut bool) -> Result<(), Error> {
        let host = host_name();
        let objects = || news.iter().map(|told| told.object(&host)).collect::<Vec<_>>();
        match self.output {
            Some(Output::Name) => objects()
                .iter()
                .try_for_each(|o| out.line(format!("event/{}", o.metadata.name.as_deref().unwrap_or_default()))),
            Some(format @ (Output::Json | Output::Yaml)) => {
                let kind = if format == Output::Json { Format::Json } else { Format::Yaml };
                if !self.watch {
                    return out.raw(kind.render(&List::new(&objects()))?.as_bytes());
                }
                objects().iter().try_for_each(|object| {
                    // Documents of a stream.
                    if format == Output::Yaml {
                        out.raw(b"---\n")?;
                    }
                    out.raw(kind.render(object)?.as_bytes())
                })
            }
            None if news.is_empty() => Ok(()),
            None => {
                let mut columns = HEADER.to_vec();
                if self.all_namespaces {
                    columns.insert(0, "NAMESPACE");
                }
                let rows: Vec<Vec<Cell>> = news.iter().map(|told| self.row(told)).collect();
                if std::mem::take(header) { out.table(&columns, &rows) } else { out.rows(&columns, &rows) }
            }
        }
    }

    fn row(&self, told: &Told) -> Vec<Cell> {
        let mut cells = row(&told.event, Timestamp::now());
        cells.insert(3, format!("Pod/{}", told.pod.record.name()).into());
        if self.all_namespaces {
            cells.insert(0, told.pod.record.namespace().into());
        }
        cells
    }
}

const HEADER: [&str; 5] = ["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"];

/// When, type, reason and message, as `kubectl` prints them.
pub(super) fn row(event: &Event, now: Timestamp) -> Vec<Cell> {
    let tone = (event.typ == EventType::Warning).then_some(Tone::Fair);
    vec![
        age(event, now).into(),
        Cell::from(event.typ.as_str()).tone(tone),
        event.reason.as_str().into(),
        event.message.trim_end().into(),
    ]
}

/// `3m`, or `3m (x5 over 10m)`.
pub(super) fn age(event: &Event, now: Timestamp) -> String {
    let since = |then: Timestamp| span::age(now.as_second() - then.as_second());
    match event.count {
        1 => since(event.last),
        count => format!("{} (x{count} over {})", since(event.last), since(event.first())),
    }
}

/// This host's name; `localhost` when it has none.
pub(super) fn host_name() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "localhost".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_tells_how_often_and_since_when() {
        let at = |second| Timestamp::from_second(second).expect("a time");
        let mut event = Event::new(EventType::Normal, "Started", None, "m", at(1000));
        assert_eq!(age(&event, at(1030)), "30s");
        (event.count, event.first) = (5, Some(at(700)));
        assert_eq!(age(&event, at(1030)), "30s (x5 over 5m30s)");
    }
}
