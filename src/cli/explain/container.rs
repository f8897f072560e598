//! What follows from what is known, for one container.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container as Spec;
use nix::sys::signal::Signal;

use super::reason::Case;
use super::{LastProbe, Stage};
use crate::cli::span;
use crate::manifest;
use crate::pod::{self, GRACE_FLOOR_SECONDS, SECOND_NS};
use crate::probe::Kind;
use crate::state::events::{self, Event};
use crate::state::record::{Container, ContainerKind, Exit, Hook, HookRun, State, StopWhy};

/// So many lines of what a container has left as its message are told, the last ones.
const MESSAGE_LINES: usize = 5;

impl Case<'_> {
    /// `container main`, `init container setup`, `sidecar proxy`
    pub(super) fn noun(&self, index: usize) -> String {
        let c = &self.facts.status.containers[index];
        let kind = match c.kind {
            ContainerKind::Init if self.is_sidecar(index) => "sidecar",
            ContainerKind::Init => "init container",
            ContainerKind::App => "container",
            ContainerKind::Ephemeral => "ephemeral container",
        };
        format!("{kind} {}", c.name)
    }

    pub(super) fn is_sidecar(&self, index: usize) -> bool {
        self.facts.record.containers.get(index).is_some_and(|made_of| made_of.is_sidecar())
    }

    /// Whether an init container keeps nobody waiting any more.
    pub(super) fn init_done(&self, index: usize) -> bool {
        let c = &self.facts.status.containers[index];
        match self.is_sidecar(index) {
            true => pod::started(&self.facts.record, index, c),
            false => !c.anew && matches!(&c.state, State::Terminated(exit) if exit.exit_code == 0),
        }
    }

    /// What a container lacks for its pod to run and be ready; says what else is known of it, and what comes next.
    pub(super) fn look(&mut self, index: usize) -> Option<(Stage, String)> {
        let c = &self.facts.status.containers[index];
        match &c.state {
            State::Waiting { .. } => match &c.last {
                Some(exit) => self.between(index, c, exit),
                None => self.not_started(index, c),
            },
            State::Terminated(exit) if c.anew => {
                let why = format!("{}, and has to run once more", self.how_ended(index));
                let start = u64::from(exit.attempt) + 2;
                self.at(
                    exit.finished_boot_ns,
                    Some(&c.name),
                    format!("{} is started for the {} time", self.noun(index), ordinal(start)),
                );
                Some((Stage::Start, why))
            }
            State::Terminated(exit) if pod::is_over(&self.facts.record, index, c) => self.over(index, c, exit),
            State::Terminated(exit) => self.between(index, c, exit),
            State::Running { started_at, .. } => self.runs(index, c, *started_at),
        }
    }

    /// One sentence about a container that somebody else decides about.
    pub(super) fn state_of(&mut self, index: usize) {
        let c = &self.facts.status.containers[index];
        let text = match &c.state {
            State::Waiting { .. } => format!("{}: was created, and was not started yet", self.noun(index)),
            State::Running { started_at, .. } => {
                format!("{}: runs, since {}", self.noun(index), self.since(*started_at))
            }
            State::Terminated(_) => self.how_ended(index),
        };
        self.detail(Some(&c.name), text);
    }

    /// `container main ended with exit code 3, 4s ago, after it had run for 1s`
    pub(super) fn how_ended(&self, index: usize) -> String {
        let c = &self.facts.status.containers[index];
        let noun = self.noun(index);
        let Some(exit) = newest_end(c) else { return format!("{noun} has not ended") };
        let ago = self.since(exit.finished_at);
        let Some(started) = exit.started_at else {
            return format!("{noun} could not be started, {ago} ago: {}", exit.message);
        };
        let how = match (exit.reason.as_str(), exit.signal, exit.exit_code) {
            (pod::OOM_KILLED, ..) => format!("was killed for want of memory{}", self.memory_limit(&c.name)),
            ("ContainerStatusUnknown", ..) => "ended, and nobody saw how".to_owned(),
            (_, Some(signal), code) => format!("was ended by {}, exit code {code}", signal_name(signal)),
            (_, None, code) => format!("ended with exit code {code}"),
        };
        let ran = span::age(exit.finished_at.as_second() - started.as_second());
        format!("{noun} {how}, {ago} ago, after it had run for {ran}")
    }

    fn memory_limit(&self, name: &str) -> String {
        let limit = self.spec(name).and_then(|c| c.resources.as_ref()?.limits.as_ref()?.get("memory"));
        limit.map(|limit| format!(" (its limit is {})", limit.0)).unwrap_or_default()
    }

    fn spec(&self, name: &str) -> Option<&Spec> {
        manifest::container(&self.facts.record.pod, name)
    }

    /// What is known of an end besides how it was.
    pub(super) fn after_end(&mut self, index: usize) {
        let c = &self.facts.status.containers[index];
        let Some(exit) = newest_end(c) else { return };
        let name = Some(c.name.as_str());
        let noun = self.noun(index);
        if exit.started_at.is_some() && !exit.message.is_empty() {
            let mut lines = exit.message.trim_end().lines().rev().take(MESSAGE_LINES).collect::<Vec<_>>();
            lines.reverse();
            lines.iter().for_each(|line| self.detail(name, format!("{noun}: {line}")));
        }
        for kind in [Kind::Liveness, Kind::Startup] {
            let stopped = format!("failed {} probe", kind.to_string().to_lowercase());
            let of_this =
                |event: &Event| event.reason == "Killing" && event.message.contains(&stopped) && within(event, exit);
            if self.events_of(c).any(of_this) {
                self.detail(
                    name,
                    format!("{noun}: was stopped because its {} probe failed", kind.to_string().to_lowercase()),
                );
                self.last_probe(c, kind, exit.started_at);
            }
        }
    }

    /// It has ended, and will be started again.
    fn between(&mut self, index: usize, c: &Container, exit: &Exit) -> Option<(Stage, String)> {
        let noun = self.noun(index);
        let lacks: Vec<String> = self.missing_of(c);
        let why = match lacks.first() {
            Some(lack) => format!("{noun} cannot be started: {lack}"),
            None => self.how_ended(index),
        };
        if !lacks.is_empty() {
            let ended = self.how_ended(index);
            self.detail(Some(&c.name), ended);
        }
        self.after_end(index);
        let delay_ms = c.backoff.as_ref().map_or(0, |backoff| backoff.delay_ms);
        let due = exit.finished_boot_ns.saturating_add(delay_ms.saturating_mul(1_000_000));
        let start = u64::from(exit.attempt) + 2;
        self.at(due, Some(&c.name), format!("{noun} is started for the {} time", ordinal(start)));
        if delay_ms > 0 {
            let after = (delay_ms * 2).min(pod::longest_backoff_ms(&self.facts.record)) / 1000;
            let text = format!("if {noun} fails again, the next start is {} after that", span::age(after as i64));
            self.then(Some(&c.name), text);
        }
        Some((if exit.started_at.is_some() { Stage::Restart } else { Stage::Start }, why))
    }

    fn missing_of(&self, c: &Container) -> Vec<String> {
        let own = self.facts.missing.iter().filter(|it| it.container.as_deref() == Some(c.name.as_str()));
        let prefix = format!("{}: ", c.name);
        own.map(|it| it.text.strip_prefix(&prefix).unwrap_or(&it.text).to_owned()).collect()
    }

    fn not_started(&mut self, index: usize, c: &Container) -> Option<(Stage, String)> {
        let noun = self.noun(index);
        let hooked = self.containers().find(|(_, other)| {
            matches!(&other.hook, Some(HookRun { hook: Hook::PostStart, done: false, .. }))
                && matches!(other.state, State::Running { .. })
        });
        let hooked = hooked.map(|(_, other)| other.name.clone());
        let why = match (self.missing_of(c).first(), hooked) {
            (Some(lack), _) => format!("{noun} cannot be started: {lack}"),
            (None, Some(other)) => format!("{noun} waits for the postStart hook of container {other}"),
            (None, None) => format!("{noun} is being made"),
        };
        self.then(Some(&c.name), format!("{noun} is started"));
        Some((Stage::Start, why))
    }

    /// It has ended for good.
    fn over(&mut self, index: usize, c: &Container, exit: &Exit) -> Option<(Stage, String)> {
        if c.kind != ContainerKind::App {
            if exit.exit_code != 0 && c.kind == ContainerKind::Init {
                self.after_end(index);
                return Some((Stage::Done, format!("{}, and is not started again", self.how_ended(index))));
            }
            return None;
        }
        self.after_end(index);
        let again = match exit.exit_code {
            0 => "it has done its work, and is not started again",
            _ => "by its restart policy it is not started again",
        };
        let ended = self.how_ended(index);
        Some((Stage::Done, format!("{ended}; {again}, while others run")))
    }

    fn runs(&mut self, index: usize, c: &Container, started_at: Timestamp) -> Option<(Stage, String)> {
        let noun = self.noun(index);
        let name = Some(c.name.as_str());
        if c.oom_kills > 0 {
            self.detail(name, format!("{noun}: {}{}", pod::oom_text(c.oom_kills), self.memory_limit(&c.name)));
        }
        if let Some(stop) = &c.stop {
            let (what, then) = match stop.why {
                StopWhy::Client => ("its client wants it to", "stays so until its client starts another"),
                StopWhy::Resize => ("it gets new resources", "is started again at once, with its new resources"),
                StopWhy::Image => ("it gets another image", "is started again at once, with its new image"),
                StopWhy::Restart => ("somebody wants it to be started again", "is started again at once"),
                StopWhy::Liveness => ("its liveness probe has failed", "is started again, by its restart policy"),
                StopWhy::Startup => ("its startup probe has failed", "is started again, by its restart policy"),
                StopWhy::PostStart => ("its postStart hook has failed", "is started again, by its restart policy"),
                StopWhy::Remove => ("somebody wants it removed", "is forgotten"),
            };
            let why = format!("{noun} stops, because {what}");
            let probe = match stop.why {
                StopWhy::Liveness => Some(Kind::Liveness),
                StopWhy::Startup => Some(Kind::Startup),
                _ => None,
            };
            if let Some(kind) = probe {
                self.last_probe(c, kind, Some(started_at));
            }
            if let Some(hook) = c.hook.as_ref().filter(|hook| !hook.failure.is_empty()) {
                self.detail(name, format!("{noun}: {} hook: {}", hook.hook.word(), hook.failure));
                self.hook_log(c);
            }
            self.stops(index, c, stop.deadline_boot_ns, stop.why == StopWhy::Client);
            self.then(name, format!("when {noun} has ended, it {then}"));
            return Some((Stage::Stopping, why));
        }
        if let Some(hook) = c.hook.as_ref().filter(|hook| hook.hook == Hook::PostStart && !hook.done) {
            let since = self.since_boot(hook.begun_boot_ns);
            self.then(name, format!("when the hook is over, {noun} counts as started; if it fails, {noun} is stopped"));
            self.hook_log(c);
            return Some((Stage::PostStart, format!("{noun} runs, and its postStart hook is not over, since {since}")));
        }
        if !pod::started(&self.facts.record, index, c) {
            return Some(self.starting_up(index, c, started_at));
        }
        self.liveness(index, c, started_at);
        self.ports(index, c);
        if pod::ready(&self.facts.record, index, c) || c.kind == ContainerKind::Ephemeral {
            return None;
        }
        // A sidecar's readiness counts, too.
        Some(self.not_ready(index, c, started_at))
    }

    fn hook_log(&mut self, c: &Container) {
        self.command(format!("husk logs {} -c {} --hook", self.name(), c.name));
    }

    /// The startup probe has not succeeded yet.
    fn starting_up(&mut self, index: usize, c: &Container, started_at: Timestamp) -> (Stage, String) {
        let noun = self.noun(index);
        let said = self.last_probe(c, Kind::Startup, Some(started_at));
        let why = match said {
            Some(output) => format!("{noun} runs, and its startup probe fails: {output}"),
            None => format!("{noun} runs, and its startup probe has not succeeded yet"),
        };
        if let Some(probe) =
            self.facts.record.containers.get(index).and_then(|made_of| made_of.probes.get(Kind::Startup))
        {
            let failures = u64::from(probe.failure_threshold);
            let given = u64::from(probe.initial_delay_seconds) + u64::from(probe.period_seconds) * failures;
            let times = if failures == 1 { "time".to_owned() } else { format!("{failures} times in a row") };
            let end = self.boot_of(started_at).saturating_add(given.saturating_mul(SECOND_NS));
            self.at(
                end,
                Some(&c.name),
                format!("about then the startup probe has failed {times}, and {noun} is stopped"),
            );
        }
        self.then(Some(&c.name), "when the startup probe has succeeded, the other probes begin");
        (Stage::Startup, why)
    }

    fn not_ready(&mut self, index: usize, c: &Container, started_at: Timestamp) -> (Stage, String) {
        let noun = self.noun(index);
        let said = self.last_probe(c, Kind::Readiness, Some(started_at));
        let why = match said {
            Some(output) => format!("{noun} runs, and its readiness probe fails: {output}"),
            None => format!("{noun} runs, and its readiness probe has not succeeded yet"),
        };
        let probe = self.facts.record.containers.get(index).and_then(|made_of| made_of.probes.get(Kind::Readiness));
        if let Some(probe) = probe {
            let first = self.boot_of(started_at) + u64::from(probe.initial_delay_seconds) * SECOND_NS;
            if first > self.facts.now.boot_ns {
                self.at(first, Some(&c.name), format!("the readiness probe of {noun} is made for the first time"));
            }
            let needed = match probe.success_threshold {
                1 => "one success makes it ready".to_owned(),
                n => format!("{n} successes in a row make it ready"),
            };
            let every = probe.period_seconds;
            self.then(
                Some(&c.name),
                format!("{noun} is probed every {every}s; {needed}, and it is not restarted for this"),
            );
        }
        (Stage::Readiness, why)
    }

    /// A liveness probe that fails does not show in the status before it is too late.
    fn liveness(&mut self, index: usize, c: &Container, started_at: Timestamp) {
        let Some(probe) =
            self.facts.record.containers.get(index).and_then(|made_of| made_of.probes.get(Kind::Liveness))
        else {
            return;
        };
        let recent = 2 * i64::from(probe.period_seconds) + i64::from(probe.timeout_seconds);
        let now = self.facts.now.wall.as_second();
        let fails = self
            .newest(c, Kind::Liveness, Some(started_at))
            .is_some_and(|event| now - event.last.as_second() <= recent);
        let failures = probe.failure_threshold;
        if fails {
            self.last_probe(c, Kind::Liveness, Some(started_at));
            let noun = self.noun(index);
            self.then(
                Some(&c.name),
                format!("if the liveness probe of {noun} fails {failures} times in a row, {noun} is stopped"),
            );
        }
    }

    /// Ports that the manifest promises and nobody listens on.
    fn ports(&mut self, index: usize, c: &Container) {
        let facts = self.facts;
        let (Some(open), Some(spec)) = (&facts.ports, manifest::container(&facts.record.pod, &c.name)) else { return };
        for port in spec.ports.iter().flatten() {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let table = match protocol {
                "TCP" => &open.tcp,
                "UDP" => &open.udp,
                _ => continue,
            };
            let found = u16::try_from(port.container_port).ok().and_then(|number| table.get(&number));
            let what = match found {
                Some(true) => continue,
                Some(false) => "is open to the pod itself alone: it is bound to the loopback address",
                None => "is not open: nothing listens there",
            };
            let text = format!("{}: port {}/{protocol} {what}", self.noun(index), port.container_port);
            self.detail(Some(&c.name), text);
        }
    }

    /// All that still runs is on its way out, and killed at the deadline.
    pub(super) fn stopping(&mut self, deadline_boot_ns: u64, force: bool) {
        let running: Vec<usize> = self
            .containers()
            .filter(|(_, c)| matches!(c.state, State::Running { .. }))
            .map(|(index, _)| index)
            .collect();
        for index in running {
            let c = &self.facts.status.containers[index];
            self.stops(index, c, deadline_boot_ns, force);
        }
    }

    /// How a container that runs comes to its end.
    fn stops(&mut self, index: usize, c: &Container, deadline_boot_ns: u64, no_floor: bool) {
        let noun = self.noun(index);
        let name = Some(c.name.as_str());
        let asked = c.stopping_since_boot_ns;
        let floor =
            asked.filter(|_| !no_floor).map_or(0, |since| since.saturating_add(GRACE_FLOOR_SECONDS * SECOND_NS));
        let kill = deadline_boot_ns.max(floor);
        let running_hook = c.hook.as_ref().filter(|hook| hook.hook == Hook::PreStop && !hook.done);
        let doing = match (running_hook, asked) {
            (Some(hook), _) => format!("{noun}: its preStop hook runs, since {}", self.since_boot(hook.begun_boot_ns)),
            (None, Some(since)) => {
                let signal = self.facts.record.containers.get(index).map_or(0, |made_of| made_of.stop_signal);
                format!("{noun}: was sent {} {} ago, and has not ended", signal_name(signal), self.since_boot(since))
            }
            (None, None) if self.is_sidecar(index) => format!("{noun}: runs until the containers have ended"),
            (None, None) => format!("{noun}: is about to be asked to stop"),
        };
        if running_hook.is_some() {
            self.hook_log(c);
        }
        self.detail(name, doing);
        if let Some(process) = self.facts.processes.get(&c.name).filter(|process| process.state == Some('D')) {
            let stack =
                if process.stack.is_empty() { String::new() } else { format!("; {}", process.stack.join(" < ")) };
            self.detail(
                name,
                format!(
                    "{noun}: process {} sleeps in the kernel (state D) in {}, and cannot be killed before that is over{stack}",
                    process.pid, process.wchan
                ),
            );
        }
        if kill > self.facts.now.boot_ns {
            self.at(kill, name, format!("{noun} is killed, if it has not ended"));
        } else {
            self.then(name, format!("{noun} is being killed, again every second until it has ended"));
        }
    }

    fn events_of(&self, c: &Container) -> impl Iterator<Item = &Event> {
        let path = events::field_path(c.kind, &c.name);
        self.facts.events.iter().filter(move |event| event.field_path.as_deref() == Some(path.as_str()))
    }

    /// The newest failure of a probe since the start of an instance.
    fn newest(&self, c: &Container, kind: Kind, since: Option<Timestamp>) -> Option<&Event> {
        let of_kind = |event: &&Event| event.reason == "Unhealthy" && output(&event.message, kind).is_some();
        // Events know full seconds as well as we do: the start and the first failure may fall together.
        let young = |event: &&Event| since.is_none_or(|since| event.last >= since);
        self.events_of(c).filter(of_kind).filter(young).max_by_key(|event| event.last)
    }

    /// The same, put into the answer; what it has said.
    fn last_probe(&mut self, c: &Container, kind: Kind, since: Option<Timestamp>) -> Option<String> {
        let event = self.newest(c, kind, since)?;
        let said = output(&event.message, kind)?.to_owned();
        let (at, count) = (event.last, event.count);
        let probe = kind.to_string().to_lowercase();
        self.answer.probes.push(LastProbe { container: c.name.clone(), probe, output: said.clone(), at, count });
        Some(said)
    }

    /// A moment of the wall clock on CLOCK_BOOTTIME.
    fn boot_of(&self, then: Timestamp) -> u64 {
        let ago = self.facts.now.wall.duration_since(then).as_nanos().max(0);
        self.facts.now.boot_ns.saturating_sub(u64::try_from(ago).unwrap_or(u64::MAX))
    }
}

/// How the last instance that has ended did so, also while another one runs.
fn newest_end(c: &Container) -> Option<&Exit> {
    pod::ended(c).or(c.last.as_ref())
}

/// Whether an event was last seen while that instance lived, to the second.
fn within(event: &Event, exit: &Exit) -> bool {
    let last = event.last.as_second();
    exit.started_at.is_some_and(|started| last >= started.as_second()) && last <= exit.finished_at.as_second() + 1
}

/// What a probe of this kind has said, in the message of an event.
fn output(message: &str, kind: Kind) -> Option<&str> {
    let rest = message.strip_prefix("(combined from similar events): ").unwrap_or(message);
    let rest = rest.strip_prefix(kind.to_string().as_str())?.strip_prefix(" probe ")?;
    let said =
        rest.strip_prefix("failed: ").or_else(|| rest.strip_prefix("errored and resulted in unknown state: "))?;
    Some(said.trim_end())
}

/// `SIGTERM`; `signal 40` for one without a name.
fn signal_name(number: i32) -> String {
    Signal::try_from(number).map_or_else(|_| format!("signal {number}"), |signal| signal.as_str().to_owned())
}

/// `2nd`, `3rd`, `11th`
fn ordinal(n: u64) -> String {
    let end = match (n % 10, n % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{n}{end}")
}
