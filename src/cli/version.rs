//! `husk version`.

use clap::Args;

use super::get::Format;
use super::out::Out;
use super::{Context, Error};

/// Print the version.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  husk version -o json")]
pub struct Version {
    /// json or yaml instead of one line
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Format>,
}

impl Version {
    pub(super) fn run(self, _context: &Context) -> Result<(), Error> {
        self.print()
    }

    /// Needs neither root nor roots.
    pub(super) fn print(self) -> Result<(), Error> {
        let mut out = Out::new();
        let version = env!("CARGO_PKG_VERSION");
        let value = serde_json::json!({
            "version": version,
            "kubernetesApi": "v1.35",
            "os": std::env::consts::OS,
            "architecture": std::env::consts::ARCH,
        });
        match self.output {
            None => out.line(format!("husk {version}"))?,
            Some(format) => out.raw(format.render(&value)?.as_bytes())?,
        }
        out.flush()
    }
}
