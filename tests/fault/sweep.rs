//! Finds the points, chooses a sample, runs them side by side, and tells.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use super::play::Play;
use super::scenarios::{SCENARIOS, Scenario};
use super::tracer::{Census, Pair, Trigger};
use crate::common::Host;

/// One run: a scenario, and whom it loses when.
#[derive(Clone, Copy)]
pub struct Point {
    scenario: &'static Scenario,
    trigger: Trigger,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.scenario.name, self.trigger.pair, self.trigger.at)
    }
}

impl fmt::Debug for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Point {
    type Err = String;

    fn from_str(text: &str) -> Result<Point, String> {
        let mut parts = text.split(':');
        let (Some(name), Some(pair), Some(at), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err("a point is SCENARIO:ACTOR:N".to_owned());
        };
        let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name).ok_or("no scenario of that name")?;
        let at = at.parse().map_err(|e| format!("{at:?}: {e}"))?;
        Ok(Point { scenario, trigger: Trigger { pair: pair.parse()?, at } })
    }
}

/// What to do.
pub struct Sweep {
    /// Chooses the sample.
    pub seed: u64,
    /// Its size.
    pub points: usize,
    /// Only these.
    pub pair: Option<Pair>,
    /// Runs at a time.
    pub jobs: usize,
    /// Print every point.
    pub verbose: bool,
}

/// How one run went.
struct Ending {
    killed: Option<String>,
    violations: Vec<String>,
    census: Census,
    trace: Vec<String>,
}

thread_local! {
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// A panic in a run is a violation like others, and is told as such.
pub fn keep_panics() {
    std::panic::set_hook(Box::new(|info| PANIC.with_borrow_mut(|text| *text = info.to_string())));
}

/// Calls `act`; its panic is an error.
fn caught<T>(act: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(act)).map_err(|_| PANIC.take())
}

/// A host for one run after the other, made anew after a violation.
#[derive(Default)]
struct Theatre(Option<Host>);

impl Theatre {
    fn play(&mut self, scenario: &Scenario, trigger: Option<Trigger>, record: bool) -> Ending {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let host = match self.0.take() {
            Some(host) => host,
            None => Host::new(),
        };
        let play = Play::new(&host, NUMBER.fetch_add(1, Ordering::Relaxed), trigger);
        if record {
            play.tracer(|tracer| tracer.record());
        }
        let played = caught(|| (scenario.play)(&play));
        let killed = play.killed().map(|killed| format!("{} killed before {}", killed.victim, killed.before));
        if let Err(panic) = played {
            play.violation(panic);
        }
        let (mut violations, tracer) = play.finish();
        let (census, trace) = (tracer.census(), tracer.recorded());
        if violations.is_empty() {
            self.0 = Some(host);
        } else if let Err(panic) = caught(|| drop(host)) {
            violations.push(panic);
        }
        let stayed = tracer.finish();
        if !stayed.is_empty() {
            violations.push(format!("had to be killed at the end: {stayed:?}"));
        }
        Ending { killed, violations, census, trace }
    }
}

impl Drop for Theatre {
    fn drop(&mut self) {
        if let Some(host) = self.0.take()
            && let Err(panic) = caught(|| drop(host))
        {
            eprintln!("{panic}");
        }
    }
}

/// xorshift64*, seeded through splitmix64.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Random((z ^ (z >> 31)) | 1)
    }

    /// In (0, 1].
    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) + 1) as f64 / (1u64 << 53) as f64
    }
}

impl Sweep {
    /// One point, with all that can be told about it.
    pub fn only(&self, point: &Point) -> ExitCode {
        let ending = Theatre::default().play(point.scenario, Some(point.trigger), true);
        for line in &ending.trace {
            println!("{line}");
        }
        println!("{point}: {}", ending.killed.as_deref().unwrap_or("not met, nobody was killed"));
        for violation in &ending.violations {
            println!("  {violation}");
        }
        if ending.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// A counting run of each scenario, then the points.
    pub fn run(&self, scenarios: &[&'static Scenario]) -> ExitCode {
        let begun = Instant::now();
        let mut violations = 0;
        let mut possible = Vec::new();
        let mut theatre = Theatre::default();
        for scenario in scenarios {
            let ending = theatre.play(scenario, None, false);
            violations += usize::from(!ending.violations.is_empty());
            for violation in &ending.violations {
                println!("fault: {} without a kill: {violation}", scenario.name);
            }
            let pairs = (scenario.pairs)().into_iter().filter(|pair| self.pair.is_none_or(|wanted| wanted == *pair));
            let mut told = Vec::new();
            for pair in pairs {
                let points = ending.census.points(pair);
                possible.extend(points.iter().map(|at| Point { scenario, trigger: Trigger { pair, at: *at } }));
                if !points.is_empty() {
                    told.push(format!("{pair} {}", points.len()));
                }
            }
            let told = if told.is_empty() { "played".to_owned() } else { told.join(", ") };
            println!("fault: {}: {told}", scenario.name);
        }
        drop(theatre);
        let of = possible.len();
        let chosen = self.choose(possible);
        let (met, bad, slow) = self.play(&chosen);
        violations += bad;
        if self.verbose {
            for (name, (count, seconds)) in slow {
                println!("fault: {name}: {count} runs, {:.2} s each", seconds / f64::from(count));
            }
        }
        let (tests, failed) = (scenarios.len(), usize::from(violations > 0));
        println!(
            "fault: {met} kill points, {violations} violations (seed {}, of {of} possible; {} not met; {:.0} s)",
            self.seed,
            chosen.len() - met,
            begun.elapsed().as_secs_f64()
        );
        let verdict = if failed == 0 { "ok" } else { "FAILED" };
        println!("test result: {verdict}. {} passed; {failed} failed; 0 ignored; {met} kill points", tests - failed);
        if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    /// A sample without repetition, in which slow scenarios are the rarer the slower they are.
    fn choose(&self, possible: Vec<Point>) -> Vec<Point> {
        let mut random = Random::new(self.seed);
        let mut keyed: Vec<(f64, Point)> =
            possible.into_iter().map(|point| (-random.unit().ln() * point.scenario.cost, point)).collect();
        keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
        keyed.into_iter().map(|(_, point)| point).take(self.points).collect()
    }

    /// How many points were met, how many violated something, and the time of each scenario.
    fn play(&self, points: &[Point]) -> (usize, usize, BTreeMap<&'static str, (u32, f64)>) {
        let (next, met, bad) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let times = Mutex::new(BTreeMap::new());
        let work = || {
            let mut theatre = Theatre::default();
            while let Some(point) = points.get(next.fetch_add(1, Ordering::Relaxed)) {
                let since = Instant::now();
                let ending = theatre.play(point.scenario, Some(point.trigger), false);
                met.fetch_add(usize::from(ending.killed.is_some()), Ordering::Relaxed);
                let mut times = times.lock().expect("no panic under the lock");
                let time: &mut (u32, f64) = times.entry(point.scenario.name).or_default();
                *time = (time.0 + 1, time.1 + since.elapsed().as_secs_f64());
                let killed = ending.killed.as_deref().unwrap_or("nobody was killed");
                if !ending.violations.is_empty() {
                    bad.fetch_add(1, Ordering::Relaxed);
                    println!(
                        "fault: VIOLATION at {point} ({killed}); again: cargo test --test fault -- --only {point}"
                    );
                    for violation in &ending.violations {
                        println!("    {}", violation.replace('\n', "\n    "));
                    }
                } else if self.verbose {
                    println!("fault: {point}: {killed}");
                }
            }
        };
        thread::scope(|scope| {
            for _ in 0..self.jobs.min(points.len()) {
                scope.spawn(work);
            }
        });
        let times = times.into_inner().expect("no panic under the lock");
        (met.into_inner(), bad.into_inner(), times)
    }
}
