//! Turns: requests on one pod begin in the order in which they were read, and changes of one pod wait for one another.

use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::dispatch::Hold;

/// The queues of all pods that somebody waits for.
#[derive(Default)]
pub struct Lanes {
    queues: Mutex<HashMap<String, VecDeque<Place>>>,
    moved: Condvar,
}

#[derive(Clone, Copy)]
struct Place {
    number: u64,
    hold: Hold,
}

/// A place in a queue; leaving it lets the next ones go on.
#[must_use = "dropping the ticket gives the place up"]
pub struct Ticket<'l> {
    lanes: &'l Lanes,
    lane: String,
    number: u64,
}

impl Lanes {
    /// Takes the last place of a lane. Does not block: whoever reads the requests calls it, in their order.
    pub fn queue(&self, lane: String, hold: Hold) -> Ticket<'_> {
        let mut queues = self.lock();
        let queue = queues.entry(lane.clone()).or_default();
        let number = queue.back().map_or(0, |last| last.number + 1);
        queue.push_back(Place { number, hold });
        Ticket { lanes: self, lane, number }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, VecDeque<Place>>> {
        // Every change below is one call: a thread that died left nothing half done.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket<'_> {
    /// Blocks until it is this ticket's turn. One that holds nobody up is given back at once.
    pub fn wait(self) -> Option<Self> {
        let mut queues = self.lanes.lock();
        let hold = loop {
            let queue = queues.get(&self.lane);
            let place = queue.and_then(|queue| queue.iter().find(|place| place.number == self.number));
            // A ticket's place is in its queue until it is dropped.
            let hold = place.map_or(Hold::After, |place| place.hold);
            let before = |place: &&Place| place.number < self.number;
            // An earlier `After` is still in the queue only if it has not begun.
            let blocked = queue.into_iter().flatten().filter(before).any(|earlier| match hold {
                Hold::Alone => true,
                Hold::After | Hold::Beside => earlier.hold == Hold::Alone,
            });
            if !blocked {
                break hold;
            }
            queues = self.lanes.moved.wait(queues).unwrap_or_else(PoisonError::into_inner);
        };
        drop(queues);
        (hold != Hold::After).then_some(self)
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut queues = self.lanes.lock();
        if let Some(queue) = queues.get_mut(&self.lane) {
            queue.retain(|place| place.number != self.number);
            if queue.is_empty() {
                queues.remove(&self.lane);
            }
        }
        drop(queues);
        self.lanes.moved.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    const SOON: Duration = Duration::from_millis(30);
    const LATE: Duration = Duration::from_secs(10);

    /// Checks whether a ticket gets its turn while the others stay where they are.
    #[track_caller]
    fn check(lanes: &Lanes, before: &[Hold], last: Hold, goes: bool) {
        let held: Vec<Ticket<'_>> = before.iter().map(|hold| lanes.queue("a".to_owned(), *hold)).collect();
        let ticket = lanes.queue("a".to_owned(), last);
        let (tell, told) = channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                drop(ticket.wait());
                tell.send(())
            });
            // On a busy machine what goes may take its time; what goes though it must not is mostly quick.
            assert_eq!(told.recv_timeout(if goes { LATE } else { SOON }).is_ok(), goes, "{last:?} behind {before:?}");
            drop(held);
            if !goes {
                told.recv_timeout(LATE).expect("its turn comes when the others are gone");
            }
        });
    }

    #[test]
    fn changes_wait_and_what_runs_beside_does_not() {
        let lanes = Lanes::default();
        use Hold::{After, Alone, Beside};
        check(&lanes, &[], Alone, true);
        check(&lanes, &[Alone], Alone, false);
        check(&lanes, &[Alone], After, false);
        check(&lanes, &[Alone], Beside, false);
        check(&lanes, &[Beside], Beside, true);
        check(&lanes, &[Beside], After, true);
        check(&lanes, &[Beside], Alone, false);
        check(&lanes, &[Beside, Alone, Beside], After, false);
        check(&lanes, &[After], Alone, false);
        let begun = lanes.queue("a".to_owned(), After).wait();
        assert!(begun.is_none());
        assert!(lanes.lock().is_empty(), "an empty queue is kept");
    }

    #[test]
    fn lanes_do_not_wait_for_one_another() {
        let lanes = Lanes::default();
        let held = lanes.queue("a".to_owned(), Hold::Alone);
        assert!(lanes.queue("b".to_owned(), Hold::Alone).wait().is_some());
        drop(held);
    }
}
