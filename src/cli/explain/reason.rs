//! What follows from what is known, for the pod as a whole.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::gather::Facts;
use super::{Answer, Detail, Next, Stage, Warning};
use crate::cli::{error, get, span, status};
use crate::pod::{self, Liveness};
use crate::state::Unreadable;
use crate::state::events::EventType;
use crate::state::record::{Container, ContainerKind, Owner, State};

/// So many warnings are told.
const WARNINGS: usize = 3;
/// An error of the supervisor's that is older explains nothing any more.
const TROUBLE_SECONDS: i64 = 600;

/// A pod whose records cannot be read.
pub fn unreadable(it: &Unreadable) -> Answer {
    let (namespace, pod) = it.name.clone().unwrap_or_else(|| (String::new(), it.id.clone()));
    let force = if it.live || it.is_garbage() { "" } else { " --force" };
    let next = match it.live {
        true => "its containers run on; nothing else happens to them before the records can be read",
        false => "nothing: nobody looks after it",
    };
    Answer {
        namespace,
        pod,
        uid: it.id.clone(),
        status: "Unknown".into(),
        stage: Stage::Unreadable,
        why: format!("its records cannot be read: {}", error::sentence(&it.error)),
        next: vec![Next { container: None, text: next.into(), at: None, in_seconds: None }],
        commands: vec![format!("husk delete{force} {}", it.id)],
        ..Answer::default()
    }
}

/// Why a pod is as it is, and what happens next.
pub fn explain(facts: &Facts) -> Answer {
    let object = pod::to_v1(&facts.record, &facts.status, facts.live);
    let row = status::row(&object, facts.now.wall);
    let mut case = Case {
        facts,
        answer: Answer {
            namespace: facts.record.namespace().to_owned(),
            pod: get::name(&object).to_owned(),
            uid: facts.record.uid().to_owned(),
            status: row.status,
            ready_containers: row.ready,
            ready: condition(&object, "Ready").is_some_and(|(holds, _)| holds),
            missing: facts.missing.clone(),
            log: facts.log.clone(),
            ..Answer::default()
        },
    };
    case.pod(&object);
    case.finish()
}

/// Whether a condition holds, and what is said about it.
fn condition(pod: &Pod, kind: &str) -> Option<(bool, String)> {
    let found = pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)?;
    let why = found.message.clone().or_else(|| found.reason.clone()).unwrap_or_default();
    Some((found.status == "True", why))
}

/// An answer that is being found.
pub(super) struct Case<'a> {
    pub(super) facts: &'a Facts,
    pub(super) answer: Answer,
}

impl Case<'_> {
    pub(super) fn set(&mut self, stage: Stage, why: impl Into<String>) {
        (self.answer.stage, self.answer.why) = (stage, why.into());
    }

    pub(super) fn detail(&mut self, container: Option<&str>, text: impl Into<String>) {
        self.answer.details.push(Detail { container: container.map(str::to_owned), text: text.into() });
    }

    /// Something that comes when what is before it has happened.
    pub(super) fn then(&mut self, container: Option<&str>, text: impl Into<String>) {
        let next = Next { container: container.map(str::to_owned), text: text.into(), at: None, in_seconds: None };
        self.answer.next.push(next);
    }

    /// Something that comes at a moment of CLOCK_BOOTTIME. What is overdue comes now.
    pub(super) fn at(&mut self, boot_ns: u64, container: Option<&str>, text: impl Into<String>) {
        let left_ns = boot_ns.saturating_sub(self.facts.now.boot_ns);
        let left = jiff::SignedDuration::from_nanos(i64::try_from(left_ns).unwrap_or(i64::MAX));
        let next = Next {
            container: container.map(str::to_owned),
            text: text.into(),
            at: Some(self.facts.now.wall.checked_add(left).unwrap_or(Timestamp::MAX)),
            // What is a moment away is not now.
            in_seconds: Some(left_ns.div_ceil(1_000_000_000)),
        };
        self.answer.next.push(next);
    }

    pub(super) fn command(&mut self, text: String) {
        if !self.answer.commands.contains(&text) {
            self.answer.commands.push(text);
        }
    }

    /// `4s`, since a moment of the wall clock.
    pub(super) fn since(&self, then: Timestamp) -> String {
        span::age(self.facts.now.wall.as_second() - then.as_second())
    }

    /// The same, since one of CLOCK_BOOTTIME.
    pub(super) fn since_boot(&self, boot_ns: u64) -> String {
        let seconds = self.facts.now.boot_ns.saturating_sub(boot_ns) / 1_000_000_000;
        span::age(i64::try_from(seconds).unwrap_or(i64::MAX))
    }

    pub(super) fn containers(&self) -> impl Iterator<Item = (usize, &Container)> {
        self.facts.status.containers.iter().enumerate()
    }

    fn pod(&mut self, object: &Pod) {
        let Facts { record, status, live, now, .. } = self.facts;
        if status.finished_at.is_some() {
            return self.ended(object);
        }
        if *live != Liveness::Alive {
            return self.lost(object);
        }
        if let Some(deletion) = &status.deletion {
            let asked = self.since(deletion.requested_at);
            self.set(Stage::Deleting, format!("it is being deleted, since {asked}"));
            let force = deletion.force;
            self.stopping(deletion.deadline_boot_ns, force);
            self.then(None, "when nothing runs any more, its network, volumes, records and logs are removed");
            if !force {
                self.command(format!("husk delete {} --force", self.name()));
            }
            return;
        }
        if let Some(ending) = &status.ending {
            let why = match &status.failure {
                Some(failure) => format!("it comes to its end: {}: {}", failure.reason, failure.message),
                None => "it comes to its end: its containers have done their work, or have failed".into(),
            };
            self.set(Stage::Ending, why);
            self.stopping(ending.deadline_boot_ns, false);
            self.then(None, "when nothing runs any more, it has ended; records and logs stay until it is deleted");
            return;
        }
        if let Some(failure) = &status.failure {
            self.set(Stage::Ending, format!("it has failed: {}: {}", failure.reason, failure.message));
            self.then(None, "what still runs is killed, and the pod has ended");
            return;
        }
        if let Some(all) = &status.restarting_all {
            let since = self.since(all.since);
            self.set(
                Stage::RestartingAll,
                format!(
                    "container {} ended with exit code {}, {since} ago, and its rules have all containers begin anew",
                    all.container, all.exit_code
                ),
            );
            self.stopping(all.deadline_boot_ns, false);
            self.then(None, "when nothing runs any more, all containers are started again, init containers first");
            return;
        }
        match &status.sandbox {
            None => {
                self.set(Stage::Sandbox, "its namespaces and its network are being made");
                self.then(None, "then its first containers are started");
            }
            Some(sandbox) if sandbox.ended => {
                self.set(Stage::Sandbox, "the process that held its namespaces has died, and every container with it");
                let next = "another sandbox is made, and its containers are started in it, init containers first";
                match (pod::recreates(record, status), sandbox.retry_boot_ns) {
                    (true, Some(at)) => {
                        self.set(Stage::Sandbox, "no sandbox could be made in place of the one that was lost");
                        self.at(at, None, next);
                    }
                    (true, None) => self.then(None, next),
                    (false, _) => self.then(None, "the pod has ended with it"),
                }
            }
            Some(_) if record.driven() => self.driven(),
            Some(_) if status.initialized_at.is_none() => self.initializing(),
            Some(_) => self.running(object),
        }
        let deadline = pod::active_deadline_boot_ns(record, status, *now);
        if let Some(deadline) = deadline.filter(|deadline| *deadline > now.boot_ns) {
            self.at(deadline, None, "the pod is ended with reason DeadlineExceeded (activeDeadlineSeconds)");
        }
    }

    pub(super) fn name(&self) -> &str {
        self.facts.record.name()
    }

    fn ended(&mut self, object: &Pod) {
        let Facts { record, status, .. } = self.facts;
        let phase = object.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Unknown");
        let mut why = match &status.failure {
            Some(failure) => format!("it has ended with phase {phase}: {}: {}", failure.reason, failure.message),
            None => format!("it has ended with phase {phase}"),
        };
        let failed = self.containers().find(|(index, c)| self.has_failed(*index, c));
        match failed.map(|(index, c)| (index, c.name.clone())) {
            Some((index, name)) => {
                if status.failure.is_none() {
                    why = format!("{why}: {}", self.how_ended(index));
                }
                self.after_end(index);
                self.command(format!("husk logs {} -c {name}", self.name()));
            }
            None if status.failure.is_none() => why.push_str(": all containers have succeeded"),
            None => {}
        }
        self.set(Stage::Ended, why);
        self.then(
            None,
            match record.owner {
                Owner::Watch => {
                    "nothing, until its manifest changes or is removed; records and logs stay until the pod is deleted"
                }
                _ => "nothing; records and logs stay until it is deleted",
            },
        );
        self.command(format!("husk delete {}", self.name()));
    }

    /// One whose end made the pod fail.
    fn has_failed(&self, index: usize, c: &Container) -> bool {
        c.kind != ContainerKind::Ephemeral
            && !self.facts.record.containers.get(index).is_some_and(|made_of| made_of.is_sidecar())
            && matches!(&c.state, State::Terminated(exit) if exit.exit_code != 0)
    }

    fn lost(&mut self, object: &Pod) {
        let said = object.status.as_ref().and_then(|status| status.message.clone());
        self.set(Stage::Lost, said.unwrap_or_else(|| "its keeper is gone".into()));
        if self.facts.live == Liveness::Dead {
            self.detail(None, "its keeper was killed, and with it the kernel has ended all that ran in the pod");
        }
        match self.facts.record.owner {
            Owner::Watch => self.then(None, "husk watch, while it runs, removes what is left and starts the pod anew"),
            Owner::Cli => self.then(None, "nothing by itself; the next husk run of its manifest starts it anew"),
            Owner::Cri => self.then(None, "nothing by itself; its client has to remove it"),
        }
        self.command("husk gc".into());
    }

    fn driven(&mut self) {
        self.set(Stage::Client, "it is the sandbox of a CRI client, which decides what runs in it");
        let all: Vec<usize> = self.containers().map(|(index, _)| index).collect();
        for index in all {
            self.state_of(index);
        }
        self.then(None, "what its client asks for");
    }

    fn initializing(&mut self) {
        let init: Vec<usize> =
            self.containers().filter(|(_, c)| c.kind == ContainerKind::Init).map(|(index, _)| index).collect();
        let current = init.iter().position(|index| !self.init_done(*index));
        let Some(place) = current else {
            self.set(Stage::Init, "its init containers are done");
            return self.then(None, "its containers are started now");
        };
        let index = init[place];
        let why = match self.look(index) {
            Some((_, why)) => why,
            None => {
                let state = &self.facts.status.containers[index].state;
                let since =
                    if let State::Running { started_at, .. } = state { self.since(*started_at) } else { "0s".into() };
                format!("{} runs, since {since}, and what follows waits for its end", self.noun(index))
            }
        };
        self.set(Stage::Init, why);
        // Sidecars of before are of interest when they are not well.
        for before in &init[..place] {
            self.look(*before);
        }
        let rest = init.len() - place - 1;
        let (who, what) = if self.is_sidecar(index) { ("started", "sidecar") } else { ("succeeded", "init container") };
        let follows = match rest {
            0 => "the containers are started".to_owned(),
            _ => format!("{} is started, and the containers after all init containers", self.noun(init[place + 1])),
        };
        self.then(None, format!("when {what} {} has {who}, {follows}", self.facts.status.containers[index].name));
        self.detail(None, format!("{place} of {} init containers are done", init.len()));
    }

    fn running(&mut self, object: &Pod) {
        let all: Vec<usize> = self.containers().map(|(index, _)| index).collect();
        let mut found: Vec<(Stage, String)> = all.into_iter().filter_map(|index| self.look(index)).collect();
        // The worst first; of equals, the first of the manifest.
        found.sort_by_key(|(stage, _)| *stage);
        let others = found.len().saturating_sub(1);
        match found.into_iter().next() {
            Some((stage, why)) => {
                let more = if others > 0 { format!(" ({others} more below)") } else { String::new() };
                self.set(stage, why + &more);
            }
            None => match condition(object, "Ready") {
                Some((false, why)) => self.gates(why),
                _ => {
                    self.set(Stage::None, "all is as it should be: it runs, and it is ready");
                    self.then(None, "nothing");
                }
            },
        }
        if let Some(resize) = &self.facts.status.resize {
            let since = self.since(resize.requested_at);
            let name = resize.container.clone();
            self.detail(
                Some(&name),
                format!("container {name}: its new resources, asked for {since} ago, do not hold yet"),
            );
        }
    }

    /// Its containers are ready, and the pod is not.
    fn gates(&mut self, why: String) {
        self.set(Stage::Gates, format!("its containers are ready, and a readiness gate is closed: {why}"));
        let gates = self.facts.record.pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
        let open = |kind: &str| self.facts.status.conditions.iter().any(|c| c.kind == kind && c.status == "True");
        let closed: Vec<String> = gates.map(|gate| gate.condition_type.clone()).filter(|kind| !open(kind)).collect();
        self.then(None, "nothing, until somebody sets the condition");
        for kind in closed {
            self.command(format!("husk condition {} {kind}=True", self.name()));
        }
    }

    fn finish(mut self) -> Answer {
        let facts = self.facts;
        // What comes first is read first; what waits for others keeps its place behind it.
        self.answer.next.sort_by_key(|next| next.in_seconds.unwrap_or(u64::MAX));
        let warnings = facts.events.iter().rev().filter(|event| event.typ == EventType::Warning);
        // Told below the probes already.
        let told = |message: &str| self.answer.probes.iter().any(|probe| message.contains(&probe.output));
        self.answer.warnings = warnings
            .filter(|event| !told(&event.message))
            .take(WARNINGS)
            .map(|event| Warning {
                reason: event.reason.clone(),
                message: event.message.trim_end().to_owned(),
                count: event.count,
                last: event.last,
            })
            .collect();
        if let Some((at, text)) = &facts.trouble
            && facts.now.wall.as_second() - at.as_second() <= TROUBLE_SECONDS
            && !matches!(self.answer.stage, Stage::Ended)
            && !self.answer.why.contains(text.as_str())
        {
            let since = self.since(*at);
            self.detail(None, format!("its supervisor has said, {since} ago: {text}"));
        }
        if let Some(log) = &facts.log {
            let name = log.container.clone();
            self.command(format!("husk logs {} -c {name}", self.name()));
        }
        self.command(format!("husk describe pod {}", self.name()));
        if let (false, true) = (self.answer.namespace == "default", !self.answer.namespace.is_empty()) {
            let flag = format!(" -n {}", self.answer.namespace);
            self.answer.commands.iter_mut().filter(|command| *command != "husk gc").for_each(|c| c.push_str(&flag));
        }
        self.answer
    }
}
