//! When each step of a start or a stop began and ended: one reading of the clock each, kept in memory, written when the loop has nothing else to do.

use husk_oci::sys::clock;

use super::pod::{Pod, say};
use crate::pod;
use crate::state::record::State;
use crate::state::timeline::{Kind, RunTimes, Step, What};

/// So many steps may wait to be written; a pod whose directory cannot be written to loses those after.
const WAITING: usize = 256;

/// CLOCK_BOOTTIME in nanoseconds, which the vDSO tells without a system call.
pub(super) fn clock_ns() -> u64 {
    clock::boottime().as_nanos() as u64
}

/// What is known of the steps that are not over yet, and those that are not in their file.
pub(super) struct Timeline {
    steps: Vec<Step>,
    /// When the first line of the pod's first supervisor was executed.
    pub(super) begun_ns: u64,
    /// When pause was asked to end.
    pub(super) sandbox_end_ns: Option<u64>,
    /// When containers were sent their stop signals, by position.
    stopping: Vec<(usize, u64)>,
    /// Instances that were killed, by position: who lives on is killed again.
    killed: Vec<(usize, u32)>,
    /// Instances with probes that have come up: position, attempt, and what of it.
    probed: Vec<(usize, u32, Kind)>,
}

impl Timeline {
    /// Of a supervisor that began then.
    pub(super) fn new(begun_ns: u64) -> Timeline {
        Timeline {
            steps: Vec::new(),
            begun_ns,
            sandbox_end_ns: None,
            stopping: Vec::new(),
            killed: Vec::new(),
            probed: Vec::new(),
        }
    }

    /// A container is sent its stop signal.
    pub(super) fn stopping(&mut self, index: usize) {
        if !self.stopping.iter().any(|(at, _)| *at == index) {
            self.stopping.push((index, clock_ns()));
        }
    }
}

impl Pod {
    /// A step of the pod that began then and ends now; answers now.
    pub(super) fn step(&mut self, kind: Kind, from_ns: u64) -> u64 {
        let now = clock_ns();
        self.add_step(Step::new(kind, from_ns, now));
        now
    }

    /// Something that takes no time.
    pub(super) fn moment(&mut self, kind: Kind) {
        let now = clock_ns();
        self.add_step(Step::new(kind, now, now));
    }

    /// The same of an instance of a container.
    pub(super) fn container_step(&mut self, kind: Kind, index: usize, attempt: u32, from_ns: u64) -> u64 {
        let now = clock_ns();
        let step = Step::new(kind, from_ns, now).of(&self.status.containers[index].name, attempt);
        self.add_step(step);
        now
    }

    /// The same, over since then.
    pub(super) fn past_step(&mut self, kind: Kind, index: usize, attempt: u32, from_ns: u64, to_ns: u64) {
        let step = Step::new(kind, from_ns, to_ns).of(&self.status.containers[index].name, attempt);
        self.add_step(step);
    }

    /// An instance is killed, or killed again.
    pub(super) fn kill_step(&mut self, index: usize) {
        let attempt = self.status.containers[index].attempt;
        if !self.timeline.killed.contains(&(index, attempt)) {
            self.timeline.killed.retain(|(at, _)| *at != index);
            self.timeline.killed.push((index, attempt));
            let now = clock_ns();
            self.past_step(Kind::Kill, index, attempt, now, now);
        }
    }

    /// An instance has ended, asked or not.
    pub(super) fn exit_step(&mut self, index: usize, attempt: u32) {
        let asked = self.timeline.stopping.iter().position(|(at, _)| *at == index);
        match asked.map(|at| self.timeline.stopping.swap_remove(at).1) {
            Some(from) => drop(self.container_step(Kind::Stop, index, attempt, from)),
            // While the pod lives on this is no step of anything.
            None if pod::is_ending(&self.status) => {
                let now = clock_ns();
                self.past_step(Kind::Exit, index, attempt, now, now);
            }
            None => {}
        }
    }

    fn add_step(&mut self, step: Step) {
        let stop = step.kind >= Kind::Asked && (step.container.is_none() || pod::is_ending(&self.status));
        if self.timeline.steps.len() < WAITING {
            // After the end of one it is the next that is being made.
            let sandbox = self.status.sandbox.as_ref().map_or(0, |s| s.attempt + u32::from(s.ended));
            self.timeline.steps.push(Step { stop, sandbox, ..step });
        }
    }

    /// What `husk run` has done meanwhile, and when it had cloned us.
    pub(super) fn run_steps(&mut self, times: RunTimes) {
        let begun = self.timeline.begun_ns;
        times.steps().into_iter().for_each(|step| self.add_step(step));
        self.add_step(Step::new(Kind::Supervisor, times.launched, begun));
    }

    /// The steps of the pod's end so far, for those who want to hear of them.
    pub(super) fn stop_steps(&mut self) -> Vec<Step> {
        if self.waiting_for_steps.is_empty() {
            return Vec::new();
        }
        self.write_timeline();
        let plays = self.roots.timeline(&self.record.id).unwrap_or_else(|e| {
            say("warn", format_args!("{e}, continuing without the timeline"));
            Vec::new()
        });
        plays.into_iter().filter(|play| play.what == What::Stop).flat_map(|play| play.steps).collect()
    }

    /// Containers whose probes have succeeded since this was last called.
    fn probe_steps(&mut self) {
        for index in 0..self.status.containers.len() {
            let c = &self.status.containers[index];
            if !matches!(c.state, State::Running { .. }) {
                continue;
            }
            let (attempt, up) = (c.attempt, [(c.started, Kind::Started), (c.ready, Kind::Ready)]);
            for kind in up.into_iter().filter(|(up, _)| *up == Some(true)).map(|(_, kind)| kind) {
                if !self.timeline.probed.contains(&(index, attempt, kind)) {
                    self.timeline.probed.retain(|(at, _, of)| *at != index || *of != kind);
                    self.timeline.probed.push((index, attempt, kind));
                    let now = clock_ns();
                    self.past_step(kind, index, attempt, now, now);
                }
            }
        }
    }

    /// Writes what there is.
    pub(super) fn write_timeline(&mut self) {
        self.probe_steps();
        if self.timeline.steps.is_empty() {
            return;
        }
        let steps = std::mem::take(&mut self.timeline.steps);
        match self.dir.add_steps(&steps) {
            Ok(_) => {}
            // Removed with the pod.
            Err(_) if !self.dir.path.exists() => {}
            Err(e) => say("warn", format_args!("{e}, continuing without {} steps of the timeline", steps.len())),
        }
    }
}
