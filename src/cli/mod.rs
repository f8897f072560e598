//! Arguments to request to one call to exit code and output; one file a command.
//!
//! Data goes to standard output through [`out::Out`], messages to standard error as `husk: …`. No rule of a pod's life is decided here.
//! Exit codes: 0 done, 1 failed, 2 usage; `exec`: the command's own, 128 + signal, or 125 / 126 / 127.

mod apply;
mod attach;
mod condition;
mod cp;
mod cri;
mod debug;
mod delete;
mod describe;
mod error;
mod events;
mod exec;
mod explain;
mod gc;
mod get;
mod image;
mod keys;
mod log_reader;
mod logs;
mod names;
mod network_command;
mod out;
mod plan;
mod port_forward;
mod relay;
mod restart;
mod run;
mod span;
mod static_pods;
mod status;
mod stay;
mod terminal;
mod timeline;
mod top;
mod update;
mod upgrade;
mod version;
mod wait;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{ArgMatches, Args, FromArgMatches, Parser, Subcommand};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::cgroup::DriverKind;
use crate::config::Config;
use crate::network;
use crate::pod::{self, Liveness};
use crate::runtime::Settings;
use crate::state::{DEFAULT_ROOT, DEFAULT_STATE, Listed, PodEntry, Roots, Unreadable};
pub use error::Error;

/// Run Kubernetes pods on this host, without a daemon.
#[derive(Debug, Parser)]
#[command(
    name = "husk",
    version,
    disable_help_subcommand = true,
    max_term_width = 100,
    after_help = "Example:\n  husk run pod.yaml && husk wait demo --for=condition=Ready && husk logs demo"
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command understands.
#[derive(Debug, Args)]
#[command(next_help_heading = "Everywhere")]
struct Global {
    /// Where images, volumes and logs are kept
    #[arg(long, global = true, env = "HUSK_ROOT", hide_env_values = true, value_name = "DIR", default_value = DEFAULT_ROOT)]
    root: PathBuf,
    /// Where running pods are recorded; gone after a reboot
    #[arg(long, global = true, env = "HUSK_STATE", hide_env_values = true, value_name = "DIR", default_value = DEFAULT_STATE)]
    state: PathBuf,
    /// Namespace of the pods [default: default]
    #[arg(short, long, global = true, value_name = "NAME")]
    namespace: Option<String>,
    /// Who makes the cgroups of new pods: cgroupfs (husk itself, by file) or systemd (a scope each)
    #[arg(long, global = true, env = "HUSK_CGROUP_DRIVER", hide_env_values = true, value_name = "NAME", default_value = "cgroupfs",
        hide_possible_values = true, value_parser = driver_kinds())]
    cgroup_driver: DriverKind,
    /// The configuration [default: /etc/husk/config.yaml, where there is one]
    #[arg(long, global = true, env = "HUSK_CONFIG", hide_env_values = true, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Where pods have their network from.
#[derive(Debug, Args)]
struct NetworkOption {
    /// The network of new pods: bridge (addresses of husk's), cni (plugins), host or none (a loopback interface) [default: what the
    /// configuration says, else bridge]
    #[arg(long, env = "HUSK_NETWORK", hide_env_values = true, value_name = "MODE", hide_possible_values = true, value_parser = network_modes())]
    network: Option<network::Mode>,
}

fn network_modes() -> impl TypedValueParser<Value = network::Mode> {
    PossibleValuesParser::new(network::Mode::ALL.map(network::Mode::name))
        .map(|name| network::Mode::of_name(&name).unwrap_or_default())
}

/// The names of the cgroup drivers.
fn driver_kinds() -> impl TypedValueParser<Value = DriverKind> {
    let names = [DriverKind::Cgroupfs, DriverKind::Systemd].map(DriverKind::name);
    PossibleValuesParser::new(names).map(|name| DriverKind::of_name(&name).unwrap_or_default())
}

/// The commands: what the list in `husk --help` says, the word, the arguments.
///
/// Only the command that was asked for builds its options ([`clap::Command::defer`]): every call of husk is a program start, and the
/// options of all the others would be a good part of it.
macro_rules! commands {
    ($($about:literal $name:literal $variant:ident($arguments:ty),)*) => {
        #[derive(Debug)]
        enum Command {
            $(#[doc = $about] $variant($arguments),)*
        }

        impl Subcommand for Command {
            fn augment_subcommands(root: clap::Command) -> clap::Command {
                root$(.subcommand(clap::Command::new($name).about($about).defer(|c| <$arguments>::augment_args(c))))*
            }

            fn augment_subcommands_for_update(root: clap::Command) -> clap::Command {
                Self::augment_subcommands(root)
            }

            fn has_subcommand(name: &str) -> bool {
                [$($name),*].contains(&name)
            }
        }

        impl FromArgMatches for Command {
            fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
                match matches.subcommand() {
                    $(Some(($name, own)) => <$arguments>::from_arg_matches(own).map(Command::$variant),)*
                    _ => Err(clap::Error::new(clap::error::ErrorKind::MissingSubcommand)),
                }
            }

            fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
                Self::from_arg_matches(matches).map(|command| *self = command)
            }
        }

        impl Command {
            fn run(self, context: &Context) -> Result<(), Error> {
                match self {
                    $(Command::$variant(command) => command.run(context),)*
                }
            }
        }
    };
}

commands! {
    "Start the pods of a manifest" "run" Run(run::Run),
    "Show pods as a table, JSON or YAML" "get" Get(get::Get),
    "Tell all about pods, for people" "describe" Describe(describe::Describe),
    "Tell why a pod is as it is, and what happens next" "explain" Explain(explain::Explain),
    "Tell what has happened to pods" "events" Events(events::Events),
    "Show how long each step of a start or a stop took" "timeline" Timeline(timeline::Timeline),
    "Set conditions that a pod's readinessGates wait for" "condition" Condition(condition::Condition),
    "Print what a container wrote" "logs" Logs(logs::Logs),
    "Run a command in a container" "exec" Exec(exec::Exec),
    "See what a container prints, and type into it" "attach" Attach(attach::Attach),
    "Lead ports of this host into a pod" "port-forward" PortForward(port_forward::PortForward),
    "Look into a pod with a container of your own" "debug" Debug(debug::Debug),
    "Copy files between a container and the host" "cp" Cp(cp::Cp),
    "End pods and remove what they used" "delete" Delete(delete::Delete),
    "Make pods what their manifests say: create, change in place, or replace" "apply" Apply(apply::Apply),
    "Show how pods that run differ from their manifests" "diff" Diff(apply::Diff),
    "Stop containers of a pod in order, and start them again" "restart" Restart(restart::Restart),
    "Change the resources of a container that runs" "update" Update(update::Update),
    "Wait until pods are as asked" "wait" Wait(wait::Wait),
    "Run what manifests in a directory or at a URL say, and follow their changes" "watch" Watch(static_pods::Watch),
    "Show what pods use: CPU, memory, network, disks" "top" Top(top::Top),
    "Load, import, list and remove images" "image" Image(image::Image),
    "Remove what pods left behind that were killed with their keeper" "gc" Gc(gc::Gc),
    "Verify and repair the network of pods" "network" Network(network_command::Network),
    "Speak CRI in JSON over standard input and output" "cri" Cri(cri::Cri),
    "Have pods that run looked after by this version of husk" "upgrade" Upgrade(upgrade::Upgrade),
    "Print the version" "version" Version(version::Version),
}

/// What a command works with.
struct Context {
    roots: Roots,
    /// For new pods.
    cgroup_driver: DriverKind,
    /// `--config`.
    config: Option<PathBuf>,
    /// `-n`, or `default`.
    namespace: String,
    /// `-n` was given, so a manifest may not name another one.
    namespace_given: bool,
}

/// Runs the program: the whole of `main`.
pub fn main() -> ExitCode {
    // Without it, a start spends a good part of its time in page faults. An older kernel takes them one by one, as ever.
    let _ = husk_oci::sys::memory::map_program();
    let mut args = std::env::args_os();
    match args.by_ref().nth(1) {
        // Before anything else: this process stays for as long as its pod, and each page it dirties counts.
        Some(word) if word == "supervisor" => return crate::supervisor::main(args),
        Some(word) if word == crate::runtime::scope::HELPER => return crate::runtime::scope::main(args),
        Some(word) if word == crate::static_pods::HELPER => return crate::static_pods::helper(),
        Some(word) if word == crate::runtime::cni::HELPER => return crate::runtime::cni::main(args),
        Some(word) if word == crate::runtime::network::trial::HELPER => {
            return crate::runtime::network::trial::main(args);
        }
        _ => {}
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return usage(&e),
    };
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error.messages().iter().for_each(out::say);
            ExitCode::from(error.code())
        }
    }
}

/// clap's own words: help and version to standard output with 0, the rest to standard error with 2.
fn usage(error: &clap::Error) -> ExitCode {
    // A closed standard output or error is nobody to tell.
    let _ = error.print();
    ExitCode::from(if error.use_stderr() { 2 } else { 0 })
}

fn dispatch(cli: Cli) -> Result<(), Error> {
    if let Command::Version(command) = cli.command {
        return command.print();
    }
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::failed(format!(
            "must be run as root, not as uid {}: try sudo husk",
            nix::unistd::geteuid()
        )));
    }
    let context = Context {
        roots: Roots::new(&cli.global.root, &cli.global.state)?,
        cgroup_driver: cli.global.cgroup_driver,
        config: cli.global.config,
        namespace_given: cli.global.namespace.is_some(),
        namespace: cli.global.namespace.unwrap_or_else(|| "default".into()),
    };
    cli.command.run(&context)
}

impl Context {
    /// What holds for new pods; reads the configuration.
    fn settings(&self, option: &NetworkOption) -> Result<Settings, Error> {
        let mut network = Config::load(self.config.as_deref()).map_err(Error::failed)?.network;
        network.mode = option.network.unwrap_or(network.mode);
        Ok(Settings { cgroup_driver: self.cgroup_driver, network })
    }

    /// The pod of this name (or uid) in the namespace of the command line; `word` may be `pod/NAME`.
    fn find(&self, word: &str) -> Result<PodEntry, Error> {
        let name = names::name(word).map_err(Error::usage)?;
        Ok(self.roots.find(&self.namespace, &name)?)
    }
}

/// Name of a pod, or its uid when that is all that is known.
fn short_name(pod: &Listed) -> &str {
    match pod {
        Listed::Pod(entry) => entry.record.name(),
        Listed::Unfinished { id, .. } => id,
        Listed::Unreadable(it) => it.name.as_ref().map_or(&it.id, |(_, name)| name),
    }
}

/// Whether somebody watches a pod, or what is known of its end.
fn liveness(entry: &PodEntry) -> Liveness {
    match entry.live {
        true => Liveness::Alive,
        false if crate::state::boot_id().is_ok_and(|id| id != entry.status.boot_id) => Liveness::OtherBoot,
        false => Liveness::Dead,
    }
}

/// The pod as Kubernetes shows it.
fn v1(entry: &PodEntry) -> Pod {
    pod::to_v1(&entry.record, &entry.status, liveness(entry))
}

/// A pod whose records cannot be read, as Kubernetes would show one of which nothing is known.
fn unknown(it: &Unreadable) -> Pod {
    let (namespace, name) = it.name.clone().unzip();
    let metadata = ObjectMeta {
        namespace,
        name: Some(name.unwrap_or_else(|| it.id.clone())),
        uid: Some(it.id.clone()),
        ..ObjectMeta::default()
    };
    let status =
        PodStatus { phase: Some("Unknown".into()), message: Some(it.error.to_string()), ..PodStatus::default() };
    Pod { metadata, spec: None, status: Some(status) }
}
