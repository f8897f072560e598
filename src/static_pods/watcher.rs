//! The loop of `husk watch`: looks at sources, has the difference worked off, tells what happens.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use husk_oci::errno::{Sys, io_text};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{SigSet, Signal};

use super::directory::Directory;
use super::notify::Notify;
use super::plan::{Todo, plan};
use super::source::{Key, Place, Seen, Setting};
use super::url::Poller;
use super::work::{Done, MadeWith, Worker};
use crate::network::Mode;
use crate::state::{Claim, Listed, PodEntry, Roots};

/// From the kernel's word of a change to the look: what belongs together is most often written together.
const SETTLE: Duration = Duration::from_millis(50);

/// When a file that was open for writing is looked at again, should nobody tell of its end.
const WRITING: Duration = Duration::from_secs(1);

/// A service manager is told that we are ready after this long, even if pods are still being made.
const READY: Duration = Duration::from_secs(30);

/// How long pods that are being made may take when we are to end.
const MAKERS: Duration = Duration::from_secs(10);

/// Of the threads that work; most of them wait.
const STACK: usize = 512 << 10;

/// What to watch, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// At least one.
    pub places: Vec<Place>,
    /// Of pods that name none.
    pub namespace: String,
    /// What new pods are made with.
    pub made_with: MadeWith,
    /// Between two looks, two polls, and two tries of what has failed.
    pub interval: Duration,
}

/// Something for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Say {
    /// A pod was made, changed or ended.
    Done(String),
    /// Something is not as it should be.
    Trouble(String),
}

enum Event {
    /// The kernel tells that a directory has changed.
    Changed(usize),
    /// A URL was asked; see [`Poller::poll`].
    Polled(usize, Result<Option<Seen>, String>),
    /// A pod's directory has gone.
    Pods,
    Worked(usize, Key, Option<String>, Result<Done, String>),
    Signal(Signal),
}

/// One source.
struct Source {
    place: String,
    reader: From,
    /// Nobody else looks after it.
    _claim: Claim,
    /// The last good look.
    seen: Option<Seen>,
    /// Why the last look was none.
    failure: Option<String>,
    looked: bool,
    /// Compare again.
    dirty: bool,
    pods: usize,
    /// Pods that are being worked on.
    busy: HashSet<Key>,
    /// What has failed: of which wish, when it is tried again, why.
    failed: BTreeMap<Key, (Option<String>, Instant, String)>,
    troubles: BTreeMap<String, String>,
    /// What the user knows.
    said: BTreeMap<String, String>,
}

#[allow(clippy::large_enum_variant, reason = "one for each source, made once")]
enum From {
    Directory {
        directory: Directory,
        due: Instant,
    },
    /// A thread asks, and can be told to do it now.
    Url(Sender<()>),
}

/// Watches until SIGTERM or SIGINT; pods go on then. `say` is called on this thread.
///
/// # Errors
/// A sentence: another process watches a source, or the kernel refuses what is needed to begin.
pub fn watch(roots: &Roots, options: &Options, mut say: impl FnMut(Say)) -> Result<(), String> {
    roots.prepare().map_err(|e| e.to_string())?;
    let notify = Notify::from_environment()?;
    // In every thread to come. SIGIO is what a lease brings, see `has_writer`.
    let ours: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect();
    let mut blocked = ours;
    blocked.add(Signal::SIGIO);
    blocked.thread_block().map_err(|e| format!("block signals: {}", Sys(e)))?;

    let (events, queue) = channel();
    let host = nix::unistd::gethostname().map_err(|e| format!("ask for the host's name: {}", Sys(e)))?;
    let of = Setting {
        namespace: options.namespace.clone(),
        host: host.to_string_lossy().into_owned(),
        host_network: options.made_with.network == Mode::Host,
    };
    let mut sources = Vec::new();
    for (index, place) in options.places.iter().enumerate() {
        sources.push(begin(roots, options, place, index, &of, &events)?);
    }
    tell_of_pods(roots, &events)?;
    let signals = events.clone();
    spawn("signals", move || {
        while let Ok(signal) = ours.wait() {
            if signals.send(Event::Signal(signal)).is_err() {
                return;
            }
        }
    })?;
    let worker = Arc::new(Worker::new(roots.clone(), options.made_with.clone()));
    let mut watcher = Watcher {
        interval: options.interval,
        sources,
        worker,
        events,
        queue,
        notify,
        status: String::new(),
        stopping: Arc::new(AtomicBool::new(false)),
    };
    watcher.run(&mut say)
}

/// Claims a source and starts what tells of its changes.
fn begin(
    roots: &Roots,
    options: &Options,
    place: &Place,
    index: usize,
    of: &Setting,
    events: &Sender<Event>,
) -> Result<Source, String> {
    let text = place.text();
    let claim = roots.claim(place.number()).map_err(|e| e.to_string())?;
    let claim = claim.ok_or_else(|| format!("{text}: is watched already, by another husk watch or named twice"))?;
    let events = events.clone();
    let reader = match place {
        Place::Directory(path) => {
            let directory = Directory::new(path.clone(), of)?;
            let inotify = directory.inotify();
            spawn(
                "inotify",
                move || {
                    while inotify.read_events().is_ok() && events.send(Event::Changed(index)).is_ok() {}
                },
            )?;
            From::Directory { directory, due: Instant::now() }
        }
        Place::Url(url) => {
            let mut poller = Poller::new(url.clone(), of)?;
            let (poke, poked) = channel();
            let interval = options.interval;
            spawn("poll", move || {
                loop {
                    if events.send(Event::Polled(index, poller.poll())).is_err() {
                        return;
                    }
                    if poked.recv_timeout(interval) == Err(RecvTimeoutError::Disconnected) {
                        return;
                    }
                }
            })?;
            From::Url(poke)
        }
    };
    Ok(Source {
        place: text,
        reader,
        _claim: claim,
        seen: None,
        failure: None,
        looked: false,
        dirty: false,
        pods: 0,
        busy: HashSet::new(),
        failed: BTreeMap::new(),
        troubles: BTreeMap::new(),
        said: BTreeMap::new(),
    })
}

/// Has the end of any pod told: one that was deleted by hand is made again without delay.
fn tell_of_pods(roots: &Roots, events: &Sender<Event>) -> Result<(), String> {
    let path = roots.state.join("pods");
    let wrong = |e| format!("watch {}: {}; see fs.inotify.max_user_instances", path.display(), Sys(e));
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC).map_err(wrong)?;
    inotify.add_watch(&path, AddWatchFlags::IN_MOVED_FROM | AddWatchFlags::IN_DELETE).map_err(wrong)?;
    let events = events.clone();
    spawn("pods", move || while inotify.read_events().is_ok() && events.send(Event::Pods).is_ok() {})
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let thread = thread::Builder::new().name(name.to_owned()).stack_size(STACK).spawn(body);
    thread.map(drop).map_err(|e| format!("start a thread: {}", io_text(&e)))
}

struct Watcher {
    interval: Duration,
    sources: Vec<Source>,
    worker: Arc<Worker>,
    events: Sender<Event>,
    queue: Receiver<Event>,
    notify: Notify,
    /// What the service manager was told last.
    status: String,
    stopping: Arc<AtomicBool>,
}

impl Watcher {
    fn run(&mut self, say: &mut impl FnMut(Say)) -> Result<(), String> {
        let begun = Instant::now();
        let mut ready = false;
        loop {
            let now = Instant::now();
            for source in &mut self.sources {
                source.look(now, self.interval);
            }
            self.compare(now)?;
            for source in &mut self.sources {
                source.tell(say);
            }
            let settled = self.sources.iter().all(|s| s.looked && s.busy.is_empty());
            if !ready && (settled || begun.elapsed() >= READY) {
                ready = true;
                self.notify.insist("READY=1");
            }
            self.tell_manager();
            let mut wake = self.sources.iter().filter_map(Source::wake).min().unwrap_or(now + self.interval);
            if !ready {
                wake = wake.min(begun + READY);
            }
            match self.queue.recv_timeout(wake.saturating_duration_since(Instant::now())) {
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err("every thread has ended".into()),
                Ok(Event::Signal(Signal::SIGHUP)) => {
                    for source in &mut self.sources {
                        source.failed.clear();
                        match &mut source.reader {
                            From::Directory { due, .. } => *due = now,
                            // A thread that has ended has said why.
                            From::Url(poke) => drop(poke.send(())),
                        }
                    }
                }
                Ok(Event::Signal(_)) => {
                    self.stopping.store(true, Ordering::Relaxed);
                    self.notify.insist("STOPPING=1");
                    self.worker.wait_for_makers(MAKERS);
                    return Ok(());
                }
                Ok(event) => self.take(event, say),
            }
        }
    }

    fn take(&mut self, event: Event, say: &mut impl FnMut(Say)) {
        let now = Instant::now();
        match event {
            Event::Changed(index) => {
                if let From::Directory { due, .. } = &mut self.sources[index].reader {
                    *due = (*due).min(now + SETTLE);
                }
            }
            Event::Polled(index, answer) => self.sources[index].found(answer),
            Event::Pods => self.sources.iter_mut().for_each(|source| source.dirty = true),
            Event::Worked(index, key, hash, result) => {
                let source = &mut self.sources[index];
                source.busy.remove(&key);
                source.dirty = true;
                match result {
                    Ok(done) => {
                        source.failed.remove(&key);
                        done.warnings.into_iter().for_each(|line| say(Say::Trouble(line)));
                        done.lines.into_iter().for_each(|line| say(Say::Done(line)));
                    }
                    Err(why) => drop(source.failed.insert(key, (hash, now + self.interval, why))),
                }
            }
            Event::Signal(_) => {}
        }
    }

    /// Compares what sources want with what is there, and has the difference worked off.
    fn compare(&mut self, now: Instant) -> Result<(), String> {
        let retry = |source: &Source| source.failed.values().any(|(_, at, _)| *at <= now);
        let meant: Vec<usize> = (0..self.sources.len())
            .filter(|i| self.sources[*i].seen.is_some() && (self.sources[*i].dirty || retry(&self.sources[*i])))
            .collect();
        if meant.is_empty() {
            return Ok(());
        }
        let listed = match self.worker.roots.list() {
            Ok(listed) => listed,
            Err(e) => {
                let why = e.to_string();
                meant.iter().for_each(|i| drop(self.sources[*i].troubles.insert("records".into(), why.clone())));
                return Ok(());
            }
        };
        let all: Vec<PodEntry> =
            listed.into_iter().filter_map(|l| if let Listed::Pod(entry) = l { Some(*entry) } else { None }).collect();
        for index in meant {
            let source = &mut self.sources[index];
            source.dirty = false;
            let Some(seen) = &source.seen else { continue };
            let plan = plan(&source.place, seen, &all);
            (source.pods, source.troubles) = (plan.pods, plan.troubles);
            let meant: HashSet<Key> = plan.todo.iter().map(|todo| todo.key.clone()).collect();
            source.failed.retain(|key, _| meant.contains(key) || source.busy.contains(key));
            let mut begun = Vec::new();
            for todo in plan.todo {
                let hash = todo.wanted.as_ref().map(|wanted| wanted.source.hash.clone());
                let waits = source.failed.get(&todo.key).is_some_and(|(of, at, _)| *of == hash && now < *at);
                if !waits && source.busy.insert(todo.key.clone()) {
                    begun.push((todo, hash));
                }
            }
            begun.into_iter().try_for_each(|(todo, hash)| self.work_off(index, todo, hash))?;
        }
        Ok(())
    }

    fn work_off(&self, index: usize, todo: Todo, hash: Option<String>) -> Result<(), String> {
        let (worker, events, stopping) = (self.worker.clone(), self.events.clone(), self.stopping.clone());
        spawn("work", move || {
            let result = worker.work(&todo, || stopping.load(Ordering::Relaxed));
            // Who does not listen any more has ended.
            let _ = events.send(Event::Worked(index, todo.key, hash, result));
        })
    }

    fn tell_manager(&mut self) {
        let sum = |count: fn(&Source) -> usize| self.sources.iter().map(count).sum::<usize>();
        let (pods, busy, wrong) = (sum(|s| s.pods), sum(|s| s.busy.len()), sum(|s| s.said.len()));
        let number = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
        let mut status = format!("{} of {}", number(pods, "pod"), number(self.sources.len(), "source"));
        if busy > 0 {
            status += &format!(", {busy} changing");
        }
        if wrong > 0 {
            status += &format!(", {} to look at", number(wrong, "message"));
        }
        if status != self.status && self.notify.send(&format!("STATUS={status}")) {
            self.status = status;
        }
    }
}

impl Source {
    /// Looks at a directory, if it is time.
    fn look(&mut self, now: Instant, interval: Duration) {
        let From::Directory { directory, due } = &mut self.reader else { return };
        if now < *due {
            return;
        }
        let found = directory.look();
        let writing = found.as_ref().is_ok_and(|seen| seen.unread.values().any(Option::is_none));
        *due = now + if writing { WRITING.min(interval) } else { interval };
        self.found(found.map(Some));
    }

    fn found(&mut self, found: Result<Option<Seen>, String>) {
        (self.looked, self.dirty) = (true, true);
        match found {
            Ok(Some(seen)) => (self.seen, self.failure) = (Some(seen), None),
            // What was wrong with it last time is still wrong.
            Ok(None) => {}
            Err(why) => self.failure = Some(why),
        }
    }

    /// When there is something to do without an event.
    fn wake(&self) -> Option<Instant> {
        let due = if let From::Directory { due, .. } = &self.reader { Some(*due) } else { None };
        let retries = self.failed.iter().filter(|(key, _)| !self.busy.contains(*key)).map(|(_, (_, at, _))| *at);
        retries.chain(due).min()
    }

    /// Says what is wrong and was not said yet.
    fn tell(&mut self, say: &mut impl FnMut(Say)) {
        let mut all: HashMap<String, String> = HashMap::new();
        if let Some(why) = &self.failure {
            all.insert(String::new(), format!("{why}; its pods stay as they are"));
        }
        let seen = self.seen.iter();
        all.extend(seen.clone().flat_map(|s| &s.notes).map(|note| (note.clone(), note.clone())));
        let unread = seen.flat_map(|s| &s.unread).filter_map(|(file, why)| Some((file, why.as_ref()?)));
        all.extend(unread.map(|(file, why)| (format!("file {file}"), why.clone())));
        all.extend(self.troubles.iter().map(|(about, what)| (format!("trouble {about}"), what.clone())));
        let failed =
            self.failed.iter().map(|((namespace, name), (.., why))| (format!("pod {namespace}/{name}"), why.clone()));
        all.extend(failed);
        let all: BTreeMap<String, String> = all.into_iter().collect();
        for (about, what) in &all {
            if self.said.get(about) != Some(what) {
                say(Say::Trouble(what.clone()));
            }
        }
        self.said = all;
    }
}
