//! `husk watch`: static pods, for as long as it runs.

use std::time::Duration;

use clap::Args;

use super::out::{self, Out};
use super::{Context, Error, NetworkOption, span};
use crate::static_pods::{MadeWith, Options, Place, Say, watch};

/// Run what manifests in a directory or at a URL say, and follow their changes.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  husk watch /etc/husk/pods\n  husk watch https://config.example/pods.yaml --interval 1m"
)]
pub struct Watch {
    /// Directories with manifests (*.yaml, *.yml, *.json), and URLs (http, https) that give one
    #[arg(required = true, value_name = "DIR|URL")]
    sources: Vec<String>,
    /// Time between two looks at a URL; a directory is looked at when it changes, and this often besides
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = span::parse)]
    interval: Duration,
    #[command(flatten)]
    network: NetworkOption,
}

/// Shorter intervals would be a burden for whoever answers.
const SHORTEST: Duration = Duration::from_millis(100);

impl Watch {
    pub(super) fn run(self, context: &Context) -> Result<(), Error> {
        if self.interval < SHORTEST {
            return Err(Error::usage(format!("--interval: at least {} ms", SHORTEST.as_millis())));
        }
        let places: Vec<Place> =
            self.sources.iter().map(|word| Place::of_word(word)).collect::<Result<_, _>>().map_err(Error::usage)?;
        let options = Options {
            places,
            namespace: context.namespace.clone(),
            made_with: MadeWith {
                cgroup_driver: context.cgroup_driver,
                config: context.config.clone(),
                network: context.settings(&self.network)?.network.mode,
            },
            interval: self.interval,
        };
        let tell = |say| match say {
            // Pods are what matters: a reader that has gone is no reason to leave them.
            Say::Done(line) => {
                let mut out = Out::new();
                let _ = out.line(line).and_then(|()| out.flush());
            }
            Say::Trouble(line) => out::say(line),
        };
        watch(&context.roots, &options, tell).map_err(Error::failed)
    }
}
