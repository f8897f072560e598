//! When a probe is due, and what its answers mean. One worker for each probe of each container.
//!
//! The rules are the kubelet's (`pkg/kubelet/prober/worker.go`): a ticker of `periodSeconds` that keeps at most one missed tick; nothing before `initialDelaySeconds`, nothing but startup
//! probes before the container has started; a result counts when it came so often in a row as its threshold says; once a startup probe has come to
//! a result, or a liveness probe to a failure, the worker holds until there is another instance.
//!
//! Two things differ. The ticker begins with the instance (at its start plus the delay), not with the pod, so the first probe comes when it is due and not up to a period later. And a readiness
//! probe that has not succeeded yet in this instance is asked again after 250 ms, then 500 ms, and so on up to its period: Kubernetes allows other times "while a container is
//! not ready", and the kubelet asks again whenever it looks at the pod.

use super::{Kind, Probe};

const MILLISECOND_NS: u64 = 1_000_000;
const SECOND_NS: u64 = 1000 * MILLISECOND_NS;
/// The first wait of a readiness probe that has not succeeded yet.
const EAGER_NS: u64 = 250 * MILLISECOND_NS;

/// What a worker must know of its container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The instance that runs: its number, and its start in CLOCK_BOOTTIME nanoseconds.
    pub running: Option<(u32, u64)>,
    /// Its startup probe has succeeded, or it has none.
    pub started: bool,
    /// It is known to be ready.
    pub ready: bool,
    /// It, or its pod, is being stopped.
    pub stopping: bool,
}

/// One probe of one container.
#[derive(Clone, Debug)]
pub struct Worker {
    kind: Kind,
    initial_delay_ns: u64,
    period_ns: u64,
    success_threshold: u32,
    failure_threshold: u32,
    watched: Option<Watched>,
}

/// The instance that is probed.
#[derive(Clone, Copy, Debug)]
struct Watched {
    attempt: u32,
    started_ns: u64,
    /// Probes of this kind are made now.
    open: bool,
    /// A result was reached that ends this worker's work on this instance.
    held: bool,
    in_flight: bool,
    /// The ticker's tick that the next probe, or the one in flight, is made for.
    tick_ns: u64,
    due_ns: u64,
    /// The last answer, and how often it came in a row.
    last: bool,
    run: u32,
    /// How often a readiness probe was asked in vain before its first success; `None` after it.
    eager: Option<u32>,
}

impl Worker {
    /// A worker that has seen nothing yet.
    pub fn new(kind: Kind, probe: &Probe) -> Worker {
        Worker {
            kind,
            initial_delay_ns: u64::from(probe.initial_delay_seconds) * SECOND_NS,
            period_ns: u64::from(probe.period_seconds.max(1)) * SECOND_NS,
            success_threshold: probe.success_threshold,
            failure_threshold: probe.failure_threshold,
            watched: None,
        }
    }

    /// Which probe.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Takes in how the container is now. True: what is in flight is about an instance that is no more.
    pub fn look(&mut self, seen: Seen, now_ns: u64) -> bool {
        let Some((attempt, started_ns)) = seen.running else {
            return self.watched.take().is_some_and(|w| w.in_flight);
        };
        let mut stale = false;
        if self.watched.is_none_or(|w| w.attempt != attempt) {
            stale = self.watched.is_some_and(|w| w.in_flight);
            let eager = (self.kind == Kind::Readiness && !seen.ready).then_some(0);
            self.watched = Some(Watched {
                attempt,
                started_ns,
                open: false,
                held: false,
                in_flight: false,
                tick_ns: 0,
                due_ns: 0,
                last: false,
                run: 0,
                eager,
            });
        }
        let Some(w) = &mut self.watched else { return stale };
        let open = match self.kind {
            Kind::Startup => !seen.started && !seen.stopping,
            Kind::Liveness => seen.started && !seen.stopping,
            Kind::Readiness => seen.started,
        };
        if open && !w.open {
            w.due_ns = w.started_ns.saturating_add(self.initial_delay_ns).max(now_ns);
            w.tick_ns = w.due_ns;
        }
        w.open = open;
        stale
    }

    /// When the next probe is to be made: CLOCK_BOOTTIME nanoseconds. `None`: only another look can change that.
    pub fn due(&self) -> Option<u64> {
        self.watched.filter(|w| w.open && !w.held && !w.in_flight).map(|w| w.due_ns)
    }

    /// A probe is made now. Answers the instance that it is about.
    pub fn begin(&mut self) -> Option<u32> {
        let w = self.watched.as_mut()?;
        w.in_flight = true;
        Some(w.attempt)
    }

    /// A probe of an instance has ended; `passed` is `None` when it could not be made. Answers a result that has reached its threshold.
    pub fn end(&mut self, attempt: u32, passed: Option<bool>, now_ns: u64) -> Option<bool> {
        let w = self.watched.as_mut().filter(|w| w.attempt == attempt && w.in_flight)?;
        w.in_flight = false;
        if passed == Some(true) {
            w.eager = None;
        }
        match w.eager {
            Some(tries) => {
                // The ticker begins anew with each of these.
                let wait = (EAGER_NS << tries.min(16)).min(self.period_ns);
                w.eager = Some(tries.saturating_add(1));
                w.tick_ns = w.tick_ns.saturating_add(wait).max(now_ns);
                w.due_ns = w.tick_ns;
            }
            None => {
                let missed = now_ns.saturating_sub(w.tick_ns) / self.period_ns;
                if missed > 0 {
                    w.tick_ns = w.tick_ns.saturating_add(missed * self.period_ns);
                    w.due_ns = now_ns;
                } else {
                    w.tick_ns = w.tick_ns.saturating_add(self.period_ns);
                    w.due_ns = w.tick_ns;
                }
            }
        }
        let passed = passed?;
        // Stopped meanwhile: what it says now is not what it was asked for.
        if !w.open {
            return None;
        }
        w.run = if w.last == passed { w.run.saturating_add(1) } else { 1 };
        w.last = passed;
        let threshold = if passed { self.success_threshold } else { self.failure_threshold };
        if w.run < threshold {
            return None;
        }
        w.held = match self.kind {
            Kind::Startup => true,
            Kind::Liveness => !passed,
            Kind::Readiness => false,
        };
        Some(passed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Handler;
    use super::*;

    const S: u64 = SECOND_NS;
    const MS: u64 = MILLISECOND_NS;

    fn probe(delay: u32, period: u32, success: u32, failure: u32) -> Probe {
        Probe {
            handler: Handler::TcpSocket { host: None, port: 1 },
            initial_delay_seconds: delay,
            timeout_seconds: 1,
            period_seconds: period,
            success_threshold: success,
            failure_threshold: failure,
            grace_seconds: None,
        }
    }

    fn running(attempt: u32, started_ns: u64) -> Seen {
        Seen { running: Some((attempt, started_ns)), started: true, ..Seen::default() }
    }

    /// Probes from `now` on with these answers, each of which takes so long; the times at which they were made, and the results that counted.
    fn play(w: &mut Worker, seen: Seen, now: u64, answers: &[(Option<bool>, u64)]) -> (Vec<u64>, Vec<(u64, bool)>) {
        let (mut at, mut counted, mut now) = (Vec::new(), Vec::new(), now);
        w.look(seen, now);
        for (passed, takes) in answers {
            let Some(due) = w.due() else { break };
            now = now.max(due);
            at.push(now);
            let attempt = w.begin().expect("something runs");
            assert_eq!(w.due(), None, "one at a time");
            now += takes;
            counted.extend(w.end(attempt, *passed, now).map(|result| (now, result)));
        }
        (at, counted)
    }

    const GOOD: (Option<bool>, u64) = (Some(true), 0);
    const BAD: (Option<bool>, u64) = (Some(false), 0);

    #[test]
    fn the_first_probe_comes_at_the_start_plus_the_delay_and_the_others_by_period() {
        let mut w = Worker::new(Kind::Liveness, &probe(5, 10, 1, 3));
        let (at, _) = play(&mut w, running(0, 100 * S), 100 * S, &[GOOD; 4]);
        assert_eq!(at, [105 * S, 115 * S, 125 * S, 135 * S]);
        // Found later, by a successor: what is due is due at once.
        let mut w = Worker::new(Kind::Liveness, &probe(5, 10, 1, 3));
        let (at, _) = play(&mut w, running(0, 100 * S), 300 * S, &[GOOD; 2]);
        assert_eq!(at, [300 * S, 310 * S]);
    }

    #[test]
    fn a_slow_probe_does_not_shift_the_ticks_and_at_most_one_is_made_up_for() {
        let mut w = Worker::new(Kind::Liveness, &probe(0, 10, 1, 9));
        let (at, _) = play(&mut w, running(0, 0), 0, &[(Some(true), 3 * S), (Some(true), 25 * S), GOOD, GOOD, GOOD]);
        assert_eq!(at, [0, 10 * S, 35 * S, 40 * S, 50 * S]);
    }

    #[test]
    fn a_result_counts_when_its_threshold_is_reached_in_a_row() {
        let mut w = Worker::new(Kind::Readiness, &probe(0, 1, 2, 3));
        let answers = [GOOD, BAD, GOOD, GOOD, BAD, BAD, GOOD, BAD, BAD, BAD];
        let (_, counted) = play(&mut w, running(0, 0), 0, &answers);
        assert_eq!(counted, [(3 * S, true), (9 * S, false)]);
    }

    #[test]
    fn what_could_not_be_probed_neither_counts_nor_breaks_a_row() {
        let mut w = Worker::new(Kind::Liveness, &probe(0, 1, 1, 2));
        let (at, counted) = play(&mut w, running(0, 0), 0, &[BAD, (None, 0), (None, 0), BAD]);
        assert_eq!((at.len(), counted), (4, vec![(3 * S, false)]));
    }

    #[test]
    fn after_a_liveness_failure_nothing_is_probed_until_another_instance_runs() {
        let mut w = Worker::new(Kind::Liveness, &probe(0, 1, 1, 3));
        let (at, counted) = play(&mut w, running(0, 0), 0, &[BAD; 9]);
        assert_eq!((at, counted), (vec![0, S, 2 * S], vec![(2 * S, false)]));
        assert!(!w.look(running(0, 0), 50 * S));
        assert_eq!(w.due(), None);
        w.look(Seen::default(), 60 * S);
        let (at, counted) = play(&mut w, running(1, 70 * S), 70 * S, &[BAD; 9]);
        assert_eq!((at, counted), (vec![70 * S, 71 * S, 72 * S], vec![(72 * S, false)]));
    }

    #[test]
    fn a_startup_probe_holds_after_either_result_and_gates_the_others() {
        let starting = Seen { started: false, ..running(0, 0) };
        for (kind, open) in [(Kind::Startup, true), (Kind::Liveness, false), (Kind::Readiness, false)] {
            let mut w = Worker::new(kind, &probe(0, 1, 1, 3));
            w.look(starting, 0);
            assert_eq!(w.due().is_some(), open, "{kind}");
        }
        let mut w = Worker::new(Kind::Startup, &probe(0, 2, 1, 3));
        let (at, counted) = play(&mut w, starting, 0, &[BAD, BAD, GOOD, BAD]);
        assert_eq!((at, counted), (vec![0, 2 * S, 4 * S], vec![(4 * S, true)]));
        // The others are then due at once, or when their delay from the start is over.
        for (delay, due) in [(0, 4 * S), (3, 4 * S), (9, 9 * S)] {
            let mut w = Worker::new(Kind::Liveness, &probe(delay, 10, 1, 3));
            w.look(starting, 0);
            w.look(running(0, 0), 4 * S);
            assert_eq!(w.due(), Some(due));
        }
        let mut w = Worker::new(Kind::Startup, &probe(0, 2, 1, 2));
        assert_eq!(play(&mut w, starting, 0, &[BAD; 5]).1, [(2 * S, false)]);
        assert_eq!(w.due(), None);
    }

    #[test]
    fn while_it_is_stopped_only_readiness_is_probed() {
        for (kind, open) in [(Kind::Startup, false), (Kind::Liveness, false), (Kind::Readiness, true)] {
            let mut w = Worker::new(kind, &probe(0, 1, 1, 1));
            let seen = Seen { started: kind != Kind::Startup, ..running(0, 0) };
            w.look(seen, 0);
            let attempt = w.begin().expect("running");
            w.look(Seen { stopping: true, ..seen }, 0);
            assert_eq!(w.end(attempt, Some(false), S), open.then_some(false), "{kind}");
            assert_eq!(w.due().is_some(), open, "{kind}");
        }
    }

    #[test]
    fn a_readiness_probe_is_eager_until_its_first_success() {
        let mut w = Worker::new(Kind::Readiness, &probe(0, 2, 1, 3));
        let (at, counted) = play(&mut w, running(0, 0), 0, &[BAD, BAD, BAD, BAD, BAD, GOOD, BAD, BAD, BAD]);
        let expected = [0, 250, 750, 1750, 3750, 5750, 7750, 9750, 11750].map(|ms| ms * MS);
        assert_eq!(at, expected);
        let results = [(750, false), (1750, false), (3750, false), (5750, true), (11750, false)];
        assert_eq!(counted, results.map(|(ms, result)| (ms * MS, result)));
        // A successor that finds it ready is in no hurry, nor does it take anything back.
        let mut w = Worker::new(Kind::Readiness, &probe(0, 2, 1, 3));
        let (at, counted) = play(&mut w, Seen { ready: true, ..running(0, 0) }, 100 * S, &[BAD, BAD, GOOD]);
        assert_eq!((at, counted), (vec![100 * S, 102 * S, 104 * S], vec![(104 * S, true)]));
    }

    #[test]
    fn an_answer_about_another_instance_is_none() {
        let mut w = Worker::new(Kind::Liveness, &probe(0, 1, 1, 1));
        w.look(running(0, 0), 0);
        assert_eq!(w.begin(), Some(0));
        assert!(w.look(running(1, S), S), "what is in flight can be dropped");
        assert_eq!(w.end(0, Some(false), S), None);
        assert_eq!(w.begin(), Some(1));
        assert!(w.look(Seen::default(), 2 * S));
        assert_eq!((w.end(1, Some(false), 2 * S), w.due(), w.begin()), (None, None, None));
    }

    #[test]
    fn whatever_happens_probes_come_one_at_a_time_and_never_before_they_are_due() {
        for seed in 1..200_u64 {
            let mut state = seed;
            let mut below = |n: u64| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 33) % n
            };
            let kind = Kind::ALL[below(3) as usize];
            let p = probe(below(4) as u32, 1 + below(5) as u32, 1 + below(2) as u32, 1 + below(3) as u32);
            let mut w = Worker::new(kind, &p);
            let (mut now, mut seen, mut row, mut next) = (0, Seen::default(), 0, 0);
            let mut last = None;
            for _ in 0..300 {
                now += below(3 * S);
                match below(8) {
                    0 => seen = Seen { running: None, ..seen },
                    1 => {
                        next += 1;
                        seen = Seen { running: Some((next, now)), ready: false, ..seen };
                    }
                    2 => seen.started = below(2) == 0,
                    3 => seen.stopping = below(4) == 0,
                    _ => {}
                }
                w.look(seen, now);
                let Some(due) = w.due() else { continue };
                let (attempt, started) = seen.running.expect("only what runs is probed");
                assert!(due >= started + u64::from(p.initial_delay_seconds) * S);
                assert!(kind == Kind::Startup || seen.started);
                assert!(kind == Kind::Readiness || !seen.stopping);
                now = now.max(due);
                assert_eq!(w.begin(), Some(attempt));
                assert_eq!(w.due(), None);
                now += below(2 * S);
                let passed = below(2) == 0;
                row = if last == Some((attempt, passed)) { row + 1 } else { 1 };
                last = Some((attempt, passed));
                if let Some(result) = w.end(attempt, Some(passed), now) {
                    assert_eq!(result, passed);
                    assert!(row >= if passed { p.success_threshold } else { p.failure_threshold });
                }
                assert!(w.due().is_none_or(|next| next >= now || next > due));
            }
        }
    }
}
