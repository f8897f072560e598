//! SIGKILL before every system call that changes something, and a look from outside at what became of the pod.
//!
//!     scripts/test fault                                  a sample of all points, chosen by a seed
//!     cargo test --test fault -- --points all             every point
//!     cargo test --test fault -- --only run:supervisor:17 one point, with the calls around it
//!
//! * [`calls`] says which calls change something, as a seccomp program that stops a process before each of them.
//! * [`tracer`] answers for each process that stands still, counts, and kills one of them before the n-th.
//! * [`play`] is one run of a scenario, and what can be checked of any pod from outside.
//! * [`scenarios`] says what is done meanwhile, and what must be true afterwards.
//! * [`unwatched`] has what is done while a pod has no supervisor at all.
//!
//! A counting run of each scenario finds its points: a victim, whose calls tell the time, and which of them. Each point is then one run of its own.
//! Runs are not the same to the last call, so a few points are not met; those do not count as kill points, but are checked all the same.

mod calls;
mod change;
#[path = "../common/mod.rs"]
mod common;
mod play;
mod reach;
mod scenarios;
mod sweep;
mod sys;
mod tracer;
mod unwatched;
mod update;

use std::process::{Command, ExitCode};

use clap::Parser;
use nix::unistd::Pid;

use sweep::{Point, Sweep};
use tracer::Pair;

/// Kill points that a run without arguments takes.
const SAMPLE: usize = 2100;

#[derive(Debug, Parser)]
struct Args {
    /// Chooses the sample
    #[arg(long, env = "FAULT_SEED", default_value_t = 1)]
    seed: u64,
    /// Size of the sample, or all
    #[arg(long, env = "FAULT_POINTS", value_name = "N|all")]
    points: Option<Points>,
    /// Only this scenario
    #[arg(long, alias = "name", env = "FAULT_SCENARIO")]
    scenario: Option<String>,
    /// Only this victim, or VICTIM@CLOCK
    #[arg(long)]
    actor: Option<Pair>,
    /// One point: SCENARIO:ACTOR:N
    #[arg(long)]
    only: Option<Point>,
    /// Runs at a time
    #[arg(long, default_value_t = 4)]
    jobs: usize,
    /// Print every point
    #[arg(long, short)]
    verbose: bool,
    /// Names of scenarios, in whole or in part
    filter: Vec<String>,
    /// For cargo test: nothing is captured here
    #[arg(long, hide = true)]
    nocapture: bool,
}

/// A number of points, or `all`.
#[derive(Clone, Debug)]
struct Points(usize);

impl std::str::FromStr for Points {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Points, Self::Err> {
        if text == "all" { Ok(Points(usize::MAX)) } else { text.parse().map(Points) }
    }
}

/// Set for the harness proper, which runs below a process that reaps.
const BELOW: &str = "HUSK_FAULT_BELOW_A_REAPER";

/// Where the plays put their files, if there is such a place.
const MEMORY: &str = "/dev/shm";

/// Runs this program again below us, and reaps all that its plays orphan: pause is gone only when every zombie of its PID namespace is, and that
/// shall not hang on how busy the host's init is. The exit code of the harness.
fn reap() -> nix::Result<ExitCode> {
    use nix::sys::wait::{WaitStatus, wait};
    nix::sys::prctl::set_child_subreaper(true)?;
    let myself = std::env::current_exe().expect("the path of this program");
    let mut harness = Command::new(myself);
    harness.args(std::env::args_os().skip(1)).env(BELOW, "1");
    if std::env::var_os("TMPDIR").is_none() && std::path::Path::new(MEMORY).is_dir() {
        // A killed process leaves the same behind on every file system, and thousands of plays are quicker in memory.
        harness.env("TMPDIR", MEMORY);
    }
    let harness = harness.spawn();
    let harness = Pid::from_raw(i32::try_from(harness.expect("start this program").id()).expect("a pid is positive"));
    loop {
        match wait()? {
            WaitStatus::Exited(pid, code) if pid == harness => {
                return Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)));
            }
            WaitStatus::Signaled(pid, ..) if pid == harness => return Ok(ExitCode::FAILURE),
            _ => {}
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    if std::env::var_os(BELOW).is_none() {
        return reap().expect("set up a reaper");
    }
    sweep::keep_panics();
    let sweep = Sweep {
        seed: args.seed,
        points: args.points.map_or(SAMPLE, |points| points.0),
        pair: args.actor,
        jobs: args.jobs.max(1),
        verbose: args.verbose,
    };
    if let Some(point) = args.only {
        return sweep.only(&point);
    }
    let wanted = |name: &str| {
        args.scenario.as_deref().is_none_or(|scenario| scenario == name)
            && (args.filter.is_empty() || args.filter.iter().any(|part| name.contains(part.as_str())))
    };
    let chosen: Vec<_> =
        scenarios::SCENARIOS.iter().chain(unwatched::UNWATCHED).filter(|scenario| wanted(scenario.name)).collect();
    if chosen.is_empty() {
        eprintln!("no scenario of that name");
        // As with every other test program nothing is left of the tests where a filter fits none of them.
        return if args.scenario.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    sweep.run(&chosen)
}
