//! `husk get pods`: a table, names, or real `v1.Pod` objects; with `-w` their changes, too.

mod changes;

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde::Serialize;

use super::names;
use super::out::{self, Cell, Out};
use super::{Context, Error, status};
use crate::manifest::{self, Selector};
use crate::state::{Listed, PodEntry, Unreadable};

/// Show pods as a table, JSON or YAML.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  husk get pods -o wide\n  husk get pod demo -o yaml\n  husk get pods -w")]
pub struct Get {
    /// pods, or pod and names; pod/NAME is understood too
    #[arg(required = true, value_name = "KIND [NAME]")]
    what: Vec<String>,
    #[command(flatten)]
    select: Select,
    /// json, yaml, wide or name instead of the table
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Output>,
    /// Leave out the header of the table
    #[arg(long)]
    no_headers: bool,
    /// Go on with a line for each change; ends when the pods that were named are gone
    #[arg(short, long)]
    watch: bool,
    /// The same, without what is there now
    #[arg(long)]
    watch_only: bool,
    /// With --watch: also tell whether a pod was ADDED, MODIFIED or DELETED
    #[arg(long)]
    output_watch_events: bool,
}

/// Which pods, when they are not named.
#[derive(Debug, Args)]
pub struct Select {
    /// Pods of all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Pods with these labels: app=web,tier!=db
    #[arg(short = 'l', long, value_name = "LABELS", value_parser = manifest::selector)]
    pub selector: Option<Selector>,
}

/// How a list is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Indented JSON.
    Json,
    /// YAML.
    Yaml,
    /// A table with more columns.
    Wide,
    /// One `kind/name` a line.
    Name,
}

/// A data format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Indented JSON.
    Json,
    /// YAML.
    Yaml,
}

impl Format {
    /// The value as text, with a new line at its end.
    pub fn render(self, value: &impl Serialize) -> Result<String, Error> {
        let mut text = match self {
            Format::Json => serde_json::to_string_pretty(value)?,
            Format::Yaml => serde_saphyr::to_string(value)?,
        };
        if !text.ends_with('\n') {
            text.push('\n');
        }
        Ok(text)
    }
}

/// A `v1.List`.
#[derive(Serialize)]
pub(super) struct List<'a, T> {
    #[serde(rename = "apiVersion")]
    api_version: &'a str,
    kind: &'a str,
    metadata: serde_json::Map<String, serde_json::Value>,
    items: &'a [T],
}

impl<'a, T> List<'a, T> {
    /// As the API server answers with several objects.
    pub(super) fn new(items: &'a [T]) -> List<'a, T> {
        List { api_version: "v1", kind: "List", metadata: serde_json::Map::new(), items }
    }
}

impl Get {
    pub(super) fn run(self, context: &Context) -> Result<(), Error> {
        let names = names::names(&self.what).map_err(Error::usage)?;
        if !names.kind && !self.what.iter().all(|word| word.contains('/')) {
            return Err(Error::usage(format!("unknown kind {:?}; husk has pods: try husk get pods", self.what[0])));
        }
        if self.watch || self.watch_only {
            return self.follow(context, &names.names);
        }
        if self.output_watch_events {
            return Err(Error::usage("--output-watch-events needs --watch"));
        }
        let one = names.names.len() == 1;
        let found = self.select.find(context, &names.names)?;
        let mut out = Out::new();
        match self.output {
            Some(Output::Name) => {
                for shown in &found.pods {
                    out.line(format!("pod/{}", name(&shown.pod)))?;
                }
            }
            Some(format @ (Output::Json | Output::Yaml)) => {
                let format = if format == Output::Json { Format::Json } else { Format::Yaml };
                let pods: Vec<&Pod> = found.pods.iter().map(|shown| &shown.pod).collect();
                match pods.as_slice() {
                    [pod] if one => out.raw(format.render(pod)?.as_bytes())?,
                    [] if one => {}
                    items => out.raw(format.render(&List::new(items))?.as_bytes())?,
                }
            }
            None | Some(Output::Wide) => {
                if found.pods.is_empty() {
                    if found.complaints.is_empty() {
                        out::say(match self.select.all_namespaces {
                            true => "no pods found".to_string(),
                            false => format!("no pods found in namespace {}", context.namespace),
                        });
                    }
                } else {
                    self.table(&mut out, &found)?;
                }
            }
        }
        out.flush()?;
        found.finish()
    }

    fn table(&self, out: &mut Out, found: &Found) -> Result<(), Error> {
        let now = Timestamp::now();
        let rows: Vec<Vec<Cell>> = found.pods.iter().map(|shown| self.row(shown, now)).collect();
        let header = self.header();
        if self.no_headers { out.rows(&header, &rows) } else { out.table(&header, &rows) }
    }

    fn header(&self) -> Vec<&'static str> {
        let mut header = vec!["NAME", "READY", "STATUS", "RESTARTS", "AGE"];
        if self.select.all_namespaces {
            header.insert(0, "NAMESPACE");
        }
        if self.output == Some(Output::Wide) {
            header.extend(["UID", "OWNER", "IMAGES", "REASON"]);
        }
        header
    }

    fn row(&self, shown: &Shown, now: Timestamp) -> Vec<Cell> {
        let Shown { pod, entry } = shown;
        let row = status::row(pod, now);
        let mut cells: Vec<Cell> = vec![
            name(pod).into(),
            row.ready.into(),
            Cell::from(row.status).tone(Some(row.tone)),
            row.restarts.into(),
            row.age.into(),
        ];
        if self.select.all_namespaces {
            cells.insert(0, pod.metadata.namespace.as_deref().unwrap_or_default().into());
        }
        if self.output == Some(Output::Wide) {
            cells.push(pod.metadata.uid.as_deref().unwrap_or_default().into());
            cells.push(entry.as_ref().map_or("", |entry| entry.record.owner.name()).into());
            cells.push(images(pod).into());
            cells.push(reason(pod).into());
        }
        cells
    }
}

/// A pod that was found.
#[derive(Clone, Debug)]
pub struct Shown {
    /// As Kubernetes shows it.
    pub pod: Pod,
    /// Its records; `None` when they cannot be read.
    pub entry: Option<PodEntry>,
}

impl Shown {
    fn new(entry: PodEntry) -> Shown {
        Shown { pod: super::v1(&entry), entry: Some(entry) }
    }

    fn unknown(it: &Unreadable) -> Shown {
        Shown { pod: super::unknown(it), entry: None }
    }

    /// The name of its directory.
    fn id(&self) -> &str {
        let uid = self.pod.metadata.uid.as_deref().unwrap_or_default();
        self.entry.as_ref().map_or(uid, |entry| &entry.id)
    }
}

/// Pods that were found, and what there is to complain about.
pub struct Found {
    /// In the order of namespace and name, or of the names asked for.
    pub pods: Vec<Shown>,
    /// One sentence for each pod that could not be shown.
    pub complaints: Vec<String>,
}

impl Found {
    /// Says the complaints, after the data was printed; exit code 1 when there are any.
    pub fn finish(self) -> Result<(), Error> {
        for complaint in &self.complaints {
            out::say(complaint);
        }
        if self.complaints.is_empty() { Ok(()) } else { Err(Error::Exit { code: 1 }) }
    }
}

impl Select {
    /// The pods with these names, or all that the selection means.
    pub(super) fn find(&self, context: &Context, names: &[String]) -> Result<Found, Error> {
        if !names.is_empty() {
            if self.all_namespaces || self.selector.is_some() {
                return Err(Error::usage("names cannot be combined with -l or -A"));
            }
            let mut found = Found { pods: Vec::new(), complaints: Vec::new() };
            for name in names {
                match context.roots.find_any(&context.namespace, name) {
                    Ok(Listed::Pod(entry)) => found.pods.push(Shown::new(*entry)),
                    Ok(Listed::Unreadable(it)) => {
                        found.complaints.push(complaint(&it));
                        found.pods.push(Shown::unknown(&it));
                    }
                    Ok(Listed::Unfinished { .. }) => found.complaints.push(format!("pod {name} is being made")),
                    Err(error) => found.complaints.push(super::error::sentence(&error)),
                }
            }
            return Ok(found);
        }
        let (entries, unreadable) = self.listed(context)?;
        let complaints = unreadable.iter().map(complaint).collect();
        let mut found = Found { pods: entries.into_iter().map(Shown::new).collect(), complaints };
        if self.selector.is_none() {
            found.pods.extend(unreadable.iter().map(Shown::unknown));
            let key = |shown: &Shown| (shown.pod.metadata.namespace.clone(), shown.pod.metadata.name.clone());
            found.pods.sort_by_cached_key(key);
        }
        Ok(found)
    }

    /// All readable pods that the selection means, by namespace and name; a sentence for each unreadable one.
    pub(super) fn entries(&self, context: &Context) -> Result<(Vec<PodEntry>, Vec<String>), Error> {
        let (entries, unreadable) = self.listed(context)?;
        Ok((entries, unreadable.iter().map(complaint).collect()))
    }

    /// All readable pods that the selection means, by namespace and name, and those that cannot be read and may be meant.
    pub(super) fn listed(&self, context: &Context) -> Result<(Vec<PodEntry>, Vec<Unreadable>), Error> {
        let mut entries = Vec::new();
        let mut unreadable = Vec::new();
        for listed in context.roots.list()? {
            match listed {
                Listed::Pod(entry) => {
                    let metadata = &entry.record.pod.metadata;
                    let here = self.all_namespaces || metadata.namespace.as_deref() == Some(&context.namespace);
                    let chosen = self.selector.as_ref().is_none_or(|selector| match &metadata.labels {
                        Some(labels) => selector.matches(labels),
                        None => selector.matches(&Default::default()),
                    });
                    if here && chosen {
                        entries.push(*entry);
                    }
                }
                // Its name is reserved, its record not written yet, or never will be: nothing to show.
                Listed::Unfinished { .. } => {}
                Listed::Unreadable(it) => {
                    let elsewhere = it.name.as_ref().is_some_and(|(namespace, _)| *namespace != context.namespace);
                    if self.all_namespaces || !elsewhere {
                        unreadable.push(*it);
                    }
                }
            }
        }
        let key = |entry: &PodEntry| {
            let metadata = &entry.record.pod.metadata;
            (metadata.namespace.clone(), metadata.name.clone())
        };
        entries.sort_by_cached_key(key);
        Ok((entries, unreadable))
    }
}

/// What to say of a pod whose records cannot be read.
pub(super) fn complaint(it: &Unreadable) -> String {
    let who = match &it.name {
        Some((_, name)) => format!("pod {name} (uid {})", it.id),
        None => format!("pod with uid {}", it.id),
    };
    let force = if it.live || it.is_garbage() { "" } else { " --force" };
    format!("{who}: {}; to remove it: husk delete{force} {}", super::error::sentence(&it.error), it.id)
}

/// `metadata.name`.
pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

/// Why the pod as a whole is as it is, when there is something to say about that.
fn reason(pod: &Pod) -> &str {
    let fields = pod.status.as_ref().map(|status| [&status.message, &status.reason]);
    let mut texts = fields.into_iter().flatten().flatten().map(String::as_str);
    texts.find(|text| !text.is_empty()).unwrap_or_default()
}

/// The images of the app containers, each once, in the order of the spec.
fn images(pod: &Pod) -> String {
    let mut images: Vec<&str> = Vec::new();
    for container in pod.spec.iter().flat_map(|spec| &spec.containers) {
        let image = container.image.as_deref().unwrap_or_default();
        if !images.contains(&image) {
            images.push(image);
        }
    }
    images.join(",")
}
