//! Whether this kernel can carry a bridge with pods: tried out in a network namespace that goes at once, by a helper, as whoever asks may have threads.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use husk_oci::sys::process::{self, ns};
use serde::{Deserialize, Serialize};

use super::bridged::OwnedHome;
use crate::network::bridge::{self, filter_socket, route_socket};
use crate::network::{self, Config, Instance, route};
use crate::runtime::Error;
use crate::runtime::helper::Helper;
use crate::state::Roots;

/// What `main` knows the helper by; not for users.
pub const HELPER: &str = "network-trial";
/// What messages call it.
const NAME: &str = "the helper that tries out the network";
/// How long it may take; modules may have to be loaded.
const PATIENCE: Duration = Duration::from_secs(10);

/// This kernel has done it once. A refusal is tried again: somebody may have loaded a module.
static WORKS: AtomicBool = AtomicBool::new(false);

#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    /// Why not.
    refusal: Option<String>,
}

/// Whether pods can have the network that the configuration asks for. Changes nothing; blocks, the first time for some 20 ms.
///
/// # Errors
/// What the first pod would fail of: its ranges are the host's, the kernel lacks a part.
pub fn ready(roots: &Roots, config: &Config) -> Result<(), Error> {
    let home = OwnedHome::of(roots);
    let instance = home.get().would_choose(config)?;
    if WORKS.load(Ordering::Relaxed) {
        return Ok(());
    }
    let answer: Answer = Helper::start(HELPER, NAME, &instance)?.answer(Instant::now() + PATIENCE)?;
    match answer.refusal {
        Some(what) => Err(Error::Host { what }),
        None => {
            WORKS.store(true, Ordering::Relaxed);
            Ok(())
        }
    }
}

/// `husk network-trial INSTANCE`: the helper itself; not for users.
pub fn main(mut args: impl Iterator<Item = std::ffi::OsString>) -> ExitCode {
    let Some(instance) = args.next().and_then(|word| serde_json::from_str::<Instance>(word.to_str()?).ok()) else {
        eprintln!("husk {HELPER} is started by husk, not by hand");
        return ExitCode::from(2);
    };
    let answer = Answer { refusal: attempt(&instance).err().map(|e| e.to_string()) };
    // Nobody listens any more when whoever has started us is dead.
    let _ = serde_json::to_string(&answer).map(|line| writeln!(std::io::stdout(), "{line}"));
    ExitCode::SUCCESS
}

/// Makes all that a first pod needs, in a namespace of this process's own.
fn attempt(instance: &Instance) -> Result<(), network::Error> {
    process::unshare(ns::NET).map_err(|errno| network::Error::sys("make a network namespace", errno))?;
    let routes = route_socket()?;
    let filter = filter_socket()?;
    let (index, _) = instance.ensure_bridge(&routes)?;
    instance.furnish(&routes, index)?;
    instance.table().create(&filter, &[])?;
    let netns =
        File::open("/proc/thread-self/ns/net").map_err(|e| network::Error::io("open a network namespace", &e))?;
    let place = instance.place(HELPER, 2);
    let veth = route::Veth {
        name: &place.host_interface,
        bridge: index,
        peer: bridge::INTERFACE,
        mac: [0x0a, 0x58, 0, 0, 0, 2],
        mtu: place.mtu,
        hairpin: true,
        netns: netns.as_fd(),
    };
    route::create_veth(&routes, veth)
        .map_err(|errno| network::instance::missing(format!("link a pod to bridge {}", place.bridge), errno, "veth"))
}
