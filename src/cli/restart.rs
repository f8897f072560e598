//! `husk restart`: containers of a pod that runs are stopped in order and started again, without back-off.

use std::time::{Duration, Instant};

use clap::Args;

use super::out::Out;
use super::watch::{Watch, Woken};
use super::{Context, Error, names, span};
use crate::runtime::update::restart;
use crate::state::record::{Container, State};
use crate::state::{Listed, PodEntry};

/// Stop containers of a pod in order, and start them again.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  husk restart demo\n  husk restart demo -c web")]
pub struct Restart {
    /// The pod's name, with or without pod in front
    #[arg(required = true, value_name = "[KIND] NAME")]
    what: Vec<String>,
    /// The container; without it, all that run or wait for their next start
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// How long to wait for the new instances; 0: not at all
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = span::parse)]
    timeout: Duration,
}

impl Restart {
    pub(super) fn run(self, context: &Context) -> Result<(), Error> {
        let names = names::names(&self.what).map_err(Error::usage)?;
        let [name] = names.names.as_slice() else { return Err(Error::usage("one pod at a time: name it")) };
        let before = context.roots.find(&context.namespace, name)?;
        let mut watch = Watch::new()?;
        watch.pod(&context.roots.pod_dir(&before.id), before.live)?;
        restart(&context.roots, &before, self.container.clone())?;
        if !self.timeout.is_zero() {
            self.wait(context, &before, &mut watch)?;
        }
        let mut out = Out::new();
        out.line(format!("pod/{} restarted", before.record.name()))?;
        out.flush()
    }

    /// Until each container that was meant has another instance.
    fn wait(&self, context: &Context, before: &PodEntry, watch: &mut Watch) -> Result<(), Error> {
        let name = before.record.name();
        let deadline = Instant::now().checked_add(self.timeout);
        let meant = |c: &&Container| match &self.container {
            Some(name) => c.name == *name,
            None => matches!(c.state, State::Running { .. }),
        };
        let meant: Vec<&Container> = before.status.containers.iter().filter(meant).collect();
        loop {
            let now = match context.roots.look(&before.id)? {
                Some(Listed::Pod(entry)) if entry.status.deletion.is_none() && entry.status.finished_at.is_none() => {
                    entry
                }
                _ => return Err(Error::failed(format!("pod {name}: it has come to its end meanwhile"))),
            };
            let anew = |old: &&Container| {
                let new = now.status.containers.iter().find(|c| c.name == old.name);
                new.is_none_or(|new| new.attempt > old.attempt && !matches!(new.state, State::Waiting { .. }))
            };
            if meant.iter().all(&anew) {
                return Ok(());
            }
            if !now.live || watch.wait(deadline)? == Woken::Timeout {
                let missing: Vec<&str> = meant.iter().filter(|old| !anew(old)).map(|c| c.name.as_str()).collect();
                return Err(Error::failed(format!(
                    "pod {name}: waited in vain for the next start of {}",
                    missing.join(", ")
                )));
            }
        }
    }
}
