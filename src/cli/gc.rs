//! `husk gc`.

use clap::Args;

use super::out::Out;
use super::{Context, Error};
use crate::config::Config;
use crate::runtime;

/// Remove what pods left behind that were killed with their keeper.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  husk gc")]
pub struct Gc {
    /// Also have the plugins of the CNI network release what is of no pod of this husk (CNI GC); only where nobody else uses the network
    #[arg(long)]
    cni: bool,
}

impl Gc {
    pub(super) fn run(self, context: &Context) -> Result<(), Error> {
        let mut report = runtime::gc(&context.roots)?;
        if self.cni {
            let config = Config::load(context.config.as_deref()).map_err(Error::failed)?.network.cni;
            match runtime::cni::release_strangers(&context.roots, &config) {
                Ok(Some(())) => {}
                Ok(None) => super::out::say(
                    "the CNI network has no GC (its cniVersion is older than 1.1.0, or it has disableGC)",
                ),
                Err(e) => report.failed.push(e),
            }
        }
        let mut out = Out::new();
        for removed in &report.removed {
            out.line(format!("{removed} removed"))?;
        }
        out.flush()?;
        if report.failed.is_empty() {
            return Ok(());
        }
        Err(Error::Invalid { messages: report.failed.iter().map(|error| super::error::sentence(error)).collect() })
    }
}
