//! `husk gc`.

use clap::Args;

use super::out::Out;
use super::{Context, Error};
use crate::runtime;

/// Remove what pods left behind that were killed with their keeper.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  husk gc")]
pub struct Gc {}

impl Gc {
    pub(super) fn run(self, context: &Context) -> Result<(), Error> {
        let report = runtime::gc(&context.roots)?;
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
