//! Many random pods in virtual time, watched by rules that are written down apart from the code.

use super::tests::{SECOND, at, exit, fresh, record};
use super::*;
use crate::state::record::{
    ContainerKind, Exit, Hook, HookAction, PodRecord, Restart, RestartAction, RestartPolicy, RestartRule, Sandbox,
    State, Status, StopWhy,
};

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

/// A hook's process.
struct HookProcess {
    ends_ns: u64,
    succeeds: bool,
}

struct World {
    random: Random,
    record: PodRecord,
    status: Status,
    /// Each condition as it was last seen.
    conditions: std::collections::HashMap<String, (String, jiff::Timestamp)>,
    now_ns: u64,
    processes: Vec<Option<Process>>,
    hooks: Vec<Option<HookProcess>>,
    last_exit: Vec<Option<Exit>>,
    entries: Vec<Entry>,
    starts: Vec<u32>,
    /// Since the pod has begun, or has begun anew: init containers that have succeeded, sidecars that were up.
    done: Vec<bool>,
    /// Hooks begun by each instance.
    hooked: Vec<Vec<Hook>>,
    /// The back-off is the kubelet's to the nanosecond: nothing but policy has a say.
    plain: bool,
    removed: bool,
    finished: bool,
    phase: Phase,
    sandboxes: u32,
    /// When the last try to make another one has failed.
    sandbox_failed_ns: Option<u64>,
    /// It was last stopped because of a probe.
    probed: Vec<bool>,
}

impl World {
    fn new(seed: u64, plain: bool) -> World {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let policy = ["Always", "OnFailure", "Never"][random.below(3) as usize];
        let (init, app) = (random.below(4) as usize, 1 + random.below(3) as usize);
        let mut record = record(policy, init, app);
        if !plain {
            World::adorn(&mut record, &mut random);
        }
        let status = fresh(&record);
        let slots = init + app;
        World {
            random,
            record,
            status,
            conditions: std::collections::HashMap::new(),
            now_ns: SECOND,
            processes: (0..slots).map(|_| None).collect(),
            hooks: (0..slots).map(|_| None).collect(),
            last_exit: vec![None; slots],
            entries: (0..slots).map(|_| Entry::default()).collect(),
            starts: vec![0; slots],
            done: vec![false; slots],
            hooked: vec![Vec::new(); slots],
            plain,
            removed: false,
            finished: false,
            phase: Phase::Pending,
            sandboxes: 1,
            sandbox_failed_ns: None,
            probed: vec![false; slots],
        }
    }

    /// Sidecars, hooks, policies and rules of containers, a deadline.
    fn adorn(record: &mut PodRecord, random: &mut Random) {
        for c in &mut record.containers {
            if c.kind == ContainerKind::Init && random.one_in(2) {
                c.restart.policy = Some(RestartPolicy::Always);
                if random.one_in(8) {
                    let action = RestartAction::RestartAllContainers;
                    c.restart.rules = vec![RestartRule { action, not: false, exit_codes: vec![1] }];
                }
            } else if random.one_in(4) {
                let policy = [RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never];
                let first = usize::from(c.kind == ContainerKind::Init);
                let policy = policy[first + random.below(3 - first as u64) as usize];
                let action =
                    if random.one_in(3) { RestartAction::RestartAllContainers } else { RestartAction::Restart };
                let rule = RestartRule { action, not: random.one_in(2), exit_codes: vec![1, 42] };
                c.restart = Restart { policy: Some(policy), rules: if random.one_in(2) { vec![rule] } else { vec![] } };
            }
            if c.kind == ContainerKind::Init && !c.is_sidecar() {
                continue;
            }
            let mut hook = || match random.below(4) {
                0 => Some(HookAction::Sleep { seconds: random.below(20) }),
                1 => Some(HookAction::Exec { command: vec!["x".to_owned()] }),
                _ => None,
            };
            (c.hooks.post_start, c.hooks.pre_stop) = (hook(), hook());
        }
        if let Some(spec) = &mut record.pod.spec {
            spec.termination_grace_period_seconds = Some([0, 1, 5, 30][random.below(4) as usize]);
            spec.active_deadline_seconds = random.one_in(5).then(|| 1 + random.below(2000) as i64);
        }
    }

    fn policy(&self, index: usize) -> RestartPolicy {
        let of_pod = match self.record.pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()) {
            Some("Never") => RestartPolicy::Never,
            Some("OnFailure") => RestartPolicy::OnFailure,
            _ => RestartPolicy::Always,
        };
        self.record.containers[index].restart.policy.unwrap_or(of_pod)
    }

    fn is_sidecar(&self, index: usize) -> bool {
        self.status.containers[index].kind == ContainerKind::Init && self.policy_of_container(index)
    }

    fn policy_of_container(&self, index: usize) -> bool {
        self.record.containers[index].restart.policy == Some(RestartPolicy::Always)
    }

    /// By the container's own rules, or its policy.
    fn may_restart(&self, index: usize, exit_code: i32) -> bool {
        let rules = &self.record.containers[index].restart.rules;
        let init = self.status.containers[index].kind == ContainerKind::Init;
        if self.is_sidecar(index) {
            return true;
        }
        if init && exit_code == 0 {
            return false;
        }
        rules.iter().any(|rule| rule.exit_codes.contains(&exit_code) ^ rule.not)
            || match self.policy(index) {
                RestartPolicy::Always => true,
                RestartPolicy::OnFailure => exit_code != 0,
                RestartPolicy::Never => false,
            }
    }

    fn closing(&self) -> bool {
        self.status.deletion.is_some() || self.status.ending.is_some() || self.status.failure.is_some()
    }

    fn start(&mut self, index: usize, attempt: u32) {
        assert!(self.processes[index].is_none(), "two instances of one slot");
        assert!(!self.finished && !self.removed && !self.closing());
        assert!(self.status.sandbox.as_ref().is_some_and(|s| !s.ended));
        assert_eq!(attempt, self.starts[index], "instances are numbered without gaps");
        let kind = self.status.containers[index].kind;
        for other in 0..self.status.containers.len() {
            let before = match kind {
                ContainerKind::Init => other < index,
                _ => self.status.containers[other].kind == ContainerKind::Init,
            };
            assert!(!before || self.done[other], "init order: {other} before {index}");
            let hooks = &self.record.containers[other].hooks;
            let c = &self.status.containers[other];
            let over = c.hook.as_ref().is_some_and(|run| run.done || run.hook == Hook::PreStop) || c.stop.is_some();
            assert!(self.processes[other].is_none() || hooks.post_start.is_none() || over, "postStart holds up others");
        }
        if let Some(previous) = self.last_exit[index].clone() {
            let probed = self.probed[index] && self.policy(index) != RestartPolicy::Never;
            let again = self.may_restart(index, previous.exit_code) || probed;
            assert!(again || !self.plain && !self.done[index], "no policy has it run again");
            if self.plain {
                assert_eq!(self.now_ns, self.entries[index].due(previous.finished_boot_ns), "back-off");
                self.entries[index].restarted(previous.finished_boot_ns, self.now_ns);
            }
        }
        self.probed[index] = false;
        self.starts[index] += 1;
        self.hooked[index].clear();
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

    /// Until when a hook may run, and a sidecar wait for others.
    fn patience_ns(&self) -> u64 {
        let end = |deadline: u64, grace: u64| deadline.saturating_sub(2u64.saturating_sub(grace) * SECOND);
        let deletion = self.status.deletion.as_ref().map(|d| (d.deadline_boot_ns, d.grace_seconds));
        let ending = self.status.ending.as_ref().map(|e| (e.deadline_boot_ns, e.grace_seconds));
        [deletion, ending].into_iter().flatten().min().map_or(u64::MAX, |(deadline, grace)| end(deadline, grace))
    }

    fn stop(&mut self, index: usize) {
        assert!(self.processes[index].is_some());
        let c = &self.status.containers[index];
        assert!(matches!(c.state, State::Running { stopping: false, .. }), "asked once");
        assert!(self.closing() || self.status.restarting_all.is_some() || c.stop.is_some());
        if self.closing() && self.now_ns < self.patience_ns() && c.stop.is_none() {
            for other in (0..self.processes.len()).filter(|_| self.is_sidecar(index)) {
                let first = !self.is_sidecar(other) || other > index;
                assert!(!first || self.processes[other].is_none(), "{other} stops before sidecar {index}");
            }
            let hook = self.record.containers[index].hooks.pre_stop.is_some();
            assert!(!hook || self.hooked[index].contains(&Hook::PreStop), "preStop is before the signal");
        }
        let running = self.hooks[index].is_some() && self.hooked[index].contains(&Hook::PreStop);
        assert!(!running, "preStop is over before the signal");
        if let Some(p) = &mut self.processes[index]
            && let Some(after) = p.stops_after_ns
        {
            p.ends_ns = p.ends_ns.min(self.now_ns + after);
        }
        apply_stopping(&mut self.status.containers[index], at(self.now_ns));
    }

    fn kill(&mut self, index: usize) {
        if let Some(p) = &mut self.processes[index] {
            *p = Process { ends_ns: self.now_ns, exit_code: 137, stops_after_ns: None };
        }
    }

    fn begin_hook(&mut self, index: usize, hook: Hook) {
        assert!(self.processes[index].is_some() && !self.hooked[index].contains(&hook), "each hook once an instance");
        let c = &self.status.containers[index];
        match hook {
            Hook::PostStart => assert!(!self.closing() && c.stop.is_none()),
            Hook::PreStop => assert!(self.closing() || c.stop.is_some(), "preStop is for who is asked to stop"),
        }
        self.hooked[index].push(hook);
        let action = self.record.containers[index].hooks.get(hook).cloned().expect("there is one");
        self.hooks[index] = None;
        if matches!(action, HookAction::Exec { .. }) {
            let ends_ns = self.now_ns + self.random.below(40 * SECOND);
            self.hooks[index] = Some(HookProcess { ends_ns, succeeds: !self.random.one_in(3) });
        }
        apply_hook_begun(&mut self.status, index, hook, &action, None, at(self.now_ns));
    }

    fn act(&mut self, action: Action) {
        let now = at(self.now_ns);
        match action {
            Action::Start { index, attempt } => self.start(index, attempt),
            Action::Hook { index, hook } => self.begin_hook(index, hook),
            Action::EndHook { index } => {
                let run = self.status.containers[index].hook.clone().expect("runs");
                let end = hook_overtime(&run, now);
                let cut = self.now_ns >= self.patience_ns() || self.status.containers[index].stop.is_some();
                assert!(end.is_ok() || cut, "it has the time that there is");
                self.hooks[index] = None;
                assert!(apply_hook_end(&self.record, &mut self.status, index, end, now));
            }
            Action::Stop { index } => self.stop(index),
            Action::Kill { index } => {
                let since = self.status.containers[index].stopping_since_boot_ns.expect("asked before");
                assert!(self.now_ns >= since + 2 * SECOND, "the floor");
                self.kill(index);
            }
            Action::KillAll => {
                let force = self.status.deletion.as_ref().is_some_and(|d| d.force);
                assert!(force || self.status.sandbox.as_ref().is_some_and(|s| s.ended));
                (0..self.processes.len()).for_each(|index| self.kill(index));
            }
            Action::Initialized => {
                let init = self.status.containers.iter().zip(&self.done).filter(|(c, _)| c.kind == ContainerKind::Init);
                assert!(init.into_iter().all(|(_, done)| *done));
                apply_initialized(&mut self.status, now);
            }
            Action::End => {
                assert!(self.processes.iter().any(Option::is_some));
                apply_ending(&self.record, &mut self.status, now);
            }
            Action::Expire => {
                let seconds = self.record.pod.spec.as_ref().and_then(|s| s.active_deadline_seconds).expect("has one");
                assert!(self.now_ns >= seconds as u64 * SECOND);
                apply_deadline(&self.record, &mut self.status, now);
            }
            Action::Anew => {
                assert!(self.processes.iter().all(Option::is_none));
                apply_anew(&self.record, &mut self.status);
                self.done.fill(false);
            }
            Action::NewSandbox => {
                assert!(self.processes.iter().all(Option::is_none) && !self.closing());
                assert!(self.sandbox_failed_ns.is_none_or(|at| self.now_ns >= at + 10 * SECOND), "tried too soon");
                if self.random.one_in(3) {
                    self.sandbox_failed_ns = Some(self.now_ns);
                    return apply_sandbox_failed(&mut self.status, now);
                }
                self.sandbox_failed_ns = None;
                let sandbox = Sandbox { ended: false, ..self.status.sandbox.clone().expect("lost") };
                apply_new_sandbox(&self.record, &mut self.status, sandbox);
                assert_eq!(self.status.sandbox.as_ref().map(|s| s.attempt), Some(self.sandboxes));
                self.sandboxes += 1;
                self.done.fill(false);
            }
            Action::EndSandbox => {
                assert!(self.processes.iter().all(Option::is_none));
                apply_sandbox_end(&self.record, &mut self.status);
            }
            Action::Finish => {
                assert!(self.status.sandbox.as_ref().is_some_and(|s| s.ended));
                apply_finish(&mut self.status, now);
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
            let again = decide(&self.record, &self.status, at(self.now_ns));
            assert_eq!(decision, again, "the same question, the same answer");
            self.check();
            let dying = |p: &Option<Process>| p.as_ref().is_none_or(|p| p.ends_ns <= self.now_ns);
            let killed = |action: &Action| match action {
                Action::KillAll => self.processes.iter().all(dying),
                Action::Kill { index } => dying(&self.processes[*index]),
                _ => false,
            };
            if self.removed || decision.actions.iter().all(killed) {
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
            let why = c.type_ == "AllContainersRestarting";
            assert!(c.status == "False" || c.message.is_none() || why, "{}: a complaint about what holds", c.type_);
        }
    }

    fn check(&mut self) {
        for (index, c) in self.status.containers.iter().enumerate() {
            let succeeded = matches!(&c.state, State::Terminated(exit) if exit.exit_code == 0);
            let sidecar = self.is_sidecar(index);
            self.done[index] |= if sidecar { started(&self.record, index, c) } else { succeeded && !c.anew };
        }
        // What was given is exceeded by the floor at most.
        if self.closing() && self.patience_ns() != u64::MAX {
            let most = self.patience_ns() + 2 * SECOND;
            assert!(self.now_ns <= most || self.processes.iter().flatten().all(|p| p.ends_ns <= most), "grace");
        }
        let phase = phase(&self.record, &self.status, Liveness::Alive);
        if matches!(self.phase, Phase::Succeeded | Phase::Failed) {
            assert_eq!(phase, self.phase, "terminal phases stay");
        }
        if self.finished {
            assert!(matches!(phase, Phase::Succeeded | Phase::Failed));
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
            if self.hooks[index].as_ref().is_some_and(|h| h.ends_ns <= self.now_ns) {
                let hook = self.hooks[index].take().expect("just seen");
                let end = if hook.succeeds { Ok(()) } else { Err("failed".to_owned()) };
                assert!(apply_hook_end(&self.record, &mut self.status, index, end, at(self.now_ns)));
                self.settle();
            }
            if self.processes[index].as_ref().is_some_and(|p| p.ends_ns <= self.now_ns) {
                let p = self.processes[index].take().expect("just seen");
                self.hooks[index] = None;
                let attempt = self.status.containers[index].attempt;
                let ended = exit(attempt, p.exit_code, self.now_ns);
                self.last_exit[index] = Some(ended.clone());
                assert!(apply_exit(&self.record, &mut self.status, index, ended.clone()));
                assert!(!apply_exit(&self.record, &mut self.status, index, ended));
                if self.closing() {
                    let ended = matches!(self.status.containers[index].state, State::Terminated(_));
                    assert!(ended, "no restart is promised");
                }
                self.settle();
            }
        }
    }

    fn random_event(&mut self) {
        let now = at(self.now_ns);
        match self.random.below(40) {
            0..=2 => {
                let before = self.status.deletion.clone();
                let requested = if self.random.one_in(2) { Some(self.random.below(50)) } else { None };
                let force = self.random.one_in(5);
                let changed = request_delete(&mut self.status, 30, requested, force, now);
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
            }
            3 if self.status.sandbox.as_ref().is_some_and(|s| !s.ended) => {
                // Somebody kills pause, and the kernel everything below it.
                apply_sandbox_end(&self.record, &mut self.status);
                for p in self.processes.iter_mut().flatten() {
                    *p = Process { ends_ns: self.now_ns + 1000, exit_code: 137, stops_after_ns: None };
                }
                self.plain = false;
            }
            4 | 5 if !self.plain => {
                let index = self.random.below(self.processes.len() as u64) as usize;
                let why = [StopWhy::Liveness, StopWhy::Restart][self.random.below(2) as usize];
                let runs = self.processes[index].is_some();
                let asked = request_stop(&mut self.status, index, why, self.random.below(20), now);
                assert!(runs || !asked);
                self.probed[index] |= asked && why == StopWhy::Liveness;
                // Whoever is started again because somebody wants it, is whatever the policy.
                if asked && why == StopWhy::Restart {
                    self.record.containers[index].restart.rules.clear();
                    self.record.containers[index].restart.policy = Some(RestartPolicy::Always);
                }
            }
            _ => {}
        }
    }

    fn live(&mut self) {
        for step in 0..600 {
            let wake = self.settle();
            if self.removed {
                return;
            }
            let hooks = self.hooks.iter().flatten().map(|h| h.ends_ns);
            let next_end = self.processes.iter().flatten().map(|p| p.ends_ns).chain(hooks).min();
            let next = match (wake, next_end) {
                (None, None) => {
                    assert!(self.finished, "rests only when it is over");
                    assert!(matches!(self.phase, Phase::Succeeded | Phase::Failed));
                    request_delete(&mut self.status, 30, None, false, at(self.now_ns));
                    continue;
                }
                (wake, end) => wake.unwrap_or(u64::MAX).min(end.unwrap_or(u64::MAX)),
            };
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
            if step == 450 {
                request_delete(&mut self.status, 30, None, false, at(self.now_ns));
            }
        }
        panic!("does not come to an end");
    }
}

#[test]
fn random_pods_keep_every_rule() {
    for seed in 1..=200 {
        let mut world = World::new(seed, true);
        world.live();
        assert!(world.removed);
    }
}

#[test]
fn random_pods_with_sidecars_hooks_and_deadlines_keep_every_rule() {
    let mut lost = 0;
    for seed in 1..=300 {
        let mut world = World::new(seed, false);
        world.live();
        assert!(world.removed);
        lost += world.sandboxes - 1;
    }
    assert!(lost > 20, "sandboxes are lost and made again");
}
