//! Many random pods in virtual time, watched by rules that are written down apart from the code.

use super::tests::{SECOND, at, exit, fresh, record};
use super::*;
use crate::state::record::{ContainerKind, Exit, PodRecord, State, Status};

/// xorshift64*: the same numbers in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// A process that the world runs for a slot.
struct Process {
    ends_ns: u64,
    exit_code: i32,
    /// What it does with SIGTERM: ends after so long, or never.
    stops_after_ns: Option<u64>,
}

/// The kubelet's back-off entry, kept as the kubelet does: looked at and moved on at the moment of a start.
#[derive(Default)]
struct Entry {
    delay_ns: u64,
    updated_ns: Option<u64>,
}

impl Entry {
    fn due(&self, finished_ns: u64) -> u64 {
        match self.updated_ns {
            Some(updated) if finished_ns.saturating_sub(updated) <= 600 * SECOND => finished_ns + self.delay_ns,
            _ => finished_ns,
        }
    }

    fn restarted(&mut self, finished_ns: u64, now_ns: u64) {
        let expired = self.updated_ns.is_none_or(|updated| finished_ns.saturating_sub(updated) > 600 * SECOND);
        self.delay_ns = if expired { 10 * SECOND } else { (self.delay_ns * 2).min(300 * SECOND) };
        self.updated_ns = Some(now_ns);
    }
}

struct World {
    random: Random,
    record: PodRecord,
    status: Status,
    /// Each condition as it was last seen.
    conditions: std::collections::HashMap<String, (String, jiff::Timestamp)>,
    now_ns: u64,
    processes: Vec<Option<Process>>,
    last_exit: Vec<Option<Exit>>,
    entries: Vec<Entry>,
    starts: Vec<u32>,
    killed: bool,
    removed: bool,
    finished: bool,
    phase: Phase,
}

impl World {
    fn new(seed: u64) -> World {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let policy = ["Always", "OnFailure", "Never"][random.below(3) as usize];
        let (init, app) = (random.below(3) as usize, 1 + random.below(3) as usize);
        let record = record(policy, init, app);
        let status = fresh(&record);
        let slots = init + app;
        World {
            random,
            record,
            status,
            conditions: std::collections::HashMap::new(),
            now_ns: SECOND,
            processes: (0..slots).map(|_| None).collect(),
            last_exit: vec![None; slots],
            entries: (0..slots).map(|_| Entry::default()).collect(),
            starts: vec![0; slots],
            killed: false,
            removed: false,
            finished: false,
            phase: Phase::Pending,
        }
    }

    fn policy(&self) -> String {
        self.record.pod.spec.as_ref().and_then(|s| s.restart_policy.clone()).expect("defaulted")
    }

    fn start(&mut self, index: usize, attempt: u32) {
        assert!(self.processes[index].is_none(), "two instances of one slot");
        assert!(!self.finished && !self.removed && self.status.deletion.is_none() && self.status.failure.is_none());
        assert!(self.status.sandbox.as_ref().is_some_and(|s| !s.ended));
        assert_eq!(attempt, self.starts[index], "instances are numbered without gaps");
        let kind = self.status.containers[index].kind;
        for (other, c) in self.status.containers.iter().enumerate() {
            let before = match kind {
                ContainerKind::Init => other < index,
                ContainerKind::App => c.kind == ContainerKind::Init,
                ContainerKind::Ephemeral => false,
            };
            if before {
                assert_eq!(self.last_exit[other].as_ref().map(|e| e.exit_code), Some(0), "init order");
            }
        }
        if kind == ContainerKind::Init {
            assert!(self.status.initialized_at.is_none());
        }
        if let Some(previous) = self.last_exit[index].clone() {
            let policy = self.policy();
            assert_ne!(policy, "Never");
            assert!(previous.exit_code != 0 || (policy == "Always" && kind == ContainerKind::App));
            assert_eq!(self.now_ns, self.entries[index].due(previous.finished_boot_ns), "back-off");
            self.entries[index].restarted(previous.finished_boot_ns, self.now_ns);
        }
        self.starts[index] += 1;
        if self.random.one_in(6) {
            let failed = Exit { reason: "StartError".to_owned(), started_at: None, ..exit(attempt, 128, self.now_ns) };
            self.last_exit[index] = Some(failed.clone());
            assert!(apply_exit(&self.record, &mut self.status, index, failed));
            return;
        }
        let ticks = u64::from(attempt);
        let process = super::Process { id: format!("id{attempt}"), pid: 7, start_ticks: ticks };
        apply_start(&self.record, &mut self.status, index, attempt, process, at(self.now_ns));
        let lasts = match self.random.below(4) {
            0 => self.random.below(SECOND),
            1 => self.random.below(30 * SECOND),
            2 => self.random.below(700 * SECOND),
            _ => 590 * SECOND + self.random.below(30 * SECOND),
        };
        let stops_after_ns = if self.random.one_in(3) { None } else { Some(self.random.below(40 * SECOND)) };
        let exit_code = self.random.below(2) as i32;
        self.processes[index] = Some(Process { ends_ns: self.now_ns + lasts, exit_code, stops_after_ns });
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Start { index, attempt } => self.start(index, attempt),
            Action::StopAll => {
                assert!(self.status.deletion.is_some());
                for (c, p) in self.status.containers.iter().zip(&mut self.processes) {
                    if let (State::Running { stopping: false, .. }, Some(p)) = (&c.state, p)
                        && let Some(after) = p.stops_after_ns
                    {
                        p.ends_ns = p.ends_ns.min(self.now_ns + after);
                    }
                }
                self.status.containers.iter_mut().for_each(|c| apply_stopping(c, at(SECOND)));
            }
            Action::Stop { .. } | Action::Kill { .. } => panic!("only for a client's container"),
            Action::KillAll => {
                match &self.status.deletion {
                    Some(d) => assert!(self.now_ns >= d.deadline_boot_ns, "never before the deadline"),
                    None => assert!(self.status.failure.is_some()),
                }
                self.killed = true;
                for p in self.processes.iter_mut().flatten() {
                    *p = Process { ends_ns: self.now_ns, exit_code: 137, stops_after_ns: None };
                }
            }
            Action::Initialized => {
                let init =
                    self.status.containers.iter().zip(&self.last_exit).filter(|(c, _)| c.kind == ContainerKind::Init);
                assert!(init.into_iter().all(|(_, e)| e.as_ref().is_some_and(|e| e.exit_code == 0)));
                apply_initialized(&mut self.status, at(self.now_ns));
            }
            Action::EndSandbox => {
                assert!(self.processes.iter().all(Option::is_none));
                apply_sandbox_end(&self.record, &mut self.status);
            }
            Action::Finish => {
                assert!(self.status.sandbox.as_ref().is_some_and(|s| s.ended));
                self.status.finished_at = Some(at(self.now_ns).wall);
                self.finished = true;
            }
            Action::Remove => {
                assert!(self.status.deletion.is_some() && self.processes.iter().all(Option::is_none));
                self.removed = true;
            }
        }
    }

    /// Until nothing more is to be done at this instant; answers when to ask again.
    fn settle(&mut self) -> Option<u64> {
        for _ in 0..100 {
            let decision = decide(&self.record, &self.status, at(self.now_ns));
            assert_eq!(
                decision,
                decide(&self.record, &self.status, at(self.now_ns)),
                "the same question, the same answer"
            );
            self.check();
            if self.removed || decision.actions.is_empty() || decision.actions == [Action::KillAll] && self.killed {
                return decision.wake_boot_ns;
            }
            for action in decision.actions {
                self.act(action);
                self.check();
            }
        }
        panic!("does not come to rest");
    }

    /// What the derived conditions must be whatever happens.
    fn check_conditions(&mut self, pod: &k8s_openapi::api::core::v1::Pod) {
        let status = pod.status.as_ref().expect("a status");
        let conditions = status.conditions.as_ref().expect("conditions");
        let holds = |kind: &str| conditions.iter().find(|c| c.type_ == kind).expect(kind).status == "True";
        let mut kinds: Vec<&str> = conditions.iter().map(|c| c.type_.as_str()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        assert_eq!(kinds.len(), conditions.len(), "each condition once");
        let phase = status.phase.as_deref().expect("a phase");
        assert!(!holds("Ready") || holds("ContainersReady"), "ready without its containers");
        assert!(
            !holds("ContainersReady") || holds("Initialized"),
            "containers are ready before the pod is initialized"
        );
        assert!(
            !holds("ContainersReady") || holds("PodReadyToStartContainers"),
            "containers are ready without a sandbox"
        );
        assert!(!holds("Ready") || phase == "Running", "ready in phase {phase}");
        assert!(phase != "Succeeded" || holds("Initialized"));
        let app = status.container_statuses.as_ref().expect("containers");
        assert!(!holds("ContainersReady") || app.iter().all(|c| c.ready));
        assert!(app.iter().all(|c| !c.ready || c.started == Some(true)), "ready before it has started");
        for c in conditions {
            let since = c.last_transition_time.as_ref().expect("a time").0;
            let seen = self.conditions.insert(c.type_.clone(), (c.status.clone(), since));
            if let Some((before, then)) = seen {
                // Two changes may fall on one instant of this world.
                let kept = if before == c.status { then == since } else { then <= since };
                assert!(kept, "{}: the time changes with the status", c.type_);
            }
            assert!(c.status == "False" || c.message.is_none(), "{}: a complaint about what holds", c.type_);
        }
    }

    fn check(&mut self) {
        let phase = phase(&self.record, &self.status, Liveness::Alive);
        if matches!(self.phase, Phase::Succeeded | Phase::Failed) {
            assert_eq!(phase, self.phase, "terminal phases stay");
        }
        self.phase = phase;
        apply_conditions(&self.record, &mut self.status, at(self.now_ns));
        let pod = to_v1(&self.record, &self.status, Liveness::Alive);
        self.check_conditions(&pod);
        assert!(!printable_status(&pod).is_empty());
        // A new supervisor knows only what was written.
        let text = serde_json::to_string(&self.status).expect("json");
        self.status = serde_json::from_str(&text).expect("status");
    }

    fn ends(&mut self) {
        for index in 0..self.processes.len() {
            if self.processes[index].as_ref().is_some_and(|p| p.ends_ns <= self.now_ns) {
                let p = self.processes[index].take().expect("just seen");
                let attempt = self.status.containers[index].attempt;
                let ended = exit(attempt, p.exit_code, self.now_ns);
                self.last_exit[index] = Some(ended.clone());
                assert!(apply_exit(&self.record, &mut self.status, index, ended.clone()));
                assert!(!apply_exit(&self.record, &mut self.status, index, ended));
                if self.status.deletion.is_some() {
                    assert!(
                        matches!(self.status.containers[index].state, State::Terminated(_)),
                        "no restart is promised"
                    );
                }
                self.settle();
            }
        }
    }

    fn random_event(&mut self) {
        match self.random.below(40) {
            0..=2 => {
                let before = self.status.deletion.clone();
                let requested = if self.random.one_in(2) { Some(self.random.below(50)) } else { None };
                let force = self.random.one_in(5);
                let changed = request_delete(&mut self.status, 30, requested, force, at(self.now_ns));
                let after = self.status.deletion.clone().expect("set");
                let asked = if force { 0 } else { requested.unwrap_or(30).max(2) * SECOND };
                match before {
                    None => assert!(changed && after.deadline_boot_ns == self.now_ns + asked),
                    Some(before) => {
                        assert_eq!(after.deadline_boot_ns, before.deadline_boot_ns.min(self.now_ns + asked));
                        assert_eq!(changed, after != before);
                        assert!(after.grace_seconds <= before.grace_seconds);
                    }
                }
                self.killed = false;
            }
            3 if self.status.sandbox.as_ref().is_some_and(|s| !s.ended) => {
                // Somebody kills pause, and the kernel everything below it.
                apply_sandbox_end(&self.record, &mut self.status);
                for p in self.processes.iter_mut().flatten() {
                    *p = Process { ends_ns: self.now_ns + 1000, exit_code: 137, stops_after_ns: None };
                }
            }
            _ => {}
        }
    }

    fn live(&mut self) {
        for step in 0..400 {
            let wake = self.settle();
            if self.removed {
                return;
            }
            let next_end = self.processes.iter().flatten().map(|p| p.ends_ns).min();
            let next = match (wake, next_end) {
                (None, None) => {
                    assert!(self.finished, "rests only when it is over");
                    assert!(matches!(self.phase, Phase::Succeeded | Phase::Failed));
                    request_delete(&mut self.status, 30, None, false, at(self.now_ns));
                    continue;
                }
                (wake, end) => wake.unwrap_or(u64::MAX).min(end.unwrap_or(u64::MAX)),
            };
            if let Some(d) = &self.status.deletion
                && !self.killed
            {
                assert!(next <= d.deadline_boot_ns.max(self.now_ns), "never after the deadline");
            }
            let next = next.max(self.now_ns);
            // Sometimes something happens on the way.
            if next > self.now_ns && self.random.one_in(3) {
                self.now_ns += self.random.below(next - self.now_ns);
                self.random_event();
            } else {
                if next > self.now_ns {
                    // One nanosecond early nothing is due.
                    self.now_ns = next - 1;
                    assert_eq!(self.settle(), wake);
                }
                self.now_ns = next;
                self.ends();
            }
            if step == 300 {
                request_delete(&mut self.status, 30, None, false, at(self.now_ns));
            }
        }
        panic!("does not come to an end");
    }
}

#[test]
fn random_pods_keep_every_rule() {
    for seed in 1..=300 {
        let mut world = World::new(seed);
        world.live();
        assert!(world.removed);
    }
}
