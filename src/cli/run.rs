//! `husk run FILE…`: all documents are read, checked and defaulted before the first pod is made.

use std::fs::File;
use std::io::Read;

use clap::Args;
use k8s_openapi::api::core::v1::Pod;

use super::get::Format;
use super::out::{self, Out};
use super::stay::{Held, Stay};
use super::{Context, Error, NetworkOption, plan};
use crate::cgroup::Hierarchies;
use crate::image::Store;
use crate::runtime::Settings;
use crate::state::record::{Owner, PodRecord};
use crate::{manifest, network, runtime};

/// Start the pods of a manifest.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  husk run pod.yaml\n  generate-pod | husk run -\n  husk run --rm --attach job.yaml\n  husk run --rm --attach -i shell.yaml\n  husk run --dry-run pod.yaml"
)]
pub struct Run {
    /// Manifests, YAML or JSON, one or more documents each; - is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
    /// Stay until the pods have ended; the exit code is then that of the first container that failed
    #[arg(long)]
    wait: bool,
    /// Stay as with --wait, and print what the first app container prints, from its start; one pod only
    #[arg(long)]
    attach: bool,
    /// With --attach: pass standard input on, to a container that has `stdin`, and to its terminal if it has one
    #[arg(short = 'i', long, requires = "attach")]
    stdin: bool,
    /// Stay as with --wait, and delete the pods then, or at Ctrl-C or SIGTERM; the second one does not wait for their grace
    #[arg(long)]
    rm: bool,
    /// Print what would be made, and make nothing
    #[arg(long, conflicts_with_all = ["wait", "attach", "rm"])]
    dry_run: bool,
    /// json or yaml: with --dry-run all that was decided about the pods, as data
    #[arg(short, long, requires = "dry_run", value_name = "FORMAT")]
    output: Option<Format>,
    #[command(flatten)]
    network: NetworkOption,
}

impl Run {
    pub(super) fn run(self, context: &Context) -> Result<(), Error> {
        runtime::run::begin();
        let settings = context.settings(&self.network)?;
        if self.stdin && self.files.iter().any(|file| file == "-") {
            return Err(Error::usage("--stdin: standard input is the manifest already; put that into a file"));
        }
        let pods = read_all(&self.files, context, settings.network.mode == network::Mode::Host)?;
        if self.attach && pods.len() > 1 {
            return Err(Error::usage(format!("--attach: the manifests have {} pods; one pod at a time", pods.len())));
        }
        if self.stdin {
            self.takes_input(&pods)?;
        }
        if self.dry_run {
            return self.plan(context, &settings, pods);
        }
        if pods.len() > 1 {
            // What a manifest cannot tell by itself (images, the commands in them): seen for all before the first is made.
            resolve(context, &settings, &pods)?;
        }
        let remove = self.rm.then(Held::new).transpose()?;
        let mut out = Out::new();
        let mut failed = false;
        let mut ids = Vec::new();
        for pod in pods {
            let name = pod.metadata.name.clone().unwrap_or_default();
            match runtime::run(&context.roots, &settings, pod, Owner::Cli) {
                Ok(outcome) => {
                    for warning in &outcome.warnings {
                        out::say(format!("pod {name}: warning: {warning}"));
                    }
                    // The container's output has standard output for itself.
                    if !self.attach {
                        out.line(format!("pod/{name} {}", if outcome.created { "created" } else { "unchanged" }))?;
                        out.flush()?;
                    }
                    ids.push(outcome.id);
                }
                Err(error) => {
                    failed = true;
                    out::say(super::error::sentence(&error));
                }
            }
        }
        if (self.wait || self.attach || remove.is_some()) && !ids.is_empty() {
            Stay { attach: self.attach, stdin: self.stdin, remove }.run(context, &ids)?;
        }
        if failed { Err(Error::Exit { code: 1 }) } else { Ok(()) }
    }

    /// Is there somebody who would read our standard input? Looked at before anything is made.
    fn takes_input(&self, pods: &[Pod]) -> Result<(), Error> {
        let first = pods.first().and_then(|pod| pod.spec.as_ref()?.containers.first());
        match first {
            Some(c) if c.stdin != Some(true) => Err(Error::usage(format!(
                "--stdin: container {} has no standard input; set stdin: true in its manifest",
                c.name
            ))),
            _ => Ok(()),
        }
    }

    fn plan(&self, context: &Context, settings: &Settings, mut pods: Vec<Pod>) -> Result<(), Error> {
        for pod in &mut pods {
            pod.metadata.uid.get_or_insert_with(|| plan::NO_UID.to_owned());
        }
        let records = resolve(context, settings, &pods)?;
        let mut out = Out::new();
        match self.output {
            Some(format) => plan::data(&mut out, &records, format)?,
            None => records.iter().try_for_each(|record| plan::text(&mut out, record))?,
        }
        out.flush()
    }
}

/// Decides all that a start of these pods would, and changes nothing.
pub(super) fn resolve(context: &Context, settings: &Settings, pods: &[Pod]) -> Result<Vec<PodRecord>, Error> {
    let store = Store::open(&context.roots.root)?;
    let host = Hierarchies::detect().map_err(|e| runtime::Error::Host { what: e.to_string() })?;
    let one = |pod: &Pod| runtime::resolve::pod(&context.roots, settings, &store, &host, pod.clone(), Owner::Cli);
    Ok(pods.iter().map(one).collect::<Result<_, _>>()?)
}

/// The pods of all files, defaulted and valid, or the first thing that is wrong with any of them. `host_network`: as if all said so.
pub(super) fn read_all(files: &[String], context: &Context, host_network: bool) -> Result<Vec<Pod>, Error> {
    let mut pods: Vec<Pod> = Vec::new();
    if files.iter().filter(|file| *file == "-").count() > 1 {
        return Err(Error::usage("- can be given once: standard input is read to its end"));
    }
    for file in files {
        let (source, bytes) = if file == "-" {
            ("standard input", read(std::io::stdin().lock(), "standard input")?)
        } else {
            let opened = File::open(file)
                .map_err(|e| Error::failed(format!("read manifest {file}: {}", husk_oci::errno::io_text(&e))))?;
            (file.as_str(), read(opened, file)?)
        };
        for mut pod in manifest::parse(&bytes, source)? {
            // kubectl's rule: -n fills in what the manifest leaves open and must agree with what it says.
            let namespace = pod.metadata.namespace.get_or_insert_with(|| context.namespace.clone());
            if context.namespace_given && *namespace != context.namespace {
                return Err(Error::failed(format!(
                    "{source}: metadata.namespace: is {namespace:?}, but -n says {:?}; leave one of them out",
                    context.namespace
                )));
            }
            if host_network && let Some(spec) = &mut pod.spec {
                // As if the manifest said so: what is not possible with the host's network is refused as ever.
                spec.host_network = Some(true);
            }
            manifest::default(&mut pod);
            manifest::validate(&pod).map_err(|errors| invalid(source, &errors))?;
            pods.push(pod);
        }
    }
    for (index, pod) in pods.iter().enumerate() {
        let same = |other: &&Pod| {
            other.metadata.name == pod.metadata.name && other.metadata.namespace == pod.metadata.namespace
        };
        if pods[..index].iter().any(|other| same(&other)) {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            return Err(Error::failed(format!("pod {name}: metadata.name: stands in two documents of this call")));
        }
    }
    Ok(pods)
}

fn invalid(source: &str, errors: &manifest::Errors) -> Error {
    let pod = if errors.pod.is_empty() { "pod".into() } else { format!("pod {}", errors.pod) };
    Error::Invalid { messages: errors.errors.iter().map(|error| format!("{source}: {pod}: {error}")).collect() }
}

/// At most one byte more than a manifest may have: the parser then names the limit.
fn read(from: impl Read, name: &str) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::with_capacity(8 << 10);
    from.take(manifest::MAX_BYTES as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Error::failed(format!("read manifest {name}: {}", husk_oci::errno::io_text(&e))))?;
    Ok(bytes)
}
