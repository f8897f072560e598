//! `husk update`: other limits and requests for a container, while it runs.

use clap::Args;

use super::out::Out;
use super::{Context, Error, names};
use crate::manifest::Amounts;
use crate::runtime::update::update;

/// Change the resources of a container that runs.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  husk update demo -c web --cpu 500m --memory 256Mi")]
pub struct Update {
    /// The pod's name, with or without pod in front
    #[arg(required = true, value_name = "[KIND] NAME")]
    what: Vec<String>,
    /// The container; not needed when there is only one
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// CPU limit: 500m, 2
    #[arg(long, value_name = "QUANTITY")]
    cpu: Option<String>,
    /// Memory limit: 256Mi, 1Gi
    #[arg(long, value_name = "QUANTITY")]
    memory: Option<String>,
    /// CPU request
    #[arg(long, value_name = "QUANTITY")]
    cpu_request: Option<String>,
    /// Memory request
    #[arg(long, value_name = "QUANTITY")]
    memory_request: Option<String>,
}

impl Update {
    pub(super) fn run(self, context: &Context) -> Result<(), Error> {
        let Update { what, container, cpu, memory, cpu_request, memory_request } = self;
        let names = names::names(&what).map_err(Error::usage)?;
        let [name] = names.names.as_slice() else { return Err(Error::usage("one pod at a time: name it")) };
        let amounts = Amounts { cpu, memory, cpu_request, memory_request };
        if amounts == Amounts::default() {
            return Err(Error::usage("what shall change? give --cpu, --memory, --cpu-request or --memory-request"));
        }
        let entry = context.roots.find(&context.namespace, name)?;
        update(&context.roots, &entry, container, amounts)?;
        let mut out = Out::new();
        out.line(format!("pod/{} updated", entry.record.name()))?;
        out.flush()
    }
}
