//! `husk network check`: whether what the kernel has is what pods were promised.

use clap::{Args, Subcommand};

use super::out::Out;
use super::{Context, Error};
use crate::runtime::network;

/// Look after the network of pods.
#[derive(Debug, Args)]
pub struct Network {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Verify the bridge, the packet filter's table, each pod's link, addresses and ports, and the names of pods
    #[command(
        long_about = "Verify the bridge, the packet filter's table and each pod's link, addresses and ports; and the hosts files by which pods \
                      find each other. A firewall that is reloaded may remove rules. Plugins of a CNI network are asked for their pods; what they \
                      miss is theirs to repair. Prints a line for each thing that is wrong, and exits with 1 if there is one.",
        after_help = "Example:\n  systemctl reload nftables && husk network check --repair"
    )]
    Check {
        /// Make what is wrong anew; pods keep their addresses and run on. What plugins have made it cannot
        #[arg(long)]
        repair: bool,
    },
}

impl Network {
    pub(super) fn run(self, context: &Context) -> Result<(), Error> {
        let Command::Check { repair } = self.command;
        let roots = &context.roots;
        let mut wrong = network::check(roots)?;
        let mut out = Out::new();
        for line in &wrong {
            out.line(line)?;
        }
        if repair && !wrong.is_empty() {
            network::repair(roots)?;
            wrong = network::check(roots)?;
            if wrong.is_empty() {
                out.line("repaired")?;
            }
        }
        out.flush()?;
        match wrong.as_slice() {
            [] => Ok(()),
            _ if !repair => {
                Err(Error::failed("the network of pods is not as it should be; husk network check --repair mends it"))
            }
            left => Err(Error::failed(format!("could not be repaired: {}", left.join("; ")))),
        }
    }
}
